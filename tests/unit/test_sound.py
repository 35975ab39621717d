"""Sound on its way to listeners: what is passed on, what is encoded, and how its times grow."""

import asyncio
import itertools
import random
from collections import Counter

import av
import numpy as np
import pytest

from services.gateway.playback.opus import (
    BROKEN,
    FRAME,
    GAP,
    HZ,
    OVERRUN,
    OpusPacket,
    SoundEncoder,
    Timeline,
    is_forwardable,
    samples_of,
)
from services.gateway.playback.soundtrack import MAX_WAITING, SLOW, Listener, Soundtrack
from services.gateway.sources.rtmp.flv import parse_audio
from services.gateway.sources.sound import SOUND_DECODERS, EncodedSound
from tests.eventually import PATIENCE_S, eventually, wait_until
from tests.sources import START_NS, TONE_HZ, TONE_RATE, tone

SECOND_NS = 1_000_000_000


def packets(codec: str, *, seconds: float = 1.0) -> list[EncodedSound]:
    """A tone, encoded."""
    context = av.CodecContext.create(codec, "w")
    assert isinstance(context, av.AudioCodecContext)
    rate = HZ if codec == "libopus" else TONE_RATE
    context.sample_rate, context.layout = rate, "mono"
    context.format = "fltp" if codec == "aac" else "s16"
    context.open()
    resampler = av.AudioResampler(context.format, "mono", rate, context.frame_size)
    found: list[bytes] = []
    for start in range(0, round(seconds * TONE_RATE), 1024):
        for frame in resampler.resample(tone(start, 1024)):
            found += [bytes(packet) for packet in context.encode(frame)]
    name = codec.removeprefix("lib")
    step_ns = SECOND_NS * context.frame_size // rate
    extradata = bytes(context.extradata or b"")
    return [
        EncodedSound(name, data, START_NS + n * step_ns, extradata) for n, data in enumerate(found)
    ]


def encoder(drops: Counter[str] | None = None, out: list[OpusPacket] | None = None) -> SoundEncoder:
    def dropped(reason: str, count: int) -> None:
        if drops is not None:
            drops[reason] += count

    return SoundEncoder((out if out is not None else []).append, dropped, "test")


def heard(found: list[OpusPacket]) -> np.ndarray:
    """Samples of one side."""
    decoder = av.CodecContext.create("libopus", "r")
    assert isinstance(decoder, av.AudioCodecContext)
    frames = [frame for data, _ in found for frame in decoder.decode(av.Packet(data))]
    return np.concatenate([frame.to_ndarray().reshape(-1, 2)[:, 0] for frame in frames])


def pitch(samples: np.ndarray) -> float:
    spectrum = np.abs(np.fft.rfft(samples.astype(float)))
    return float(np.argmax(spectrum)) * HZ / len(samples)


