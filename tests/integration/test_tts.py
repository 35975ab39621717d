"""TTS as its own process: is it speech, does it start early, does it let go."""

import asyncio
import math
import select
import time
import urllib.request
from array import array
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import grpc
import psutil
import pytest

from services.common.tts_client import TtsClient
from services.gateway.api.speaker import Speaker
from sightline.errors import UnavailableError
from sightline.v1 import gateway_pb2, tts_pb2_grpc
from sightline.v1 import tts_pb2 as pb
from tests.eventually import PATIENCE_S, eventually
from tests.garbage import throw_at_methods, throw_at_port
from tests.processes import ServiceProcess

INVALID = grpc.StatusCode.INVALID_ARGUMENT
SENTENCE = "A red circle entered from the left and a blue square moved up."

Start = Callable[..., ServiceProcess]


@asynccontextmanager
async def _stub(process: ServiceProcess) -> AsyncIterator[tts_pb2_grpc.TtsServiceStub]:
    async with grpc.aio.insecure_channel(process.address) as channel:
        yield tts_pb2_grpc.TtsServiceStub(channel)


async def _replies(stub: Any, *pieces: str, **first: Any) -> list[Any]:
    requests = [pb.SynthesizeRequest(text=piece) for piece in pieces] or [pb.SynthesizeRequest()]
    requests[0].MergeFrom(pb.SynthesizeRequest(**first))
    return [reply async for reply in stub.Synthesize(iter(requests), timeout=60)]


async def _refusal(stub: Any, text: str, **first: Any) -> grpc.aio.AioRpcError:
    call = stub.Synthesize(timeout=60)
    await call.write(pb.SynthesizeRequest(text=text, **first))
    with pytest.raises(grpc.aio.AioRpcError) as caught:  # not half-closed: that loses the status
        await _ended(call)
    return caught.value


async def _ended(call: Any) -> None:
    while await call.read() is not grpc.aio.EOF:
        pass


def _samples(replies: list[Any]) -> "array[int]":
    return array("h", b"".join(reply.audio.pcm for reply in replies))


def _seconds(replies: list[Any]) -> float:
    return len(_samples(replies)) / replies[0].audio.sample_rate


def _metric(process: ServiceProcess, name: str) -> float:
    with urllib.request.urlopen(f"http://127.0.0.1:{process.metrics_port}/metrics") as page:
        for line in page.read().decode().splitlines():
            if line.startswith(f"{name} "):
                return float(line.split()[1])
    return 0.0


def _has_input(pid: int) -> bool:
    """Whether a process has something to read on its standard input."""
    with open(f"/proc/{pid}/fd/0", "rb") as pipe:
        return bool(select.select([pipe], [], [], 0)[0])


async def test_it_speaks(service_process: Start) -> None:
    process = service_process("tts")
    async with _stub(process) as stub:
        voices = await stub.Voices(gateway_pb2.VoicesRequest(), timeout=10)
        ids = [voice.id for voice in voices.voices]
        assert voices.default_voice == "en-us"
        assert {"en-us", "en", "de", "fr"} <= set(ids)
        assert {voice.engine for voice in voices.voices} == {"espeak-ng"}

        replies = await _replies(stub, SENTENCE)
        samples, rate = _samples(replies), replies[0].audio.sample_rate
        assert rate == voices.voices[0].sample_rate == 22050
        # Speech: loud in parts, never clipped flat, and its loudness moves with the syllables.
        assert 12_000 < max(samples) <= 32_767
        window = rate // 50
        loudness = [
            math.sqrt(sum(value * value for value in samples[start : start + window]) / window)
            for start in range(0, len(samples) - window, window)
        ]
        voiced = [value for value in loudness if value > 1000]
        assert 0.4 < len(voiced) / len(loudness) < 0.98
        assert max(voiced) > 3 * min(voiced)
        crossings = sum(a < 0 <= b for a, b in pairwise(samples))
        assert 100 < crossings / _seconds(replies) < 4000  # hum is below, noise above

        # English is spoken at 10 to 22 characters a second, more text takes longer in proportion.
        one = _seconds(replies)
        assert len(SENTENCE) / 22 < one < len(SENTENCE) / 10
        four = _seconds(await _replies(stub, " ".join([SENTENCE] * 4)))
        assert four == pytest.approx(4 * one, rel=0.1)
        assert _seconds(await _replies(stub, SENTENCE, rate=2.0)) == pytest.approx(one / 2, rel=0.2)
        assert _seconds(await _replies(stub, SENTENCE, rate=0.5)) == pytest.approx(one * 2, rel=0.2)
        german = _samples(await _replies(stub, SENTENCE, voice="de"))
        assert german != samples


