"""The engine: one thread owns the device, everybody else posts work to it.

Any thread may call the methods below; they return at once. The thread carries out what was posted,
lets `EngineCore` run a step, and goes on until it is stopped, or its device has failed.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TypeVar

from services.inference_worker.engine.core import EngineCore
from services.inference_worker.engine.jobs import FrameJob, Generation
from services.inference_worker.model.errors import DeviceFailedError
from services.inference_worker.model.family import StreamingModel
from sightline.errors import InternalError, ResourceExhaustedError, UnavailableError

log = logging.getLogger(__name__)

T = TypeVar("T")

MOST_POSTED = 16384  # frames, questions and sessions that one long step may keep waiting


@dataclass(frozen=True, slots=True)
class _Posted:
    """Work for the device thread. `refuse` tells whoever posted it why it will not be done."""

    carry_out: Callable[[], None]
    refuse: Callable[[Exception], None]


class Engine:
    """The thread-safe face of an `EngineCore`. `start` it, then post work."""

    def __init__(self, core: EngineCore) -> None:
        self.core = core
        self._inbox: deque[_Posted] = deque()
        self._wake = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._loop, name="device", daemon=True)
        self._warm: Future[None] = Future()
        self.failure: DeviceFailedError | None = None
        """Why the device thread ended, unless it was told to."""
        self.ended: Future[None] = Future()
        """Done when the device thread does no more work."""

    @property
    def model(self) -> StreamingModel:
        return self.core.model

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

    # What anyone may read: numbers that the device thread changes

    @property
    def num_sessions(self) -> int:
        return len(self.core.sessions)

    def has_session(self, session_id: str) -> bool:
        """Whether it is open; the engine ends one by itself when its frames could not be read."""
        return session_id in self.core.sessions

    @property
    def num_running(self) -> int:
        """Questions and checks that hold a branch."""
        return sum(len(session.running) for session in list(self.core.sessions.values()))

    @property
    def num_waiting(self) -> int:
        """Questions and checks that do not hold one yet."""
        return sum(len(session.waiting) for session in list(self.core.sessions.values()))

    @property
    def dtype_name(self) -> str:
        return str(self.core.runner.dtype).removeprefix("torch.")

    @property
    def device_name(self) -> str:
        return str(self.core.runner.device)

    @property
    def pages(self) -> tuple[int, int]:
        """KV pages used and in all."""
        pool = self.core.cache.pool
        return pool.num_used, pool.num_pages - 1

    # Work

    def open_session(
        self, session_id: str, window_segments: int = 0, max_pixels: int = 0
    ) -> Future[None]:
        """Admit a session and prefill its sink. Fails with InvalidArgumentError,
        AlreadyExistsError or ResourceExhaustedError."""
        return self._post(lambda: self.core.open_session(session_id, window_segments, max_pixels))

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

    def _post(
        self, work: Callable[[], T], refused: Callable[[Exception], None] | None = None
    ) -> Future[T]:
        """refused: called with an error instead, from whatever thread, if it will not be done."""
        future: Future[T] = Future()

        def carry_out() -> None:
            if not future.set_running_or_notify_cancel():  # nobody waits for it any more
                return
            try:
                future.set_result(work())
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
            self.core.warm_up()
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
        wait_s = self.core.wait_s()
        with self._wake:
            if not self._inbox and not self._stopping and wait_s != 0.0:
                self._wake.wait(wait_s)
            if self._stopping:
                return False
            commands = list(self._inbox)
            self._inbox.clear()
        for command in commands:
            command.carry_out()
        if not commands and wait_s is not None:
            self.core.run_step()
        return True
