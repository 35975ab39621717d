"""Questions on their way to a worker and answers on their way back."""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import Any, Protocol, Self

import grpc

from services.common.backoff import Backoff
from services.common.errors import AWAY, error_of_peer, restarting
from services.common.finish_reasons import finish_name
from services.common.tasks import spawn
from services.common.tracing import record, trace_headers
from services.gateway import metrics
from services.gateway.config import GatewayConfig
from services.gateway.memory.recaller import Recaller
from services.gateway.sessions.question_queue import Asker
from services.gateway.sessions.remote_session import AnySession
from services.gateway.viewers.afterthought import afterthought
from services.gateway.workers.worker import Worker
from services.gateway.workers.workers import MODEL
from sightline.errors import NotFoundError, SightlineError
from sightline.reasons import Reason
from sightline.v1 import gateway_pb2, inference_pb2

SPEECH_UNAVAILABLE = "speech_unavailable"
RESUMED = "window"  # an answer that was made anew, from the window of frames that is kept
# NOT_FOUND: a worker that was restarted does not know the session until its frame stream is back.
RETRYABLE = AWAY | {grpc.StatusCode.NOT_FOUND}
FORGETFUL = Recaller(None)
# A question that ends whatever worker it is given to must not go through all of them.
MOST_BEGUN = 5


class Taker(Protocol):
    """Turns, as an answer tells them of its end."""

    def answered(
        self, request: inference_pb2.AnswerRequest, done: gateway_pb2.AnswerDone
    ) -> None: ...
    def cut_off(
        self, request: inference_pb2.AnswerRequest, text: str, last_capture_ns: int
    ) -> None: ...


class Placed(Protocol):
    """Session with a worker, as an answer needs it."""

    @property
    def alive(self) -> bool: ...
    @property
    def worker(self) -> Worker: ...
    @property
    def moved_on(self) -> asyncio.Event: ...
    @property
    def moving(self) -> bool: ...
    @property
    def shown_again(self) -> bool:
        """Whether a worker that has none of its frames will have some in a moment."""
        ...

    async def wait_placed(self, timeout_s: float) -> bool: ...
    def frame_age_s(self, capture_ns: int) -> float | None: ...
    def note_degraded(self, flags: list[str]) -> None: ...


@dataclass(frozen=True, slots=True)
class Patience:
    """How long an answer may take: until it is the asker's turn, without a worker that takes the
    question, and for all of it."""

    wait_s: float
    moving_s: float
    timeout_s: float

    @classmethod
    def of(cls, config: GatewayConfig) -> Self:
        return cls(config.max_wait_s, config.moving_s, config.answer_timeout_s)


@dataclass(frozen=True, slots=True)
class Asked:
    """A question with all that its answer needs. turns: told of its end. recaller: finds what a
    question about the past needs, and one about the present that the model was not sure of."""

    session: AnySession
    request: inference_pb2.AnswerRequest
    asker: Asker
    turns: Taker
    patience: Patience
    recaller: Recaller = FORGETFUL


Events = AsyncGenerator[inference_pb2.AnswerEvent, None]
Stream = Callable[[Asked], Events]  # what gives an answer, event by event: as `stream_answer`


