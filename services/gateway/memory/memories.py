"""Memories of this gateway's sessions: kept while they are there, read, and erased with them."""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

from services.common.backoff import Backoff
from services.common.identity import Identity
from services.common.tasks import cancel_and_wait, spawn
from services.gateway.config import GatewayConfig
from services.gateway.memory.diary import Diary
from services.gateway.memory.journal import Journal
from services.gateway.sessions.remote_session import AnySession
from services.gateway.sessions.session import Session
from services.gateway.sessions.session_spec import MEMORY_OFF
from services.gateway.sessions.sessions import Sessions
from sightline.errors import SightlineError
from sightline.v1 import dialogue_pb2, gateway_pb2

log = logging.getLogger(__name__)

DEFAULT_PAGE, MOST_PAGE = 100, 1000
SEARCHED = 5000  # moments that are looked through for words
GOODBYE_S = 3.0  # for what is being erased when the gateway ends
TRIES = 8


class Memories:
    """A `SessionListener`. `journal` is None where this gateway knows no dialogue service: nothing
    is remembered then. One event loop."""

    def __init__(
        self, sessions: Sessions, config: GatewayConfig, identity: Identity | None = None
    ) -> None:
        self.journal: Journal | None = None
        if config.dialogue is not None:
            self.journal = Journal(config.dialogue, identity)
        self._longest_s = config.memory_moment_s
        self._diaries: dict[str, Diary] = {}
        self._closing: set[asyncio.Task[None]] = set()
        sessions.listen(self)

    def of(self, session_id: str) -> Diary | None:
        """The diary of one of this gateway's sessions, where it has one."""
        return self._diaries.get(session_id)

    # --- sessions come and go ---------------------------------------------------------------

    def session_changed(self, session: AnySession) -> None:
        if (
            self.journal is None
            or not isinstance(session, Session)
            or session.spec.memory == MEMORY_OFF
            or session.id in self._diaries
            or not session.alive
        ):
            return
        self._diaries[session.id] = Diary(session, self.journal, self._longest_s)

    def session_deleted(self, session: AnySession, reason: str) -> None:
        kept = session.message().memory > MEMORY_OFF
        diary = self._diaries.pop(session.id, None)
        if self.journal is not None and kept:
            self._later(self._erase(session.id, diary), f"{session.id}:forget")

    def session_replaced(self, before: AnySession, now: AnySession) -> None:
        """What was written stays: whoever has the session now goes on."""
        if not isinstance(now, Session) and (diary := self._diaries.pop(before.id, None)):
            self._later(diary.leave(), f"{before.id}:leave")

    async def forget(self, session: AnySession) -> None:
        """Erase what is remembered of a session that was deleted, as far as that works at once;
        `session_deleted` goes on trying."""
        if self.journal is not None and session.message().memory > MEMORY_OFF:
            try:
                await self.journal.forget(session.id)
            except SightlineError as error:
                log.warning("memory not erased yet", extra={"reason": str(error)})

    async def aclose(self) -> None:
        """Write no more, and wait a little for what is being erased."""
        await asyncio.gather(*(diary.leave() for diary in self._diaries.values()))
        self._diaries.clear()
        if self._closing:
            await asyncio.wait(set(self._closing), timeout=GOODBYE_S)
            await cancel_and_wait(*self._closing)
        if self.journal is not None:
            await self.journal.aclose()

    # --- reading ----------------------------------------------------------------------------

    async def read(
        self, request: gateway_pb2.GetMemoryRequest, session: AnySession
    ) -> gateway_pb2.GetMemoryResponse:
        """A page of what is remembered. Raises what GetMemory may answer."""
        reply = gateway_pb2.GetMemoryResponse(memory=session.message().memory or MEMORY_OFF)
        if self.journal is None:
            return reply
        size = min(request.page_size or DEFAULT_PAGE, MOST_PAGE)
        words = request.text.lower().split()
        found = await self.journal.read(
            dialogue_pb2.ListMomentsRequest(
                session=session.id,
                from_ns=request.from_ns,
                to_ns=request.to_ns,
                limit=SEARCHED if words else size,
                before=request.page_token,
                pictures=request.pictures,
                id=request.moment,
            )
        )
        last = ""
        for moment in found.moments:
            last = moment.id
            said = f"{moment.line} {moment.heard}".lower()
            if all(word in said for word in words):
                reply.moments.append(moment)
                if len(reply.moments) >= size:
                    break
        if found.more or (found.moments and last != found.moments[-1].id):
            reply.next_page_token = last
        return reply

    # --- inside -----------------------------------------------------------------------------

    async def _erase(self, session_id: str, diary: Diary | None) -> None:
        """Erase, again and again while the store is away; what is left by then expires there."""
        if diary is not None:
            await diary.aclose()
        assert self.journal is not None
        backoff = Backoff(0.5, 30.0)
        for _ in range(TRIES):
            try:
                await self.journal.forget(session_id)
                return
            except SightlineError:
                await asyncio.sleep(backoff.next_s())
        log.error("memory not erased", extra={"session": session_id})

    def _later(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = spawn(work, name=name)
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
