"""Ears of all sessions that listen, and what other gateways have heard of theirs."""

import asyncio
from collections.abc import Callable
from functools import partial

from services.common.tasks import spawn
from services.gateway.sessions.remote_session import AnySession, RemoteSession
from services.gateway.sessions.session import Session
from services.gateway.viewers.host_ear import HostEar
from services.gateway.voice.ears import Ears
from services.gateway.voice.transcript import newer
from sightline.v1 import gateway_pb2

Tell = Callable[[AnySession, gateway_pb2.Said], None]


class HostEars:
    """Ears by session. A `SessionListener`. tell: what was said, for those who watch."""

    def __init__(self, ears: Callable[[], Ears], tell: Tell) -> None:
        self._ears_now = ears
        self._tell = tell
        self._ears: dict[str, HostEar] = {}
        self._told_ns: dict[str, int] = {}  # of other gateways' sessions: the newest that was told
        self._closing: set[asyncio.Task[None]] = set()

    def session_changed(self, session: AnySession) -> None:
        if isinstance(session, RemoteSession):
            self._pass_on(session)
            return
        ears = self._ears_now()
        if session.transcript is None:
            self._close(session)
        if session.transcript is None or session.id in self._ears or not ears.configured:
            return
        ear = self._ears[session.id] = HostEar(session, ears, partial(self._heard, session))
        ear.start()

    def session_deleted(self, session: AnySession, reason: str) -> None:
        self._told_ns.pop(session.id, None)
        self._close(session)

    def _close(self, session: AnySession) -> None:
        if (ear := self._ears.pop(session.id, None)) is not None:
            closing = spawn(ear.aclose(), name=f"{session.id}:host:close")
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)

    def session_replaced(self, before: AnySession, now: AnySession) -> None:
        self.session_deleted(before, "moved")

    async def aclose(self) -> None:
        ears = list(self._ears.values())
        self._ears.clear()
        await asyncio.gather(*(ear.aclose() for ear in ears), *self._closing)

    def _heard(self, session: Session, said: gateway_pb2.Said) -> None:
        if session.transcript is not None:
            session.transcript.add(said)
        self._tell(session, said)

    def _pass_on(self, session: RemoteSession) -> None:
        """Tell those who watch here what its owner has heard since."""
        said = session.lease.record.said
        told_ns = self._told_ns.get(session.id)
        for each in newer(said, told_ns or 0) if told_ns is not None else ():
            self._tell(session, each)
        if session.message().listens:
            newest_ns = max((each.start_ns for each in said), default=0)
            self._told_ns[session.id] = max(told_ns or 0, newest_ns)
