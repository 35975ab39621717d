"""SightlineService: the public gRPC interface."""

import contextlib
import secrets
from collections.abc import AsyncIterator
from typing import Any

import grpc

from services.common.admission import place_of_call
from services.common.checks import check_id, check_question
from services.common.in_flight import InFlight
from services.gateway.api.addresses import Addresses
from services.gateway.api.push_stream import Push
from services.gateway.api.speaker import Speaker
from services.gateway.config import GatewayConfig
from services.gateway.sessions.question_queue import Asker
from services.gateway.sessions.sessions import Sessions
from services.gateway.viewers.answers import stream_answer
from services.gateway.viewers.viewers import Viewers
from sightline.errors import SightlineError, UnavailableError
from sightline.v1 import gateway_pb2, gateway_pb2_grpc, inference_pb2

Context = grpc.aio.ServicerContext[Any, Any]


class SightlineServicer(gateway_pb2_grpc.SightlineServiceServicer):
    """Translates calls; sessions, viewers and pushes do the work. Errors are SightlineErrors."""

    def __init__(
        self,
        config: GatewayConfig,
        sessions: Sessions,
        viewers: Viewers,
        speaker: Speaker,
        addresses: Addresses,
    ) -> None:
        self._config = config
        self._sessions = sessions
        self._viewers = viewers
        self._speaker = speaker
        self._addresses = addresses
        self._trusted = config.trusted()
        self._asks = InFlight("questions", owner="the gateway", most=config.max_asks)

    async def drain(self) -> None:
        """Refuse new questions and let those under way be answered."""
        await self._asks.drain()

    async def CreateSession(
        self, request: gateway_pb2.CreateSessionRequest, context: Context
    ) -> gateway_pb2.Session:
        return self._addresses.with_keys(await self._sessions.create(request))

    async def ListSessions(
        self, request: gateway_pb2.ListSessionsRequest, context: Context
    ) -> gateway_pb2.ListSessionsResponse:
        sessions = [session.message() for session in self._sessions.all()]
        return gateway_pb2.ListSessionsResponse(sessions=sessions)

    async def GetSession(
        self, request: gateway_pb2.GetSessionRequest, context: Context
    ) -> gateway_pb2.Session:
        return self._sessions.find(request.session).message()

    async def DeleteSession(
        self, request: gateway_pb2.DeleteSessionRequest, context: Context
    ) -> gateway_pb2.DeleteSessionResponse:
        self._sessions.delete(self._sessions.find(request.session), "requested")
        return gateway_pb2.DeleteSessionResponse()

    async def PushFrames(
        self,
        request_iterator: AsyncIterator[gateway_pb2.PushFramesRequest],
        context: Context,
    ) -> AsyncIterator[gateway_pb2.PushFramesResponse]:
        try:
            async with contextlib.aclosing(Push(self._sessions).run(request_iterator)) as acks:
                async for ack in acks:
                    yield ack
        except SightlineError as error:
            # Once more in the status; but grpc loses that where its client is writing just then.
            reason = gateway_pb2.ErrorEvent(code=error.code.name, message=error.message)
            yield gateway_pb2.PushFramesResponse(error=reason)
            raise

    async def Converse(
        self, request_iterator: AsyncIterator[gateway_pb2.ClientEvent], context: Context
    ) -> None:
        await self._viewers.serve(request_iterator, context.write, self._place(context))

    async def Ask(
        self, request: gateway_pb2.AskRequest, context: Context
    ) -> gateway_pb2.AskResponse:
        check_question(request.question)
        check_id("conversation", request.conversation)
        session = self._sessions.find(request.session)
        conversation = request.conversation or secrets.token_urlsafe(12)
        if not request.question.turn:
            request.question.turn = secrets.token_urlsafe(8)
        question = inference_pb2.AnswerRequest(
            session_id=session.id, conversation=conversation, question=request.question
        )
        place = self._place(context)
        with self._asks.under_way(place):
            session.touch()
            events = stream_answer(
                session,
                question,
                Asker(place),
                wait_s=self._config.max_wait_s,
                timeout_s=self._config.answer_timeout_s,
            )
            done = None
            async with contextlib.aclosing(events):
                async for event in events:
                    if event.WhichOneof("event") == "done":
                        done = event.done
        if done is None:
            raise UnavailableError("the answer ended before it was done")
        done.turn = request.question.turn
        return gateway_pb2.AskResponse(conversation=conversation, answer=done)

    async def Speak(
        self, request: gateway_pb2.SpeakRequest, context: Context
    ) -> AsyncIterator[gateway_pb2.AudioChunk]:
        async with contextlib.aclosing(
            self._speaker.speak(request, self._place(context))
        ) as chunks:
            async for chunk in chunks:
                yield chunk

    async def Voices(
        self, request: gateway_pb2.VoicesRequest, context: Context
    ) -> gateway_pb2.VoicesResponse:
        return await self._speaker.voices()

    def _place(self, context: Context) -> str:
        return place_of_call(context, self._trusted)
