"""This gateway among others: finds their sessions, and lets them find its own."""

import asyncio
import contextlib
import logging
import re
import secrets
import socket
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any
from weakref import WeakValueDictionary

from services.common.identity import Identity
from services.gateway.auth.caller import ANYBODY, Caller, Permission
from services.gateway.cluster.keeper import Keeper
from services.gateway.cluster.lease_store import LeaseStore
from services.gateway.cluster.media import clip_of, glimpse_message, picture_of, sound_of
from services.gateway.cluster.peers import Peers, is_dead
from services.gateway.cluster.remotes import Remotes
from services.gateway.cluster.servicer import PeerServicer
from services.gateway.cluster.signature import Signature
from services.gateway.config import GatewayConfig
from services.gateway.frames.sampler import Glimpse
from services.gateway.playback.broadcast import Broadcast
from services.gateway.playback.h264 import EncodedPicture
from services.gateway.playback.opus import OpusPacket
from services.gateway.playback.programme import Programme
from services.gateway.playback.recording import Clip
from services.gateway.playback.relay import Relay
from services.gateway.sessions.asked_once import AskedOnce
from services.gateway.sessions.lease import Lease, record_of
from services.gateway.sessions.remote_session import AnySession, RemoteSession
from services.gateway.sessions.session import Session
from services.gateway.sessions.session_spec import digest_of
from services.gateway.sessions.sessions import Sessions
from services.gateway.workers.workers import Workers
from sightline.errors import (
    AlreadyExistsError,
    FailedPreconditionError,
    NotFoundError,
    SightlineError,
    UnauthenticatedError,
    UnavailableError,
)
from sightline.reasons import Reason
from sightline.v1 import gateway_pb2, peer_pb2

log = logging.getLogger(__name__)

LISTED_S = 1.0  # that a list of all sessions is good for
AGAIN_S = 0.2  # between two tries at a session's owner
CLIP_S = 30.0  # that a piece of a recording may take
PATIENCE_S = 2.0  # of those tries, beyond the time of a lease
EVERYWHERE = ("0.0.0.0", "::")
_ID = re.compile(r"[0-9a-f]{16}")


