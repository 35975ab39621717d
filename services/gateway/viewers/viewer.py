"""One viewer: questions, watches, answers and events, whatever carries them.

gRPC's Converse and the page's WebSocket drive the same `Viewer`. It outlives its connection for
a while: answers in flight go on, and a viewer who comes back gets what it missed.
"""

import asyncio
import base64
import binascii
import logging
import secrets
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from services.common.checks import check_question
from services.common.errors import error_event
from services.common.in_flight import InFlight
from services.common.protocol import ASKS_AHEAD, protocol_of
from services.common.tasks import cancel_and_wait, spawn
from services.common.tracing import span
from services.gateway import metrics
from services.gateway.auth.authoriser import audit
from services.gateway.auth.caller import ANYBODY, Caller, Permission
from services.gateway.config import GatewayConfig
from services.gateway.memory.recaller import Recaller
from services.gateway.sessions.question_queue import Asker
from services.gateway.sessions.quotas import Quotas
from services.gateway.sessions.remote_session import AnySession
from services.gateway.sessions.session_spec import NEVER
from services.gateway.viewers.ahead import Ahead
from services.gateway.viewers.answers import FORGETFUL, Taker, stream_answer
from services.gateway.viewers.delegation import Stream
from services.gateway.viewers.outbox import Outbox, OutboxFullError
from services.gateway.viewers.talk import Talk
from services.gateway.viewers.turns import Turns
from services.gateway.viewers.watches import Watches
from services.gateway.voice.ears import Ears
from sightline.errors import (
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    ResourceExhaustedError,
    SightlineError,
    UnavailableError,
)
from sightline.reasons import Reason
from sightline.v1 import dialogue_pb2, gateway_pb2, inference_pb2

log = logging.getLogger(__name__)
ServerEvent = gateway_pb2.ServerEvent
Send = Callable[[gateway_pb2.ServerEvent], Awaitable[Any]]

UNKNOWN, FINE = gateway_pb2.SOURCE_CONDITION_UNSPECIFIED, gateway_pb2.SOURCE_CONDITION_FINE

SEND_TIMEOUT_S = 20.0
MAX_FINISHED = 64  # answers kept for clients that ask the same turn again
RECONNECT_WITHIN_S = 5.0


@dataclass(slots=True)
class _Answer:
    """One answer in flight."""

    asked_s: float
    text: list[str] = field(default_factory=list)
    task: asyncio.Task[Any] | None = None
    request: inference_pb2.AnswerRequest | None = None
    last_capture_ns: int = 0