async def test_chunks_name_their_sentence_and_its_end(service_process: Start) -> None:
    process = service_process("tts", TTS_CHUNK_MS=80)
    async with _stub(process) as stub:
        replies = await _replies(stub, "One circle. Tw", "o squares! And ", "a star")
        assert [reply.text for reply in replies if reply.text] == [
            "One circle.",
            "Two squares!",
            "And a star",
        ]
        starts = [number for number, reply in enumerate(replies) if reply.text]
        ends = [number for number, reply in enumerate(replies) if reply.last]
        assert len(ends) == 3
        assert ends[-1] == len(replies) - 1
        assert starts == [0, ends[0] + 1, ends[1] + 1]
        whole = 80 * 22050 // 1000 * 2
        assert {len(reply.audio.pcm) for reply in replies if not reply.last} == {whole}
        assert all(0 < len(reply.audio.pcm) <= whole for reply in replies)


async def test_audio_leaves_before_the_last_text_is_sent(service_process: Start) -> None:
    process = service_process("tts")
    async with _stub(process) as stub, asyncio.timeout(20):
        call = stub.Synthesize(timeout=20)
        await call.write(pb.SynthesizeRequest(text="A red circle entered. And th"))
        heard = [await call.read()]  # hangs for ever if audio waited for the end of the text
        assert heard[0].text == "A red circle entered."
        assert heard[0].audio.pcm
        while not heard[-1].last:
            heard.append(await call.read())
        await call.write(pb.SynthesizeRequest(text="en it left."))
        await call.done_writing()
        rest = [reply async for reply in _rest(call)]
        assert rest[0].text == "And then it left."
        assert rest[-1].last
    assert _metric(process, "sightline_tts_first_audio_seconds_count") == 1
    assert _metric(process, "sightline_tts_first_audio_seconds_sum") < 1


async def _rest(call: Any) -> AsyncIterator[Any]:
    while (reply := await call.read()) is not grpc.aio.EOF:
        yield reply


async def test_absurd_requests_are_refused_clearly(service_process: Start) -> None:
    process = service_process("tts", TTS_MAX_TEXT_BYTES=10_000, TTS_IDLE_S=0.5)
    async with _stub(process) as stub:
        unknown = await _refusal(stub, SENTENCE, voice="klingon")
        assert unknown.code() is INVALID
        assert "klingon" in (unknown.details() or "")
        for rate in (0.1, 2.1, -1.0, math.nan, math.inf):
            assert (await _refusal(stub, SENTENCE, rate=rate)).code() is INVALID
        assert (await _refusal(stub, "x" * 1_000_000)).code() is INVALID
        assert (await _refusal(stub, "hello. " * 2000)).code() is INVALID
        assert (await _refusal(stub, "say " + "x" * 1001)).code() is INVALID
        for silent in ("", "   \n ", "... --- !!!", "\0\0"):
            assert await _replies(stub, silent) == []
        call = stub.Synthesize(timeout=20)
        await call.write(pb.SynthesizeRequest(text="One sentence. And then"))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async for _ in _rest(call):
                pass
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert len(await _replies(stub, SENTENCE)) > 1
    assert "Traceback" not in process.log()


async def test_many_texts_at_once_and_no_more_than_allowed(service_process: Start) -> None:
    process = service_process("tts", TTS_MAX_STREAMS=8)
    async with _stub(process) as stub:
        alone = _seconds(await _replies(stub, SENTENCE))
        together = await asyncio.gather(*(_replies(stub, f"{SENTENCE} " * 3) for _ in range(8)))
        assert all(_seconds(replies) == pytest.approx(3 * alone, rel=0.1) for replies in together)

        held = [stub.Synthesize(timeout=20) for _ in range(8)]
        for call in held:
            await call.write(pb.SynthesizeRequest(text="wait"))
            await call.initial_metadata()
        refusal = await _refusal(stub, SENTENCE)
        assert refusal.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        for call in held:
            call.cancel()
        await eventually(lambda: _metric(process, "sightline_tts_streams") == 0)
        assert len(await _replies(stub, SENTENCE)) > 1


async def test_a_caller_that_leaves_stops_synthesis(service_process: Start) -> None:
    process = service_process("tts", TTS_MAX_STREAMS=1)
    async with _stub(process) as stub:
        call = stub.Synthesize(timeout=60)
        await call.write(pb.SynthesizeRequest(text=f"{SENTENCE} " * 800))
        await call.read()
        call.cancel()
        await eventually(lambda: _metric(process, "sightline_tts_streams") == 0)
        heard, spoken = -1.0, 0.0
        while heard != spoken:  # the sentence under way is counted, too
            await asyncio.sleep(0.5)
            heard, spoken = spoken, _metric(process, "sightline_tts_audio_seconds_total")
        assert spoken < 800 * 2  # far from all of it
        assert len(await _replies(stub, SENTENCE)) > 1  # the only place is free again


