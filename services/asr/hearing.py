"""One thread that hears, recording by recording, for all callers in turn."""

import asyncio
import contextlib
import enum
import itertools
import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from services.asr.engines import Engine, Words
from services.asr.metrics import PASS_SECONDS
from services.asr.recording import Samples
from sightline.errors import InternalError, InvalidArgumentError, SightlineError, UnavailableError

log = logging.getLogger(__name__)


class Kind(enum.IntEnum):
    """Why a recording is looked at: the lower, the sooner."""

    FINAL = 0
    PAUSE = 1
    PARTIAL = 2
    BACKGROUND = 3


@dataclass(order=True, slots=True)
class _Look:
    kind: Kind
    number: int
    samples: Samples = field(compare=False)
    language: str = field(compare=False)
    prompt: str = field(compare=False)
    future: "asyncio.Future[Words | None]" = field(compare=False)


class Hearing:
    """Owns an engine, which is not thread-safe, and the thread that loads it and works it.

    Its queue needs no bound: a call has one look at a time, and calls are bounded.
    """

    def __init__(self, make_engine: Callable[[], Engine]) -> None:
        self._make_engine = make_engine
        self._engine: Engine | None = None
        self._loaded: asyncio.Future[None] | None = None
        self._waiting: queue.PriorityQueue[_Look] = queue.PriorityQueue()
        self._numbers = itertools.count()
        self._under_way = 0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="hearing", daemon=True)

    @property
    def idle(self) -> bool:
        """Whether a look would begin at once."""
        return self._under_way == 0

    @property
    def num_waiting(self) -> int:
        """Looks that have not begun."""
        return self._waiting.qsize()

    def start(self) -> "asyncio.Future[None]":
        """Begin to load the engine. The future is done when it hears, and fails as it did."""
        self._loop = asyncio.get_running_loop()
        self._loaded = self._loop.create_future()
        self._thread.start()
        return self._loaded

    def check_language(self, language: str) -> None:
        """Raise InvalidArgumentError for a language that the engine does not hear, and
        UnavailableError while it is not loaded."""
        if self._engine is None:
            raise UnavailableError("the speech model is still loading")
        if language not in (*self._engine.languages, "auto"):
            raise InvalidArgumentError(f"no language {language[:16]!r}: it is named by two letters")

    async def stop(self) -> None:
        """Stop after the recording that is being heard."""
        self._stopping.set()
        await asyncio.to_thread(self._thread.join, 5.0)

    async def look(self, kind: Kind, samples: Samples, language: str, prompt: str) -> Words | None:
        """Words of a recording; None: partial ones, of which the engine is not sure, or which it
        gave up for what is more urgent. Raises InternalError where the engine fails."""
        if self._stopping.is_set():
            raise UnavailableError("the service is shutting down")
        future: asyncio.Future[Words | None] = self._loop.create_future()
        self._under_way += 1
        try:
            number = next(self._numbers)
            self._waiting.put(_Look(kind, number, samples, language, prompt, future))
            return await future
        finally:
            self._under_way -= 1

    def _run(self) -> None:
        assert self._loaded is not None
        try:
            engine = self._engine = self._make_engine()
        except BaseException as error:
            self._tell(self._loaded, error)
            return
        self._tell(self._loaded, None)
        while not self._stopping.is_set():
            with contextlib.suppress(queue.Empty):
                self._hear(engine, self._waiting.get(timeout=0.2))
        with contextlib.suppress(queue.Empty):
            while True:
                refusal = UnavailableError("the service is shutting down")
                self._tell(self._waiting.get_nowait().future, refusal)

    def _hear(self, engine: Engine, look: _Look) -> None:
        if look.future.cancelled():
            return
        began_s = time.perf_counter()
        try:
            unwanted = partial(self._unwanted, look) if look.kind is Kind.PARTIAL else None
            words = engine.transcribe(look.samples, look.language, look.prompt, unwanted)
        except SightlineError as error:
            self._tell(look.future, error)
        except Exception:
            log.exception("the engine failed")
            self._tell(look.future, InternalError("the speech recogniser failed"))
        else:
            self._tell(look.future, words)
        PASS_SECONDS.labels(look.kind.name.lower()).observe(time.perf_counter() - began_s)

    def _unwanted(self, look: _Look) -> bool:
        return look.future.cancelled() or any(
            other.kind < look.kind for other in self._waiting.queue[:1]
        )

    def _tell(self, future: "asyncio.Future[Any]", outcome: object) -> None:
        def settle() -> None:
            if future.done():
                return
            if isinstance(outcome, BaseException):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)

        with contextlib.suppress(RuntimeError):  # the loop is closed: the service ended
            self._loop.call_soon_threadsafe(settle)
