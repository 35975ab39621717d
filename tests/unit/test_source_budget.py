"""Budgets of decoding: what is refused before it is decoded, and what is let through."""

import random
import time
from collections.abc import Iterator

import av
import pytest

from services.gateway.sources.bitstream import jpeg_size
from services.gateway.sources.decode_guard import DecodeGuard, check_scans
from services.gateway.sources.decoder import (
    BitstreamDecoder,
    FrameOutlet,
    PacketDecoder,
)
from services.gateway.sources.parameter_sets import (
    MalformedError,
    needs_of,
    needs_of_configuration,
)
from services.gateway.sources.push import PushSource
from services.gateway.sources.source import MAX_AHEAD_NS, DecodeBudget, EncodedPacket
from sightline.errors import InvalidArgumentError
from tests.bombs import many_references, progressive_jpeg
from tests.sources import START_NS, RecordingSink, encode_clip

MIB = 1024 * 1024


def decoder(codec: str, **budget: float) -> tuple[BitstreamDecoder, RecordingSink]:
    sink = RecordingSink(budget=DecodeBudget(**budget))  # type: ignore[arg-type]
    return BitstreamDecoder(FrameOutlet(sink), codec), sink


def unit(data: bytes, number: int = 0) -> EncodedPacket:
    return EncodedPacket(data, START_NS + number, True)


