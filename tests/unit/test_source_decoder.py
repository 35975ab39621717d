"""From packets to pictures: codecs, broken streams, and a decoder that falls behind."""

import contextlib
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.gateway.sources.bitstream import is_keyframe, jpeg_size
from services.gateway.sources.decoder import (
    MAX_QUEUED_BYTES,
    MAX_QUEUED_PACKETS,
    BitstreamDecoder,
    FrameOutlet,
    PacketDecoder,
)
from services.gateway.sources.hardware import accelerator
from services.gateway.sources.source import MAX_SIDE, DecodeBudget, EncodedPacket, check_size
from sightline.errors import InvalidArgumentError
from tests.sources import START_NS, Clip, RecordingSink, encode_clip

FRAME_NS = 1_000_000_000 // 15
CODECS = [
    ("libx264", "h264"),
    ("libx265", "hevc"),
    ("libvpx", "vp8"),
    ("libvpx-vp9", "vp9"),
    ("libsvtav1", "av1"),
    ("mjpeg", "mjpeg"),
]


@pytest.fixture(scope="module")
def h264() -> Clip:
    return encode_clip(num_pictures=20, gop=10)


def packets(clip: Clip) -> list[EncodedPacket]:
    return [
        EncodedPacket(data, START_NS + index * FRAME_NS, keyframe)
        for data, index, keyframe in clip.packets
    ]


def decode(codec: str, units: list[EncodedPacket], extradata: bytes = b"") -> RecordingSink:
    sink = RecordingSink()
    decoder = BitstreamDecoder(FrameOutlet(sink), codec, extradata)
    for unit in units:
        decoder.decode(unit)
    decoder.flush()
    return sink


@pytest.mark.parametrize(("encoder", "codec"), CODECS)
def test_every_codec_gives_every_picture_at_its_time(encoder: str, codec: str) -> None:
    clip = encode_clip(encoder, num_pictures=12, gop=6)
    sink = decode(codec, packets(clip))
    times = [picture.capture_ns for picture in sink.pictures]
    assert times == [START_NS + index * FRAME_NS for index in range(12)]
    assert {(picture.width, picture.height) for picture in sink.pictures} == {(160, 120)}
    assert not sink.drops
    assert not sink.notes
    flags = [is_keyframe(codec, data) for data, _, _ in clip.packets]
    assert flags == [keyframe for _, _, keyframe in clip.packets]


@pytest.mark.parametrize("encoder", ["libx264", "libx265"])
def test_b_frames_come_out_in_order_of_presentation(encoder: str) -> None:
    clip = encode_clip(encoder, num_pictures=20, gop=20, b_frames=2)
    order = [index for _, index, _ in clip.packets]
    assert order != sorted(order), "the encoder made no B-frames"
    sink = decode("h264" if encoder == "libx264" else "hevc", packets(clip))
    times = [picture.capture_ns for picture in sink.pictures]
    assert times == [START_NS + index * FRAME_NS for index in range(20)]


def test_no_picture_is_held_back_without_b_frames(h264: Clip) -> None:
    decoder = BitstreamDecoder(FrameOutlet(RecordingSink()), "h264")
    assert [decoder.decode(unit) for unit in packets(h264)] == [1] * 20


