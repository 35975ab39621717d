"""Others who have to do with sessions: those who are told about them, and other gateways."""

from typing import Protocol

from services.gateway.auth.caller import Caller
from services.gateway.frames.sampler import Glimpse
from services.gateway.playback.programme import Programme
from services.gateway.playback.recording import Clip
from services.gateway.sessions.asked_once import AskedOnce
from services.gateway.sessions.remote_session import AnySession, RemoteSession
from services.gateway.sessions.session import Session
from sightline.v1 import gateway_pb2


class SessionListener(Protocol):
    """Whoever is told about every session, on the event loop."""

    def session_changed(self, session: AnySession) -> None:
        """Once a second, and when its state changed."""
        ...

    def session_deleted(self, session: AnySession, reason: str) -> None: ...

    def session_replaced(self, before: AnySession, now: AnySession) -> None:
        """It has another gateway now, or this one: `now` stands for it from here on."""
        ...


class Elsewhere(Protocol):
    """The sessions that other gateways own, where there are several."""

    async def register(self, session: Session) -> None:
        """Make a new session known. Raises AlreadyExistsError where its name or key is taken."""
        ...

    async def made(self, asked: AskedOnce) -> str | None:
        """Id of the session that this request made. Raises NotFoundError for one that was deleted,
        InvalidArgumentError where the `request_id` was used for another request, and
        UnavailableError where nobody can tell."""
        ...

    async def rename(self, session: Session, name: str) -> None:
        """Raises AlreadyExistsError for a name that is taken."""
        ...

    async def tell(self, session: Session) -> None:
        """One of ours has been changed, which the others are to know at once."""
        ...

    def ended(self, session: Session) -> None:
        """A session of ours is no more."""
        ...

    async def find(self, name: str, caller: Caller) -> AnySession:
        """Session by its id or name. Raises NotFoundError, and UnavailableError where nobody can
        tell."""
        ...

    async def find_by_key(self, key: str) -> AnySession:
        """Raises UnauthenticatedError, and UnavailableError where nobody can tell."""
        ...

    async def seen_by(self, caller: Caller) -> list[RemoteSession]: ...

    async def bring_home(self, session: RemoteSession) -> Session:
        """Own a session from here on. Raises AlreadyExistsError while somebody publishes to it
        where it is, UnavailableError where that does not work now."""
        ...

    async def update(
        self, session: RemoteSession, request: gateway_pb2.UpdateSessionRequest
    ) -> None:
        """As UpdateSession."""
        ...

    async def delete(self, session: RemoteSession) -> None: ...

    async def said(
        self, session: RemoteSession, request: gateway_pb2.GetTranscriptRequest
    ) -> gateway_pb2.GetTranscriptResponse:
        """As GetTranscript."""
        ...

    async def preview(self, session: RemoteSession, max_width: int) -> bytes | None: ...

    async def glimpses(self, session: RemoteSession) -> list[Glimpse]: ...

    def programme(self, session: RemoteSession) -> Programme:
        """What viewers here get of it."""
        ...

    async def clip(self, session: RemoteSession, from_s: float, until_s: float) -> Clip:
        """As `SessionMedia.clip`."""
        ...

    async def hls(self, session: RemoteSession, name: str) -> bytes:
        """As `SessionMedia.hls`."""
        ...
