"""HLS (RFC 8216) of a recording: its pieces as segments of fragmented MP4, and their playlist."""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

PLAYLIST = "index.m3u8"
KINDS = {"m3u8": "application/vnd.apple.mpegurl", "mp4": "video/mp4", "m4s": "video/iso.segment"}
_PART = re.compile(r"([0-9]{1,12})\.(mp4|m4s)")


@dataclass(frozen=True, slots=True)
class Segment:
    """A segment's place in the playlist. `head`: number of the segment whose head it plays with;
    `start_s` since 1970."""

    number: int
    head: int
    start_s: float
    seconds: float


def playlist(segments: Sequence[Segment]) -> str:
    """The live playlist of these segments, back to the oldest one."""
    lines = [
        "#EXTM3U",
        "#EXT-X-VERSION:7",
        f"#EXT-X-TARGETDURATION:{max([1, *(math.ceil(one.seconds) for one in segments)])}",
        f"#EXT-X-MEDIA-SEQUENCE:{segments[0].number if segments else 0}",
        "#EXT-X-INDEPENDENT-SEGMENTS",
    ]
    head: int | None = None
    for one in segments:
        if one.head != head:
            lines += ["#EXT-X-DISCONTINUITY"] * (head is not None)
            lines.append(f'#EXT-X-MAP:URI="{one.head}.mp4"')
            head = one.head
        at = datetime.fromtimestamp(one.start_s, UTC).isoformat(timespec="milliseconds")
        lines += [f"#EXT-X-PROGRAM-DATE-TIME:{at}", f"#EXTINF:{one.seconds:.3f},"]
        lines.append(f"{one.number}.m4s")
    return "\n".join(lines) + "\n"


def part_of(name: str) -> tuple[int, bool] | None:
    """Number of the segment that a file of the playlist is of, and whether it is its head; None
    for what is no such file."""
    found = _PART.fullmatch(name)
    return (int(found[1]), found[2] == "mp4") if found else None


def split(mp4: bytes) -> tuple[bytes, bytes]:
    """Head and fragments of a fragmented MP4, without its index."""
    head, fragments = b"", b""
    for kind, box in _boxes(mp4):
        if kind in (b"moof", b"mdat"):
            fragments += box
        elif kind != b"mfra":
            head += box
    return head, fragments


def _boxes(mp4: bytes) -> Iterator[tuple[bytes, bytes]]:
    position = 0
    while position + 8 <= len(mp4):
        size = max(8, int.from_bytes(mp4[position : position + 4]))
        yield mp4[position + 4 : position + 8], mp4[position : position + size]
        position += size
