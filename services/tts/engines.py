"""Engines that turn a sentence into PCM: espeak-ng, or a Piper voice.

Engines block and are not thread-safe; `services.tts.synthesis` gives each one thread.
"""

import contextlib
import importlib
import json
import logging
import os
import select
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

from services.common.config import ConfigError
from services.tts import espeak
from services.tts.config import TtsConfig
from services.tts.voices import installed_voice
from sightline.errors import InvalidArgumentError

log = logging.getLogger(__name__)

START_TIMEOUT_S = 30.0
SENTENCE_TIMEOUT_S = 10.0

# Takes PCM as it is made; False tells the engine to stop because nobody listens any more.
Emit = Callable[[bytes], bool]


@dataclass(frozen=True, slots=True)
class EngineVoice:
    """`id` is what callers name, `language` a BCP 47 tag."""

    id: str
    language: str


class Engine(Protocol):
    """A synthesiser. `sample_rate` holds for every voice. `eager`: a sentence takes it so long that
    the first clause of a text is worth speaking by itself."""

    name: str
    eager: bool
    sample_rate: int
    voices: Sequence[EngineVoice]
    default_voice: str

    def speak(self, text: str, voice: str, rate: float, emit: Emit) -> None:
        """Speak one sentence, 1.0 being the voice's own rate. Blocks until done or stopped.

        Raises InvalidArgumentError for a sentence that the engine cannot speak.
        """
        ...

    def close(self) -> None: ...


def make_engine(config: TtsConfig) -> Engine:
    """The engine that the configuration asks for. Raises ConfigError naming the variable."""
    if config.piper_voice is not None and config.engine != "espeak-ng":
        return PiperEngine(config.piper_voice)
    if config.engine != "espeak-ng" and (found := installed_voice()) is not None:
        try:
            return PiperEngine(found)
        except ConfigError as error:
            if config.engine == "piper":
                raise
            log.warning("an installed voice does not speak", extra={"error": str(error)})
    if config.engine == "piper":
        raise ConfigError("TTS_ENGINE=piper: no Piper voice is installed, nor named (make voice)")
    engine = EspeakEngine()
    if config.voice not in {voice.id for voice in engine.voices}:
        engine.close()
        raise ConfigError(f"TTS_VOICE={config.voice!r} is not a voice of espeak-ng")
    engine.default_voice = config.voice
    return engine


class EspeakEngine:
    """espeak-ng in a child process, about a thousand times faster than speech.

    A sentence that crashes the child, or keeps it busy for longer than `SENTENCE_TIMEOUT_S`, is
    refused with InvalidArgumentError; the next one gets a new child.
    """

    name = "espeak-ng"
    eager = False

    def __init__(self) -> None:
        self._child: subprocess.Popen[bytes] | None = None
        try:
            hello = self._start()
        except (OSError, ValueError) as error:
            raise ConfigError(f"espeak-ng does not start: {error}") from error
        self.sample_rate: int = hello["sample_rate"]
        self.voices: Sequence[EngineVoice] = tuple(
            EngineVoice(id, language) for id, language in hello["voices"]
        )
        self.default_voice = "en-us"

    def speak(self, text: str, voice: str, rate: float, emit: Emit) -> None:
        if self._child is None or self._child.poll() is not None:
            self._start()
        request = json.dumps({"text": text, "voice": voice, "rate": rate}).encode() + b"\n"
        deadline_s = time.monotonic() + SENTENCE_TIMEOUT_S
        listening = True
        try:
            self._to_child.write(request)
            self._to_child.flush()
            while size_bytes := struct.unpack("=I", self._read(4, deadline_s))[0]:
                pcm = self._read(size_bytes, deadline_s)
                # Reading the rest of what nobody wants is quicker than a new child.
                listening = listening and emit(pcm)
        except (EOFError, OSError) as error:  # TimeoutError among them
            log.warning("espeak-ng failed on a sentence", extra={"error": repr(error)})
            self._kill()
            raise InvalidArgumentError("the speech engine cannot speak this sentence") from error
        except BaseException:
            self._kill()  # its answer was not read to the end
            raise

    def close(self) -> None:
        self._kill()

    def _start(self) -> dict[str, Any]:
        """A new child; what it says of itself. Raises OSError or ValueError."""
        self._kill()
        self._child = subprocess.Popen(
            # -P: the folder of the script holds modules that must not shadow others.
            [sys.executable, "-P", espeak.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        deadline_s = time.monotonic() + START_TIMEOUT_S
        line = bytearray()
        try:
            while not line.endswith(b"\n"):
                line += self._read(1, deadline_s)
        except EOFError as error:
            code = self._child.wait()
            raise OSError(f"its process ended with status {code}") from error
        hello: dict[str, Any] = json.loads(line)
        return hello

    def _kill(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            child.kill()
            child.wait()
            for pipe in (child.stdin, child.stdout):
                if pipe is not None:
                    with contextlib.suppress(OSError):  # what was still buffered is lost
                        pipe.close()

    @property
    def _to_child(self) -> IO[bytes]:
        assert self._child is not None
        assert self._child.stdin is not None
        return self._child.stdin

    def _read(self, size_bytes: int, deadline_s: float) -> bytes:
        """Exactly so many bytes of the child's. Raises EOFError, TimeoutError."""
        assert self._child is not None
        assert self._child.stdout is not None
        file = self._child.stdout.fileno()
        readable = select.poll()  # select() knows no file beyond the 1024th
        readable.register(file, select.POLLIN)
        parts = bytearray()
        while len(parts) < size_bytes:
            left_s = max(0.0, deadline_s - time.monotonic())
            if not readable.poll(left_s * 1000):
                raise TimeoutError("espeak-ng takes too long")
            part = os.read(file, size_bytes - len(parts))
            if not part:
                raise EOFError("espeak-ng crashed")
            parts += part
        return bytes(parts)


class PiperEngine:
    """A Piper voice: an .onnx file with its .onnx.json beside it, run by the piper-tts package."""

    name = "piper"
    eager = True

    def __init__(self, path: Path) -> None:
        settings = path.with_name(path.name + ".json")
        for file in (path, settings):
            if not file.is_file():
                raise ConfigError(f"TTS_PIPER_VOICE: there is no file {file}")
        try:
            piper = importlib.import_module("piper")
        except ImportError as error:
            raise ConfigError(
                "TTS_PIPER_VOICE needs the piper-tts package: "
                "pip install -r services/tts/requirements-piper.txt"
            ) from error
        try:
            self._voice = piper.PiperVoice.load(path, settings)
            described = json.loads(settings.read_text()).get("language", {})
        except Exception as error:  # onnxruntime has many, none of them documented
            raise ConfigError(f"TTS_PIPER_VOICE: {path} is not a Piper voice: {error}") from error
        self._settings = piper.SynthesisConfig
        self.sample_rate: int = self._voice.config.sample_rate
        self.default_voice = path.name.removesuffix(".onnx")
        language = described.get("code", self._voice.config.espeak_voice).replace("_", "-")
        self.voices: Sequence[EngineVoice] = (EngineVoice(self.default_voice, language),)

    def speak(self, text: str, voice: str, rate: float, emit: Emit) -> None:
        settings = self._settings(length_scale=self._voice.config.length_scale / rate)
        # [[ ]] would be read as phonemes.
        text = text.replace("[[", "[ [").replace("]]", "] ]")
        for chunk in self._voice.synthesize(text, syn_config=settings):
            if not emit(chunk.audio_int16_bytes):
                return

    def close(self) -> None:
        """Nothing to give back: the model goes with the process."""
