"""The guard of answers: who answers a session's questions, its model or the fallback.

Every answer is examined. After several unhealthy ones in a row a session's questions go to the
fallback, which is shown the same window; where there is none, the model goes on answering, and each
unhealthy answer says so. Meanwhile the model is probed with the question that was asked last, for
nobody to read, until its answers are healthy again.
"""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import AsyncGenerator
from dataclasses import dataclass

import grpc

from services.common.errors import AWAY, error_of_peer, restarting
from services.common.tasks import cancel_and_wait, spawn
from services.inference_worker import metrics
from services.inference_worker.config import WorkerConfig
from services.inference_worker.model.errors import NotFiniteError
from services.inference_worker.serving.answer_health import AnswerHealth
from services.inference_worker.serving.answering import Answerer, Examine
from services.inference_worker.serving.fallback import StandIn
from services.inference_worker.serving.sessions import WorkerSession
from services.inference_worker.serving.symptoms import Outcome, Symptom, symptom_of
from services.inference_worker.serving.understudy import Understudy
from sightline.errors import FailedPreconditionError, SightlineError
from sightline.v1 import gateway_pb2, inference_pb2

log = logging.getLogger(__name__)

Events = AsyncGenerator[inference_pb2.AnswerEvent, None]

FALLBACK = "fallback_model"  # what `degraded` says of an answer that is not the model's
FALLBACK_PEER = "the fallback model"  # what a caller hears it called
_ELSEWHERE = AWAY | {grpc.StatusCode.NOT_FOUND}


class _UnansweredError(Exception):
    """The model gave nothing that anybody was shown."""


@dataclass(slots=True)
class _Care:
    """Care for a degraded session: its understudy, if there is a fallback, and probes."""

    understudy: Understudy | None
    probing: asyncio.Task[None] | None = None