async def test_garbage_disturbs_nobody(service_process: Start) -> None:
    process = service_process("tts")
    async with _stub(process) as stub:
        call = stub.Synthesize(timeout=60)
        await call.write(pb.SynthesizeRequest(text=f"{SENTENCE} And"))
        throw_at_port(process.grpc_port, seed=1)
        throw_at_port(process.http_port, seed=2)
        service = "/sightline.v1.TtsService/"
        methods = [service + "Voices", service + "Synthesize"]
        assert throw_at_methods(process.address, methods, seed=3) == {INVALID}
        assert process.serving()
        await call.done_writing()
        spoken = [reply.text async for reply in _rest(call) if reply.text]
        assert spoken == [SENTENCE, "And"]
    assert "Traceback" not in process.log()


async def test_a_crash_of_the_engine_costs_one_sentence(service_process: Start) -> None:
    process = service_process("tts")
    assert process.process is not None
    service = psutil.Process(process.process.pid)
    async with _stub(process) as stub:
        waiting = stub.Synthesize(timeout=60)
        await waiting.write(pb.SynthesizeRequest(text="And th"))
        (engine,) = service.children()
        engine.suspend()
        # Until it has stopped it would still take the text that comes, and leave nothing to see.
        await eventually(lambda: engine.status() == psutil.STATUS_STOPPED)
        call = stub.Synthesize(timeout=60)
        await call.write(pb.SynthesizeRequest(text=f"{SENTENCE} And"))
        # Killed between two sentences it would cost none: the next would get a new engine.
        await eventually(lambda: _has_input(engine.pid))
        engine.kill()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async for _ in _rest(call):
                pass
        assert caught.value.code() is INVALID
        await waiting.write(pb.SynthesizeRequest(text="en it left."))
        await waiting.done_writing()
        assert [reply.text async for reply in _rest(waiting) if reply.text] == ["And then it left."]
    assert process.serving()
    children = service.children()
    process.kill()
    _, alive = psutil.wait_procs(children, timeout=10)
    assert not alive  # an engine outlives not even a killed service


async def test_sigterm_lets_a_text_end(service_process: Start) -> None:
    process = service_process("tts")
    async with _stub(process) as stub:
        call = stub.Synthesize(timeout=30)
        await call.write(pb.SynthesizeRequest(text=f"{SENTENCE} And"))
        await call.read()
        ending = asyncio.create_task(asyncio.to_thread(process.terminate))
        await eventually(lambda: "draining" in process.log())
        await call.write(pb.SynthesizeRequest(text=" more."))
        await call.done_writing()
        spoken = [reply.text async for reply in _rest(call) if reply.text]
        assert spoken == ["And more."]
        assert await ending == 0


async def test_killed_in_the_middle_of_a_text(service_process: Start) -> None:
    process = service_process("tts")
    peer = TtsClient(process.address)

    async def endless() -> AsyncIterator[str]:
        yield f"{SENTENCE} "
        await asyncio.Event().wait()

    async def short() -> AsyncIterator[str]:
        yield SENTENCE

    async def hear(speaking: AsyncIterator[Any]) -> int:
        return sum([len(chunk.pcm) async for chunk in speaking])

    speaking = peer.speak(endless(), "")
    assert (await anext(speaking)).pcm
    process.kill()
    with pytest.raises(UnavailableError):
        await asyncio.wait_for(hear(speaking), 10)
    started = time.monotonic()
    with pytest.raises(UnavailableError):
        await hear(peer.speak(short(), ""))
    assert time.monotonic() - started < 20
    process.restart()
    await _until_available(lambda: hear(peer.speak(short(), "")))
    assert await hear(peer.speak(short(), "")) > 44_100
    await peer.aclose()


async def _until_available(call: Callable[[], Awaitable[Any]]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            await call()
            return
        except UnavailableError:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)


async def test_a_gateway_passes_on_what_there_is_to_speak_with(
    service_process: Start,
) -> None:
    speaker = Speaker(service_process("tts").address, max_calls=1)
    try:
        told = await speaker.voices()
    finally:
        await speaker.aclose()
    assert told.default_voice in [voice.id for voice in told.voices]
    with pytest.raises(UnavailableError, match="without speech"):
        await Speaker(None, max_calls=1).voices()
