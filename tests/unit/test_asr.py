"""The ASR service, its client and its thread, in one process, with an engine that hears how long a
recording is."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest

from services.asr.config import AsrConfig
from services.asr.engines import Segment, Words
from services.asr.hearing import Hearing, Kind
from services.asr.recording import Recording, Samples
from services.asr.servicer import AsrServicer
from services.common.asr_client import AsrClient, Pause
from services.common.config import ConfigError
from services.common.errors import ErrorInterceptor
from services.common.resampling import HEARD_RATE, Resampler
from sightline.errors import (
    DeadlineExceededError,
    InternalError,
    InvalidArgumentError,
    ResourceExhaustedError,
    UnavailableError,
)
from sightline.v1 import asr_pb2, asr_pb2_grpc
from tests.eventually import eventually
from tests.unit.served import NOWHERE, served

SECOND = b"\1\0" * HEARD_RATE


class Ruler:
    """An engine that says the length of what it hears, and to whom."""

    name = "ruler"
    languages = ("en", "de")

    def __init__(self) -> None:
        self.begun = 0
        self.hearing: Hearing | None = None
        self.looks: list[tuple[float, str, str]] = []
        self.may_hear = threading.Event()
        self.may_hear.set()
        self.fails = False

    def transcribe(
        self,
        samples: Samples,
        language: str,
        prompt: str,
        unwanted: Callable[[], bool] | None = None,
    ) -> Words | None:
        self.begun += 1
        self.may_hear.wait(30)
        if unwanted is not None and unwanted():
            return None
        if self.fails:
            raise RuntimeError("broken")
        length_s = len(samples) / HEARD_RATE
        self.looks.append((round(length_s, 2), language, prompt))
        return Words((Segment(f"{length_s:.1f} seconds", 0.0, length_s),), language)


@asynccontextmanager
async def heard(
    **settings: Any,
) -> AsyncIterator[tuple[AsrClient, Ruler]]:
    engine = Ruler()
    hearing = engine.hearing = Hearing(lambda: engine)
    await hearing.start()
    servicer = AsrServicer(hearing, AsrConfig(**settings))
    add = asr_pb2_grpc.add_AsrServiceServicer_to_server
    try:
        async with served(add, servicer, ErrorInterceptor()) as address:
            client = AsrClient(address, connect_timeout_s=5)
            yield client, engine
            await client.aclose()
    finally:
        engine.may_hear.set()
        await hearing.stop()


async def _pieces(*pieces: bytes | Pause) -> AsyncIterator[bytes | Pause]:
    for piece in pieces:
        yield piece


async def _all(
    client: AsrClient, *pieces: bytes | Pause, rate: int = HEARD_RATE, **options: Any
) -> list[asr_pb2.TranscribeResponse]:
    return [reply async for reply in client.transcribe(_pieces(*pieces), rate, **options)]


async def test_a_recording_becomes_words_with_times() -> None:
    async with heard() as (client, engine):
        [final] = await _all(client, SECOND, SECOND, prompt="circles")
        assert (final.text, final.final, final.audio_s) == ("2.0 seconds", True, 2.0)
        assert [(each.start_s, each.end_s) for each in final.segments] == [(0.0, 2.0)]
        assert engine.looks == [(2.0, "en", "circles")]


async def test_a_pause_brings_words_that_are_the_final_ones_where_nothing_follows() -> None:
    async with heard() as (client, engine):
        paused, final = await _all(client, SECOND, Pause())
        assert (paused.final, paused.audio_s) == (False, 1.0)
        assert (final.final, final.text) == (True, paused.text)
        assert len(engine.looks) == 1
        *_, final = await _all(client, SECOND, Pause(), SECOND)
        assert final.audio_s == 2.0


async def test_partial_words_come_while_somebody_speaks() -> None:
    heard_once = asyncio.Event()

    async def speech() -> AsyncIterator[bytes]:
        yield SECOND
        await heard_once.wait()  # without words for the first second this never ends

    async with heard() as (client, _), asyncio.timeout(30):
        texts = []
        async for reply in client.transcribe(speech(), HEARD_RATE, partials=True):
            texts.append((reply.text, reply.final))
            heard_once.set()
        assert texts == [("1.0 seconds", False), ("1.0 seconds", True)]


async def test_partial_words_leave_the_recogniser_time_for_those_who_pause() -> None:
    hearing = Hearing(Ruler)
    await hearing.start()
    servicer = AsrServicer(hearing, AsrConfig())
    recording = Recording(60)
    recording.add(SECOND * 2, HEARD_RATE)
    assert servicer._wanted(recording, 0.5, 0.5, 1.2) is Kind.PARTIAL
    assert servicer._wanted(recording, 0.5, 0.5, 1.8) is None
    assert servicer._wanted(recording, 0.5, 0.5, None) is None
    recording.pause()
    assert servicer._wanted(recording, 0.5, 2.0, 1.8) is Kind.PAUSE
    for _ in range(23):
        recording.add(SECOND, HEARD_RATE)
    recording.pause()
    assert servicer._wanted(recording, 2.0, 2.0, 1.8) is None
    recording.end()
    assert servicer._wanted(recording, 2.0, 2.0, 1.8) is Kind.FINAL
    await hearing.stop()


async def test_a_pause_waits_for_no_partial_words() -> None:
    async def speech(engine: Ruler) -> AsyncIterator[bytes | Pause]:
        yield SECOND
        await eventually(lambda: engine.begun == 1)  # the first second is being looked at
        yield SECOND
        yield Pause()
        await eventually(lambda: engine.hearing and engine.hearing.num_waiting)
        engine.may_hear.set()

    async with heard() as (client, engine), asyncio.timeout(30):
        engine.may_hear.clear()
        speaking = client.transcribe(speech(engine), HEARD_RATE, partials=True)
        assert {reply.text async for reply in speaking} == {"2.0 seconds"}
        assert [length_s for length_s, _, _ in engine.looks] == [2.0]


async def test_what_is_wanted_sooner_is_heard_sooner() -> None:
    engine = Ruler()
    hearing = Hearing(lambda: engine)
    await hearing.start()
    engine.may_hear.clear()
    assert hearing.idle
    first = asyncio.create_task(hearing.look(Kind.PARTIAL, _samples(1), "en", ""))
    await eventually(lambda: not hearing.idle and not hearing.num_waiting)
    rest = [
        asyncio.create_task(hearing.look(kind, _samples(length_s), "en", ""))
        for length_s, kind in (
            *((2, Kind.PARTIAL), (5, Kind.BACKGROUND)),
            *((3, Kind.PAUSE), (4, Kind.FINAL)),
        )
    ]
    await eventually(lambda: hearing.num_waiting == 4)
    engine.may_hear.set()
    await asyncio.gather(first, *rest)
    assert [length_s for length_s, _, _ in engine.looks] == [4.0, 3.0, 2.0, 5.0]
    assert first.result() is None  # it was given up for what came later and was more urgent
    await hearing.stop()


def _samples(length_s: int) -> Samples:
    return np.zeros(length_s * HEARD_RATE, np.float32)


async def test_audio_of_any_rate_is_heard_at_one() -> None:
    async with heard() as (client, _):
        for rate in (8_000, 24_000, 44_100, 48_000):
            [final] = await _all(client, b"\1\0" * rate, rate=rate)
            assert final.audio_s == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize("rate", [8_000, 24_000, 48_000])
def test_a_tone_stays_a_tone(rate: int) -> None:
    wave = 20_000 * np.sin(2 * np.pi * 440 * np.arange(rate) / rate)
    pcm = wave.astype(np.int16).tobytes()
    resampler = Resampler(rate)
    made = b"".join(resampler.feed(pcm[at : at + 640]) for at in range(0, len(pcm), 640))
    samples = np.frombuffer(made + resampler.flush(), np.int16)
    assert len(samples) == HEARD_RATE
    assert np.abs(np.fft.rfft(samples)).argmax() == 440


async def test_silence_of_no_length_has_no_words() -> None:
    async with heard() as (client, engine):
        [final] = await _all(client)
        assert (final.text, final.final) == ("", True)
        assert engine.looks == []


async def test_what_nobody_can_hear_is_the_callers_mistake() -> None:
    async with heard(max_audio_s=2.0) as (client, _):
        for pieces, options, complaint in (
            ((SECOND,), {"language": "xx"}, "two letters"),
            ((SECOND,), {"rate": 4_000}, "samples a second"),
            ((b"\0",), {}, "16-bit"),
            ((SECOND,) * 3, {}, "longer than 2 seconds"),
            ((SECOND,), {"prompt": "x" * 2000}, "prompt"),
        ):
            with pytest.raises(InvalidArgumentError, match=complaint):
                await _all(client, *pieces, **options)


async def test_a_caller_who_falls_silent_is_let_go() -> None:
    async def speech() -> AsyncIterator[bytes]:
        yield SECOND
        await asyncio.Event().wait()

    async with heard(idle_s=0.1) as (client, _):
        with pytest.raises(DeadlineExceededError):
            async for _reply in client.transcribe(speech(), HEARD_RATE):
                pass


async def test_too_many_are_refused_and_all_that_are_heard_end_well() -> None:
    async def speech(go_on: asyncio.Event) -> AsyncIterator[bytes]:
        yield SECOND
        await go_on.wait()

    go_on = asyncio.Event()
    async with heard(max_streams=1) as (client, _):
        speaking = client.transcribe(speech(go_on), HEARD_RATE, partials=True)
        assert (await anext(speaking)).text == "1.0 seconds"
        with pytest.raises(ResourceExhaustedError):
            await _all(client, SECOND)
        go_on.set()
        assert [reply.final async for reply in speaking] == [True]


async def test_an_engine_that_fails_says_no_more_than_that() -> None:
    async with heard() as (client, engine):
        engine.fails = True
        with pytest.raises(InternalError, match=r"^the speech recogniser failed$"):
            await _all(client, SECOND)
        engine.fails = False
        assert len(await _all(client, SECOND)) == 1


async def test_a_recogniser_that_is_away_says_so() -> None:
    client = AsrClient(NOWHERE)
    with pytest.raises(UnavailableError):
        await _all(client, SECOND)
    await client.aclose()


async def test_a_model_that_does_not_load_is_told_of() -> None:
    def broken() -> Ruler:
        raise ConfigError("ASR_MODEL is broken")

    hearing = Hearing(broken)
    with pytest.raises(ConfigError, match="broken"):
        await hearing.start()
    with pytest.raises(UnavailableError, match="loading"):
        hearing.check_language("en")
    await hearing.stop()