class Guard:
    """Answers about sessions. One event loop."""

    def __init__(self, answerer: Answerer, fallback: StandIn | None, config: WorkerConfig) -> None:
        self._answerer = answerer
        self._fallback = fallback
        self._most = config.guard_answers
        self._healthy_s = config.guard_healthy_s
        self._least_confidence = config.guard_confidence
        self._patience_s = config.first_frame_s
        self._cares: dict[WorkerSession, _Care] = {}

    def take(self, session: WorkerSession, window_segments: int) -> None:
        """Look after a new session from now on. window_segments: 0 for the model's default."""
        session.health = AnswerHealth(self._most, self._healthy_s, self._answerer.clock)
        if self._fallback is not None and self._most:
            spec = self._answerer.model.spec
            segments = window_segments or spec.window_segments
            session.window = deque(maxlen=segments * spec.tubelet)

    def show(self, session: WorkerSession, frame: inference_pb2.Frame) -> None:
        """A frame of a session, with its size."""
        if not session.window.maxlen:
            return
        session.window.append(frame)
        care = self._cares.get(session)
        if care is not None and care.understudy is not None:
            care.understudy.show(frame)

    async def answer(self, session: WorkerSession, request: inference_pb2.AnswerRequest) -> Events:
        """The events of one answer, as of `Answerer`; from the fallback they say so."""
        session.question = request.question.text
        if (understudy := self.stand_in(session)) is not None:
            try:
                async with contextlib.aclosing(self._stood_in(understudy, request)) as events:
                    async for event in events:
                        yield event
                return
            except _UnansweredError:
                pass
        begun: set[str] = set()  # kinds of events that the asker has had
        try:
            examine = self._examiner(session, request.question)
            async with contextlib.aclosing(self._answerer.answer(request, examine)) as events:
                async for event in events:
                    begun.add(event.WhichOneof("event") or "")
                    yield event
            return
        except NotFiniteError:
            self._note(session, Symptom.NOT_FINITE)
            understudy = None if "text_delta" in begun else await self._soon_ready(session)
            if understudy is None:
                raise
        except _UnansweredError:
            understudy = self._ready(session)
        if understudy is None:
            raise restarting(FALLBACK_PEER)
        try:
            async with contextlib.aclosing(self._stood_in(understudy, request)) as events:
                async for event in events:
                    if not (event.HasField("started") and "started" in begun):
                        yield event
        except _UnansweredError:
            raise restarting(FALLBACK_PEER) from None

    def stand_in(self, session: WorkerSession) -> Understudy | None:
        """Who is asked about a session in place of the model; None: the model is."""
        return self._ready(session) if session.health.degraded else None

    def unscored(self, session: WorkerSession) -> bool:
        """Note that the model's scores for a standing question were no numbers. Whether somebody
        stands in for it, or will once that has gone on."""
        self._note(session, Symptom.NOT_FINITE)
        return bool(self._most) and self._fallback is not None

    async def aclose(self) -> None:
        probing = [care.probing for care in self._cares.values()]
        await cancel_and_wait(*probing)

    # --- the fallback -----------------------------------------------------------------------

    def _ready(self, session: WorkerSession) -> Understudy | None:
        care = self._cares.get(session)
        understudy = care.understudy if care is not None else None
        return understudy if understudy is not None and understudy.ready.is_set() else None

    async def _soon_ready(self, session: WorkerSession) -> Understudy | None:
        """The understudy, once it is there; None where there is none in time."""
        care = self._cares.get(session)
        if care is None or care.understudy is None:
            return None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._patience_s):
                await care.understudy.ready.wait()
        return self._ready(session)

    async def _stood_in(
        self, understudy: Understudy, request: inference_pb2.AnswerRequest
    ) -> Events:
        """The fallback's answer. Raises _UnansweredError where it is away before it began."""
        begun = False
        call = understudy.answer(request)
        try:
            async for event in call:
                begun = True
                if event.WhichOneof("event") == "done":
                    event.done.degraded.append(FALLBACK)
                    metrics.FALLBACK_ANSWERS.labels("answered").inc()
                yield event
        except grpc.aio.AioRpcError as error:
            metrics.FALLBACK_ANSWERS.labels("failed").inc()
            if not begun and error.code() in _ELSEWHERE:
                raise _UnansweredError from None
            raise error_of_peer(error, FALLBACK_PEER) from None
        finally:
            call.cancel()

    # --- the model --------------------------------------------------------------------------

    def _examiner(self, session: WorkerSession, question: gateway_pb2.Question) -> Examine:
        """Examiner of an answer of the model. An empty one ends with _UnansweredError where the
        fallback can answer instead."""

        async def examine(outcome: Outcome) -> list[str]:
            symptom = symptom_of(outcome, question, self._least_confidence)
            self._note(session, symptom)
            if symptom is Symptom.EMPTY and await self._soon_ready(session) is not None:
                raise _UnansweredError
            return [] if symptom is None else [symptom.value]

        return examine

    def _note(self, session: WorkerSession, symptom: Symptom | None) -> None:
        if not self._most:
            return
        if symptom is not None:
            metrics.ANOMALIES.labels(symptom.value).inc()
            fields = {"session": session.id, "symptom": symptom.value}
            log.warning("an answer is unhealthy", extra=fields)
        if session.health.answered(symptom) and not session.ended.is_set():
            self._care_for(session)

    def _care_for(self, session: WorkerSession) -> None:
        understudy = None
        if self._fallback is not None:
            understudy = Understudy(self._fallback, session.id, session.window)
            understudy.start()
        care = self._cares[session] = _Care(understudy)
        care.probing = spawn(self._probe(session, care), name=f"{session.id}:probe")
        metrics.DEGRADED_SESSIONS.set(len(self._cares))
        log.error(
            "answers degenerate",
            extra={"session": session.id, "fallback": understudy is not None},
        )

    async def _probe(self, session: WorkerSession, care: _Care) -> None:
        """Ask the model now and then until it is well, or the session has ended."""
        try:
            while session.health.degraded:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(session.health.probe_s):
                        await session.ended.wait()
                        return
                with contextlib.suppress(SightlineError):  # not now: no frame, no room
                    symptom = await self._symptom(session)
                    metrics.PROBES.labels("unhealthy" if symptom else "healthy").inc()
                    session.health.probed(symptom)
            log.info("answers are sound again", extra={"session": session.id})
        finally:
            self._cares.pop(session, None)
            metrics.DEGRADED_SESSIONS.set(len(self._cares))
            if care.understudy is not None:
                await care.understudy.aclose()

    async def _symptom(self, session: WorkerSession) -> Symptom | None:
        """Symptom of the model's answer to the question that was asked last."""
        question = gateway_pb2.Question(text=session.question)
        request = inference_pb2.AnswerRequest(session_id=session.id, question=question)
        found: list[Symptom | None] = []

        async def examine(outcome: Outcome) -> list[str]:
            found.append(symptom_of(outcome, question, self._least_confidence))
            return []

        try:
            async with contextlib.aclosing(self._answerer.answer(request, examine)) as events:
                async for _ in events:
                    pass
        except NotFiniteError:
            return Symptom.NOT_FINITE
        if not found:
            raise FailedPreconditionError("an answer about unfamiliar pictures says nothing of it")
        return found[0]