async def stream_answer(asked: Asked) -> Events:
    """Relay one answer, event by event, within the asker's patience. One that the model was not
    sure of goes on with what the recaller finds.

    A worker that is away, or hangs while the session is with another already, is left: the question
    is asked again where the session is then, while patience lasts without a worker that takes it.
    Once words have come, the next `started` says that the answer begins anew. What does not get
    better is raised as the SightlineError of its status. Closing the iterator cancels the answer.
    Raises FailedPreconditionError where there is no frame to ask about.
    """
    session, request, patience = asked.session, asked.request, asked.patience
    session.check_answerable()
    request.said = session.said_lines()
    asked_s = time.monotonic()
    async with session.questions.slot(asked.asker, patience.wait_s):
        found = await asked.recaller.recall(session, request)
        relay = Relay(session, request, asked.turns, asked_s, patience.moving_s, patience.timeout_s)
        unsure: inference_pb2.AnswerEvent | None = None
        async with contextlib.aclosing(relay.events()) as events:
            async for event in events:
                if event.WhichOneof("event") == "done":
                    event.done.memory.extend(found.recollections)
                    event.done.degraded.extend(found.degraded)
                    if event.done.unsure and not found.past:
                        unsure = event
                        continue
                yield event
        if unsure is None:
            return
        found = await asked.recaller.look_back(session, request, unsure.done.text)
        unsure.done.degraded.extend(found.degraded)
        if not found.recollections:
            yield unsure
            return
        left_s = max(0.001, asked_s + patience.timeout_s - time.monotonic())
        said = unsure.done.text
        relay = Relay(session, request, asked.turns, asked_s, patience.moving_s, left_s, said=said)
        async with contextlib.aclosing(afterthought(unsure, relay.events(), found)) as events:
            async for event in events:
                yield event


