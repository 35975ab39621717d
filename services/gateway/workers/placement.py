"""Placement: which worker a session has, and which next when that one refuses, drains or dies."""

import asyncio
import contextlib
import itertools
import logging
import time
from collections.abc import Callable, Iterable, Iterator

import grpc

from services.common.errors import error_of_peer, restarting
from services.gateway import metrics
from services.gateway.workers.worker import Worker, shape_of
from services.gateway.workers.worker_stream import WorkerStream
from services.gateway.workers.workers import MODEL, Workers
from sightline.errors import (
    FailedPreconditionError,
    InvalidArgumentError,
    ResourceExhaustedError,
    SightlineError,
    UnavailableError,
)
from sightline.reasons import Reason
from sightline.v1 import inference_pb2

log = logging.getLogger(__name__)

# Refusals of one worker that another worker may not share.
_TRY_NEXT = (ResourceExhaustedError, UnavailableError)
RETURN_S = 0.7  # what the worker it had may take to answer when others stand ready
ROOM_POLL_S = 0.5  # between two looks for another worker while this one is ending


class Placement:
    """The worker of one session, from `open` on. All methods belong to the event loop.

    A session's frames have one size, so once it has a worker it only moves to those whose model
    and sizes are the same.
    """

    def __init__(
        self,
        workers: Workers,
        session_id: str,
        *,
        window_segments: int,
        max_pixels: int,
        grace_s: float,
        priority: int = 0,
        open_timeout_s: float,
        model: str = "",
        fence: int = 0,
    ) -> None:
        """`model` is the model or pool that was asked for, if any; `window_segments` and
        `max_pixels` of a frame are what a worker is asked for, `grace_s` how long it keeps a
        session that nobody feeds. `fence`: number of the session's lease."""
        self.session_id = session_id
        self.fence = fence
        self.superseded = False  # a worker has seen a newer lease: the session is another gateway's
        self.description = inference_pb2.ModelDescription()  # of the model, once there is a worker
        self.moved_on = asyncio.Event()  # set when the session leaves the worker that it has now
        self._workers = workers
        self._worker: Worker | None = None
        # By their addresses, those that may hold an old state of the session. A worker that is gone
        # can come back as another.
        self._left: dict[str, Worker] = {}
        self._window_segments = window_segments
        self._max_pixels = max_pixels
        self._priority = priority
        self._grace_s = grace_s
        self._open_timeout_s = open_timeout_s
        self._model = model

    def resize(self, window_segments: int) -> None:
        """Ask workers for another window from now on; 0: the model's default."""
        self._window_segments = window_segments

    @property
    def worker(self) -> Worker:
        """The worker that answers about the session now."""
        assert self._worker is not None, "not placed yet"
        return self._worker

    async def open(self) -> WorkerStream:
        """Be admitted by a worker of the model that has room. Raises the SightlineError of whoever
        refused, NotFoundError for a model that is not there, and InvalidArgumentError for a window
        that is too long."""
        try:
            return await self._open_first()
        except BaseException:
            # Whoever has admitted it without our hearing of it would hold its memory for nobody.
            for worker in self._left.values():
                self._workers.later(self._release(worker), name=f"{self.session_id}:release")
            self._left.clear()
            raise

    async def _open_first(self) -> WorkerStream:
        refusal: SightlineError | None = None
        for worker in _hung_last(await self._workers.candidates(self._model)):
            if worker.description is None:
                continue
            most = worker.description.max_window_segments
            if self._window_segments > most:
                raise InvalidArgumentError(f"a window has at most {most} segments")
            description = worker.description
            try:
                stream = await self._open_on(worker, self._open_timeout_s, replays=0)
            except _TRY_NEXT as error:
                refusal = _worse(refusal, error)
            else:
                self.description = description
                self._move(worker)
                return stream
        raise refusal or restarting(MODEL, Reason.MODEL_AWAY)

    async def open_again(self, address: str) -> WorkerStream:
        """Go on where another gateway was: with the worker at that address, which may still know
        the session, or else as `open` does."""
        worker = self._workers.at(address)
        is_fit = worker is not None and worker.is_ready and not worker.hung.is_set()
        if worker is not None and is_fit and worker.description is not None:
            description = worker.description
            with contextlib.suppress(*_TRY_NEXT):
                stream = await self._open_on(worker, self._open_timeout_s, replays=0)
                self.description = description
                self._move(worker)
                return stream
        return await self._open_first()

    async def reopen(self, replays: int, *, refused: bool = False) -> WorkerStream:
        """Go on after a break: with the same worker, which may still know the session, or else
        with another. Raises the SightlineError of whoever refused.

        `replays`: frames that a worker which does not know the session is shown first. `refused`:
        the same worker had no room for the session's frames, so that others come first.
        """
        others = self._others()
        own, ordered = iter((self.worker,)), self._workers.ordered(others)
        last = bool(others) and (refused or self.worker.is_ending)
        refusal: SightlineError | None = None
        for worker in itertools.chain(ordered, own) if last else itertools.chain(own, ordered):
            timeout_s = self._open_timeout_s
            if worker is self._worker and others:
                timeout_s = min(RETURN_S, timeout_s)
            try:
                stream = await self._open_on(worker, timeout_s, replays)
            except SightlineError as error:
                refusal = _worse(refusal, error)
                continue
            if worker is not self._worker:
                self._move(worker)
            return stream
        raise refusal or restarting(MODEL, Reason.MODEL_AWAY)

    async def open_elsewhere(self, replays: Callable[[], int]) -> WorkerStream:
        """Wait until the worker is ending and another has taken the session, on a new stream.
        `worker` stays until `moved` says that the new stream is in use."""
        while True:
            await self.worker.unfit.wait()
            if self.worker.is_ending:
                for worker in self._workers.ordered(self._others()):
                    with contextlib.suppress(SightlineError):
                        return await self._open_on(worker, self._open_timeout_s, replays())
            await asyncio.sleep(ROOM_POLL_S)

    def moved(self, stream: WorkerStream) -> None:
        """The session goes on with a stream that `open_elsewhere` gave."""
        self._move(stream.worker)

    @property
    def is_ending(self) -> bool:
        """Whether the worker is ending and another could take the session over."""
        return self.worker.is_ending and bool(self._others())

    @property
    def may_return(self) -> bool:
        """Whether a worker is there that the session could go on with."""
        return self.worker.is_ready or bool(self._others())

    async def release(self, *, keep: bool = False) -> None:
        """Free the session's memory wherever there is some, or `keep` it for another gateway. Takes
        not long, raises nothing."""
        workers = {self.worker, *self._left.values()}
        if not keep:
            knowing = (worker for worker in workers if not worker.closed)
            await asyncio.gather(*(self._release(worker) for worker in knowing))
        for worker in workers:
            worker.let_go(self.session_id)

    # --- inside -----------------------------------------------------------------------------

    def _others(self) -> list[Worker]:
        """Other workers that could take the session over: of the same model, and of the pool that
        was asked for."""
        shape = shape_of(self.description)
        return [
            worker
            for worker in self._workers.with_room()
            if worker is not self._worker
            and not worker.hung.is_set()
            and worker.shape == shape
            and (not self._model or worker.serves(self._model))
            and worker.description is not None
            and worker.description.max_window_segments >= self._window_segments
        ]

    async def _open_on(self, worker: Worker, timeout_s: float, replays: int) -> WorkerStream:
        if worker.closed:
            raise UnavailableError("the worker is gone")
        worker.hold(self.session_id)
        taken = False
        if worker is not self._worker:
            worker.admit(self.session_id, self._window_segments)
        try:
            stream = await self._admitted(worker, timeout_s, replays)
            taken = True
        finally:
            if worker is not self._worker:
                worker.admitted(self.session_id, taken=taken)
                if not taken:
                    worker.let_go(self.session_id)
        return stream

    async def _admitted(self, worker: Worker, timeout_s: float, replays: int) -> WorkerStream:
        if worker.address in self._left:  # what it knows of the session is old
            try:
                await worker.release(self.session_id, self.fence)
            except grpc.aio.AioRpcError as error:
                raise error_of_peer(error, MODEL) from None
        if worker is not self._worker:
            # It may admit the session without our ever hearing of it.
            self._left[worker.address] = worker
        opening = inference_pb2.OpenStream(
            session_id=self.session_id,
            window_segments=self._window_segments,
            max_pixels=self._max_pixels,
            grace_s=self._grace_s,
            replays=replays,
            fence=self.fence,
            priority=self._priority,
        )
        try:
            return await WorkerStream.open(worker, opening, timeout_s)
        except ResourceExhaustedError:
            self._left.pop(worker.address, None)
            raise
        except FailedPreconditionError as error:
            self.superseded |= error.reason == Reason.NOT_OWNER
            raise

    def _move(self, worker: Worker) -> None:
        if self._worker is not None:
            metrics.SESSIONS_MOVED.inc()
            # Answers may still be under way there, so that it is not told to free anything now.
            self._left = {left.address: left for left in self._left.values() if self._knows(left)}
            self._left[self._worker.address] = self._worker
            self._worker.let_go(self.session_id)
            log.info(
                "session moved",
                extra={
                    "session": self.session_id,
                    "worker": worker.address,
                    "before": self._worker.address,
                },
            )
        self._left.pop(worker.address, None)
        self._worker = worker
        self.moved_on.set()
        self.moved_on = asyncio.Event()

    def _knows(self, worker: Worker) -> bool:
        """Whether a worker may still hold the session: for its grace time after the last stream."""
        return worker.closed_s is None or time.monotonic() - worker.closed_s <= self._grace_s

    async def _release(self, worker: Worker) -> None:
        try:
            await worker.release(self.session_id, self.fence)
        except grpc.aio.AioRpcError as error:  # it forgets the session after its grace time
            log.warning(
                "session not released",
                extra={
                    "session": self.session_id,
                    "worker": worker.address,
                    "code": error.code().name,
                },
            )


def _hung_last(workers: Iterable[Worker]) -> Iterator[Worker]:
    hung = []
    for worker in workers:
        if worker.hung.is_set():
            hung.append(worker)
        else:
            yield worker
    yield from hung


def _worse(before: SightlineError | None, error: SightlineError) -> SightlineError:
    """Refusal of two that a caller is told: that a worker is full says more than that one is
    away."""
    if before is None or isinstance(error, ResourceExhaustedError):
        return error
    return before
