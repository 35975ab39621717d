"""Pictures that a client shows: frames of a session of the connection's own, which leave with its
window."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Self

from services.common.tasks import cancel_and_wait, spawn
from services.common.threads import on_thread
from services.gateway.api.completions.pictures import PNG, decode_png
from services.gateway.auth.caller import Caller
from services.gateway.frames.sampler import RING_FULL
from services.gateway.sessions.publisher import Publisher
from services.gateway.sessions.session import Session
from services.gateway.sessions.sessions import Sessions
from services.gateway.sources.push import PushSource
from sightline.errors import NotFoundError, SightlineError, UnavailableError
from sightline.reasons import Reason
from sightline.v1 import gateway_pb2

SECOND_NS = 1_000_000_000
MAX_WAITING = 4  # frames, before the client is read no further
PATIENCE_S = 30.0  # for the model to look
LOOK_S = 0.01
NAME = "realtime"


class PictureStream:
    """A session that sees nothing but these pictures, one for as long as the model takes to look
    at one; and the publisher who shows them. Belongs to the event loop."""

    def __init__(self, sessions: Sessions, session: Session, publisher: Publisher) -> None:
        self.session = session
        self._sessions = sessions
        self._source = PushSource(publisher.sink, lossless=True, name=f"{session.id}:pictures")
        self._times = max(1, session.feed.placement.description.tubelet)
        self._period_ns = int(SECOND_NS / session.fps)
        self._last_ns = 0
        self._turn = asyncio.Lock()
        self._offered: deque[bytes] = deque()
        self._num_offered = 0  # ever
        self._showing: asyncio.Task[None] | None = None
        self._broken: SightlineError | None = None  # what was wrong with one that was offered

    @classmethod
    async def open(cls, sessions: Sessions, caller: Caller, model: str) -> Self:
        """A new session of this model, or of the usual one where none is called so. Raises what
        CreateSession may answer."""
        wanted = gateway_pb2.CreateSessionRequest(push=gateway_pb2.Push(), model=model)
        wanted.options.name = NAME
        wanted.options.delivery = gateway_pb2.DELIVERY_LOSSLESS
        try:
            session = await sessions.create_for_question(wanted, caller)
        except NotFoundError as error:
            if error.reason != Reason.MODEL_NOT_FOUND:
                raise
            wanted.model = ""
            session = await sessions.create_for_question(wanted, caller)
        made = cls(sessions, session, session.admit("push"))
        await made._source.start()
        return made

    async def show(self, pictures: Sequence[bytes]) -> None:
        """Show JPEG or PNG pictures, which `picture_of` has checked. Raises InvalidArgumentError,
        and UnavailableError where the model does not look."""
        for picture in pictures:
            async with self._turn:
                await self._wait(lambda: self.session.waiting_frames < MAX_WAITING)
                for _ in range(self._times):
                    self._last_ns = max(time.time_ns(), self._last_ns + self._period_ns)
                    if picture.startswith(PNG):
                        decoded = await on_thread(decode_png, picture, name="decode:png")
                        await self._source.rgb(*decoded, self._last_ns)
                    else:
                        await self._source.jpeg(picture, self._last_ns)

    def offer(self, picture: bytes) -> None:
        """Show a picture of a live camera when there is time for it: of those that wait too long
        the oldest is dropped. Raises what showing one before it has."""
        if self._broken is not None:
            raise self._broken
        if len(self._offered) >= MAX_WAITING:
            self._offered.popleft()
            self.session.counts.drop(RING_FULL)
        self._offered.append(picture)
        self._num_offered += 1
        if self._showing is None or self._showing.done():
            self._showing = spawn(self._show_offered(), name=f"{self.session.id}:offered")

    async def seen(self) -> None:
        """Wait until the model has understood what was shown until now. Raises UnavailableError,
        and what showing what was offered has."""
        offered = self._num_offered
        await self._wait(lambda: self._num_offered - len(self._offered) >= offered)
        async with self._turn:
            last_ns = self._last_ns
        if self._broken is not None:
            raise self._broken
        await self._wait(lambda: self.session.counts.understood_ns >= last_ns)

    def leave(self) -> None:
        """End the session."""
        self._sessions.delete(self.session, "left")

    async def aclose(self) -> None:
        self.leave()
        if self._showing is not None:
            await cancel_and_wait(self._showing)
        await self._source.aclose()

    async def _show_offered(self) -> None:
        while self._offered:
            try:
                await self.show([self._offered.popleft()])
            except SightlineError as error:
                self._broken = error
                self._offered.clear()

    async def _wait(self, condition: Callable[[], bool]) -> None:
        try:
            async with asyncio.timeout(PATIENCE_S):
                while not condition():
                    if not self.session.alive:
                        raise NotFoundError("the session was deleted")
                    await asyncio.sleep(LOOK_S)
        except TimeoutError:
            raise UnavailableError("the model did not look at the pictures in time") from None
