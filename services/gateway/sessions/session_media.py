"""Media of a session: pictures, programme, recording and transcript, wherever the session is."""

from collections.abc import Callable

from services.gateway.frames.sampler import Glimpse
from services.gateway.playback.programme import Programme
from services.gateway.playback.recording import Clip, Recording
from services.gateway.sessions.elsewhere import Elsewhere
from services.gateway.sessions.remote_session import AnySession, RemoteSession
from services.gateway.sessions.session import Session
from sightline.errors import FailedPreconditionError, NotFoundError
from sightline.reasons import Reason
from sightline.v1 import gateway_pb2


class SessionMedia:
    """What can be had of a session. elsewhere: those of other gateways, where the session is of
    one."""

    def __init__(self, elsewhere: Callable[[], Elsewhere]) -> None:
        self._elsewhere = elsewhere

    async def preview(self, session: AnySession, max_width: int) -> bytes | None:
        """The newest picture as JPEG; None before the first."""
        if isinstance(session, Session):
            return await session.preview(max_width)
        return await self._elsewhere().preview(session, max_width)

    async def glimpses(self, session: AnySession) -> list[Glimpse]:
        """Its last pictures, for a delegate, the oldest first; none before the first. Raises the
        SightlineError of the gateway that has them."""
        if isinstance(session, Session):
            return await session.glimpses()
        return await self._elsewhere().glimpses(session)

    def programme(self, session: AnySession) -> Programme:
        """What its viewers get, wherever it is."""
        if isinstance(session, Session):
            return session.broadcast
        return self._elsewhere().programme(session)

    async def clip(self, session: AnySession, from_s: float, until_s: float) -> Clip:
        """What was seen and heard between two times, in seconds since 1970, from the keyframe
        before. Raises NotFoundError where nothing of it is kept."""
        if not isinstance(session, Session):
            return await self._elsewhere().clip(session, from_s, until_s)
        return await _recording_of(session).clip(from_s, until_s)

    async def hls(self, session: AnySession, name: str) -> bytes:
        """A file of the recording's HLS, `PLAYLIST` first. Raises NotFoundError."""
        if not isinstance(session, Session):
            return await self._elsewhere().hls(session, name)
        return await _recording_of(session).hls(name)

    async def said(
        self, session: AnySession, request: gateway_pb2.GetTranscriptRequest
    ) -> gateway_pb2.GetTranscriptResponse:
        """What was said in it. Raises what GetTranscript may answer."""
        if isinstance(session, RemoteSession):
            return await self._elsewhere().said(session, request)
        if session.transcript is None:
            raise FailedPreconditionError(
                "this session does not listen: make it with `listen`", reason=Reason.NOT_LISTENING
            )
        said = session.transcript.between(request.from_ns, request.to_ns)
        return gateway_pb2.GetTranscriptResponse(said=said)


def _recording_of(session: Session) -> Recording:
    if session.recording is None:
        raise NotFoundError("this server keeps no recordings: GATEWAY_RECORDING_S is 0")
    return session.recording
