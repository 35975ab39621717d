"""Questions of one viewer, and their answers on the way to it."""

import asyncio
import secrets
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from services.common.checks import check_question
from services.common.in_flight import InFlight
from services.common.protocol import ASKS_AHEAD, protocol_of
from services.common.tasks import spawn
from services.common.tracing import span
from services.gateway.auth.authoriser import audit
from services.gateway.auth.caller import Caller
from services.gateway.config import GatewayConfig
from services.gateway.memory.recaller import Recaller
from services.gateway.sessions.question_queue import Asker
from services.gateway.sessions.quotas import Quotas
from services.gateway.sessions.remote_session import AnySession
from services.gateway.sessions.session_spec import NEVER
from services.gateway.viewers.ahead import Ahead
from services.gateway.viewers.answers import Asked, Events, Patience, Stream, Taker
from services.gateway.viewers.talk import Talk
from services.gateway.viewers.turns import Turns
from sightline.errors import NotFoundError, ResourceExhaustedError, SightlineError, UnavailableError
from sightline.reasons import Reason
from sightline.v1 import dialogue_pb2, gateway_pb2, inference_pb2

ServerEvent = gateway_pb2.ServerEvent
MAX_FINISHED = 64  # answers kept for clients that ask the same turn again


class Asking(Protocol):
    """The viewer that questions belong to."""

    session: AnySession
    caller: Caller
    place: str
    handle: str
    kept_conversation: str  # as it is kept, not as its viewer calls it

    @property
    def closed(self) -> bool: ...
    def put(self, event: gateway_pb2.ServerEvent) -> None: ...
    def fail(self, error: SightlineError, *, turn: str = "", watch: str = "") -> None: ...
    def settle(self) -> None:
        """An answer has ended."""
        ...


@dataclass(slots=True)
class _Answer:
    """One answer in flight."""

    asked_s: float
    text: list[str] = field(default_factory=list)
    task: asyncio.Task[Any] | None = None
    request: inference_pb2.AnswerRequest | None = None
    last_capture_ns: int = 0


