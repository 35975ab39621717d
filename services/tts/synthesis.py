"""One thread that speaks, sentence by sentence, for all callers in turn."""

import asyncio
import contextlib
import logging
import queue
import threading
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

from services.tts.audio import SAMPLE_BYTES, seconds
from services.tts.engines import Engine
from services.tts.metrics import AUDIO_SECONDS, SENTENCE_SECONDS, SENTENCES
from sightline.errors import (
    InternalError,
    ResourceExhaustedError,
    SightlineError,
    UnavailableError,
)

log = logging.getLogger(__name__)

MAX_SENTENCE_S = 120  # rare symbols are read out by name: their audio is cut here, memory bounded


@dataclass(slots=True)
class _Sentence:
    """A sentence on its way through the thread, and the way back for its audio.

    `audio` needs no bound: a sentence has a greatest length (`MAX_SENTENCE_S`), and a caller has
    one at a time.
    """

    text: str
    voice: str
    rate: float
    loop: asyncio.AbstractEventLoop
    audio: asyncio.Queue[bytes | Exception | None] = field(default_factory=asyncio.Queue)
    abandoned: bool = False  # set by the loop, read by the thread

    def put(self, item: bytes | Exception | None) -> bool:
        """Hand a chunk over from the thread. False once nobody listens."""
        if self.abandoned:
            return False
        with contextlib.suppress(RuntimeError):  # the loop is closed: the service ended
            self.loop.call_soon_threadsafe(self.audio.put_nowait, item)
            return True
        return False


class Synthesis:
    """Owns an engine, which is not thread-safe, and its thread.

    At most `max_waiting` sentences wait. Callers hand over one sentence at a time, so that with
    many callers each gets its turn.
    """

    def __init__(self, engine: Engine, max_waiting: int) -> None:
        self.engine = engine
        self._waiting: queue.Queue[_Sentence | None] = queue.Queue(max_waiting)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="synthesis", daemon=True)

    def start(self) -> None:
        self._thread.start()

    async def stop(self) -> None:
        """Stop after the sentence that is being spoken has noticed, and close the engine."""
        self._stopping.set()
        with contextlib.suppress(queue.Full):  # full: the thread will not block on it
            self._waiting.put_nowait(None)
        await asyncio.to_thread(self._thread.join, 5.0)
        if not self._thread.is_alive():
            self.engine.close()

    async def speak(self, text: str, voice: str, rate: float) -> AsyncGenerator[bytes, None]:
        """PCM of one sentence, as it is made. Closing the iterator stops the engine.

        Raises ResourceExhaustedError when too many sentences wait.
        """
        sentence = _Sentence(text, voice, rate, asyncio.get_running_loop())
        if self._stopping.is_set():
            raise UnavailableError("the service is shutting down")
        try:
            self._waiting.put_nowait(sentence)
        except queue.Full:
            raise ResourceExhaustedError("too many sentences wait to be spoken") from None
        try:
            while (item := await sentence.audio.get()) is not None:
                if isinstance(item, Exception):
                    raise item
                yield item
        finally:
            sentence.abandoned = True

    def _run(self) -> None:
        while (sentence := self._waiting.get()) is not None and not self._stopping.is_set():
            SENTENCES.labels(self._speak(sentence)).inc()
        # Whoever still waits is told.
        with contextlib.suppress(queue.Empty):
            while True:
                if sentence is not None:
                    sentence.put(UnavailableError("the service is shutting down"))
                sentence = self._waiting.get_nowait()

    def _speak(self, sentence: _Sentence) -> str:
        """Speak one sentence; what became of it."""
        if sentence.abandoned:
            return "cancelled"
        started = time.perf_counter()
        size_bytes = 0
        max_bytes = MAX_SENTENCE_S * self.engine.sample_rate * SAMPLE_BYTES

        def emit(pcm: bytes) -> bool:
            nonlocal size_bytes
            size_bytes += len(pcm)
            if self._stopping.is_set() or size_bytes > max_bytes:
                return False
            return sentence.put(pcm)

        try:
            self.engine.speak(sentence.text, sentence.voice, sentence.rate, emit)
        except SightlineError as error:
            sentence.put(error)
            return "failed"
        except Exception:
            log.exception("the engine failed", extra={"voice": sentence.voice})
            sentence.put(InternalError("the speech engine failed"))
            return "failed"
        finally:
            SENTENCE_SECONDS.observe(time.perf_counter() - started)
            AUDIO_SECONDS.inc(seconds(size_bytes, self.engine.sample_rate))
        if self._stopping.is_set():
            sentence.put(UnavailableError("the service is shutting down"))
            return "cancelled"
        return "spoken" if sentence.put(None) else "cancelled"