@pytest.mark.parametrize("codec", ["aac", "mp2"])
def test_what_is_not_opus_is_encoded(codec: str) -> None:
    one = encoder()
    out = [packet for sound in packets(codec) for packet in one.encode(sound)]
    places = [place for _, place in out]
    assert {after - before for before, after in itertools.pairwise(places)} == {FRAME}
    assert abs(places[0] - START_NS * HZ // SECOND_NS) < GAP
    assert 40 <= len(out) <= 51  # a second of 20 ms each
    assert abs(pitch(heard(out)[HZ // 4 :]) - TONE_HZ) < 5


def test_opus_is_passed_on() -> None:
    given = packets("libopus")
    one = encoder()
    out = [packet for sound in given for packet in one.encode(sound)]
    assert [data for data, _ in out] == [sound.data for sound in given]
    assert samples_of(given[0].data) == FRAME
    surround = b"OpusHead\x01\x06" + bytes(8) + b"\x01"
    assert not is_forwardable(EncodedSound("opus", b"x", 0, surround))
    assert samples_of(b"\x03\x04") == 4 * 480


def test_places_follow_each_other_but_for_pauses() -> None:
    line = Timeline()
    at_ns = START_NS
    first = line.place(at_ns, FRAME)
    assert line.place(at_ns + 23 * 10**6, FRAME) == first + FRAME  # jitter
    assert line.place(at_ns + SECOND_NS, FRAME) == first + HZ
    back = line.place(5, FRAME)  # another clock
    assert back == first + HZ + FRAME
    assert line.place(5 + 20 * 10**6, FRAME) == back + FRAME


def test_garbage_is_counted_and_the_next_packet_is_heard() -> None:
    drops: Counter[str] = Counter()
    out: list[OpusPacket] = []
    one = encoder(drops, out)
    noise = random.Random(7)
    good = packets("aac", seconds=0.5)
    for codec in (*SOUND_DECODERS, "unknown"):
        for size in (1, 40, 700):
            data = noise.randbytes(size)
            extradata = noise.randbytes(size % 9)
            one.submit(EncodedSound(codec, data, START_NS, extradata, size % 2 * 8000, size % 3))
    for sound in good:
        one.submit(sound)
    one.start()
    try:
        wait_until(lambda: not one._waiting)
    finally:
        one.close()
        one.join(PATIENCE_S)
    assert drops[BROKEN] > 10
    assert drops[OVERRUN] == 0
    assert len(out) > 20


def test_a_file_is_heard_when_it_is_due() -> None:
    now_ns = START_NS
    out: list[OpusPacket] = []
    one = SoundEncoder(out.append, lambda reason, count: None, "test", clock_ns=lambda: now_ns)
    data = packets("libopus", seconds=0.1)[0].data
    one.submit(EncodedSound("opus", data, START_NS))
    one.submit(EncodedSound("opus", data, START_NS + 2 * SECOND_NS))
    assert one._next() is not None
    assert one._waiting  # the other one waits
    now_ns += 2 * SECOND_NS
    assert one._next() is not None


async def test_sound_is_made_ready_only_for_listeners_and_a_slow_one_loses_it() -> None:
    drops: Counter[str] = Counter()

    def dropped(reason: str, count: int) -> None:
        drops[reason] += count

    track = Soundtrack("test", asyncio.get_running_loop(), dropped)
    given = packets("libopus", seconds=0.2)
    track.take(given[0])
    assert track.is_heard
    assert track._encoder is None
    first, second = track.join(), track.join()
    track.take(given[1])
    assert (await first.next())[0] == (await second.next())[0] == given[1].data
    track.leave(first)
    with pytest.raises(EOFError):
        await first.next()
    await track.aclose()
    with pytest.raises(EOFError):
        await second.next()
    assert track._encoder is None
    assert track.join().closed
    slow = Listener(dropped)
    for number in range(MAX_WAITING + 3):
        slow.put((b"", number))
    assert drops == {SLOW: 3}
    assert (await slow.next())[1] == 3
    track.restart()
    assert not track.is_heard
    await eventually(lambda: not track._ending)


@pytest.mark.parametrize(
    ("payload", "kind", "codec", "rate"),
    [
        (b"\xaf\x00\x12\x10", "header", "aac", 0),
        (b"\xaf\x01\x21\x00", "frame", "aac", 0),
        (b"\x2f\xff\xfb\x90", "frame", "mp3", 0),
        (b"\x82\x7f\x7f", "frame", "pcm_mulaw", 8000),
        (b"\x90mp4a\x12\x10", "header", "aac", 0),
        (b"\x91Opus\xfc\xff\xfe", "frame", "opus", 0),
        (b"\x91Opu", "none", "", 0),
        (b"\xb2\x00\x00", "none", "", 0),  # Speex
        (b"\x90", "none", "", 0),
    ],
)
def test_sound_in_flv(payload: bytes, kind: str, codec: str, rate: int) -> None:
    tag = parse_audio(payload)
    assert (tag.kind, tag.codec, tag.rate) == (kind, codec, rate)
