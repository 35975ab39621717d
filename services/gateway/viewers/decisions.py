"""Decisions: questions whose answers are probabilities, many at once about one session."""

import asyncio
import time
from collections.abc import Sequence

import grpc

from services.common.backoff import Backoff
from services.common.checks import MAX_CONDITION_BYTES, MAX_STATEMENTS, check_statements
from services.common.errors import error_of_peer
from services.common.in_flight import InFlight
from services.common.tracing import span, trace_headers
from services.gateway.auth.authoriser import audit
from services.gateway.auth.caller import Caller, Permission
from services.gateway.config import GatewayConfig
from services.gateway.frames.frame_counts import FAMILIAR
from services.gateway.sessions.question_queue import Asker
from services.gateway.sessions.quotas import Quotas
from services.gateway.sessions.remote_session import AnySession
from services.gateway.viewers.answers import RETRYABLE
from services.gateway.workers.workers import MODEL
from sightline.errors import InvalidArgumentError
from sightline.reasons import Reason
from sightline.v1 import gateway_pb2, inference_pb2

MAX_QUESTIONS, MAX_CHOICES = 400, 255
PLACE = "{}"  # of a choice in its statement


class Decisions:
    """The decisions of every interface. One event loop."""

    def __init__(self, config: GatewayConfig, quotas: Quotas) -> None:
        self._config = config
        self._quotas = quotas
        self._calls = InFlight("decisions", owner="the gateway", most=config.max_asks)

    async def drain(self) -> None:
        """Refuse new ones and let those under way end."""
        await self._calls.drain()

    def admit(
        self, request: gateway_pb2.DecideRequest, session: AnySession | None, caller: Caller
    ) -> None:
        """Check and count a call, as one question. session: None for one that is made for this call
        alone. Raises what Decide may answer before there is a worker."""
        caller.check(Permission.ASK, session)
        questions = _checked(request)
        if sum(len(each.choices or each.levels) or 1 for each in questions) > MAX_STATEMENTS:
            raise InvalidArgumentError(f"1 to {MAX_STATEMENTS} statements at once")
        check_statements([text for each in questions for text in statements_of(each)])
        self._quotas.question(caller.tenant)
        audit(caller, "decide", "" if session is None else session.id)

    async def decide(
        self, request: gateway_pb2.DecideRequest, session: AnySession, place: str
    ) -> gateway_pb2.DecideResponse:
        """Decide what was admitted. Raises what Decide may answer."""
        started_s = time.monotonic()
        statements = [statements_of(each) for each in request.questions]
        scored = await self.score([text for each in statements for text in each], session, place)
        left = iter(scored.probabilities)
        return gateway_pb2.DecideResponse(
            decisions=[
                _decision(question, [next(left) for _ in texts])
                for question, texts in zip(request.questions, statements, strict=True)
            ],
            first_capture_ns=scored.first_capture_ns,
            last_capture_ns=scored.last_capture_ns,
            frames_seen=scored.frames_seen,
            prompt_tokens=scored.prompt_tokens,
            total_ms=1000 * (time.monotonic() - started_s),
            unfamiliar_picture=scored.strangeness > FAMILIAR,
            strangeness=scored.strangeness,
        )

    async def score(
        self, statements: Sequence[str], session: AnySession, place: str
    ) -> inference_pb2.ScoreStatementsResponse:
        """Probabilities of statements about a session, in their order. Raises what Decide may
        answer."""
        wanted = inference_pb2.ScoreStatementsRequest(session_id=session.id, statements=statements)
        session.check_answerable()
        with self._calls.under_way(place), span("decide", session=session.id):
            session.touch()
            async with session.questions.slot(Asker(place), self._config.max_wait_s):
                return await self._scored(session, wanted)

    async def _scored(
        self, session: AnySession, wanted: inference_pb2.ScoreStatementsRequest
    ) -> inference_pb2.ScoreStatementsResponse:
        """What the session's worker says; one that is away is asked again, and so is another that
        the session has moved to, for as long as a question may wait."""
        end_s = time.monotonic() + self._config.answer_timeout_s
        patient_s = time.monotonic() + self._config.moving_s
        backoff = Backoff(0.05, 0.4)
        while True:
            await session.wait_placed(max(0.0, patient_s - time.monotonic()))
            try:
                reply: inference_pb2.ScoreStatementsResponse
                reply = await session.worker.stub.ScoreStatements(
                    wanted,
                    timeout=max(0.001, end_s - time.monotonic()),
                    metadata=trace_headers(),
                )
                return reply
            except grpc.aio.AioRpcError as error:
                now_s = time.monotonic()
                refusal = error_of_peer(error, MODEL)
                blind = refusal.reason == Reason.NO_FRAME_YET and session.shown_again
                again = (error.code() in RETRYABLE or blind) and session.alive
                if not again or now_s >= min(patient_s, end_s):
                    raise refusal from None
            await asyncio.sleep(backoff.next_s())


def statements_of(question: gateway_pb2.DecideQuestion) -> list[str]:
    """What is scored for a question: its statement, or that with each of its choices or levels.
    Raises InvalidArgumentError for what would be longer than statements may be, before it is made:
    many places for a long choice are as much as memory has."""
    options = question.choices or question.levels
    if not options:
        return [question.statement]
    places = question.statement.count(PLACE) or 1
    if (
        len(question.statement) + places * (max(map(len, options)) - len(PLACE))
        > MAX_CONDITION_BYTES
    ):
        raise InvalidArgumentError(f"a statement has at most {MAX_CONDITION_BYTES} bytes")
    if PLACE in question.statement:
        return [question.statement.replace(PLACE, option) for option in options]
    return [f"{question.statement} {option}".strip() for option in options]


def shares_of(probabilities: Sequence[float]) -> list[float]:
    """Probabilities of options of which one holds, by those that each holds by itself."""
    total = sum(probabilities)
    if total <= 0.0:
        return [1 / len(probabilities)] * len(probabilities)
    return [each / total for each in probabilities]


def _decision(
    question: gateway_pb2.DecideQuestion, probabilities: list[float]
) -> gateway_pb2.Decision:
    options = question.choices or question.levels
    if not options:
        return gateway_pb2.Decision(name=question.name, probability=probabilities[0])
    shares = shares_of(probabilities)
    best = max(range(len(shares)), key=shares.__getitem__)
    return gateway_pb2.Decision(
        name=question.name,
        probability=shares[best],
        value=options[best],
        score=sum(number * share for number, share in enumerate(shares)) if question.levels else 0,
        probabilities=shares,
    )


def _checked(request: gateway_pb2.DecideRequest) -> Sequence[gateway_pb2.DecideQuestion]:
    """The questions. Raises InvalidArgumentError for what is none."""
    if not 0 < len(request.questions) <= MAX_QUESTIONS:
        raise InvalidArgumentError(f"1 to {MAX_QUESTIONS} questions at once")
    for number, each in enumerate(request.questions, 1):
        if each.choices and each.levels:
            raise InvalidArgumentError(f"question {number} has choices or levels, not both")
        options = each.choices or each.levels
        if not options and PLACE in each.statement:
            raise InvalidArgumentError(
                f"question {number} has a place for choices or levels, {PLACE}, and none of them"
            )
        if options and not 2 <= len(set(options)) == len(options) <= MAX_CHOICES:
            raise InvalidArgumentError(
                f"question {number} has 2 to {MAX_CHOICES} choices or levels, all different"
            )
    return request.questions
