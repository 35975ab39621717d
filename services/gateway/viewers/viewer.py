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
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

from services.common.errors import error_event
from services.common.in_flight import InFlight
from services.common.tasks import cancel_and_wait
from services.gateway import metrics
from services.gateway.auth.caller import ANYBODY, Caller, Permission
from services.gateway.config import GatewayConfig
from services.gateway.memory.recaller import Recaller
from services.gateway.sessions.quotas import Quotas
from services.gateway.sessions.remote_session import AnySession
from services.gateway.viewers.answers import FORGETFUL, Stream, stream_answer
from services.gateway.viewers.outbox import Outbox, OutboxFullError
from services.gateway.viewers.questions import Questions
from services.gateway.viewers.talk import Talk
from services.gateway.viewers.turns import Turns
from services.gateway.viewers.watches import Watches
from services.gateway.voice.ears import Ears
from sightline.errors import (
    FailedPreconditionError,
    InvalidArgumentError,
    SightlineError,
    UnavailableError,
)
from sightline.v1 import dialogue_pb2, gateway_pb2

log = logging.getLogger(__name__)
ServerEvent = gateway_pb2.ServerEvent
Send = Callable[[gateway_pb2.ServerEvent], Awaitable[Any]]

UNKNOWN, FINE = gateway_pb2.SOURCE_CONDITION_UNSPECIFIED, gateway_pb2.SOURCE_CONDITION_FINE

SEND_TIMEOUT_S = 20.0
RECONNECT_WITHIN_S = 5.0


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
        quotas = quotas or Quotas(config)
        self.session = session
        self.caller = caller
        self.place = place
        self.conversation = start.conversation or secrets.token_hex(12)
        self.kept_conversation = caller.conversation(self.conversation)
        self.handle = _make_handle(self.conversation)
        self._condition = UNKNOWN  # of the pictures, that it was told last
        self.wishes = start.spoken
        self._in_flight = in_flight
        self._outbox = Outbox(
            max_pending=config.pending_events,
            max_kept=config.replay_events,
            max_bytes=config.replay_bytes,
        )
        make_ear = (ears or Ears(None, config.turn_rules())).make
        self._talk = Talk(
            self,
            lambda tell, loudspeaker: make_ear(tell, card=self._card, loudspeaker=loudspeaker),
        )
        self._questions = Questions(
            self, config, in_flight, turns, self._talk, quotas, recaller, stream
        )
        self._questions.speech, self._questions.voice = start.speech, start.voice
        self._watches = Watches(session, config.max_watches, place, self)
        self._watches.tenant = quotas.watches(caller.tenant)
        self._sender: asyncio.Task[None] | None = None
        self._half_closed = False
        self._detached_s: float | None = time.monotonic()

    @property
    def closed(self) -> bool:
        return self._outbox.closed

    @property
    def is_answering(self) -> bool:
        return bool(self._questions)

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
        self._questions.speech, self._questions.voice = start.speech, start.voice
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
        self._talk.come_back()
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
            if self._sender is sender:  # noted before a wait, which may be cancelled
                self._sender = None
                self._detached_s = time.monotonic()
                self._talk.leave()
            await cancel_and_wait(sender, receiver)

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
                self._questions.ask(event.ask)
            case "watch":
                self.caller.check(Permission.WATCH, self.session)
                self._watches.add(event.watch)
            case "unwatch":
                self._watches.remove(event.unwatch.watch)
            case "cancel":
                self._questions.cancel(event.cancel.turn)
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

    def ask_with(
        self, question: gateway_pb2.Question, history: Sequence[dialogue_pb2.Round]
    ) -> None:
        """Ask in a conversation that its asker keeps: `history` is what was said in it, and nothing
        is kept here. Raises what `act` does."""
        self.caller.check(Permission.ASK, self.session)
        self._questions.ask(question, history)

    def expect(
        self,
        question: gateway_pb2.Question | None,
        history: Sequence[dialogue_pb2.Round] | None = None,
    ) -> None:
        """Be ready for this question, which may be asked in a moment; None: for none. `history`: of
        a conversation that its asker keeps."""
        self._questions.expect(question, history)

    def cut(self, turn: str, heard: str) -> None:
        """Keep of a spoken answer, whole or not, what was heard of it."""
        self._questions.cut(turn, heard)

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
        if self._in_flight.draining and not self._questions:
            self.close("draining", reconnect_within_s=RECONNECT_WITHIN_S)
        if self._half_closed and not self._questions and not self._watches:
            self._outbox.finish()

    def _tasks(self) -> list[asyncio.Task[Any]]:
        return [*self._questions.tasks(), *self._watches.tasks(), *self._talk.tasks()]

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
    return f"{name}.{secrets.token_hex(24)}"


def conversation_of(handle: str) -> str:
    """The conversation a resume handle belongs to; "" for one that no gateway made."""
    name = handle.partition(".")[0]
    try:
        return base64.urlsafe_b64decode(name + "=" * (-len(name) % 4)).decode()
    except (binascii.Error, UnicodeDecodeError, ValueError):
        return ""
