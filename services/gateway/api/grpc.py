"""SightlineService: the public gRPC interface."""

import contextlib
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import grpc

from services.common.errors import error_event
from services.common.hosts import is_loopback
from services.common.places import split_peer
from services.common.tracing import within
from services.gateway.api.addresses import Addresses
from services.gateway.api.callers import Callers
from services.gateway.api.conversations import Conversations
from services.gateway.api.first_message import peeked
from services.gateway.api.info import ServerInfo
from services.gateway.api.messages import picture_width
from services.gateway.api.push_stream import PushStream
from services.gateway.api.rule_calls import RuleCalls
from services.gateway.api.speaker import Speaker
from services.gateway.auth.authoriser import audit
from services.gateway.auth.caller import VIEWING, Caller, Permission
from services.gateway.config import GatewayConfig
from services.gateway.sessions.listing import page_of
from services.gateway.sessions.sessions import Sessions
from services.gateway.viewers.viewers import Viewers
from sightline.errors import FailedPreconditionError, PermissionDeniedError, SightlineError
from sightline.reasons import Reason
from sightline.v1 import dialogue_pb2, gateway_pb2, gateway_pb2_grpc

if TYPE_CHECKING:
    from services.gateway.rules.rules import Rules

Context = grpc.aio.ServicerContext[Any, Any]


