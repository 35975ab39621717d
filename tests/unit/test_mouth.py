"""The mouth of a call: packets of Opus as they are due, and what was heard when it falls silent."""

import asyncio

import av
import pytest

from services.common.tasks import cancel_and_wait
from services.gateway.api.realtime.mouth import HZ, PACKET_S, PACKET_STAMPS, Heard, Mouth
from tests.eventually import PATIENCE_S, eventually


class Clock:
    """Seconds that tests move on."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def _mouth() -> tuple[Mouth, list[tuple[str, str]], Clock]:
    told: list[tuple[str, str]] = []
    clock = Clock()
    return Mouth(lambda how, response: told.append((how, response)), clock), told, clock


def _speech(num_packets: float) -> bytes:
    return b"\1\0" * round(HZ * PACKET_S * num_packets)


async def test_speech_leaves_in_packets_of_opus_that_follow_each_other() -> None:
    mouth, told, _ = _mouth()
    mouth.say("r1", "i1", _speech(2.5))
    mouth.end("r1")
    packets = [await mouth.next() for _ in range(3)]  # the last one is filled with silence
    assert [stamp - packets[0][1] for _, stamp in packets] == [0, PACKET_STAMPS, 2 * PACKET_STAMPS]
    decoder = av.CodecContext.create("libopus", "r")
    assert isinstance(decoder, av.AudioCodecContext)
    decoder.sample_rate, decoder.layout = 48_000, "stereo"
    [frame] = decoder.decode(av.Packet(packets[0][0]))
    assert frame.samples == PACKET_STAMPS
    assert told == [("started", "r1")]
    waiting = asyncio.create_task(mouth.next())
    await eventually(lambda: ("stopped", "r1") in told)
    await cancel_and_wait(waiting)
    assert mouth.clear() is None


async def test_what_follows_a_silence_is_due_then() -> None:
    mouth, _, clock = _mouth()
    mouth.say("r1", "i1", _speech(1))
    _, first = await mouth.next()
    clock.now_s += 10
    mouth.say("r1", "i1", _speech(1))
    _, second = await mouth.next()
    assert second - first == 10 * 48_000


async def test_it_knows_what_was_heard_when_it_is_silenced() -> None:
    mouth, told, clock = _mouth()
    mouth.say("r1", "i1", _speech(50))
    for _ in range(3):
        await mouth.next()
    clock.now_s += 2 * PACKET_S
    assert mouth.clear() == Heard("r1", "i1", 40)  # the third is on its way
    assert told == [("started", "r1"), ("cleared", "r1")]
    assert mouth.quiet_s() == 0
    clock.now_s += 1
    assert mouth.quiet_s() == pytest.approx(1)


async def test_a_pause_ends_when_it_is_told_to() -> None:
    mouth, _, clock = _mouth()
    mouth.say("r1", "i1", _speech(2))
    mouth.pause()
    waiting = asyncio.create_task(mouth.next())
    await asyncio.sleep(0)
    clock.now_s += 60
    mouth.end("r1")
    await asyncio.sleep(0)
    assert not waiting.done()
    mouth.resume()
    await asyncio.wait_for(waiting, PATIENCE_S)
    mouth.close()
    with pytest.raises(EOFError):
        await mouth.next()
