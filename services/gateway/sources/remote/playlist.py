"""Playlists of HLS (RFC 8216): which variant of a master playlist is watched, and in which parts
a recording is read.

Left alone, libavformat opens every variant and reads a segment of each before it chooses, and
decodes all of a recording by what its beginning says.
"""

import re
from dataclasses import dataclass

USEFUL_LINES = 720  # more than models look at: the smallest variant of so many is taken
MAX_PARTS = 1000  # of a recording; the last one has all that follows
USEFUL_BPS = 2_500_000  # where variants do not say how large they are
_BYTERANGE = "#EXT-X-BYTERANGE:"
_OF_SEGMENT = (  # tags that are not of the whole playlist (section 4.3.2)
    "#EXTINF:",
    _BYTERANGE,
    "#EXT-X-DISCONTINUITY",
    "#EXT-X-KEY:",
    "#EXT-X-MAP:",
    "#EXT-X-PROGRAM-DATE-TIME:",
    "#EXT-X-DATERANGE:",
    "#EXT-X-GAP",
    "#EXT-X-ENDLIST",
)
_SEQUENCE = "#EXT-X-MEDIA-SEQUENCE:"
_DISCONTINUITY_SEQUENCE = "#EXT-X-DISCONTINUITY-SEQUENCE:"
_RANGE = re.compile(rf"{_BYTERANGE}([0-9]{{1,15}})(?:@([0-9]{{1,15}}))?")
_ATTRIBUTE = re.compile(r'([A-Z0-9-]+)=("[^"]*"|[^",]*)')
_RESOLUTION = re.compile(r"([0-9]{1,5})x([0-9]{1,5})")
# Codecs that carry no pictures (RFC 6381); what is not known may be video.
_SOUND = re.compile(
    r"(mp4a|ac-3|ec-3|ac-4|opus|flac|fLaC|vorbis|alac|dts|stpp|wvtt)", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Variant:
    """One stream of a master playlist. `lines`: height of its pictures, 0 where it is not said."""

    location: str
    lines: int
    bits_per_second: int
    pictures: bool

    @property
    def excess(self) -> tuple[bool, bool, float]:
        """How far it is from what is useful: the least is taken. Too little is worse than too
        much."""
        size, useful = (
            (self.lines, USEFUL_LINES) if self.lines else (self.bits_per_second, USEFUL_BPS)
        )
        return not self.pictures, size < useful, abs(size - useful) / useful


def variant_of(playlist: str) -> str | None:
    """Location of the variant to watch; None for a playlist that has none, but segments."""
    variants = _variants(playlist)
    if not variants:
        return None
    # Of several that are equally large the one of more bits is the finer.
    best = min(variants, key=lambda one: (one.excess, -one.bits_per_second))
    return best.location


def parts_of(playlist: str) -> list[str]:
    """Playlists that together are that of a recording, divided where its codecs, sizes or times may
    become others: at discontinuities, and at other initialisation sections. One that is live has
    none."""
    lines = [line.strip() for line in playlist.splitlines() if line.strip()]
    if "#EXT-X-ENDLIST" not in lines:
        return []
    head, first_number = [], 0
    parts: list[tuple[int, list[str]]] = []
    before: list[str] = []  # tags of the next segment
    num_segments, key, section, anew = 0, "", "", True
    section_key = ""  # the one that the section was told under
    range_end = 0  # of the bytes of the segment before, from which the next may go on
    for line in lines:
        if line.startswith(_SEQUENCE):
            digits = line.removeprefix(_SEQUENCE)
            first_number = int(digits) if digits.isascii() and digits.isdigit() else 0
        elif line.startswith(_DISCONTINUITY_SEQUENCE) or line == "#EXT-X-ENDLIST":
            continue
        elif line == "#EXT-X-DISCONTINUITY":
            anew = True
        elif line.startswith("#EXT-X-KEY:"):
            key = line
            before.append(line)
        elif line.startswith("#EXT-X-MAP:"):
            anew, section, section_key = anew or line != section, line, key
            before.append(line)
        elif found := _RANGE.fullmatch(line):
            begin = range_end if found[2] is None else int(found[2])
            range_end = begin + int(found[1])
            before.append(f"{_BYTERANGE}{found[1]}@{begin}")  # what it goes on from may not be told
        elif line.startswith(_OF_SEGMENT):
            before.append(line)
        elif line.startswith("#"):
            head.append(line)
        else:
            if anew and len(parts) < MAX_PARTS:
                standing = [key] if section in before else [section_key, section, key]
                standing = [tag for tag in dict.fromkeys(standing) if tag and tag not in before]
                parts.append((num_segments, standing))
            parts[-1][1].extend((*before, line))
            before, anew = [], False
            num_segments += 1
    return [
        "\n".join((*head, f"{_SEQUENCE}{first_number + number}", *body, "#EXT-X-ENDLIST", ""))
        for number, body in parts
    ]


def _variants(playlist: str) -> list[Variant]:
    found: list[Variant] = []
    told: dict[str, str] | None = None
    for line in playlist.splitlines():
        line = line.strip()
        if line.startswith("#EXT-X-STREAM-INF:"):
            told = {name: value.strip('"') for name, value in _ATTRIBUTE.findall(line)}
        elif line and not line.startswith("#") and told is not None:
            found.append(_variant(line, told))
            told = None
    return found


def _variant(location: str, told: dict[str, str]) -> Variant:
    size = _RESOLUTION.fullmatch(told.get("RESOLUTION", ""))
    rate = told.get("BANDWIDTH", "")
    codecs = [codec for codec in told.get("CODECS", "").split(",") if codec.strip()]
    return Variant(
        location,
        min(int(size[1]), int(size[2])) if size else 0,  # of upright video the width
        int(rate) if rate.isascii() and rate.isdigit() and len(rate) < 16 else 0,
        pictures=not codecs or not all(_SOUND.match(codec.strip()) for codec in codecs),
    )