class Viewer:
    """One viewer's conversation on one session. All methods belong to the event loop."""

    def __init__(
        self,
        session: AnySession,
        start: gateway_pb2.Start,
        config: GatewayConfig,
        in_flight: InFlight,
        turns: Turns,
        place: str = "",
        caller: Caller = ANYBODY,
        quotas: Quotas | None = None,
        ears: Ears | None = None,
        recaller: Recaller = FORGETFUL,
        stream: Stream = stream_answer,
    ) -> None:
        """in_flight: counts the answers of every viewer. turns: takes them when they are finished.
        place: whose address limits hold. quotas: of tenants. ears: None, nobody is heard. stream:
        gives answers."""
        self._quotas = quotas or Quotas(config)
        self.session = session
        self.caller = caller
        self.place = place
        self.conversation = start.conversation or secrets.token_urlsafe(12)
        self.handle = _make_handle(self.conversation)
        self._condition = UNKNOWN  # of the pictures, that it was told last
        self._speech = start.speech
        self._voice = start.voice
        self.wishes = start.spoken
        self._config = config
        self._in_flight = in_flight
        self._recaller = recaller
        self._stream_answer = stream
        self._turns = turns
        self._outbox = Outbox(
            max_pending=config.pending_events,
            max_kept=config.replay_events,
            max_bytes=config.replay_bytes,
        )
        self._answers: dict[str, _Answer] = {}
        self._finished: OrderedDict[str, gateway_pb2.AnswerDone] = OrderedDict()
        self._spoken: OrderedDict[str, _Answer] = OrderedDict()  # newest answers with speech
        make_ear = (ears or Ears(None, config.turn_rules())).make
        self._talk = Talk(self, lambda tell: make_ear(tell, card=self._card))
        self._ahead: Ahead | None = None  # what may be asked in a moment
        self._begun: set[asyncio.Task[None]] = set()
        self._watches = Watches(session, config.max_watches, place, self)
        self._watches.tenant = self._quotas.watches(caller.tenant)
        self._sender: asyncio.Task[None] | None = None
        self._half_closed = False
        self._detached_s: float | None = time.monotonic()

    @property
    def closed(self) -> bool:
        return self._outbox.closed

    @property
    def is_answering(self) -> bool:
        return bool(self._answers)

    @property
    def detached_s(self) -> float | None:
        """Since when there is no connection (monotonic seconds); None while there is one."""
        return self._detached_s

    def greet(self, resumed: str, last_sequence: int = 0) -> None:
        """Queue `started` before everything else; with "line", what was missed follows it."""
        session = self.session.message()
        self._condition = session.source_health.condition
        started = gateway_pb2.Started(
            session=session,
            conversation=self.conversation,
            resume_handle=self.handle,
            resumed=resumed,
        )
        self._outbox.rewind(last_sequence, ServerEvent(started=started))

    def remembers(self, last_sequence: int) -> bool:
        """Whether every event after `last_sequence` can still be sent again."""
        return not self.closed and self._outbox.remembers(last_sequence)

    def adopt(self, start: gateway_pb2.Start, caller: Caller = ANYBODY) -> None:
        """Take over what a viewer who comes back wants differently now, and may now."""
        self.caller = caller
        self._speech = start.speech
        self._voice = start.voice
        self.wishes = start.spoken

    def move_to(self, session: AnySession) -> None:
        """The same session from here on, of another gateway or of this one."""
        self.session = session
        self._watches.move_to(session)

    async def serve(self, incoming: AsyncIterator[gateway_pb2.ClientEvent], send: Send) -> None:
        """Serve the viewer over one connection until that ends, or another takes its place.

        Raises what `incoming` or `send` raise, and UnavailableError when `send` is stuck.
        """
        if self._sender is not None:  # the old connection is probably dead, and certainly older
            self._sender.cancel()
        name = f"{self.session.id}:viewer"
        sender = asyncio.create_task(self._send_all(send), name=f"{name}:send")
        receiver = asyncio.create_task(self._receive_all(incoming), name=f"{name}:receive")
        self._sender = sender
        self._half_closed = False
        self._detached_s = None
        try:
            await asyncio.wait({sender, receiver}, return_when=asyncio.FIRST_COMPLETED)
            if receiver.done():
                receiver.result()
                if not sender.done():  # the viewer has no more to say, and listens
                    self._half_closed = True
                    self.settle()
                    await asyncio.wait({sender})
            if not sender.cancelled():
                sender.result()
        finally:
            await cancel_and_wait(sender, receiver)
            if self._sender is sender:
                self._sender = None
                self._detached_s = time.monotonic()
                self._talk.break_off()

    def put_state(self, session: gateway_pb2.Session) -> None:
        if self._detached_s is not None:
            return
        before, self._condition = self._condition, session.source_health.condition
        begins = before == UNKNOWN and self._condition == FINE
        if self._condition not in (before, UNKNOWN) and not begins:
            self.put(ServerEvent(source_health=session.source_health))
        self._outbox.put_state(session)

    def close(self, reason: str, *, reconnect_within_s: float = 0.0, discard: bool = False) -> None:
        """End answers and watches, and the connection after a last go-away. Idempotent."""
        if self.closed:
            return
        metrics.VIEWERS_CLOSED.labels(reason).inc()
        go_away = gateway_pb2.GoAway(reason=reason, reconnect_within_s=reconnect_within_s)
        self._outbox.close(ServerEvent(go_away=go_away), discard=discard)
        self._talk.close()
        for task in self._tasks():
            task.cancel()

    async def wait_closed(self) -> None:
        """Wait until the last event of a closed viewer is sent and its tasks have ended."""
        if self._sender is not None:
            await asyncio.wait({self._sender})
        await cancel_and_wait(*self._tasks())

    def handle_event(self, event: gateway_pb2.ClientEvent) -> None:
        """Do what the viewer says; what is wrong with it becomes an error event."""
        try:
            self.act(event)
        except SightlineError as error:
            kind = event.WhichOneof("event") or ""
            if kind in ("audio_chunk", "listen"):
                self._talk.deafen()  # one refusal says it all
            turn = {"ask": event.ask.turn, "cancel": event.cancel.turn}.get(kind, "")
            watch = {"watch": event.watch.watch, "unwatch": event.unwatch.watch}.get(kind, "")
            self.fail(error, turn=turn[:256], watch=watch[:256])

    def act(self, event: gateway_pb2.ClientEvent) -> None:
        """Do what the viewer says. Raises what is wrong with it; a question without a turn gets
        one."""
        match event.WhichOneof("event"):
            case "ask":
                self.caller.check(Permission.ASK, self.session)
                self._ask(event.ask)
            case "watch":
                self.caller.check(Permission.WATCH, self.session)
                self._watches.add(event.watch)
            case "unwatch":
                self._watches.remove(event.unwatch.watch)
            case "cancel":
                self._cancel(event.cancel.turn)
            case "audio_chunk":
                self.caller.check(Permission.ASK, self.session)
                self._talk.hear(event.audio_chunk)
            case "listen":
                self.caller.check(Permission.ASK, self.session)
                self._talk.listen(event.listen.mode)
            case "playback_ack":
                self._talk.played(event.playback_ack)
            case "start":
                raise FailedPreconditionError("the line has started already")
            case _:
                raise InvalidArgumentError("an event must hold one message")

    def hear(self, pcm: bytes, sample_rate: int) -> None:
        """A piece of its microphone, which comes by another way than its events; what is wrong with
        it becomes an error event. Nothing once the viewer has left."""
        if not self.closed and self._detached_s is None:
            chunk = gateway_pb2.AudioChunk(sample_rate=sample_rate, pcm=pcm)
            self.handle_event(gateway_pb2.ClientEvent(audio_chunk=chunk))

    def _card(self) -> gateway_pb2.ModelCard | None:
        """The card of the model that is talked with."""
        description = self.session.worker.description
        return None if description is None else description.card

    def watching(self) -> list[gateway_pb2.Watch]:
        """The watches under way."""
        return self._watches.all()

    # --- questions --------------------------------------------------------------------------

    def ask_with(
        self, question: gateway_pb2.Question, history: Sequence[dialogue_pb2.Round]
    ) -> None:
        """Ask in a conversation that its asker keeps: `history` is what was said in it, and nothing
        is kept here. Raises what `act` does."""
        self.caller.check(Permission.ASK, self.session)
        self._ask(question, history)

    def _ask(
        self, question: gateway_pb2.Question, history: Sequence[dialogue_pb2.Round] | None = None
    ) -> None:
        check_question(question)
        if not question.turn:
            question.turn = secrets.token_urlsafe(8)
        turn = question.turn
        if turn in self._answers:
            return
        if (done := self._finished.get(turn)) is not None:
            self.put(ServerEvent(answer_done=done))
            return
        if len(self._answers) >= self._config.max_questions:
            raise ResourceExhaustedError(
                f"{self._config.max_questions} answers are in flight: wait for one to end",
                reason=Reason.TOO_MANY_QUESTIONS,
                retry_after_s=1.0,
            )
        self._in_flight.check()
        self._quotas.question(self.caller.tenant)
        audit(self.caller, "ask", self.session.id)
        answer = self._answers[turn] = _Answer(time.monotonic())
        self._talk.answer_began(turn)
        ahead = self._ahead if history is None else None
        if ahead is not None and ahead.answers(question):
            answer.request, events = ahead.request, ahead.claim()
        else:
            ahead, answer.request = None, self._request(question, history)
            events = self._stream(answer.request, self._turns)
        name = f"{self.session.id}:answer"
        answer.task = spawn(self._relay(turn, answer, events), name=name)
        if ahead is not None:
            answer.task.add_done_callback(ahead.end)

    def expect(self, question: gateway_pb2.Question | None) -> None:
        """Begin to answer a question that may be asked in a moment, where there is room for it, and
        tell nobody; None, or another: what was begun is dropped, unless it was asked."""
        if self._ahead is not None:
            if question is not None and self._ahead.answers(question):
                return
            self._ahead.drop()
            self._ahead = None
        if question is None or not self._may_answer_ahead():
            return
        request = self._request(question, None)
        ahead = Ahead(request, lambda turns: self._stream(request, turns), self._turns)
        self._ahead = ahead
        self._begun.add(ahead.task)
        ahead.task.add_done_callback(self._begun.discard)

    def _may_answer_ahead(self) -> bool:
        description = self.session.worker.description
        return (
            self._config.answer_ahead
            and self.session.delegation[0] == NEVER  # a delegate is not asked for nothing
            and not self.closed
            and not self._in_flight.draining
            and self._turns.takes
            and self.session.questions.has_room
            and description is not None
            and protocol_of(description) >= ASKS_AHEAD
        )

    def _request(
        self, question: gateway_pb2.Question, history: Sequence[dialogue_pb2.Round] | None
    ) -> inference_pb2.AnswerRequest:
        return inference_pb2.AnswerRequest(
            session_id=self.session.id,
            conversation=self.conversation if history is None else "",
            history=history,
            question=question,
            speech=self._speech,
            voice=self._voice,
        )

    def _stream(
        self, request: inference_pb2.AnswerRequest, turns: Taker
    ) -> AsyncGenerator[inference_pb2.AnswerEvent, None]:
        return self._stream_answer(
            self.session,
            request,
            Asker(self.place, self.handle),
            turns,
            wait_s=self._config.max_wait_s,
            moving_s=self._config.moving_s,
            timeout_s=self._config.answer_timeout_s,
            recaller=self._recaller,
        )

    async def _relay(
        self,
        turn: str,
        answer: _Answer,
        events: AsyncGenerator[inference_pb2.AnswerEvent, None],
    ) -> None:
        if self._speech:
            self._spoken[turn] = answer
            while len(self._spoken) > MAX_FINISHED:
                self._spoken.popitem(last=False)
        try:
            with self._in_flight.under_way(), span("question", session=self.session.id):
                async for event in events:
                    self._pass_on(event, turn, answer)
            if turn in self._answers:
                raise UnavailableError("the answer ended before it was done")
        except SightlineError as error:
            self.fail(error, turn=turn)
        finally:
            await events.aclose()
            if self._answers.get(turn) is answer:
                del self._answers[turn]
                self._talk.answer_lost(turn)
            self.settle()

    def _pass_on(self, event: inference_pb2.AnswerEvent, turn: str, answer: _Answer) -> None:
        match event.WhichOneof("event"):
            case "started":
                event.started.turn = turn
                answer.last_capture_ns = event.started.last_capture_ns
                if event.started.restarted:
                    answer.text.clear()
                    self._talk.answer_began(turn)
                self.put(ServerEvent(answer_started=event.started))
            case "text_delta":
                answer.text.append(event.text_delta.text)
                delta = gateway_pb2.TextDelta(turn=turn, text=event.text_delta.text)
                self.put(ServerEvent(text_delta=delta))
            case "audio_chunk":
                self._talk.audio_sent(event.audio_chunk)
                self.put(ServerEvent(audio_chunk=event.audio_chunk))
            case "done":
                event.done.turn = turn
                self._end_answer(turn, event.done)
                self._talk.answer_made(turn)

    def _end_answer(self, turn: str, done: gateway_pb2.AnswerDone) -> None:
        self._answers.pop(turn, None)
        self._finished[turn] = done
        while len(self._finished) > MAX_FINISHED:
            self._finished.popitem(last=False)
        self.put(ServerEvent(answer_done=done))

    def _cancel(self, turn: str) -> None:
        answer = self._answers.get(turn)
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
        self._end_answer(turn, done)
        if (heard := self._talk.heard_of(turn)) is not None:
            self.cut(turn, heard)
        self._talk.answer_lost(turn)

    def cut(self, turn: str, heard: str) -> None:
        """Keep of a spoken answer, whole or not, what was heard of it."""
        answer = self._spoken.get(turn)
        if answer is not None and answer.request is not None:
            self._turns.cut(answer.request, heard, answer.last_capture_ns)

    # --- events -----------------------------------------------------------------------------

    def put(self, event: gateway_pb2.ServerEvent) -> None:
        """Send an event that must arrive; a viewer with too many of them waiting is cut off."""
        try:
            self._outbox.put(event)
        except OutboxFullError:
            log.warning("viewer cannot keep up", extra={"session": self.session.id})
            self.close("slow_reader", reconnect_within_s=RECONNECT_WITHIN_S, discard=True)

    def put_status(self, status: gateway_pb2.WatchStatus) -> None:
        """Tell the viewer how a watch stands."""
        self._outbox.put_status(status)

    def fail(self, error: SightlineError, *, turn: str = "", watch: str = "") -> None:
        """Tell the viewer what went wrong with one turn or watch."""
        self.put(ServerEvent(error=error_event(error, turn=turn, watch=watch)))

    def settle(self) -> None:
        """End the connection of a viewer who only listens once there is nothing more to hear."""
        if self._in_flight.draining and not self._answers:
            self.close("draining", reconnect_within_s=RECONNECT_WITHIN_S)
        if self._half_closed and not self._answers and not self._watches:
            self._outbox.finish()

    def _tasks(self) -> list[asyncio.Task[Any]]:
        answers = [answer.task for answer in self._answers.values() if answer.task is not None]
        return [*answers, *self._begun, *self._watches.tasks(), *self._talk.tasks()]

    async def _send_all(self, send: Send) -> None:
        while (event := await self._outbox.next()) is not None:
            try:
                async with asyncio.timeout(SEND_TIMEOUT_S):
                    await send(event)
            except TimeoutError:
                raise UnavailableError("the viewer does not read its events") from None

    async def _receive_all(self, incoming: AsyncIterator[gateway_pb2.ClientEvent]) -> None:
        async for event in incoming:
            self.handle_event(event)


def _make_handle(conversation: str) -> str:
    """Opaque and unguessable; carries the conversation so that any gateway can continue it."""
    name = base64.urlsafe_b64encode(conversation.encode()).decode().rstrip("=")
    return f"{name}.{secrets.token_urlsafe(24)}"


def conversation_of(handle: str) -> str:
    """The conversation a resume handle belongs to; "" for one that no gateway made."""
    name = handle.partition(".")[0]
    try:
        return base64.urlsafe_b64decode(name + "=" * (-len(name) % 4)).decode()
    except (binascii.Error, UnicodeDecodeError, ValueError):
        return ""