class Questions:
    """The questions of one viewer by its turns. All methods belong to the event loop."""

    def __init__(
        self,
        viewer: Asking,
        config: GatewayConfig,
        in_flight: InFlight,
        turns: Turns,
        talk: Talk,
        quotas: Quotas,
        recaller: Recaller,
        stream: Stream,
    ) -> None:
        """in_flight, turns, quotas, recaller, stream: see `Viewer`. talk: hears how the answers
        fare."""
        self.speech = False
        """Whether answers are spoken, and in which `voice`."""
        self.voice = ""
        self._viewer = viewer
        self._config = config
        self._in_flight = in_flight
        self._turns = turns
        self._talk = talk
        self._quotas = quotas
        self._recaller = recaller
        self._stream_answer = stream
        self._patience = Patience.of(config)
        self._running: dict[str, _Answer] = {}
        self._finished: OrderedDict[str, gateway_pb2.AnswerDone] = OrderedDict()
        self._spoken: OrderedDict[str, _Answer] = OrderedDict()  # newest answers with speech
        self._ahead: Ahead | None = None  # what may be asked in a moment
        self._begun: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        """Answers in flight."""
        return len(self._running)

    def tasks(self) -> list[asyncio.Task[Any]]:
        answers = [answer.task for answer in self._running.values() if answer.task is not None]
        return [*answers, *self._begun]

    def ask(
        self, question: gateway_pb2.Question, history: Sequence[dialogue_pb2.Round] | None = None
    ) -> None:
        """Begin to answer; a question without a turn gets one. One whose turn is known is answered
        once: its answer is on its way, or told again. `history`: what was said in a conversation
        that its asker keeps. Raises InvalidArgumentError, and ResourceExhaustedError for one too
        many."""
        check_question(question)
        if not question.turn:
            question.turn = secrets.token_hex(8)
        turn = question.turn
        if turn in self._running:
            return
        if (done := self._finished.get(turn)) is not None:
            self._viewer.put(ServerEvent(answer_done=done))
            return
        if len(self._running) >= self._config.max_questions:
            raise ResourceExhaustedError(
                f"{self._config.max_questions} answers are in flight: wait for one to end",
                reason=Reason.TOO_MANY_QUESTIONS,
                retry_after_s=1.0,
            )
        self._in_flight.check()
        self._quotas.question(self._viewer.caller.tenant)
        audit(self._viewer.caller, "ask", self._viewer.session.id)
        answer = self._running[turn] = _Answer(time.monotonic())
        self._talk.answer_began(turn)
        ahead, request = self._ahead, self._request(question, history)
        if ahead is not None and ahead.answers(request):
            answer.request, events = ahead.request, ahead.claim()
        else:
            ahead, answer.request = None, request
            events = self._stream(answer.request, self._turns)
        name = f"{self._viewer.session.id}:answer"
        answer.task = spawn(self._relay(turn, answer, events), name=name)
        if ahead is not None:
            answer.task.add_done_callback(ahead.end)

    def expect(
        self,
        question: gateway_pb2.Question | None,
        history: Sequence[dialogue_pb2.Round] | None = None,
    ) -> None:
        """Begin to answer a question that may be asked in a moment, where there is room for it, and
        tell nobody; None, or another: what was begun is dropped, unless it was asked. `history`: as
        of `ask`."""
        request = None if question is None else self._request(question, history)
        if self._ahead is not None:
            if request is not None and self._ahead.answers(request):
                return
            self._ahead.drop()
            self._ahead = None
        if request is None or not self._may_answer_ahead(kept=history is None):
            return
        ahead = Ahead(request, lambda turns: self._stream(request, turns), self._turns)
        self._ahead = ahead
        self._begun.add(ahead.task)
        ahead.task.add_done_callback(self._begun.discard)

    def _may_answer_ahead(self, *, kept: bool) -> bool:
        description = self._viewer.session.worker.description
        return (
            self._config.answer_ahead
            and self._viewer.session.delegation[0] == NEVER  # a delegate is not asked for nothing
            and not self._viewer.closed
            and not self._in_flight.draining
            and (self._turns.takes or not kept)
            and self._viewer.session.questions.has_room
            and description is not None
            and protocol_of(description) >= ASKS_AHEAD
        )

    def _request(
        self, question: gateway_pb2.Question, history: Sequence[dialogue_pb2.Round] | None
    ) -> inference_pb2.AnswerRequest:
        return inference_pb2.AnswerRequest(
            session_id=self._viewer.session.id,
            conversation=self._viewer.kept_conversation if history is None else "",
            history=history,
            question=question,
            speech=self.speech,
            voice=self.voice,
        )

    def _stream(self, request: inference_pb2.AnswerRequest, turns: Taker) -> Events:
        asker = Asker(self._viewer.place, self._viewer.handle)
        return self._stream_answer(
            Asked(self._viewer.session, request, asker, turns, self._patience, self._recaller)
        )

    async def _relay(
        self,
        turn: str,
        answer: _Answer,
        events: Events,
    ) -> None:
        if self.speech:
            self._spoken[turn] = answer
            while len(self._spoken) > MAX_FINISHED:
                self._spoken.popitem(last=False)
        try:
            with self._in_flight.under_way(), span("question", session=self._viewer.session.id):
                async for event in events:
                    self._pass_on(event, turn, answer)
            if turn in self._running:
                raise UnavailableError("the answer ended before it was done")
        except SightlineError as error:
            self._viewer.fail(error, turn=turn)
        finally:
            await events.aclose()
            if self._running.get(turn) is answer:
                del self._running[turn]
                self._talk.answer_lost(turn)
            self._viewer.settle()

    def _pass_on(self, event: inference_pb2.AnswerEvent, turn: str, answer: _Answer) -> None:
        match event.WhichOneof("event"):
            case "started":
                event.started.turn = turn
                answer.last_capture_ns = event.started.last_capture_ns
                if event.started.restarted:
                    answer.text.clear()
                    self._talk.answer_began(turn)
                self._viewer.put(ServerEvent(answer_started=event.started))
            case "text_delta":
                answer.text.append(event.text_delta.text)
                delta = gateway_pb2.TextDelta(turn=turn, text=event.text_delta.text)
                self._viewer.put(ServerEvent(text_delta=delta))
            case "audio_chunk":
                self._talk.audio_sent(event.audio_chunk)
                self._viewer.put(ServerEvent(audio_chunk=event.audio_chunk))
            case "done":
                event.done.turn = turn
                self._end(turn, event.done)
                self._talk.answer_made(turn)

    def _end(self, turn: str, done: gateway_pb2.AnswerDone) -> None:
        self._running.pop(turn, None)
        self._finished[turn] = done
        while len(self._finished) > MAX_FINISHED:
            self._finished.popitem(last=False)
        self._viewer.put(ServerEvent(answer_done=done))

    def cancel(self, turn: str) -> None:
        """End an answer in flight. Raises NotFoundError."""
        answer = self._running.get(turn)
        if answer is None:
            if turn in self._finished:  # it ended while the wish to cancel was on its way
                return
            raise NotFoundError("no answer of this turn is in flight")
        if answer.task is not None:
            answer.task.cancel()
        done = gateway_pb2.AnswerDone(
            turn=turn,
            text="".join(answer.text),
            finish_reason=gateway_pb2.FINISH_REASON_CANCELLED,
            total_ms=(time.monotonic() - answer.asked_s) * 1000,
        )
        self._end(turn, done)
        if (heard := self._talk.heard_of(turn)) is not None:
            self.cut(turn, heard)
        self._talk.answer_lost(turn)

    def cut(self, turn: str, heard: str) -> None:
        """Keep of a spoken answer, whole or not, what was heard of it."""
        answer = self._spoken.get(turn)
        if answer is not None and answer.request is not None:
            self._turns.cut(answer.request, heard, answer.last_capture_ns)
