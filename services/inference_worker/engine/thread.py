"""The engine: one thread owns the device, everybody else posts work to it.

Any thread may call the methods below; they return at once. The thread carries out what was posted,
lets `EngineCore` advance, and goes on until it is stopped, or its device has failed. What others
may know of it is a snapshot, which it tells.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TypeVar

import torch

from services.inference_worker.engine.admission import EngineLimits
from services.inference_worker.engine.core import EngineCore
from services.inference_worker.engine.jobs import FrameJob, Generation, Newest
from services.inference_worker.engine.snapshot import EngineSnapshot
from services.inference_worker.engine.warm_up import warm_up
from services.inference_worker.model.errors import DeviceFailedError
from services.inference_worker.model.family import StreamingModel
from services.inference_worker.model.layout import FrameLayout
from sightline.errors import InternalError, ResourceExhaustedError, UnavailableError

log = logging.getLogger(__name__)

T = TypeVar("T")

TELL_S = 0.05  # while it works, the device thread tells of itself no more often
TELL_IDLE_S = 1.0
MOST_POSTED = 16384  # frames, questions and sessions that one long step may keep waiting


@dataclass(frozen=True, slots=True)
class _Posted:
    """Work for the device thread. `refuse` tells whoever posted it why it will not be done."""

    carry_out: Callable[[], None]
    refuse: Callable[[Exception], None]


class Engine:
    """The thread-safe face of an `EngineCore`. `start` it, then post work. `core` is the device
    thread's: others ask `snapshot`."""

    def __init__(self, core: EngineCore) -> None:
        self.core = core
        self._snapshot = EngineSnapshot()
        self._told_s = 0.0
        self._tell()  # there is no thread yet
        core.session_ended = self._tell  # whoever hears of it may open it again at once
        self._inbox: deque[_Posted] = deque()
        self._wake = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._loop, name="device", daemon=True)
        self._warm: Future[None] = Future()
        self.failure: DeviceFailedError | None = None
        """Why the device thread ended, unless it was told to."""
        self.ended: Future[None] = Future()
        """Done when the device thread does no more work."""

    def start(self) -> Future[None]:
        """Start the device thread. The future is done when every batch bucket has run once."""
        self._thread.start()
        return self._warm

    def stop(self) -> None:
        """End every session with UnavailableError and the thread after its current step."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        if self._thread.is_alive():
            self._thread.join()

    # What does not change

    @property
    def model(self) -> StreamingModel:
        return self.core.model

    @property
    def limits(self) -> EngineLimits:
        return self.core.admission.limits

    @property
    def branch_tokens(self) -> int:
        """The most tokens of one question and its answer."""
        return self.core.admission.branch_tokens

    @property
    def device(self) -> torch.device:
        return self.core.runner.device

    @property
    def dtype_name(self) -> str:
        return str(self.core.runner.dtype).removeprefix("torch.")

    @property
    def device_name(self) -> str:
        return str(self.device)

    # What does

    def snapshot(self) -> EngineSnapshot:
        """The device thread's state as it last told it: when it went to rest, when a session was
        opened or closed, or else `TELL_S` ago at most, or a step."""
        return self._snapshot

    # Work

    def newest(self, session_id: str) -> Future[Newest | None]:
        """See `EngineCore.newest`."""
        return self._post(lambda: self.core.newest(session_id))

    def open_session(
        self, session_id: str, window_segments: int = 0, max_pixels: int = 0, priority: int = 0
    ) -> Future[None]:
        """Admit a session and prefill its sink. priority: see `Relief`. Fails with
        InvalidArgumentError, AlreadyExistsError or ResourceExhaustedError."""
        return self._post(
            lambda: self.core.open_session(session_id, window_segments, max_pixels, priority),
            tells=True,
        )

    def resize_session(
        self, session_id: str, window_segments: int, layout: FrameLayout
    ) -> Future[int]:
        """Give a session another window, between two steps; gives its segments. Fails with
        InvalidArgumentError, NotFoundError or ResourceExhaustedError, changing nothing."""
        return self._post(lambda: self.core.resize_session(session_id, window_segments, layout))

    def close_session(self, session_id: str) -> Future[bool]:
        """Free a session at once; its open work fails with NotFoundError. Gives whether it was."""
        return self._post(lambda: self.core.close_session(session_id))

    def submit_frame(self, session_id: str, frame: FrameJob) -> None:
        """Queue a frame of a session. `frame.done` gets the receipt or the error."""
        self._post(lambda: self.core.submit_frame(session_id, frame), frame.done)

    def submit_branch(self, session_id: str, job: Generation) -> None:
        """Queue a question or a check; it sees every frame submitted before it."""
        self._post(lambda: self.core.submit_branch(session_id, job), job.sink.failed)

    def cancel(self, job: Generation) -> None:
        """End a job early; its sink hears `finished(CANCELLED)` unless it had ended."""
        self._post(lambda: self.core.cancel(job))

    def check_integrity(self) -> Future[None]:
        """Verify the page accounts on the device thread; for tests and when idle."""
        return self._post(self.core.cache.check_integrity)

    def _tell(self) -> None:
        self._snapshot = self.core.snapshot()
        self._told_s = self.core.clock()

    def _post(
        self,
        work: Callable[[], T],
        refused: Callable[[Exception], None] | None = None,
        *,
        tells: bool = False,
    ) -> Future[T]:
        """refused: called with an error instead, from whatever thread, if it will not be done.
        tells: whoever waits for it finds it in the snapshot."""
        future: Future[T] = Future()

        def carry_out() -> None:
            if not future.set_running_or_notify_cancel():  # nobody waits for it any more
                return
            try:
                result = work()
                if tells:
                    self._tell()
                future.set_result(result)
            except Exception as error:
                future.set_exception(error)

        def refuse(error: Exception) -> None:
            if refused is not None:
                refused(error)
            if future.set_running_or_notify_cancel():
                future.set_exception(error)

        posted = _Posted(carry_out, refuse)
        error: Exception | None = None
        with self._wake:
            # What ends work is never refused: it cannot be more than the work there is.
            if self._stopping:
                error = self._goodbye()
            elif refused is not None and len(self._inbox) >= MOST_POSTED:
                error = ResourceExhaustedError("the worker is too far behind")
            else:
                self._inbox.append(posted)
                self._wake.notify()
        if error is not None:
            refuse(error)
        return future

    def _goodbye(self) -> Exception:
        return self.failure or UnavailableError("the worker is shutting down")

    # The device thread

    def _loop(self) -> None:
        try:
            warm_up(self.core)
            self._tell()
        except Exception as error:
            self._warm.set_exception(error)
            return
        self._warm.set_result(None)
        try:
            while self._survives():
                pass
            self.failure = self.core.health.failure
        except Exception as error:  # accounts that stay wrong: no session could be trusted again
            self.failure = DeviceFailedError("the worker cannot go on")
            self.failure.__cause__ = error
        if self.failure is not None:
            log.critical("the device thread ends", exc_info=self.failure)
        with self._wake:
            self._stopping = True
            left = list(self._inbox)
            self._inbox.clear()
        self.ended.set_result(None)  # first: whoever asks for health must not be sent here
        for posted in left:
            posted.refuse(self._goodbye())
        for session_id in list(self.core.sessions):
            self.core.end_session(session_id, self._goodbye())

    def _survives(self) -> bool:
        """`turn`, with a defect of ours costing the sessions there are, but not the worker. False
        when the engine stops, or its device is not worth another step."""
        try:
            going_on = self.turn()
        except Exception as error:
            self.core.health.failed("engine", error)
            if self.core.health.failure is None:
                self.core.reset(InternalError("the engine failed"))
            going_on = True
        return going_on and self.core.health.failure is None

    def turn(self) -> bool:
        """Wait for work and do some of it. False when the engine stops."""
        idle_s = self.core.idle_s(self.core.clock())
        if idle_s != 0.0 or self.core.clock() - self._told_s >= TELL_S:
            self._tell()
        with self._wake:
            if not self._inbox and not self._stopping and idle_s != 0.0:
                # Sessions become idle by and by, and so room for others, while nothing happens.
                tell_s = [TELL_IDLE_S] if self._snapshot.sessions else []
                self._wake.wait(min((s for s in (idle_s, *tell_s) if s is not None), default=None))
            if self._stopping:
                return False
            commands = list(self._inbox)
            self._inbox.clear()
        for command in commands:
            command.carry_out()
        if not commands:
            self.core.advance()
        return True
