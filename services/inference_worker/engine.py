"""The engine: one thread owns the device, everybody else posts work to it.

Any thread may call the methods below; they return at once. The thread carries out what was posted,
lets `EngineCore` run a step, and goes on until it is stopped.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from services.inference_worker import metrics
from services.inference_worker.core import EngineCore
from services.inference_worker.model.family import StreamingModel
from services.inference_worker.scheduler import BranchJob, FrameJob
from sightline.errors import InternalError, UnavailableError

log = logging.getLogger(__name__)

T = TypeVar("T")


class Engine:
    """The thread-safe face of an `EngineCore`. `start` it, then post work."""

    def __init__(self, core: EngineCore) -> None:
        self.core = core
        self._inbox: deque[Callable[[], None]] = deque()
        self._wake = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._loop, name="device", daemon=True)
        self._warm: Future[None] = Future()
        self.ended: Future[None] = Future()
        """Done when the device thread is no more."""

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
        self._post(lambda: self.core.submit_frame(session_id, frame))

    def submit_branch(self, session_id: str, job: BranchJob) -> None:
        """Queue a question or a check; it sees every frame submitted before it."""
        self._post(lambda: self.core.submit_branch(session_id, job))

    def cancel(self, job: BranchJob) -> None:
        """End a job early; its sink hears `finished(CANCELLED)` unless it had ended."""
        self._post(lambda: self.core.cancel(job))

    def check_integrity(self) -> Future[None]:
        """Verify the page accounts on the device thread; for tests and when idle."""
        return self._post(self.core.cache.check_integrity)

    def _post(self, work: Callable[[], T]) -> Future[T]:
        future: Future[T] = Future()

        def carry_out() -> None:
            if not future.set_running_or_notify_cancel():  # nobody waits for it any more
                return
            try:
                future.set_result(work())
            except Exception as error:
                future.set_exception(error)

        with self._wake:
            if self._stopping:
                future.set_exception(UnavailableError("the worker is shutting down"))
                return future
            self._inbox.append(carry_out)
            self._wake.notify()
        return future

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
            for session_id in list(self.core.sessions):
                self.core.end_session(session_id, UnavailableError("the worker is shutting down"))
        finally:
            self._stopping = True
            self.ended.set_result(None)

    def _survives(self) -> bool:
        """`turn`, with a defect of ours costing the sessions there are, but not the worker."""
        try:
            return self.turn()
        except Exception:
            metrics.STEP_FAILURES.labels("engine").inc()
            log.exception("the engine failed; every session ends")
            self.core.reset(InternalError("the engine failed"))
            return True

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
            command()
        if not commands and wait_s is not None:
            self.core.run_step()
        return True
