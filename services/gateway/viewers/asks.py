"""One-shot questions: asked by callers who have no line, and answered whole or word by word."""

import contextlib
import secrets
from collections.abc import AsyncGenerator

from services.common.checks import check_id, check_question
from services.common.in_flight import InFlight
from services.common.tracing import span
from services.gateway.auth.authoriser import audit
from services.gateway.auth.caller import ANYBODY, Caller, Permission
from services.gateway.config import GatewayConfig
from services.gateway.memory.recaller import Recaller
from services.gateway.sessions.once import Once
from services.gateway.sessions.question_queue import Asker
from services.gateway.sessions.quotas import Quotas
from services.gateway.sessions.remote_session import AnySession
from services.gateway.viewers.answers import (
    FORGETFUL,
    Asked,
    Patience,
    Stream,
    stream_answer,
)
from services.gateway.viewers.turns import Turns
from sightline.errors import InvalidArgumentError, UnavailableError
from sightline.reasons import Reason
from sightline.v1 import gateway_pb2, inference_pb2

MAX_HISTORY, MAX_HISTORY_BYTES = 64, 64 * 1024  # rounds, and all of them together
MAX_ANSWERED, ANSWERED_KEPT_S = 512, 300.0  # for callers who ask the same turn again


class Asks:
    """The one-shot questions of every interface, counted and bounded together. One event loop."""

    def __init__(
        self,
        config: GatewayConfig,
        quotas: Quotas,
        turns: Turns,
        recaller: Recaller = FORGETFUL,
        stream: Stream = stream_answer,
    ) -> None:
        """quotas: of tenants. turns: takes the answers when they are finished. stream:
        gives answers."""
        self._config = config
        self._quotas = quotas
        self._turns = turns
        self._recaller = recaller
        self._stream = stream
        self._patience = Patience.of(config)
        self._answered: Once[gateway_pb2.AskResponse] = Once(
            "ask", most=MAX_ANSWERED, kept_s=ANSWERED_KEPT_S, reason=Reason.TURN_REUSED
        )
        self._asks = InFlight("questions", owner="the gateway", most=config.max_asks)

    async def drain(self) -> None:
        """Refuse new questions and let those under way be answered."""
        await self._asks.drain()

    def admit(
        self, request: gateway_pb2.AskRequest, session: AnySession | None, caller: Caller
    ) -> None:
        """Check and count a question. Raises what Ask may answer before there is a worker.
        session: None for one that is made for this question alone."""
        caller.check(Permission.ASK, session)
        check_question(request.question)
        check_id("conversation", request.conversation)
        check_history(request)
        self._quotas.question(caller.tenant)
        audit(caller, "ask", "" if session is None else session.id)

    async def whole(
        self, request: gateway_pb2.AskRequest, session: AnySession, caller: Caller, place: str
    ) -> gateway_pb2.AskResponse:
        """The whole answer. With a turn it is safe to repeat. Raises what Ask may answer."""
        self.admit(request, session, caller)
        if not request.question.turn:
            request.question.turn = secrets.token_hex(8)
            return await self._whole(request, session, caller, place)
        # Without a conversation to name, a turn is the caller's own.
        whose = ("conversation", request.conversation) if request.conversation else ("at", place)
        key = (session.id, *whose, request.question.turn)
        what = gateway_pb2.AskRequest(question=request.question, history=request.history)
        asked = what.SerializeToString(deterministic=True)
        return await self._answered.do(
            key, asked, lambda: self._whole(request, session, caller, place)
        )

    async def stream(
        self,
        request: gateway_pb2.AskRequest,
        session: AnySession,
        place: str,
        *,
        caller: Caller = ANYBODY,
        keep: bool = True,
        recall: bool = True,
        own: bool = False,
    ) -> AsyncGenerator[inference_pb2.AnswerEvent, None]:
        """The events of an admitted question's answer, `done` last. Its conversation and turn are
        drawn where the request names none, and put into it. Closing the iterator cancels it.
        caller: whose conversation it is;
        keep: False for a question of no conversation; recall: False for one of the window alone;
        own: by the session's own model alone."""
        if keep and not request.history:
            request.conversation = request.conversation or secrets.token_hex(12)
        request.question.turn = request.question.turn or secrets.token_hex(8)
        question = inference_pb2.AnswerRequest(
            session_id=session.id,
            conversation=caller.conversation(request.conversation),
            question=request.question,
            history=request.history,
        )
        with self._asks.under_way(place), span("question", session=session.id):
            session.touch()
            stream = stream_answer if own else self._stream
            recaller = self._recaller if recall else FORGETFUL
            events = stream(
                Asked(session, question, Asker(place), self._turns, self._patience, recaller)
            )
            done = False
            async with contextlib.aclosing(events):
                async for event in events:
                    if event.WhichOneof("event") == "done":
                        done = True
                        event.done.turn = request.question.turn
                    yield event
        if not done:
            raise UnavailableError("the answer ended before it was done")

    async def _whole(
        self, request: gateway_pb2.AskRequest, session: AnySession, caller: Caller, place: str
    ) -> gateway_pb2.AskResponse:
        asked = gateway_pb2.AskRequest()
        asked.CopyFrom(request)
        reply = gateway_pb2.AskResponse()
        async with contextlib.aclosing(self.stream(asked, session, place, caller=caller)) as events:
            async for event in events:
                if event.WhichOneof("event") == "done":
                    reply.answer.CopyFrom(event.done)
        reply.conversation = asked.conversation
        return reply


def check_history(request: gateway_pb2.AskRequest) -> None:
    """Raise InvalidArgumentError for rounds that no worker should see."""
    if not request.history:
        return
    if request.conversation:
        raise InvalidArgumentError("a question has a conversation or a history, not both")
    if len(request.history) > MAX_HISTORY:
        raise InvalidArgumentError(f"a history has at most {MAX_HISTORY} rounds")
    size_bytes = sum(each.ByteSize() for each in request.history)
    if size_bytes > MAX_HISTORY_BYTES:
        raise InvalidArgumentError(f"a history has at most {MAX_HISTORY_BYTES} bytes")