class Relay:
    """One question, asked of as many workers as it takes, and what its viewer was told so far.
    said: what its answer has said already, which goes on."""

    def __init__(
        self,
        session: Placed,
        request: inference_pb2.AnswerRequest,
        turns: Taker,
        asked_s: float,
        moving_s: float,
        timeout_s: float,
        said: str = "",
    ) -> None:
        self._said = said
        self._session = session
        self._request = request
        self._turns = turns
        self._asked_s = asked_s
        self._moving_s = moving_s
        self._deadline_s = time.monotonic() + timeout_s
        self._away_s: float | None = None  # since when no worker has taken the question
        self._begun = 0  # workers that began an answer
        self._started = False  # the viewer was told
        self._words: list[str] = []  # of the present answer, as the viewer was told
        self._resumed = ""
        self._first_words_ns = 0
        self._age_s: float | None = None  # of the newest frame, when the answer began
        self._last_capture_ns = 0
        self._speechless = False
        self._done = False
        self._finish = "error"

    async def events(self) -> Events:
        metrics.ANSWERS_IN_FLIGHT.inc()
        backoff = Backoff(0.05, 0.4)
        try:
            while True:
                await self._wait_placed()
                begun = False
                try:
                    async with contextlib.aclosing(self._ask()) as events:
                        async for event in events:
                            if not begun:
                                begun = True
                                self._begun += 1
                            if self._note(event):
                                yield event
                    if self._done:
                        return
                    refusal: SightlineError = restarting(
                        MODEL, Reason.MODEL_AWAY
                    )  # it ended before it was done
                except grpc.aio.AioRpcError as error:
                    refusal = self._refusal(error)
                    if not self._may_pass(error.code(), refusal.reason):
                        raise refusal from None
                self._check_patience(begun, refusal)
                metrics.ANSWERS_RETRIED.inc()
                await asyncio.sleep(backoff.next_s())
        except (asyncio.CancelledError, GeneratorExit):
            if self._finish == "error":
                self._finish = "cancelled"
            raise
        finally:
            if self._finish in ("error", "cancelled"):
                text = self._said + "".join(self._words)
                self._turns.cut_off(self._request, text, self._last_capture_ns)
            metrics.ANSWERS_IN_FLIGHT.dec()
            if not self._said:
                metrics.ANSWERS.labels(self._finish).inc()

    async def _wait_placed(self) -> None:
        """Wait while the session is on its way to another worker, as long as may be."""
        now_s = time.monotonic()
        if self._session.moving and self._away_s is None:
            self._away_s = now_s
        patience_s = self._moving_s
        if self._away_s is not None:
            patience_s -= now_s - self._away_s
        await self._session.wait_placed(max(0.0, min(patience_s, self._deadline_s - now_s)))

    async def _ask(self) -> Events:
        """Events of the worker that the session has now, until its answer ends, or the worker hangs
        while another has the session. Raises AioRpcError."""
        session, request = self._session, self._request
        request.asked_ns = max(request.asked_ns + 2, time.time_ns())
        left_s = max(0.001, self._deadline_s - time.monotonic())
        call = session.worker.stub.Answer(request, timeout=left_s, metadata=trace_headers())
        leaving = spawn(_leave(session.moved_on, session.worker, call), name="answer:leave")
        try:
            async for event in call:
                yield event
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
        finally:
            call.cancel()
            leaving.cancel()

    def _note(self, event: inference_pb2.AnswerEvent) -> bool:
        """Take note of an event. Whether it is for the viewer: one beginning is enough where the
        first came to nothing."""
        match event.WhichOneof("event"):
            case "started":
                self._last_capture_ns = event.started.last_capture_ns
                self._age_s = self._session.frame_age_s(self._last_capture_ns)
                self._speechless = False
                if self._words:
                    metrics.ANSWERS_RESTARTED.inc()
                    self._words.clear()
                    self._resumed = RESUMED
                    event.started.restarted = True
                elif self._started:
                    return False
                self._started = True
            case "text_delta":
                self._words.append(event.text_delta.text)
                if not self._first_words_ns and not self._said:
                    self._first_words_ns = time.time_ns()
                    if self._last_capture_ns:
                        record(
                            "capture to first words", self._last_capture_ns, self._first_words_ns
                        )
                    metrics.FIRST_TOKEN.observe(time.monotonic() - self._asked_s)
            case "speech_unavailable":
                self._speechless = True
            case "done":
                self._end(event)
        return True

    def _end(self, event: inference_pb2.AnswerEvent) -> None:
        self._done = True
        done = event.done
        done.turn = self._request.question.turn
        done.resumed = self._resumed
        if self._speechless and SPEECH_UNAVAILABLE not in done.degraded:
            done.degraded.append(SPEECH_UNAVAILABLE)
        self._finish = finish_name(done.finish_reason)
        self._session.note_degraded(list(done.degraded))
        if self._age_s is not None:
            done.newest_frame_age_ms = 1000 * self._age_s
        if self._first_words_ns and done.last_capture_ns:
            waited_ns = self._first_words_ns - done.last_capture_ns
            metrics.CAPTURE_TO_ANSWER.observe(max(0.0, waited_ns / 1e9))
        self._turns.answered(self._request, done)

    def _may_pass(self, code: grpc.StatusCode, reason: str) -> bool:
        """Whether asking again may help. A worker that the session came to can be full for a
        moment, of all that came with it, and slow to understand what it is shown again."""
        moved = self._away_s is not None or self._begun > 0
        full = code is grpc.StatusCode.RESOURCE_EXHAUSTED and moved
        blind = reason == Reason.NO_FRAME_YET and self._session.shown_again
        return self._session.alive and (code in RETRYABLE or full or blind)

    def _check_patience(self, begun: bool, refusal: SightlineError) -> None:
        """Raise the refusal once nobody has taken the question for too long."""
        now_s = time.monotonic()
        if begun or self._away_s is None:  # until now somebody had it
            self._away_s = now_s
        too_long = now_s - self._away_s >= self._moving_s or now_s >= self._deadline_s
        if too_long or self._begun >= MOST_BEGUN:
            raise refusal

    def _refusal(self, error: grpc.aio.AioRpcError) -> SightlineError:
        """Error for the asker. A worker that does not know a session which is there has been
        started again, and will know it in a moment."""
        if error.code() is grpc.StatusCode.NOT_FOUND:
            if not self._session.alive:
                return NotFoundError("the session was deleted", reason=Reason.SESSION_NOT_FOUND)
            return restarting(MODEL, Reason.MODEL_AWAY)
        return error_of_peer(error, MODEL)


async def _leave(moved_on: asyncio.Event, worker: Worker, call: Any) -> None:
    """Give up an answer of a worker that hangs, once its session is with another. One that ends in
    order finishes its answers."""
    await moved_on.wait()
    await worker.hung.wait()
    call.cancel()
