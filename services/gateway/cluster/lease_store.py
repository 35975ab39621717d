"""Leases in Redis, as one gateway reads and writes them."""

from collections.abc import Awaitable, Callable
from typing import Any

from services.common.redis_servers import RedisServers, told_as_away
from services.gateway.cluster.lease_scripts import PREFIX, SCRIPTS
from services.gateway.config import GatewayConfig
from services.gateway.sessions.asked_once import KEPT_S, AskedOnce
from services.gateway.sessions.lease import Lease
from services.gateway.sessions.session import Session
from sightline.errors import (
    AlreadyExistsError,
    InvalidArgumentError,
    NotFoundError,
)
from sightline.reasons import Reason
from sightline.v1 import peer_pb2

LEASES, GATEWAYS = f"{PREFIX}leases", f"{PREFIX}gateways"
MAX_LISTED = 10_000
USED_S = 5

AWAY = "the sessions of other gateways cannot be looked up now: try again"


class LeaseStore:
    """Reads and writes leases for the gateway `owner`. `address`, where its peers reach it, is set
    once that is known.

    Every method raises UnavailableError while Redis is away or does not answer in time.
    """

    def __init__(self, config: GatewayConfig, owner: str) -> None:
        """Raises ConfigError for a URL or a password that cannot be used."""
        self.owner = owner
        self.address = ""
        self._ttl_ms = round(config.lease_s * 1000)
        self._servers = RedisServers(config)
        self._scripts = {name: self._servers.script(text) for name, text in SCRIPTS.items()}

    async def aclose(self) -> None:
        await self._servers.aclose()

    # --- the gateway's own sessions -----------------------------------------------------------

    async def register(
        self, session: Session, record: peer_pb2.SessionRecord, asked: AskedOnce | None = None
    ) -> None:
        """Own a new session. Raises AlreadyExistsError where its key or name is another's, or what
        was `asked` has made another."""
        indexes = _indexes(record)
        request: list[Any] = ["", "", 0]
        if asked is not None:
            request = [_request(asked), f"{session.id} {asked.what}", round(KEPT_S * 1000)]
        arguments = [*self._mine(session, record), *request]
        taken = await self._run("register", [*_keys(session.id), *indexes], arguments)
        if taken < 0:
            raise AlreadyExistsError("this request has made another session")
        if taken:
            _refuse(indexes[taken - 3])

    async def made(self, asked: AskedOnce) -> str | None:
        """Id of the session that a request made. Raises NotFoundError for one that was deleted,
        and InvalidArgumentError where something else was asked for."""
        found = await self._run("made", [_request(asked)], [])
        if found is None:
            return None
        encoded, there, deleted = found
        session, _, what = encoded.decode().partition(" ")
        if what != asked.what:
            raise InvalidArgumentError(
                "this id was used for another request: draw a new one",
                reason=Reason.REQUEST_ID_REUSED,
            )
        if deleted:
            raise NotFoundError(
                "the session of this request was deleted", reason=Reason.SESSION_NOT_FOUND
            )
        return session if there else None

    async def renew(self, session: Session, record: peer_pb2.SessionRecord) -> bool | None:
        """Own a session for longer; whether viewers elsewhere use it. None: it is another's, or
        was deleted there."""
        keys = [*_keys(session.id), f"{PREFIX}used:{session.id}", *_indexes(record)]
        used = await self._run("renew", keys, self._mine(session, record))
        return None if used is None else bool(used)

    async def free(self, session_id: str, fence: int) -> None:
        """Let anybody take a lease of ours at once."""
        await self._run("free", _keys(session_id), [session_id, self.owner, fence])

    async def drop(self, session_id: str, fence: int, record: peer_pb2.SessionRecord) -> None:
        """A session of ours was deleted."""
        keys = [*_keys(session_id), *_indexes(record)]
        await self._run("drop", keys, [session_id, self.owner, fence])

    async def rename(self, session: Session, tenant: str, before: str, name: str) -> None:
        """Raises AlreadyExistsError for a name that another session has."""
        old, new = _name_index(tenant, before), _name_index(tenant, name)
        if name and not await self._run("claim", [old, new], [session.id]):
            _refuse(new)

    # --- those of others ----------------------------------------------------------------------

    async def take(self, session_id: str, fence: int | None = None) -> Lease | None:
        """Try to own a session: one whose lease has run out, or has the number `fence`. Gives the
        lease as it is then; None for an unknown session."""
        arguments = [session_id, self.owner, self.address, self._ttl_ms]
        arguments.append("" if fence is None else fence)
        return _lease(await self._run("take", _keys(session_id), arguments))

    async def get(self, session_id: str) -> Lease | None:
        return _lease(await self._run("get", _keys(session_id), [session_id]))

    async def find_by_key(self, digest: str) -> Lease | None:
        found = await self._do(lambda client: client.get(f"{PREFIX}key:{digest}"))
        return None if found is None else await self.get(found.decode())

    async def all(self) -> list[Lease]:
        rows = await self._run("list", [LEASES], [MAX_LISTED])
        return [lease for row in rows if (lease := _lease(row)) is not None]

    async def expired(self, most: int) -> list[str]:
        """Ids of sessions that nobody owns, those that were left first."""
        return [each.decode() for each in await self._run("expired", [LEASES], [most])]

    async def late(self, left_s: float, most: int) -> list[Lease]:
        """Leases of other gateways that run out within so long."""
        rows = await self._run("late", [LEASES], [round(left_s * 1000), self.owner, most])
        return [lease for row in rows if (lease := _lease(row)) is not None]

    async def use(self, session_ids: list[str]) -> None:
        """Viewers at this gateway use these sessions of others."""

        async def note(client: Any) -> None:
            async with client.pipeline(transaction=False) as pipe:
                for session_id in session_ids:
                    pipe.set(f"{PREFIX}used:{session_id}", 1, ex=USED_S)
                await pipe.execute()

        await self._do(note)

    # --- gateways -----------------------------------------------------------------------------

    async def beat(self) -> None:
        """This gateway lives."""
        await self._run("beat", [GATEWAYS], [f"{self.owner} {self.address}", self._ttl_ms])

    async def leave(self) -> None:
        """This gateway takes no sessions any more."""
        await self._do(lambda client: client.zrem(GATEWAYS, f"{self.owner} {self.address}"))

    async def others(self) -> list[str]:
        """Addresses of the other gateways that live."""
        members = await self._do(lambda client: client.zrange(GATEWAYS, 0, -1))
        found = [each.decode().split(" ", 1) for each in members]
        return [address for owner, address in found if owner != self.owner]

    # --- inside -------------------------------------------------------------------------------

    def _mine(self, session: Session, record: peer_pb2.SessionRecord) -> list[Any]:
        fence = session.feed.placement.fence
        encoded = record.SerializeToString()
        return [session.id, self.owner, self.address, fence, self._ttl_ms, encoded]

    async def _run(self, script: str, keys: list[str], arguments: list[Any]) -> Any:
        run = self._scripts[script]
        return await self._do(lambda client: run(keys=keys, args=arguments, client=client))

    async def _do(self, work: Callable[[Any], Awaitable[Any]]) -> Any:
        with told_as_away(AWAY, Reason.SESSIONS_AWAY):
            return await self._servers.run(work)


