"""Standing questions of one viewer, relayed from the worker that asks them."""

import asyncio
import time
from typing import Any, Protocol

import grpc

from services.common.backoff import Backoff
from services.common.checks import check_watch
from services.common.errors import error_of_peer
from services.common.in_flight import InFlight
from services.common.tasks import spawn
from services.gateway import metrics
from services.gateway.sessions.remote_session import AnySession
from services.gateway.viewers.answers import RETRYABLE
from services.gateway.workers.workers import MODEL
from sightline.errors import NotFoundError, ResourceExhaustedError, SightlineError
from sightline.reasons import Reason
from sightline.v1 import gateway_pb2, inference_pb2

# A worker that a watch comes to may still count the one that was cut off, for so long.
FULL_S = 30.0
_FULL = frozenset({grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.FAILED_PRECONDITION})


class WatchOwner(Protocol):
    """The viewer that watches belong to."""

    def put(self, event: gateway_pb2.ServerEvent) -> None: ...
    def put_status(self, status: gateway_pb2.WatchStatus) -> None: ...
    def fail(self, error: SightlineError, *, turn: str = "", watch: str = "") -> None: ...
    def settle(self) -> None:
        """A watch has ended."""
        ...


class Watches:
    """The watches of one viewer by its ids. All methods belong to the event loop."""

    def __init__(self, session: AnySession, most: int, place: str, owner: WatchOwner) -> None:
        self._session = session
        self._most = most
        self._place = place
        self._owner = owner
        self.tenant: InFlight | None = None
        """What counts those of the viewer's tenant, where somebody does."""
        self._running: dict[str, tuple[gateway_pb2.Watch, asyncio.Task[Any]]] = {}

    def __len__(self) -> int:
        return len(self._running)

    def all(self) -> list[gateway_pb2.Watch]:
        return [watch for watch, _ in self._running.values()]

    def tasks(self) -> list[asyncio.Task[Any]]:
        return [task for _, task in self._running.values()]

    def move_to(self, session: AnySession) -> None:
        """The session is another gateway's now, or this one's: watches under way go on."""
        self._session = session

    def add(self, watch: gateway_pb2.Watch) -> None:
        """Start a watch, or replace the one with its id unless it is the same.

        Raises InvalidArgumentError, and ResourceExhaustedError for one too many.
        """
        check_watch(watch)
        if (running := self._running.get(watch.watch)) is not None:
            if running[0] == watch:
                return
            self.remove(watch.watch)
        if len(self._running) >= self._most:
            raise ResourceExhaustedError(
                f"at most {self._most} watches on one line: unwatch one first",
                reason=Reason.TOO_MANY_WATCHES,
            )
        watches, place, tenant = self._session.watches, self._place, self.tenant
        if tenant is not None:
            tenant.check()
        watches.enter(place)
        task = spawn(self._follow(watch), name=f"{self._session.id}:watch")
        task.add_done_callback(lambda _: watches.leave(place))
        if tenant is not None:
            tenant.enter()
            task.add_done_callback(lambda _: tenant.leave())
        self._running[watch.watch] = (watch, task)

    def remove(self, watch: str) -> None:
        """End a watch. Raises NotFoundError."""
        running = self._running.pop(watch, None)
        if running is None:
            raise NotFoundError("no such watch on this line")
        running[1].cancel()
        self._owner.settle()

    async def _follow(self, watch: gateway_pb2.Watch) -> None:
        """Relay the worker's events, also from a worker that was away and came back, and from the
        one that the session moves to."""
        request = inference_pb2.WatchRequest(session_id=self._session.id, watch=watch, status=True)
        backoff = Backoff(0.2, 2.0)
        active: bool | None = None
        ran = False
        full_s: float | None = None  # since when no worker has taken it
        while True:
            call = self._session.worker.stub.WatchSession(request)
            leaving = spawn(_cancel_after(self._session.moved_on, call), name="watch:leave")
            try:
                async for event in call:
                    backoff.reset()
                    ran, full_s = True, None
                    if event.HasField("status"):
                        self._owner.put_status(event.status)
                    elif event.active != active:  # a worker that came back says it again
                        active = event.active
                        # Whoever goes on with it knows what was told, and tells changes of that.
                        request.active, request.fired_ns = event.active, event.capture_ns
                        metrics.WATCH_EVENTS.inc()
                        self._owner.put(gateway_pb2.ServerEvent(watch_event=event))
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if task is None or task.cancelling():
                    raise
                ran, full_s = True, None
                backoff.reset()
                continue  # the session has another worker
            except grpc.aio.AioRpcError as error:
                passing = error.code() in RETRYABLE
                if passing:
                    ran, full_s = True, None
                elif ran and error.code() in _FULL:
                    full_s = full_s or time.monotonic()
                    passing = time.monotonic() - full_s < FULL_S
                if not passing:
                    self._owner.fail(error_of_peer(error, MODEL), watch=watch.watch)
                    self._running.pop(watch.watch, None)
                    self._owner.settle()
                    return
            finally:
                call.cancel()
                leaving.cancel()
            await asyncio.sleep(backoff.next_s())


async def _cancel_after(event: asyncio.Event, call: Any) -> None:
    await event.wait()
    call.cancel()