# --- JPEG -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("width", "scans"), [(6400, 3000), (64, 3000), (6400, 60)])
async def test_a_picture_of_thousands_of_scans_is_not_decoded(width: int, scans: int) -> None:
    bomb = progressive_jpeg(width, width * 3 // 4, scans)
    began_s = time.thread_time()
    source = PushSource(RecordingSink())
    with pytest.raises(InvalidArgumentError, match="scans"):
        await source.jpeg(bomb, START_NS)
    await source.aclose()
    packets, sink = decoder("mjpeg")
    with pytest.raises(InvalidArgumentError, match="scans"):
        packets.decode(unit(bomb))
    assert sink.drops == {"over_budget": 1}
    assert not sink.pictures
    assert time.thread_time() - began_s < 0.2


def test_honest_progressive_pictures_are_decoded() -> None:
    packets, sink = decoder("mjpeg")
    assert packets.decode(unit(progressive_jpeg(3840, 2160, 12))) == 1
    assert packets.decode(unit(encode_clip("mjpeg", num_pictures=1).packets[0][0], 1)) == 1
    assert not sink.drops


def test_headers_of_any_bytes() -> None:
    random.seed(14)
    jpeg = progressive_jpeg(64, 64, 5)
    for _ in range(5000):
        data = bytearray(jpeg[: random.randrange(len(jpeg))] if random.random() < 0.5 else jpeg)
        for _ in range(random.randrange(6)):
            if data:
                data[random.randrange(len(data))] = random.randrange(256)
        for look in (jpeg_size, check_scans):
            try:
                look(bytes(data))
            except InvalidArgumentError:
                continue


# --- H.264 and HEVC -------------------------------------------------------------------------------


@pytest.mark.parametrize(("codec", "name"), [("h264", "libx264"), ("hevc", "libx265")])
@pytest.mark.parametrize(
    ("width", "height", "references"), [(64, 48, 1), (320, 176, 4), (64, 64, 8)]
)
def test_parameter_sets_are_read(
    codec: str, name: str, width: int, height: int, references: int
) -> None:
    packets = many_references(width, height, references, 2, name)
    needs = needs_of(codec, packets[0])
    assert [(one.width, one.height) for one in needs] == [(width, height)]
    assert needs[0].picture_bytes == width * height * 3 // 2
    assert references + 1 <= needs[0].num_pictures <= references + 4
    assert needs_of(codec, packets[1]) == []


@pytest.mark.parametrize("name", ["libx264", "libx265"])
def test_configurations_of_containers_are_read(name: str) -> None:
    codec = "h264" if name == "libx264" else "hevc"
    clip = encode_clip(name, num_pictures=2, width=192, height=128)
    annex_b, length = needs_of_configuration(codec, clip.extradata or clip.packets[0][0])
    assert [(one.width, one.height) for one in annex_b] == [(192, 128)]
    assert length == 0


def test_formats_with_more_bits_and_colours_take_more() -> None:
    for pix_fmt, samples in (("yuv422p10le", 4.0), ("yuv444p", 3.0), ("gray", 1.0)):
        encoder = av.CodecContext.create("libx264", "w")
        assert isinstance(encoder, av.VideoCodecContext)
        encoder.width, encoder.height, encoder.pix_fmt = 128, 64, pix_fmt
        encoder.time_base = encoder.framerate = 1
        frame = av.VideoFrame(128, 64, pix_fmt)
        data = b"".join(bytes(packet) for packet in [*encoder.encode(frame), *encoder.encode(None)])
        assert needs_of("h264", data)[0].picture_bytes == int(128 * 64 * samples)


def test_sixteen_references_of_forty_megapixels_are_refused_before_they_are_kept() -> None:
    packets = many_references(8160, 4880, 16, 1)
    packets_in, sink = decoder("h264")
    with pytest.raises(InvalidArgumentError, match=r"8160x4880.*kept at once"):
        packets_in.decode(unit(packets[0]))
    assert sink.drops == {"over_budget": 1}


@pytest.mark.parametrize("name", ["libx264", "libx265"])
def test_honest_4k_is_let_through(name: str) -> None:
    """With as many references as the levels for 60 pictures a second allow."""
    codec = "h264" if name == "libx264" else "hevc"
    packets = many_references(3840, 2160, 5, 2, name)
    packets_in, sink = decoder(codec)
    for number, data in enumerate(packets):
        packets_in.decode(unit(data, number))
    packets_in.flush()
    assert len(sink.pictures) == 2
    assert not sink.drops


def test_a_stream_that_grows_in_the_middle() -> None:
    small, large = many_references(64, 64, 1, 3), many_references(1024, 1024, 16, 3)
    packets, sink = decoder("h264", decoder_bytes=8 * MIB)
    for number, data in enumerate(small):
        packets.decode(unit(data, number))
    with pytest.raises(InvalidArgumentError, match="1024x1024"):
        packets.decode(unit(large[0], 9))
    assert sink.drops == {"over_budget": 1}


def test_codecs_that_say_nothing_of_references_are_judged_by_their_first_picture() -> None:
    clip = encode_clip("libvpx-vp9", num_pictures=1, width=512, height=512)
    packets, sink = decoder("vp9", decoder_bytes=2 * MIB)
    with pytest.raises(InvalidArgumentError, match="512x512"):
        packets.decode(unit(clip.packets[0][0]))
    assert not sink.pictures


def test_a_header_that_announces_too_much_ends_a_publisher() -> None:
    """RTMP sends parameter sets before the first picture."""
    header = many_references(1024, 1024, 16, 1)[0]
    start = header.index(b"\0\0\1\x67")
    one = header[start + 3 : header.index(b"\0\0\1", start + 3)].rstrip(b"\0")
    configuration = b"\1" + one[1:4] + b"\xff\xe1" + len(one).to_bytes(2) + one + b"\0"
    sink = RecordingSink(budget=DecodeBudget(decoder_bytes=8 * MIB))
    packets = PacketDecoder(sink)
    packets.configure("h264", configuration)
    packets.start()
    assert packets.close(flush=True)
    assert sink.drops == {"over_budget": 1}
    with pytest.raises(InvalidArgumentError, match="1024x1024"):
        packets.submit(unit(header))


def test_thousands_of_parameter_sets() -> None:
    first = many_references(64, 64, 1, 1)[0]
    start = first.index(b"\0\0\1\x67")
    one = first[start : first.index(b"\0\0\1", start + 3)]
    with pytest.raises(MalformedError, match="too many"):
        needs_of("h264", one * 2000)
    packets, sink = decoder("h264")
    assert packets.decode(unit(one * 2000 + first)) == 0
    assert sink.drops == {"corrupt": 1}


def test_parameter_sets_of_any_bytes() -> None:
    random.seed(14)
    sets = {
        "h264": many_references(64, 64, 2, 1)[0][:200],
        "hevc": many_references(64, 64, 2, 1, "libx265")[0][:200],
    }
    for _ in range(4000):
        codec = random.choice(list(sets))
        data = bytearray(sets[codec])
        for _ in range(random.randrange(8)):
            data[random.randrange(len(data))] = random.randrange(256)
        for read in (needs_of, needs_of_configuration):
            try:
                read(codec, bytes(data[random.randrange(4) :]))  # type: ignore[operator]
            except MalformedError:
                continue


# --- time -----------------------------------------------------------------------------------------


def test_a_picture_that_takes_too_long_ends_the_source() -> None:
    def clock() -> Iterator[float]:
        yield from (0.0, 1.9, 1.9, 4.0)

    times = clock()
    guard = DecodeGuard(DecodeBudget(picture_s=2.0), "vp8", clock_s=lambda: next(times))
    with guard.work():
        pass
    with pytest.raises(InvalidArgumentError, match="longer than 2 s"), guard.work():
        pass


@pytest.mark.parametrize("capture_ns", [2**63 - 1, 2**62, -(2**63), -1])
async def test_capture_times_out_of_this_world_are_the_pushers_error(capture_ns: int) -> None:
    jpeg = encode_clip("mjpeg", num_pictures=1).packets[0][0]
    sink = RecordingSink()
    source = PushSource(sink, clock_ns=lambda: START_NS)
    with pytest.raises(InvalidArgumentError, match="capture_ns"):
        await source.jpeg(jpeg, capture_ns)
    await source.jpeg(jpeg, START_NS + MAX_AHEAD_NS)
    await source.aclose()
    packets = PushSource(sink, codec="mjpeg", clock_ns=lambda: START_NS)
    with pytest.raises(InvalidArgumentError, match="capture_ns"):
        await packets.packet(jpeg, capture_ns)
    await packets.aclose()
    assert len(sink.pictures) == 1


@pytest.mark.parametrize("codec", ["h264", "hevc"])
def test_a_length_that_looks_like_the_start_of_a_set_is_none(codec: str) -> None:
    header = {"h264": b"\x41", "hevc": b"\x02\x01"}[codec]  # of a slice
    kinds = {"h264": (0x07, 0x27, 0x67, 0xE7), "hevc": (0x42, 0x43)}[codec]
    for kind in kinds:
        size = 0x100 + kind
        unit = header + b"\x9a" + b"\x55" * (size - len(header) - 1)
        data = size.to_bytes(4) + unit
        assert data.startswith(b"\0\0\1" + bytes((kind,)))
        assert needs_of(codec, data, 4) == []
        assert needs_of(codec, data + data, 4) == []
    # Where a unit holds start codes of its own, a decoder follows them.
    hidden = encode_clip(num_pictures=1).packets[0][0]
    inside = b"\x41\x9a" + hidden
    assert needs_of("h264", len(inside).to_bytes(4) + inside, 4) == needs_of("h264", hidden)