def _keys(session_id: str) -> list[str]:
    return [f"{PREFIX}session:{session_id}", LEASES]


def _request(asked: AskedOnce) -> str:
    return f"{PREFIX}request:{asked.id}"


def _name_index(tenant: str, name: str) -> str:
    return f"{PREFIX}name:{len(tenant)}:{tenant}:{name}"


def _indexes(record: peer_pb2.SessionRecord) -> list[str]:
    """Names by which a session is found beside its id, and which no other may have."""
    indexes = []
    if record.key_digest:
        indexes.append(f"{PREFIX}key:{record.key_digest}")
    if record.name:
        indexes.append(_name_index(record.tenant, record.name))
    return indexes


def _refuse(index: str) -> None:
    if index.startswith(f"{PREFIX}key:"):
        raise AlreadyExistsError("this key belongs to another session", reason=Reason.KEY_TAKEN)
    raise AlreadyExistsError("another session has this name", reason=Reason.NAME_TAKEN)


def _lease(row: Any) -> Lease | None:
    if not row:
        return None
    session_id, owner, address, fence, left_ms, encoded = row
    return Lease(
        session=session_id.decode(),
        owner=owner.decode(),
        address=address.decode(),
        fence=int(fence),
        left_s=int(left_ms) / 1000,
        record=peer_pb2.SessionRecord.FromString(encoded),
    )
