"""The sessions of other gateways that somebody here has to do with."""

import asyncio
import contextlib
import time
from weakref import WeakValueDictionary

from services.gateway.cluster.lease_store import LeaseStore
from services.gateway.config import GatewayConfig
from services.gateway.sessions.lease import Lease
from services.gateway.sessions.remote_session import RemoteSession
from services.gateway.sessions.sessions import Sessions
from services.gateway.workers.workers import Workers
from sightline.errors import NotFoundError, UnavailableError
from sightline.reasons import Reason

LOOK_S = 1.0  # between two looks at what viewers here see
HURRY_S = 0.2  # between two looks at what is about to have another worker
LEFT_S = 5.0  # that a session is followed beyond the time in which its viewers may come back


class Remotes:
    """Each session of another gateway once, for as long as anybody here holds it."""

    def __init__(
        self, config: GatewayConfig, sessions: Sessions, workers: Workers, store: LeaseStore
    ) -> None:
        self._config = config
        self._sessions = sessions
        self._workers = workers
        self._store = store
        self._known: WeakValueDictionary[str, RemoteSession] = WeakValueDictionary()

    def of(self, lease: Lease) -> RemoteSession:
        """The session of a lease, which it hears."""
        remote = self._known.get(lease.session)
        if remote is None:
            remote = RemoteSession(lease, self._workers, self._config, self._refresh)
            self._known[lease.session] = remote
        else:
            remote.hear(lease)
        return remote

    def pop(self, session_id: str) -> RemoteSession | None:
        """Take a session out that is this gateway's now; who had to do with it is to be told."""
        return self._known.pop(session_id, None)

    async def follow(self) -> None:
        """Tell viewers here about the sessions that they see, until cancelled."""
        looked_s = time.monotonic()
        while True:
            await asyncio.sleep(HURRY_S)
            late = time.monotonic() - looked_s >= LOOK_S
            with contextlib.suppress(UnavailableError):  # they see what was known last
                if late:
                    looked_s = time.monotonic()
                    await self._look()
                else:
                    await self._hurry()

    async def _hurry(self) -> None:
        """Look at sessions whose worker is about to be another."""
        leaving = [each for each in self._known.values() if each.viewers and each.is_leaving]
        for remote in leaving:
            with contextlib.suppress(NotFoundError):
                await self._refresh(remote)

    async def _look(self) -> None:
        oldest_s = time.monotonic() - self._config.resume_s - LEFT_S
        attended = [
            remote for remote in self._known.values() if remote.viewers or remote.used_s > oldest_s
        ]
        used = [remote.id for remote in attended if remote.viewers]
        if used:
            await self._store.use(used)
        for remote in attended:
            with contextlib.suppress(NotFoundError):
                await self._refresh(remote)
                if self._known.get(remote.id) is remote:
                    self._sessions.heard(remote)

    async def _refresh(self, remote: RemoteSession) -> None:
        """Look the lease up. Raises NotFoundError for a session that was deleted."""
        lease = await self._store.get(remote.id)
        if self._known.get(remote.id) is not remote:
            return  # it came home meanwhile
        if lease is not None:
            remote.hear(lease)
            return
        del self._known[remote.id]
        self._sessions.lost(remote)
        raise NotFoundError("the session was deleted", reason=Reason.SESSION_NOT_FOUND)
