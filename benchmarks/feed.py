"""Drives an engine in this process: frames in, questions in, times out."""

import queue
import threading
import time
from dataclasses import dataclass, field
from itertools import cycle
from typing import Any

from services.inference_worker.assembly import build_engine
from services.inference_worker.config import WorkerConfig
from services.inference_worker.engine import Engine
from services.inference_worker.scheduler import (
    BranchJob,
    FinishReason,
    FrameJob,
    FrameReceipt,
    Seen,
)

TIMEOUT_S = 120.0
FRAME_NS = 125_000_000


def started_engine() -> Engine:
    """A warm engine with the built-in model, as the environment's WORKER_* want it."""
    engine = build_engine(WorkerConfig.from_env())
    engine.start().result(TIMEOUT_S)
    return engine


class Feed:
    """One session's frames. `show` waits for each frame; `start` keeps one frame in flight, sent by
    the device thread's own callback, until `stop`: as fast as the engine takes them."""

    def __init__(self, engine: Engine, session: str, frames: list[bytes]) -> None:
        self.engine = engine
        self.session = session
        self.shown = 0
        self.count = 0  # frames understood since `start`
        self._frames = cycle(frames)
        self._ended = threading.Event()
        self._running = False
        self._error: Exception | None = None
        engine.open_session(session).result(TIMEOUT_S)

    def show(self) -> FrameReceipt:
        """One frame; its receipt. Raises what ended the session."""
        receipts: queue.Queue[FrameReceipt | Exception] = queue.Queue()
        self.engine.submit_frame(self.session, self._next(receipts.put))
        receipt = receipts.get(timeout=TIMEOUT_S)
        if isinstance(receipt, Exception):
            raise receipt
        return receipt

    def start(self) -> None:
        self.count, self._running = 0, True
        self._ended.clear()
        self.engine.submit_frame(self.session, self._next(self._understood))

    def stop(self) -> None:
        """Returns when no frame is in flight. Raises what ended the session."""
        self._running = False
        if not self._ended.wait(TIMEOUT_S):
            raise TimeoutError("a frame was never understood")
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        self.engine.close_session(self.session).result(TIMEOUT_S)

    def _understood(self, receipt: FrameReceipt | Exception) -> None:
        if isinstance(receipt, Exception):
            self._error = receipt
            self._ended.set()
            return
        self.count += 1
        if self._running:
            self.engine.submit_frame(self.session, self._next(self._understood))
        else:
            self._ended.set()

    def _next(self, done: Any) -> FrameJob:
        self.shown += 1
        return FrameJob(
            next(self._frames),
            self.engine.model.spec.layout,
            self.shown * FRAME_NS,
            self.shown,
            time.monotonic(),
            done,
        )


@dataclass(slots=True)
class Asked:
    """A question's sink that takes times (seconds of `time.perf_counter`)."""

    asked_s: float
    first_s: float = 0.0
    ended_s: float = 0.0
    tokens: list[int] = field(default_factory=list)
    error: Exception | None = None
    done: threading.Event = field(default_factory=threading.Event)

    @property
    def first_token_s(self) -> float:
        return self.first_s - self.asked_s

    def started(self, seen: Seen) -> None:
        """The first result is there: a token, or the end of an empty answer."""
        self.first_s = time.perf_counter()

    def token(self, token: int) -> None:
        self.tokens.append(token)

    def scored(self, score: float) -> None:
        self._end()

    def finished(self, reason: FinishReason) -> None:
        self._end()

    def failed(self, error: Exception) -> None:
        self.error = error
        self._end()

    def _end(self) -> None:
        self.ended_s = time.perf_counter()
        self.done.set()


def ask(engine: Engine, session: str, text: str, max_tokens: int = 16) -> Asked:
    """Ask and wait for the whole answer. Raises what the engine says."""
    tokens = engine.model.question_tokens([], text)
    asked = Asked(time.perf_counter())
    engine.submit_branch(session, BranchJob(tokens, max_tokens, asked))
    if not asked.done.wait(TIMEOUT_S):
        raise TimeoutError("no answer")
    if asked.error is not None:
        raise asked.error
    return asked
