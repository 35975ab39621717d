"""PushFrames: a program's frames into a session, acknowledgements back."""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from functools import partial

from services.common.tasks import cancel_and_wait
from services.gateway.api.push_parts import joined
from services.gateway.auth.caller import ANYBODY, Caller, Permission
from services.gateway.sessions.remote_session import AnySession
from services.gateway.sessions.session import Session
from services.gateway.sessions.sessions import Sessions
from services.gateway.sources.patience import NEXT_S, Patience
from services.gateway.sources.push import PushSource
from sightline.errors import (
    AlreadyExistsError,
    DeadlineExceededError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    UnauthenticatedError,
    UnavailableError,
)
from sightline.reasons import Reason
from sightline.v1 import gateway_pb2

OPEN_TIMEOUT_S = 10.0
ACK_INTERVAL_S = 0.05
HEARTBEAT_S = 1.0  # an acknowledgement at least so often, changed or not
IDLE_S = NEXT_S  # without a picture, also before the first: programs may get theirs late
STUCK_S = 60.0  # how long the last frames may wait for a worker that takes none


class PushStream:
    """One pusher's stream."""

    def __init__(self, sessions: Sessions, caller: Caller = ANYBODY) -> None:
        """caller: who needs no key, where signed in and permitted to publish."""
        self._sessions = sessions
        self._caller = caller
        self._keyless = False
        self._received = 0
        self._ended = False
        self._taking_s: float | None = None  # since when a message is being taken
        self._picture_s: float | None = None  # when the newest picture came
        self._evicted = asyncio.Event()

    async def run(
        self, incoming: AsyncIterator[gateway_pb2.PushFramesRequest]
    ) -> AsyncGenerator[gateway_pb2.PushFramesResponse, None]:
        """Take frames until the pusher ends or leaves, and say what became of them.

        Raises UnauthenticatedError for a wrong key, FailedPreconditionError when somebody else is
        pushing or messages are out of order, InvalidArgumentError naming a bad frame, NotFoundError
        once the session is deleted, DeadlineExceededError when no picture comes for too long.
        """
        session, opening = await self._open(incoming)
        await session.make_way()
        try:
            publisher = session.admit("push", evict=self._evicted.set)
        except AlreadyExistsError as error:
            raise FailedPreconditionError(error.message, reason=error.reason) from None
        with publisher:
            source = PushSource(
                publisher.sink,
                codec=opening.codec,
                extradata=opening.extradata,
                lossless=session.spec.lossless,
                name=f"{session.id}:push",
            )
            taker = None
            async with contextlib.aclosing(source):
                try:
                    await source.start()
                    taking = self._take(joined(incoming), source, session.tenant)
                    taker = asyncio.create_task(taking, name=f"{session.id}:push")
                    patience = Patience(publisher.sink, IDLE_S, IDLE_S)
                    watch = partial(self._check_idle, source, patience)
                    async for ack in self._acknowledge(session, taker, watch):
                        yield ack
                finally:
                    await cancel_and_wait(taker)

    async def _open(
        self, incoming: AsyncIterator[gateway_pb2.PushFramesRequest]
    ) -> tuple[Session, gateway_pb2.PushOpen]:
        try:
            async with asyncio.timeout(OPEN_TIMEOUT_S):
                first = await anext(incoming, None)
        except TimeoutError:
            raise DeadlineExceededError("no `open` arrived") from None
        if first is None or first.WhichOneof("message") != "open":
            raise FailedPreconditionError(
                "the first message must be `open`", reason=Reason.OUT_OF_ORDER
            )
        self._keyless = self._caller.signed_in and not first.open.key
        return await session_to_push(self._sessions, first.open, self._caller), first.open

    async def _take(
        self,
        incoming: AsyncIterator[gateway_pb2.PushFramesRequest],
        source: PushSource,
        tenant: str,
    ) -> None:
        last_ns = 0
        async for message in incoming:
            self._taking_s = time.monotonic()
            if wait_s := self._sessions.quotas.pushed(tenant, message.ByteSize()):
                await asyncio.sleep(wait_s)
            kind = message.WhichOneof("message")
            if kind == "end":
                await source.end()
                self._ended = True
                return
            try:
                if kind == "frame":
                    capture_ns = message.frame.capture_ns
                    if 0 < capture_ns < last_ns:
                        raise InvalidArgumentError(
                            f"capture_ns {capture_ns} is before that of the frame before"
                        )
                    last_ns = capture_ns or last_ns
                    await self._take_picture(message.frame, source)
                elif kind == "packet":
                    packet = message.packet
                    await source.packet(packet.data, packet.capture_ns, packet.keyframe)
                elif kind == "open":
                    raise FailedPreconditionError("the push is open already")
                else:
                    raise InvalidArgumentError("an empty message")
            except InvalidArgumentError as error:
                number = self._received + 1
                raise InvalidArgumentError(
                    f"{kind or 'message'} {number}: {error.message}"
                ) from None
            self._received += 1
            self._taking_s = None

    async def _take_picture(self, frame: gateway_pb2.PushFrame, source: PushSource) -> None:
        kind = frame.WhichOneof("picture")
        if kind == "jpeg":
            await source.jpeg(frame.jpeg, frame.capture_ns)
        elif kind == "rgb":
            await source.rgb(frame.rgb.width, frame.rgb.height, frame.rgb.data, frame.capture_ns)
        else:
            raise InvalidArgumentError("it holds no picture")

    def _check_idle(self, source: PushSource, patience: Patience) -> None:
        """Raise DeadlineExceededError for a pusher who has shown nothing for too long, whose key
        somebody else may have. It is not idle while we take what it has sent."""
        picture_s, now_s = source.delivered_s, time.monotonic()
        held_up = self._taking_s is not None and now_s - self._taking_s > HEARTBEAT_S
        if held_up or picture_s != self._picture_s:
            self._picture_s = picture_s
            patience.shown()
        elif patience.is_over and self._taking_s is None:
            patience.tell()
            raise DeadlineExceededError(
                f"no picture for {IDLE_S:g} seconds: push again when there is one",
                reason=Reason.PUBLISHER_IDLE,
            )

    async def _acknowledge(
        self, session: Session, taker: asyncio.Task[None], check_idle: Callable[[], None]
    ) -> AsyncGenerator[gateway_pb2.PushFramesResponse, None]:
        """Send acknowledgements until everything is understood after `end`, or the pusher has
        gone."""
        clock = asyncio.get_running_loop().time
        before = session.counts.copy()
        last, last_s, moved_s = None, 0.0, clock()
        while True:
            if not session.alive:
                raise NotFoundError("the session was deleted", reason=Reason.SESSION_NOT_FOUND)
            if self._evicted.is_set():
                raise FailedPreconditionError(
                    "another publisher came with this key, and nothing had come here for a while",
                    reason=Reason.PUBLISHER_PRESENT,
                )
            if session.moved:
                raise UnavailableError(
                    "the session has moved: publish again",
                    reason=Reason.SESSION_MOVED,
                    retry_after_s=0.2,
                )
            if self._keyless:
                self._caller.check(Permission.PUBLISH, session)
            finished = taker.done()
            if finished:
                taker.result()
            else:
                check_idle()
            drained = session.waiting_frames == 0
            now = session.counts.copy()
            ack = gateway_pb2.PushFramesResponse(
                received=self._received,
                understood=now.processed - before.processed,
                dropped=now.dropped.total() - before.dropped.total(),
                understood_capture_ns=now.understood_ns,
                credit=session.credit,
            )
            over = finished and (drained or not self._ended)
            if ack != last:
                moved_s = clock()
            if ack != last or over or clock() - last_s >= HEARTBEAT_S:
                last, last_s = ack, clock()
                yield ack
            if over:
                return
            if finished:
                if clock() - moved_s > STUCK_S:
                    raise UnavailableError("the worker takes no frames")
                await asyncio.sleep(ACK_INTERVAL_S)
            else:
                await asyncio.wait({taker}, timeout=ACK_INTERVAL_S)