@pytest.mark.parametrize("codec", ["h264", "av1"])
@pytest.mark.parametrize("device", ["cuda", "vaapi"])
def test_threads_and_a_device_change_nothing_that_is_seen(
    codec: str, device: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Also where there is no such device: software decodes, and the log says so once."""
    accelerator.cache_clear()
    clip = encode_clip({"h264": "libx264", "av1": "libsvtav1"}[codec], num_pictures=12, gop=6)
    sinks = []
    for budget in (DecodeBudget(), DecodeBudget(threads=3, device=device)):
        sink = RecordingSink(budget=budget)
        decoder = BitstreamDecoder(FrameOutlet(sink), codec)
        for unit in packets(clip):
            decoder.decode(unit)
        decoder.flush()
        sinks.append(sink)
    assert [one.capture_ns for one in sinks[1].pictures] == [
        one.capture_ns for one in sinks[0].pictures
    ]
    assert not sinks[1].drops
    told = [record.message for record in caplog.records if "hardware" in record.message]
    assert told == ["no decoding in hardware: software does it all"] or not told


def test_broken_packets_are_counted_and_the_stream_goes_on(h264: Clip) -> None:
    units = packets(h264)
    units[3] = EncodedPacket(b"\x00\x00\x00\x01garbage" * 9, units[3].capture_ns, False)
    units[4] = EncodedPacket(b"", units[4].capture_ns, False)
    sink = decode("h264", units)
    assert sink.drops == {"corrupt": 2}
    assert len(sink.pictures) == 18


def test_timestamps_that_fall_back_are_clamped_and_noted(h264: Clip) -> None:
    units = packets(h264)
    early = EncodedPacket(units[5].data, START_NS - 5 * FRAME_NS, False)
    units[5] = early
    sink = RecordingSink()
    decoder = BitstreamDecoder(FrameOutlet(sink), "h264")
    for unit in units:
        decoder.decode(unit)
    times = [picture.capture_ns for picture in sink.pictures]
    assert times == sorted(times)
    assert times[5] == times[4]
    assert sink.notes == {"non_monotonic": 1}
    assert not sink.drops


def test_time_goes_on_when_a_clock_is_set_back(h264: Clip) -> None:
    units = packets(h264)
    hour_ns = 3600 * 1_000_000_000
    for number in range(10, len(units)):
        unit = units[number]
        units[number] = EncodedPacket(unit.data, unit.capture_ns - hour_ns, unit.keyframe)
    sink = RecordingSink()
    decoder = BitstreamDecoder(FrameOutlet(sink), "h264")
    for unit in units:
        decoder.decode(unit)
    times = [picture.capture_ns for picture in sink.pictures]
    assert times[10] == times[9]
    assert [later - before for before, later in pairwise(times[10:])] == [FRAME_NS] * 9
    assert sink.notes == {"non_monotonic": 1}


@pytest.mark.parametrize(
    ("width", "height"), [(0, 10), (10, 0), (MAX_SIDE + 1, 16), (16, 15360), (8000, 6000)]
)
def test_absurd_sizes(width: int, height: int) -> None:
    with pytest.raises(InvalidArgumentError, match="pixels"):
        check_size(width, height)


def test_an_h264_stream_of_an_absurd_size_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its header alone tells; a small limit stands in for the encoder time of 40 megapixels."""
    monkeypatch.setattr("services.gateway.sources.decoder.MAX_PIXELS", 100 * 100)
    clip = encode_clip(num_pictures=2, width=160, height=120)
    sink = RecordingSink()
    decoder = BitstreamDecoder(FrameOutlet(sink), "h264")
    with pytest.raises(InvalidArgumentError, match="larger than"):
        decoder.decode(packets(clip)[0])
    assert sink.drops == {"absurd_size": 1}
    assert not sink.pictures


def test_unknown_codecs_are_named() -> None:
    with pytest.raises(InvalidArgumentError, match="unknown codec 'h261'; known are av1, h264"):
        BitstreamDecoder(FrameOutlet(RecordingSink()), "h261")


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from([codec for _, codec in CODECS]),
    st.lists(st.binary(max_size=120), max_size=4),
    st.binary(max_size=40),
)
def test_noise_never_raises_anything_unexpected(
    codec: str, noise: list[bytes], extradata: bytes
) -> None:
    units = [EncodedPacket(data, START_NS, True) for data in noise]
    with contextlib.suppress(InvalidArgumentError):
        decode(codec, units, extradata)
    for data in noise:
        is_keyframe(codec, data)
        with contextlib.suppress(InvalidArgumentError):
            jpeg_size(data)


def test_jpeg_sizes() -> None:
    clip = encode_clip("mjpeg", num_pictures=1, width=200, height=100)
    assert jpeg_size(clip.packets[0][0]) == (200, 100)
    for broken in (b"", b"\xff\xd8", b"\xff\xd8\xff\xd9", b"GIF89a" * 10):
        with pytest.raises(InvalidArgumentError, match="JPEG"):
            jpeg_size(broken)


# --- the queue in front of the thread, which these tests do not start ----------------------------


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def unit(keyframe: bool = False, size: int = 10) -> EncodedPacket:
    return EncodedPacket(b"x" * size, START_NS, keyframe)


def waiting_decoder() -> tuple[PacketDecoder, RecordingSink, Clock]:
    sink, clock = RecordingSink(), Clock()
    return PacketDecoder(sink, "h264", clock_s=clock), sink, clock


def test_a_full_queue_drops_until_the_next_keyframe_which_takes_its_place() -> None:
    decoder, sink, _ = waiting_decoder()
    assert decoder.submit(unit(keyframe=True))
    for _ in range(MAX_QUEUED_PACKETS - 1):
        assert decoder.submit(unit())
    assert not decoder.submit(unit())
    assert not decoder.submit(unit())
    assert sink.drops == {"decoder_overrun": 2}
    assert decoder.submit(unit(keyframe=True))
    assert sink.drops == {"decoder_overrun": 2 + MAX_QUEUED_PACKETS}
    assert decoder.submit(unit())