class SightlineServicer(RuleCalls, gateway_pb2_grpc.SightlineServiceServicer):
    """Translates calls; sessions, viewers and pushes do the work. Errors are SightlineErrors."""

    def __init__(
        self,
        config: GatewayConfig,
        sessions: Sessions,
        viewers: Viewers,
        speaker: Speaker,
        addresses: Addresses,
        conversations: Conversations,
        info: ServerInfo,
        callers: Callers,
        rules: "Rules | None" = None,
    ) -> None:
        super().__init__(sessions, callers, rules, config.trusted())
        self._config = config
        self._sessions = sessions
        self._viewers = viewers
        self._speaker = speaker
        self._addresses = addresses
        self._conversations = conversations
        self._info = info
        self._callers = callers

    async def CreateSession(
        self, request: gateway_pb2.CreateSessionRequest, context: Context
    ) -> gateway_pb2.Session:
        caller = await self._callers.of_call(context, Permission.ADMIN, path=request.options.name)
        session = await self._sessions.create(request, self._place(context), caller)
        return self._addresses.with_keys(session)

    async def ListSessions(
        self, request: gateway_pb2.ListSessionsRequest, context: Context
    ) -> gateway_pb2.ListSessionsResponse:
        caller = await self._callers.of_call(context)
        caller.check(Permission.VIEW)
        return page_of(await self._sessions.listed(caller), request)

    async def GetSession(
        self, request: gateway_pb2.GetSessionRequest, context: Context
    ) -> gateway_pb2.Session:
        caller = await self._caller(context, request.session, Permission.VIEW)
        session = await self._sessions.locate(request.session, caller)
        caller.check(Permission.VIEW, session)
        return session.message()

    async def UpdateSession(
        self, request: gateway_pb2.UpdateSessionRequest, context: Context
    ) -> gateway_pb2.Session:
        caller = await self._caller(context, request.session, Permission.ADMIN)
        return (await self._sessions.update(request, caller)).message()

    async def DeleteSession(
        self, request: gateway_pb2.DeleteSessionRequest, context: Context
    ) -> gateway_pb2.DeleteSessionResponse:
        caller = await self._caller(context, request.session, Permission.ADMIN)
        if request.conversations:
            session = await self._sessions.locate(request.session, caller)
            caller.check(Permission.ADMIN, session)
            await self._conversations.delete_of(session.id)
            request.session = session.id
        if request.events:
            await self.erase_events(request.session, caller)
        removed = await self._sessions.remove(request.session, caller)
        await self._viewers.memories.forget(removed)
        return gateway_pb2.DeleteSessionResponse()

    async def GetMemory(
        self, request: gateway_pb2.GetMemoryRequest, context: Context
    ) -> gateway_pb2.GetMemoryResponse:
        caller = await self._caller(context, request.session, Permission.VIEW)
        session = await self._sessions.locate(request.session, caller)
        caller.check(Permission.VIEW, session)
        return await self._viewers.memories.read(request, session)

    async def PushFrames(
        self,
        request_iterator: AsyncIterator[gateway_pb2.PushFramesRequest],
        context: Context,
    ) -> AsyncIterator[gateway_pb2.PushFramesResponse]:
        try:
            path = ""
            if self._callers.case_by_case:
                first, request_iterator = await peeked(request_iterator)
                path = "" if first is None else self._sessions.name_of(first.open.session)
            caller = await self._callers.of_call(
                context, Permission.PUBLISH, path=path, anonymous=True
            )
            push = PushStream(self._sessions, caller)
            async with contextlib.aclosing(push.run(request_iterator)) as acks:
                async for ack in acks:
                    yield ack
        except SightlineError as error:
            # Once more in the status; but grpc loses that where its client is writing just then.
            yield gateway_pb2.PushFramesResponse(error=error_event(error))
            raise

    async def Converse(
        self, request_iterator: AsyncIterator[gateway_pb2.ClientEvent], context: Context
    ) -> None:
        session = ""
        if self._callers.case_by_case:
            first, request_iterator = await peeked(request_iterator)
            session = "" if first is None else first.start.session
        caller = await self._caller(context, session, *VIEWING)
        with within(context.invocation_metadata()):
            await self._viewers.serve(request_iterator, context.write, self._place(context), caller)

    async def Ask(
        self, request: gateway_pb2.AskRequest, context: Context
    ) -> gateway_pb2.AskResponse:
        caller = await self._caller(context, request.session, Permission.ASK)
        session = await self._sessions.locate(request.session, caller)
        return await self._viewers.asks.whole(request, session, caller, self._place(context))

    async def GetPicture(
        self, request: gateway_pb2.GetPictureRequest, context: Context
    ) -> gateway_pb2.GetPictureResponse:
        caller = await self._caller(context, request.session, Permission.VIEW)
        session = await self._sessions.locate(request.session, caller)
        caller.check(Permission.VIEW, session)
        jpeg = await self._sessions.media.preview(session, picture_width(request.width))
        if jpeg is None:
            raise FailedPreconditionError("no picture has come yet", reason=Reason.NO_FRAME_YET)
        return gateway_pb2.GetPictureResponse(jpeg=jpeg)

    async def Decide(
        self, request: gateway_pb2.DecideRequest, context: Context
    ) -> gateway_pb2.DecideResponse:
        caller = await self._caller(context, request.session, Permission.ASK)
        session = await self._sessions.locate(request.session, caller)
        decisions = self._viewers.decisions
        decisions.admit(request, session, caller)
        return await decisions.decide(request, session, self._place(context))

    async def Speak(
        self, request: gateway_pb2.SpeakRequest, context: Context
    ) -> AsyncIterator[gateway_pb2.AudioChunk]:
        (await self._callers.of_call(context, Permission.ASK)).check(Permission.ASK)
        async with contextlib.aclosing(
            self._speaker.speak(request, self._place(context))
        ) as chunks:
            async for chunk in chunks:
                yield chunk

    async def Voices(
        self, request: gateway_pb2.VoicesRequest, context: Context
    ) -> gateway_pb2.VoicesResponse:
        await self._callers.of_call(context)
        return await self._speaker.voices()

    async def GetTranscript(
        self, request: gateway_pb2.GetTranscriptRequest, context: Context
    ) -> gateway_pb2.GetTranscriptResponse:
        path = self._sessions.name_of(request.session)
        caller = await self._callers.of_call(context, Permission.VIEW, path=path)
        session = await self._sessions.locate(request.session, caller)
        caller.check(Permission.VIEW, session)
        return await self._sessions.media.said(session, request)

    async def GetConversation(
        self, request: gateway_pb2.GetConversationRequest, context: Context
    ) -> gateway_pb2.GetConversationResponse:
        caller = await self._callers.of_call(context, Permission.ASK)
        caller.check(Permission.ASK)
        return await self._conversations.get(request, caller)

    async def DeleteConversation(
        self, request: dialogue_pb2.DeleteConversationRequest, context: Context
    ) -> dialogue_pb2.DeleteConversationResponse:
        caller = await self._callers.of_call(context, Permission.ASK)
        caller.check(Permission.ASK)
        audit(caller, "forget", "")
        return await self._conversations.delete(request, caller)

    async def RateTurn(
        self, request: dialogue_pb2.RateTurnRequest, context: Context
    ) -> dialogue_pb2.RateTurnResponse:
        caller = await self._callers.of_call(context, Permission.ASK)
        caller.check(Permission.ASK)
        return await self._conversations.rate(request, caller)

    async def ListRated(
        self, request: dialogue_pb2.ListRatedRequest, context: Context
    ) -> dialogue_pb2.ListRatedResponse:
        caller = await self._callers.of_call(context, Permission.ADMIN)
        caller.check(Permission.ADMIN)
        if not is_operator(caller, context):
            raise PermissionDeniedError(
                "what others rated is read by who may administer all sessions; where nobody signs "
                "in, on the gateway's own machine",
                reason=Reason.NOT_PERMITTED,
            )
        audit(caller, "read ratings", "")
        return await self._conversations.rated(request)

    async def GetServerInfo(
        self, request: gateway_pb2.GetServerInfoRequest, context: Context
    ) -> gateway_pb2.GetServerInfoResponse:
        return await self._info.message(await self._callers.of_call(context, anonymous=True))

    async def _caller(self, context: Context, session: str, *permissions: Permission) -> Caller:
        """Whoever wants to do this to a session. Raises UnauthenticatedError."""
        path = self._sessions.name_of(session)
        return await self._callers.of_call(context, *permissions, path=path)


def is_operator(caller: Caller, context: Context) -> bool:
    """Whether the server is this caller's. Conversations belong to who knows their ids, so on an
    open server it takes a connection from its own machine that no proxy has passed on."""
    if caller.signed_in:
        return not caller.tenant and "*" in caller.sessions
    names = {name for name, _ in context.invocation_metadata() or ()}
    return is_loopback(split_peer(context.peer())[0]) and "x-forwarded-for" not in names
