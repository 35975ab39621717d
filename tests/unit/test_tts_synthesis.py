"""The speaking thread, and the engines it owns."""

import asyncio
import json
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from services.common.config import ConfigError
from services.tts.config import TtsConfig
from services.tts.engines import Emit, EngineVoice, PiperEngine, make_engine
from services.tts.synthesis import Synthesis
from sightline.errors import InternalError, ResourceExhaustedError, UnavailableError
from tests.eventually import PATIENCE_S


class _Engine:
    """Says the text's bytes one by one; "fail" raises, "endless" never ends by itself."""

    name = "fake"
    eager = False
    sample_rate = 8000
    voices = (EngineVoice("v", "en"),)
    default_voice = "v"

    def __init__(self) -> None:
        self.said: list[str] = []
        self.stopped = threading.Event()
        self.free = threading.Event()
        self.free.set()
        self.closed = False

    def speak(self, text: str, voice: str, rate: float, emit: Emit) -> None:
        self.free.wait(10)
        self.said.append(text)
        if text == "fail":
            raise RuntimeError("the engine's secret")
        while text == "endless":
            if not emit(b"\0\0"):
                self.stopped.set()
                return
        for character in text:
            emit(character.encode())

    def close(self) -> None:
        self.closed = True


@asynccontextmanager
async def _synthesis(max_waiting: int = 8) -> AsyncIterator[tuple[Synthesis, _Engine]]:
    engine = _Engine()
    synthesis = Synthesis(engine, max_waiting)
    synthesis.start()
    yield synthesis, engine
    engine.free.set()
    await synthesis.stop()
    assert engine.closed


async def _said(synthesis: Synthesis, text: str) -> bytes:
    return b"".join([pcm async for pcm in synthesis.speak(text, "v", 1.0)])


async def test_callers_are_served_in_turn_and_hear_their_own() -> None:
    async with _synthesis() as (synthesis, engine):
        texts = [f"text {number}" for number in range(8)]
        heard = await asyncio.gather(*(_said(synthesis, text) for text in texts))
        assert heard == [text.encode() for text in texts]
        assert engine.said == texts


async def test_the_engine_stops_when_nobody_listens() -> None:
    async with _synthesis() as (synthesis, engine):
        async with aclosing(synthesis.speak("endless", "v", 1.0)) as audio:
            assert await anext(audio) == b"\0\0"
        assert await asyncio.to_thread(engine.stopped.wait, 5)
        assert await _said(synthesis, "next") == b"next"


async def test_a_sentence_nobody_waits_for_any_more_is_not_spoken() -> None:
    async with _synthesis() as (synthesis, engine):
        engine.free.clear()
        first = asyncio.create_task(_said(synthesis, "first"))
        second = asyncio.create_task(_said(synthesis, "second"))
        await asyncio.sleep(0)
        second.cancel()
        await asyncio.gather(second, return_exceptions=True)
        engine.free.set()
        assert await first == b"first"
        assert await _said(synthesis, "third") == b"third"
        assert engine.said == ["first", "third"]


async def test_a_failing_engine_fails_one_sentence() -> None:
    async with _synthesis() as (synthesis, _):
        with pytest.raises(InternalError) as caught:
            await _said(synthesis, "fail")
        assert "secret" not in caught.value.message
        assert await _said(synthesis, "next") == b"next"


async def test_too_many_sentences_are_refused() -> None:
    async with _synthesis(max_waiting=2) as (synthesis, engine):
        engine.free.clear()
        calls = [asyncio.create_task(_said(synthesis, str(number))) for number in range(6)]
        done, _ = await asyncio.wait(calls, timeout=PATIENCE_S, return_when=asyncio.FIRST_EXCEPTION)
        assert isinstance(next(iter(done)).exception(), ResourceExhaustedError)
        engine.free.set()
        results = await asyncio.gather(*calls, return_exceptions=True)
        heard = [result for result in results if isinstance(result, bytes)]
        assert heard[:2] == [b"0", b"1"]
        assert len(heard) <= 3  # one may have been taken from the queue already


async def test_stopping_tells_those_who_wait() -> None:
    engine = _Engine()
    synthesis = Synthesis(engine, 8)
    synthesis.start()
    speaking = asyncio.create_task(_said(synthesis, "endless"))
    waiting = asyncio.create_task(_said(synthesis, "waiting"))
    await asyncio.sleep(0)
    await synthesis.stop()
    for call in (speaking, waiting):
        with pytest.raises(UnavailableError):
            await asyncio.wait_for(call, PATIENCE_S)
    with pytest.raises(UnavailableError):
        await _said(synthesis, "late")
    assert engine.closed


def _collected() -> tuple[list[bytes], Emit]:
    heard: list[bytes] = []

    def emit(pcm: bytes) -> bool:
        heard.append(pcm)
        return True

    return heard, emit


@dataclass
class _PiperSettings:
    length_scale: float


class _PiperVoice:
    config = SimpleNamespace(sample_rate=16000, length_scale=1.2, espeak_voice="en")

    @staticmethod
    def load(path: Path, settings: Path) -> "_PiperVoice":
        if not settings.read_text():
            raise ValueError("empty")
        return _PiperVoice()

    def synthesize(self, text: str, syn_config: _PiperSettings) -> Iterator[Any]:
        for word in text.split():
            pcm = f"{word}/{syn_config.length_scale:g} ".encode()
            yield SimpleNamespace(audio_int16_bytes=pcm)


@pytest.fixture
def piper_files(tmp_path: Path) -> Callable[[str], Path]:
    def make(settings: str) -> Path:
        path = tmp_path / "en_GB-alan-medium.onnx"
        path.touch()
        path.with_name(path.name + ".json").write_text(settings)
        return path

    return make


def test_piper_speaks_at_the_rate_asked_for_and_stops(
    piper_files: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = ModuleType("piper")
    module.PiperVoice = _PiperVoice  # type: ignore[attr-defined]
    module.SynthesisConfig = _PiperSettings  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "piper", module)
    path = piper_files(json.dumps({"language": {"code": "en_GB"}}))
    engine = make_engine(TtsConfig(piper_voice=path))
    assert isinstance(engine, PiperEngine)
    assert engine.voices == (EngineVoice("en_GB-alan-medium", "en-GB"),)
    assert (engine.default_voice, engine.sample_rate) == ("en_GB-alan-medium", 16000)
    heard, emit = _collected()
    engine.speak("hi [[x]]", engine.default_voice, 2.0, emit)
    assert b"".join(heard) == b"hi/0.6 [/0.6 [x]/0.6 ]/0.6 "
    first: list[bytes] = []
    engine.speak("one two", engine.default_voice, 1.0, lambda pcm: bool(first.append(pcm)))
    assert len(first) == 1
    with pytest.raises(ConfigError, match="TTS_PIPER_VOICE"):
        PiperEngine(piper_files(""))


def test_piper_without_its_package_or_files_says_what_is_missing(
    piper_files: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "piper", None)  # an import of it fails
    with pytest.raises(ConfigError, match=r"TTS_PIPER_VOICE needs .*requirements-piper\.txt"):
        PiperEngine(piper_files("{}"))
    with pytest.raises(ConfigError, match=r"TTS_PIPER_VOICE: there is no file .*missing\.onnx"):
        PiperEngine(Path("missing.onnx"))
