"""Drives an engine in this process: frames in, questions in, times out."""

import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import cycle
from typing import Any

from services.inference_worker.assembly import build_engine
from services.inference_worker.config import WorkerConfig
from services.inference_worker.engine.jobs import (
    FinishReason,
    FrameJob,
    FrameReceipt,
    Generation,
    Seen,
)
from services.inference_worker.engine.thread import Engine

TIMEOUT_S = 120.0
FRAME_NS = 125_000_000
MEETINGS = 20  # how often sessions may miss each other's step


def started_engine() -> Engine:
    """A warm engine with the built-in model, as the environment's WORKER_* want it."""
    engine = build_engine(WorkerConfig.from_env())
    engine.start().result(TIMEOUT_S)
    return engine


class Feed:
    """Feeder of one session's frames, a tubelet at a time, which for most models is one frame.
    `show` waits for each; `start` keeps one in flight, sent by the device thread's own callback,
    until `stop`: as fast as the engine takes them."""

    def __init__(
        self, engine: Engine, session: str, frames: list[bytes], window_segments: int = 0
    ) -> None:
        self.engine = engine
        self.session = session
        self.shown = 0
        self.count = 0  # frames understood since `start`
        self._frames = cycle(frames)
        self._ended = threading.Event()
        self._running = False
        self._error: Exception | None = None
        engine.open_session(session, window_segments).result(TIMEOUT_S)

    def show(self) -> FrameReceipt:
        """Show one tubelet. Returns the receipt of its last frame. Raises what ended the
        session."""
        return show_together([self])[0]

    def step_s(self) -> float:
        """Show one tubelet. Returns the seconds of the step that took it."""
        receipt = self.show()
        return receipt.latency_s - receipt.queue_s

    def send(self, done: Callable[[FrameReceipt | Exception], None]) -> None:
        """Send one tubelet; `done` is that of its last frame."""
        for left in reversed(range(self.engine.model.spec.tubelet)):
            self.engine.submit_frame(self.session, self._next(_ignore if left else done))

    def start(self) -> None:
        self.count, self._running = 0, True
        self._ended.clear()
        self.send(self._understood)

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
        self.count += self.engine.model.spec.tubelet
        if self._running:
            self.send(self._understood)
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


def show_together(feeds: list[Feed]) -> list[FrameReceipt]:
    """A tubelet of each at one time; their receipts. Raises what ended a session."""
    receipts: queue.Queue[FrameReceipt | Exception] = queue.Queue()
    for feed in feeds:
        feed.send(receipts.put)
    received = []
    for _ in feeds:
        receipt = receipts.get(timeout=TIMEOUT_S)
        if isinstance(receipt, Exception):
            raise receipt
        received.append(receipt)
    return received


def together_s(feeds: list[Feed]) -> float:
    """Seconds of a step that took a tubelet of each. Raises RuntimeError when they never meet."""
    for _ in range(MEETINGS):
        receipts = show_together(feeds)
        steps_s = {round(receipt.latency_s - receipt.queue_s, 6) for receipt in receipts}
        if len(steps_s) == 1:  # two steps never take the same time
            return steps_s.pop()
    raise RuntimeError(f"{len(feeds)} segments never shared a step: WORKER_STEP_TOKENS?")


def _ignore(receipt: FrameReceipt | Exception) -> None:
    """Nothing is noted: of a tubelet's frames the last one tells all."""


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

    def wait(self) -> None:
        """Wait for the whole answer. Raises what the engine says."""
        if not self.done.wait(TIMEOUT_S):
            raise TimeoutError("no answer")
        if self.error is not None:
            raise self.error


def begin(engine: Engine, session: str, text: str, max_tokens: int = 16) -> Asked:
    """Ask; the answer comes in its own time."""
    tokens = engine.model.question_tokens([], text)
    asked = Asked(time.perf_counter())
    engine.submit_branch(session, Generation(tokens, max_tokens, asked))
    return asked


def ask(engine: Engine, session: str, text: str, max_tokens: int = 16) -> Asked:
    """Ask and wait for the whole answer. Raises what the engine says."""
    asked = begin(engine, session, text, max_tokens)
    asked.wait()
    return asked
