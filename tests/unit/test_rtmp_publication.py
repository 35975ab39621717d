"""What publishers do with a picture and a header that no single encoder does: slices one by one,
headers again and again."""

from pathlib import Path

import av
import pytest

from services.gateway.frames.display import Display
from services.gateway.sources.bitstream import continues_picture
from services.gateway.sources.rtmp.chunks import Message
from services.gateway.sources.rtmp.publication import Publication
from tests.sources import RecordingSink, picture_array

NUM_PICTURES = 30
VIDEO = 9


def encoded(path: Path, codec: str, size: int = 128) -> tuple[bytes, list[tuple[bool, bytes]]]:
    """The decoder's configuration, and pictures of several slices each with whether they are
    keyframes, ten apart."""
    options = {
        "libx264": {"x264-params": "slices=4:log-level=none", "preset": "ultrafast"},
        "libx265": {"x265-params": "slices=4:log-level=none:pools=1", "preset": "ultrafast"},
    }
    with av.open(str(path), "w") as output:
        stream = output.add_stream(codec, rate=15, options=options[codec])
        stream.width, stream.height, stream.pix_fmt = size, size, "yuv420p"
        stream.codec_context.gop_size, stream.codec_context.max_b_frames = 10, 0
        for index in range(NUM_PICTURES):
            image = av.VideoFrame.from_ndarray(picture_array(index, size, size), "rgb24")
            output.mux(stream.encode(image))
        output.mux(stream.encode(None))
    with av.open(str(path)) as container:
        video = container.streams.video[0]
        units = [(p.is_keyframe, bytes(p)) for p in container.demux(video) if p.size]
        return video.codec_context.extradata or b"", units


def split(codec: str, unit: bytes) -> list[bytes]:
    """The units of one picture with their lengths; what is no slice goes with the first that is."""
    parts, before, start = [], b"", 0
    while start < len(unit):
        end = start + 4 + int.from_bytes(unit[start : start + 4])
        kind = unit[start + 4] & 0x1F if codec == "libx264" else unit[start + 4] >> 1 & 0x3F
        before += unit[start:end]
        if kind in (1, 5) if codec == "libx264" else kind < 32:
            parts.append(before)
            before = b""
        start = end
    return parts


class Publisher:
    """Sends FLV payloads of one codec to a publication."""

    def __init__(self, codec: str) -> None:
        self.sink = RecordingSink()
        self._publication = Publication("key", self.sink, "test")
        self._codec_id = {"libx264": 7, "libx265": 12}[codec]

    def header(self, data: bytes) -> None:
        self._send(0, 0x10, 0, data)

    def part(self, number: int, keyframe: bool, data: bytes) -> None:
        self._send(67 * number, 0x10 if keyframe else 0x20, 1, data)

    def end(self) -> RecordingSink:
        self._publication.close("publisher_left")
        return self.sink

    def _send(self, at_ms: int, kind: int, packet: int, data: bytes) -> None:
        payload = bytes((kind | self._codec_id, packet, 0, 0, 0)) + data
        self._publication.media(Message(VIDEO, 1, at_ms, payload), 1_000_000_000 + at_ms * 10**6)


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
def test_a_picture_in_parts_is_one_picture(tmp_path: Path, codec: str) -> None:
    size = 128 if codec == "libx264" else 320  # slices of HEVC are of whole rows of blocks
    header, units = encoded(tmp_path / "clip.mp4", codec, size)
    assert min(len(split(codec, unit)) for _, unit in units) > 1
    whole, parted = Publisher(codec), Publisher(codec)
    for publisher in (whole, parted):
        publisher.header(header)
    for number, (keyframe, unit) in enumerate(units):
        whole.part(number, keyframe, unit)
        for part in split(codec, unit):
            parted.part(number, keyframe, part)
    expected, got = whole.end(), parted.end()
    assert len(expected.pictures) == NUM_PICTURES
    assert expected.notes["picture_in_parts"] == 0
    assert got.notes["picture_in_parts"] == 1
    assert [seen.capture_ns for seen in got.pictures] == [
        seen.capture_ns for seen in expected.pictures
    ]
    assert not got.drops
    assert got.newest is not None
    assert expected.newest is not None
    last, same = (Display().rgb(sink.newest.frame, size, size) for sink in (got, expected))
    assert last == same


def test_a_header_that_is_sent_again_changes_nothing(tmp_path: Path) -> None:
    header, units = encoded(tmp_path / "clip.mp4", "libx264")
    publisher = Publisher("libx264")
    for number, (keyframe, unit) in enumerate(units):
        if number % 4 == 0:
            publisher.header(header)
        publisher.part(number, keyframe, unit)
    sink = publisher.end()
    assert len(sink.pictures) == NUM_PICTURES
    assert not sink.drops


def test_pictures_after_another_header_are_counted_until_a_keyframe(tmp_path: Path) -> None:
    header, units = encoded(tmp_path / "clip.mp4", "libx264")
    other, others = encoded(tmp_path / "other.mp4", "libx264", 192)
    publisher = Publisher("libx264")
    publisher.header(header)
    for number, (keyframe, unit) in enumerate(units[:15]):
        publisher.part(number, keyframe, unit)
    publisher.header(other)
    for number, (keyframe, unit) in enumerate(others[5:], start=15):
        publisher.part(number, keyframe, unit)
    sink = publisher.end()
    assert sink.drops == {"no_keyframe": 5}
    assert len(sink.pictures) == 15 + NUM_PICTURES - 10
    assert sink.pictures[-1].width == 192


def test_what_is_not_understood_is_whole() -> None:
    assert not continues_picture("vp9", b"\0\0\0\5\1\2\3\4\5", 4)
    assert not continues_picture("h264", b"", 4)
    assert not continues_picture("h264", b"\0\0\0\1\x41\x20\x00", 4)  # start codes, not lengths
    assert not continues_picture("h264", b"\xff\xff\xff\xff\x06\x05", 4)
    assert continues_picture("h264", b"\0\0\0\3\x41\x20\x00", 4)