class Cluster:
    """The gateways that share a Redis, as `Sessions` asks for them (`Elsewhere`) and as they ask of
    each other (`Home`). One event loop."""

    def __init__(
        self,
        config: GatewayConfig,
        sessions: Sessions,
        workers: Workers,
        identity: Identity | None = None,
    ) -> None:
        """Raises ConfigError for a Redis that cannot be meant."""
        self._config = config
        self._sessions = sessions
        self._store = LeaseStore(config, owner=secrets.token_hex(8))
        signature = Signature(config.cluster_secret or "")
        self._peers = Peers(signature, identity)
        self._port = PeerServicer(self, signature, identity)
        self._remotes = Remotes(config, sessions, workers, self._store)
        self._keeper = Keeper(config, sessions, self._store, self._peers, self._remotes)
        self._relays: WeakValueDictionary[str, Relay] = WeakValueDictionary()
        self._listed: tuple[float, list[Lease]] = (float("-inf"), [])

    async def start(self) -> None:
        """Listen to other gateways and keep leases. Raises ConfigError for a port that is taken."""
        port = await self._port.start(self._config)
        host = self._config.peer_host or self._config.host
        if host in EVERYWHERE:
            host = socket.gethostname()
        self._store.address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        log.info("one of several gateways", extra={"peer": port, "owner": self._store.owner})
        self._sessions.elsewhere = self
        self._keeper.start()

    async def drain(self) -> None:
        """Hand all sessions over."""
        await self._keeper.drain()

    async def aclose(self) -> None:
        await self._keeper.aclose()
        await self._port.aclose()
        await self._peers.aclose()
        await self._store.aclose()

    # --- for this gateway: `Elsewhere` --------------------------------------------------------

    async def register(self, session: Session) -> None:
        with contextlib.suppress(UnavailableError):  # later then, with the first renewal
            await self._store.register(session, record_of(session), session.spec.asked)

    async def made(self, asked: AskedOnce) -> str | None:
        return await self._store.made(asked)

    async def rename(self, session: Session, name: str) -> None:
        if name != session.spec.name:
            await self._store.rename(session, session.tenant, session.spec.name, name)

    async def tell(self, session: Session) -> None:
        await self._keeper.tell(session)

    def ended(self, session: Session) -> None:
        self._keeper.ended(session)

    async def find(self, name: str, caller: Caller) -> AnySession:
        lease = await self._store.get(name) if _ID.fullmatch(name) else None
        if self._keeper.has_ended(name):
            lease = None
        if lease is not None and caller.sees(self._remotes.of(lease)):
            return await self._session_of(lease)
        named = [
            lease
            for lease in await self._all()
            if lease.record.session.name == name and caller.sees(self._remotes.of(lease))
        ]
        if len(named) > 1:
            raise NotFoundError(
                "several sessions have this name: use an id", reason=Reason.SESSION_NAME_AMBIGUOUS
            )
        lease = await self._store.get(named[0].session) if named else None  # as it is now
        if lease is None:
            raise NotFoundError("no such session", reason=Reason.SESSION_NOT_FOUND)
        return await self._session_of(lease)

    async def find_by_key(self, key: str) -> AnySession:
        lease = await self._store.find_by_key(digest_of(key, self._config.cluster_secret))
        if lease is None:
            raise UnauthenticatedError("wrong key", reason=Reason.WRONG_KEY)
        return await self._session_of(lease)

    async def seen_by(self, caller: Caller) -> list[RemoteSession]:
        remotes = [self._remotes.of(lease) for lease in await self._all()]
        return [
            remote
            for remote in remotes
            if self._sessions.get(remote.id) is None and caller.may(Permission.VIEW, remote)
        ]

    async def bring_home(self, session: RemoteSession) -> Session:
        async def here(session: Session) -> Session:
            return session

        self._keeper.check()  # before its owner lets go of it
        request = peer_pb2.HandOverRequest(session=session.id)
        reply = await self._ask_owner(session, "HandOver", request, here)
        own: Session | None
        if isinstance(reply, Session):
            own = reply
        else:
            own = await self._keeper.adopt(session.id, "publisher", reply.fence)
        if own is None:
            raise UnavailableError(
                "the session is on its way to another gateway: publish again",
                reason=Reason.SESSION_MOVED,
                retry_after_s=AGAIN_S,
            )
        return own

    async def update(
        self, session: RemoteSession, request: gateway_pb2.UpdateSessionRequest
    ) -> None:
        async def here(session: Session) -> gateway_pb2.Session:
            return await self.update_here(request)

        request.session = session.id
        told = await self._ask_owner(session, "UpdateSession", request, here)
        session.message().CopyFrom(told)

    async def delete(self, session: RemoteSession) -> None:
        async def here(session: Session) -> None:
            self._sessions.delete(session, "requested")

        request = gateway_pb2.DeleteSessionRequest(session=session.id)
        await self._ask_owner(session, "DeleteSession", request, here)

    async def preview(self, session: RemoteSession, max_width: int) -> bytes | None:
        async def here(session: Session) -> peer_pb2.PreviewResponse:
            return peer_pb2.PreviewResponse(jpeg=await session.preview(max_width) or b"")

        request = peer_pb2.PreviewRequest(session=session.id, width=max_width)
        reply = await self._ask_owner(session, "Preview", request, here)
        return reply.jpeg or None

    async def glimpses(self, session: RemoteSession) -> list[Glimpse]:
        async def here(session: Session) -> peer_pb2.GlimpseResponse:
            glimpses = await session.glimpses()
            return peer_pb2.GlimpseResponse(glimpses=map(glimpse_message, glimpses))

        request = peer_pb2.GlimpseRequest(session=session.id)
        reply = await self._ask_owner(session, "Glimpse", request, here)
        return [Glimpse(each.capture_ns, each.jpeg) for each in reply.glimpses]

    def programme(self, session: RemoteSession) -> Programme:
        relay = self._relays.get(session.id)
        if relay is None:

            async def pictures() -> AsyncGenerator[EncodedPicture, None]:
                async for message in self._watch(session, sound=False):
                    yield picture_of(message)

            async def sounds() -> AsyncGenerator[OpusPacket, None]:
                async for message in self._watch(session, sound=True):
                    yield sound_of(message)

            relay = self._relays[session.id] = Relay(session.id, pictures, sounds)
        return relay

    async def clip(self, session: RemoteSession, from_s: float, until_s: float) -> Clip:
        request = peer_pb2.GetClipRequest(session=session.id, from_s=from_s, until_s=until_s)
        return await self._clip(session, request)

    async def hls(self, session: RemoteSession, name: str) -> bytes:
        request = peer_pb2.GetClipRequest(session=session.id, hls=name)
        return (await self._clip(session, request)).data

    async def _clip(self, session: RemoteSession, request: peer_pb2.GetClipRequest) -> Clip:
        parts = self._peers.stream(session.lease.address, "GetClip", request)
        try:
            async with asyncio.timeout(CLIP_S):
                return clip_of([part async for part in parts])
        except TimeoutError:
            raise UnavailableError("the gateway that has the recording does not answer") from None
        except FailedPreconditionError:
            raise UnavailableError(
                "the session is on its way to another gateway: ask again",
                reason=Reason.SESSION_MOVED,
                retry_after_s=AGAIN_S,
            ) from None

    async def said(
        self, session: RemoteSession, request: gateway_pb2.GetTranscriptRequest
    ) -> gateway_pb2.GetTranscriptResponse:
        async def here(session: Session) -> gateway_pb2.GetTranscriptResponse:
            return await self._sessions.media.said(session, request)

        request.session = session.id
        reply: gateway_pb2.GetTranscriptResponse
        reply = await self._ask_owner(session, "GetTranscript", request, here)
        return reply

    # --- for other gateways: `Home` -----------------------------------------------------------

    async def hand_over(self, session: str) -> int:
        own = self._own(session)
        await own.make_way()
        if own.published:
            raise AlreadyExistsError(
                f"somebody else is publishing to this session ({own.source_kind})",
                reason=Reason.PUBLISHER_PRESENT,
            )
        return await self._keeper.hand_over(own)

    async def take_over(self, session: str, fence: int) -> None:
        if await self._keeper.adopt(session, "handed_over", fence) is None:
            raise FailedPreconditionError("the lease is another", reason=Reason.NOT_OWNER)

    async def update_here(self, request: gateway_pb2.UpdateSessionRequest) -> gateway_pb2.Session:
        own = self._own(request.session)
        await self._sessions.update(request, ANYBODY)
        return own.message()

    async def delete_here(self, session: str) -> None:
        self._sessions.delete(self._own(session), "requested")
        with contextlib.suppress(UnavailableError):
            await self._keeper.forget()

    async def preview_here(self, session: str, max_width: int) -> bytes | None:
        return await self._own(session).preview(max_width)

    async def glimpses_here(self, session: str) -> list[Glimpse]:
        return await self._own(session).glimpses()

    def broadcast_here(self, session: str) -> Broadcast:
        return self._own(session).broadcast

    async def clip_here(self, session: str, from_s: float, until_s: float) -> Clip:
        return await self._sessions.media.clip(self._own(session), from_s, until_s)

    async def hls_here(self, session: str, name: str) -> bytes:
        return await self._sessions.media.hls(self._own(session), name)

    async def said_here(
        self, request: gateway_pb2.GetTranscriptRequest
    ) -> gateway_pb2.GetTranscriptResponse:
        return await self._sessions.media.said(self._own(request.session), request)

    # --- inside -------------------------------------------------------------------------------

    def _own(self, session_id: str) -> Session:
        session = self._sessions.get(session_id)
        if session is None:
            raise FailedPreconditionError("the session is not here", reason=Reason.NOT_OWNER)
        return session

    def _watch(
        self, session: RemoteSession, *, sound: bool
    ) -> AsyncIterator[peer_pb2.RelayResponse]:
        request = peer_pb2.RelayRequest(session=session.id, sound=sound)
        return self._peers.stream(session.lease.address, "Relay", request)

    async def _session_of(self, lease: Lease) -> AnySession:
        """Whoever has it; one that nobody has is adopted, if that works."""
        if (session := self._sessions.get(lease.session)) is not None:
            return session
        if self._keeper.is_free(lease):
            with contextlib.suppress(SightlineError):
                if (session := await self._keeper.adopt(lease.session, "viewer")) is not None:
                    return session
        return self._remotes.of(lease)

    async def _ask_owner(
        self,
        remote: RemoteSession,
        method: str,
        request: Any,
        here: Callable[[Session], Awaitable[Any]],
    ) -> Any:
        """Reply of the session's owner to a call of PeerService, or what `here` does where that
        is this gateway, which adopts a session whose owner is dead."""
        why = "publisher" if method == "HandOver" else "viewer"
        end_s = time.monotonic() + self._config.lease_s + PATIENCE_S
        while True:
            lease = await self._store.get(remote.id)
            if lease is None:
                raise NotFoundError("no such session", reason=Reason.SESSION_NOT_FOUND)
            session = self._sessions.get(remote.id)
            if session is None and self._keeper.is_free(lease):
                session = await self._keeper.adopt(remote.id, why)
            if session is not None:
                return await here(session)
            try:
                call = self._peers.call(lease.address, method, request)
                reply = await self._until_home(remote.id, call)
                return reply if reply is not None else await here(self._own(remote.id))
            except (UnavailableError, FailedPreconditionError) as error:
                if error.reason != Reason.NOT_OWNER and isinstance(error, FailedPreconditionError):
                    raise
                if error.reason != Reason.NOT_OWNER and await is_dead(lease.address):
                    session = await self._keeper.adopt(remote.id, why, lease.fence)
                    if session is not None:
                        return await here(session)
                if time.monotonic() > end_s:
                    raise
            await asyncio.sleep(AGAIN_S)

    async def _until_home(self, session: str, call: Coroutine[Any, Any, Any]) -> Any:
        """What the call gives; None once the session is this gateway's, which may be long before a
        gateway that hangs would have answered."""
        calling = asyncio.ensure_future(call)
        try:
            while not (await asyncio.wait({calling}, timeout=AGAIN_S))[0]:
                if self._sessions.get(session) is not None:
                    return None
            return await calling
        finally:
            calling.cancel()

    async def _all(self) -> list[Lease]:
        """Every lease there is, as it was a moment ago."""
        listed_s, leases = self._listed
        if time.monotonic() - listed_s > LISTED_S:
            leases = await self._store.all()
            self._listed = (time.monotonic(), leases)
        return [lease for lease in leases if not self._keeper.has_ended(lease.session)]