def test_a_queue_with_too_many_bytes_is_full() -> None:
    decoder, sink, _ = waiting_decoder()
    assert decoder.submit(unit(keyframe=True, size=MAX_QUEUED_BYTES))
    assert not decoder.submit(unit(size=1))
    assert sink.drops == {"decoder_overrun": 1}


def test_decoding_that_stays_behind_drops_but_a_pause_does_not() -> None:
    """The thread's own step takes packets out; one packet comes in every 40 ms."""
    decoder, sink, clock = waiting_decoder()
    decoder.submit(unit(keyframe=True))
    for _ in range(100):  # the thread is held up for 4 s
        clock.now_s += 0.04
        assert decoder.submit(unit())
    for _ in range(100):  # and catches up
        assert decoder._next() is not None
    assert not sink.drops
    taken = 0
    for _ in range(250):  # every second packet only is decoded: 2 s behind after 4 s
        clock.now_s += 0.04
        if not decoder.submit(unit()):
            break
        taken += 1
        if taken % 2:
            decoder._next()
    assert sink.drops == {"decoder_overrun": 1}
    assert 100 < taken < 250


def test_a_sequence_header_survives_a_full_queue(
    monkeypatch: pytest.MonkeyPatch, h264: Clip
) -> None:
    """The keyframe after the overrun can only be decoded with it."""
    monkeypatch.setattr("services.gateway.sources.decoder.MAX_QUEUED_PACKETS", 6)
    sink = RecordingSink()
    decoder = PacketDecoder(sink)
    decoder.configure("h264", b"")
    for packet in packets(h264)[:13]:  # the second keyframe is the eleventh
        decoder.submit(packet)
    decoder.start()
    assert decoder.close(flush=True)
    assert len(sink.pictures) == 3
    assert sink.drops == {"decoder_overrun": 10}


def test_after_a_loss_packets_wait_for_a_keyframe() -> None:
    decoder, sink, _ = waiting_decoder()
    decoder.require_keyframe()
    assert not decoder.submit(unit())
    assert decoder.submit(unit(keyframe=True))
    assert decoder.submit(unit())
    assert sink.drops == {"no_keyframe": 1}


# --- the thread -----------------------------------------------------------------------------------


def test_everything_submitted_is_decoded_before_a_flushing_close(h264: Clip) -> None:
    sink = RecordingSink()
    decoder = PacketDecoder(sink, "h264")
    decoder.start()
    for packet in packets(h264):
        assert decoder.submit(packet)
    assert decoder.close(flush=True)
    assert len(sink.pictures) == 20
    assert not decoder.submit(packets(h264)[0])


def test_the_codec_may_change_on_the_way() -> None:
    small, large = encode_clip(num_pictures=4), encode_clip("libx265", num_pictures=4, width=320)
    sink = RecordingSink()
    decoder = PacketDecoder(sink)
    decoder.start()
    decoder.submit(packets(small)[0])
    decoder.configure("h264", b"")
    for packet in packets(small):
        decoder.submit(packet)
    decoder.configure("hevc", b"")
    for packet in packets(large):
        decoder.submit(packet)
    assert decoder.close(flush=True)
    assert [picture.width for picture in sink.pictures] == [160] * 4 + [320] * 4
    assert sink.drops == {"no_sequence_header": 1}


def test_a_sink_that_fails_does_not_end_the_thread(h264: Clip) -> None:
    class Failing(RecordingSink):
        def take(self, picture: object) -> None:
            raise RuntimeError("a defect")

    sink = Failing()
    decoder = PacketDecoder(sink, "h264")
    decoder.start()
    for packet in packets(h264):
        decoder.submit(packet)
    assert decoder.close(flush=True)
    assert sink.drops == {"internal": 20}


def test_a_sink_that_wants_no_more_ends_the_stream(h264: Clip) -> None:
    class Refusing(RecordingSink):
        def take(self, picture: object) -> None:
            raise InvalidArgumentError("the session was deleted")

    sink = Refusing()
    decoder = PacketDecoder(sink, "h264")
    decoder.submit(packets(h264)[0])
    decoder.start()
    assert decoder.close(flush=True)
    assert not sink.drops
    with pytest.raises(InvalidArgumentError, match="was deleted"):
        decoder.submit(packets(h264)[1])


def test_an_absurd_size_ends_the_stream(monkeypatch: pytest.MonkeyPatch, h264: Clip) -> None:
    monkeypatch.setattr("services.gateway.sources.decoder.MAX_PIXELS", 100 * 100)
    sink = RecordingSink()
    decoder = PacketDecoder(sink, "h264")
    decoder.submit(packets(h264)[0])
    decoder.start()
    assert decoder.close(flush=True)
    with pytest.raises(InvalidArgumentError, match="larger than"):
        decoder.submit(packets(h264)[1])