async def session_to_push(
    sessions: Sessions, opening: gateway_pb2.PushOpen, caller: Caller
) -> Session:
    """The session of this gateway that somebody may push to: with its key, or permitted to publish.
    Raises NotFoundError, UnauthenticatedError, PermissionDeniedError, FailedPreconditionError."""
    if not opening.session or not (caller.signed_in or caller.may(Permission.VIEW)):
        # A stranger is told of no session but the key's, nor whether there is one of a name.
        found = await sessions.locate_by_key(opening.key)
        if opening.session not in ("", found.id, found.name):
            raise UnauthenticatedError("wrong key", reason=Reason.WRONG_KEY)
        return await _home(sessions, found)
    found = await sessions.locate(opening.session, caller)
    if not found.key_digest:
        raise FailedPreconditionError(
            "this session reads a source of its own", reason=Reason.NOT_A_PUSH_SESSION
        )
    if caller.signed_in and not opening.key:
        caller.check(Permission.PUBLISH, found)
    elif not sessions.has_key(found, opening.key):
        raise UnauthenticatedError("wrong key", reason=Reason.WRONG_KEY)
    return await _home(sessions, found)


async def _home(sessions: Sessions, found: AnySession) -> Session:
    try:
        return await sessions.bring_home(found)
    except AlreadyExistsError as error:
        raise FailedPreconditionError(error.message, reason=error.reason) from None
