"""One viewer's dialogue about a session: what is open of it, over connections that may break.

If the server goes on where it was when a connection broke, nothing else is needed; if only the
rounds are left, open questions are asked again with the same turn ids and watches are registered
again.
"""

import asyncio
import contextlib
import secrets
from collections.abc import Callable, Iterable
from functools import partial
from typing import Unpack

from sightline.answer import Answer, Watch
from sightline.calls import Calls
from sightline.closing import AsyncClosing
from sightline.errors import (
    FailedPreconditionError,
    InternalError,
    ResourceExhaustedError,
    SightlineError,
)
from sightline.health import HealthWatch
from sightline.line import Line
from sightline.reasons import Reason
from sightline.talk import Talk
from sightline.tools import Tool, Tools, question_after
from sightline.types import AskOptions, Audio, Round, SessionInfo, SourceHealth
from sightline.v1 import gateway_pb2 as pb
from sightline.wire import error_of, session_info, source_health, watch_status

__all__ = ["Conversation"]


class Conversation(Line, AsyncClosing):
    """One dialogue about a session, with its own history. `async with` hangs up at the end.

    `id` is "" until the first question or watch has reached the server; give it to
    `session.conversation` to continue later. Belongs to one event loop.
    """

    def __init__(
        self,
        calls: Calls,
        start: pb.Start,
        on_session: Callable[[SessionInfo], None],
    ) -> None:
        super().__init__(calls, start)
        self.closed = False
        self._on_session = on_session
        self._answers: dict[str, Answer] = {}
        self._calling: dict[Answer, asyncio.Task[None]] = {}  # those that wait for functions
        self._watches: dict[str, Watch] = {}
        self._healths: set[HealthWatch] = set()
        self._talk: Talk | None = None
        self._health: SourceHealth | None = None  # as heard last
        self._put_off: set[str] = set()  # turns that a server which ends left to the next

    async def aclose(self) -> None:
        """Hang up: open answers fail, watches end. What was said is kept by the server until it
        expires."""
        self.closed = True
        await self._hang_up()
        if self._talk is not None:
            self._talk.end()
        self._fail(FailedPreconditionError("the conversation was closed"))

    def talk(self, tools: Tools | None = None) -> Talk:
        """Talk, from here on; as `Session.talk`. tools: those that its spoken questions name."""
        self._talk = Talk(self, self._start.spoken, tools or Tools(()))
        self._ensure_running()
        return self._talk

    def say(self, message: pb.ClientEvent) -> None:
        """Tell the server what is worth nothing later: without a connection it is lost."""
        with contextlib.suppress(ResourceExhaustedError):
            self._send(message)

    def ask(
        self,
        text: str,
        *,
        timeout_s: float | None = None,
        tools: Iterable[Tool] = (),
        **options: Unpack[AskOptions],
    ) -> Answer:
        """Ask about the video as it is now, with what was said before. The answer fills as it is
        written. tools: functions that the model may call first; as `Session.ask`."""
        question = pb.Question(turn=secrets.token_hex(8), text=text, **options)
        functions = Tools(tools)
        question.tools.extend(functions.messages())
        limit_s = self._calls.timeouts.answer_s if timeout_s is None else timeout_s
        answer = Answer(question, limit_s, self._cancel, functions if question.tools else None)
        self._answers[answer.turn] = answer
        self._send_question(answer)
        self._ensure_running()
        return answer

    def watch(
        self,
        condition: str,
        *,
        interval_s: float | None = None,
        debounce_s: float = 0.0,
        cooldown_s: float = 0.0,
        timeout_s: float | None = None,
        limit: int | None = None,
    ) -> Watch:
        """Be told whenever `condition` begins or ceases to hold; as `Session.watch`."""
        request = pb.Watch(
            watch=secrets.token_hex(8),
            condition=condition,
            interval_s=interval_s,
            debounce_s=debounce_s,
            cooldown_s=cooldown_s,
        )
        watch = Watch(request, self._unwatch, timeout_s=timeout_s, limit=limit)
        self._watches[watch.id] = watch
        self._send_watch(watch)
        self._ensure_running()
        return watch

    def source_health(self, *, timeout_s: float | None = None) -> HealthWatch:
        """Be told how the session's pictures are, and whenever that changes; as
        `Session.source_health`."""
        health = HealthWatch(self._healths.discard, timeout_s=timeout_s)
        self._healths.add(health)
        if self._is_connected and self._health is not None:
            health.add(self._health)
        self._ensure_running()
        return health

    async def history(self) -> list[Round]:
        """Rounds that are still kept, oldest first; a round is kept soon after its answer.
        Raises NotFoundError before the first, and UnavailableError while nothing is kept."""
        return await self._calls.history(self.id)

    async def forget(self) -> bool:
        """Remove every trace of what was said until now; whether there was any."""
        return await self._calls.forget(self.id)

    # What is open

    def _ensure_running(self) -> None:
        if self.closed:
            self._fail(FailedPreconditionError("the conversation was closed"))
        else:
            self._hold()

    def _send_question(self, answer: Answer) -> None:
        answer.sent = answer.sent or self._is_connected
        self._send(pb.ClientEvent(ask=answer.question))

    def _send_watch(self, watch: Watch) -> None:
        watch.sent = watch.sent or self._is_connected
        self._send(pb.ClientEvent(watch=watch.request))

    async def _call(self, answer: Answer, done: pb.AnswerDone) -> None:
        """Call what the model wants called, and ask again with what came of it."""
        assert answer.tools is not None
        called = await answer.tools.call(done.tool_calls)
        if answer.done:  # it was cancelled, or took too long
            return
        answer.go_on(question_after(answer.question, called))
        self._answers[answer.turn] = answer
        self._send_question(answer)
        self._ensure_running()

    def _called(self, answer: Answer, task: "asyncio.Task[None]") -> None:
        self._calling.pop(answer, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            answer.fail(InternalError(f"a function could not be called: {error}"))

    def _cancel(self, answer: Answer) -> None:
        if (calling := self._calling.pop(answer, None)) is not None:
            calling.cancel()
            answer.finish_cancelled(self.id)
        elif not self._is_connected:
            self._answers.pop(answer.turn, None)
            answer.finish_cancelled(self.id)
        else:
            self._send(pb.ClientEvent(cancel=pb.Cancel(turn=answer.turn)))
            if answer.done:  # it timed out: nobody waits for the server's word
                self._answers.pop(answer.turn, None)

    def _unwatch(self, watch: Watch) -> None:
        if self._watches.pop(watch.id, None) is not None:
            self._send(pb.ClientEvent(unwatch=pb.Unwatch(watch=watch.id)))

    # What its line asks and tells

    @property
    def _busy(self) -> bool:
        return bool(self._answers or self._calling or self._watches or self._healths or self._talk)

    @property
    def _may_leave(self) -> bool:
        talking = self._talk is not None and self._talk.answering
        return not (self._answers.keys() - self._put_off or talking)

    def _fail(self, error: SightlineError) -> None:
        answers, self._answers = self._answers, {}
        watches, self._watches = self._watches, {}
        calling, self._calling = self._calling, {}
        for task in calling.values():
            task.cancel()
        for answer in (*answers.values(), *calling):
            answer.fail(error)
        for watch in watches.values():
            watch.fail(error)
        talk, self._talk = self._talk, None
        if talk is not None:
            talk.fail(error)
        healths, self._healths = self._healths, set()
        for health in healths:
            health.fail(error)

    def _tell(self, session: pb.Session, *, goes_on: bool) -> None:
        self._put_off.clear()
        self._hear(session)
        if self._talk is not None:
            self._talk.begin(goes_on=goes_on)
        for turn, answer in list(self._answers.items()):
            if answer.cancelled:
                if goes_on:
                    self._send(pb.ClientEvent(cancel=pb.Cancel(turn=turn)))
                else:
                    del self._answers[turn]
                    answer.finish_cancelled(self.id)
                continue
            if answer.sent and not goes_on:
                answer.restart()
            # Where the server goes on, too: the break may have swallowed the question, and asking
            # again with the same turn does not ask twice.
            self._send_question(answer)
        for watch in self._watches.values():
            if watch.sent and not goes_on:
                watch.restart()
            self._send_watch(watch)

    def _take(self, message: pb.ServerEvent) -> None:
        if self._talk is not None:
            self._talk.take(message)
        kind = message.WhichOneof("event")
        if kind == "answer_started":
            answer = self._answers.get(message.answer_started.turn)
            if answer is not None and message.answer_started.restarted:
                answer.restart()
        elif kind == "text_delta":
            if (answer := self._answers.get(message.text_delta.turn)) is not None:
                answer.add_text(message.text_delta.text)
        elif kind == "audio_chunk":
            if (answer := self._answers.get(message.audio_chunk.turn)) is not None:
                audio = message.audio_chunk.audio
                answer.add_audio(Audio(audio.sample_rate, audio.pcm))
        elif kind == "answer_done":
            if (answer := self._answers.pop(message.answer_done.turn, None)) is not None:
                self._end_answer(answer, message.answer_done)
        elif kind == "watch_event":
            if (watch := self._watches.get(message.watch_event.watch)) is not None:
                watch.add(message.watch_event)
        elif kind == "watch_status":
            if (watch := self._watches.get(message.watch_status.watch)) is not None:
                watch.status = watch_status(message.watch_status)
        elif kind == "session_state":
            self._hear(message.session_state)
        elif kind == "source_health":
            self._hear_health(source_health(message.source_health))
        elif kind == "error":
            self._refuse(message.error)

    def _end_answer(self, answer: Answer, done: pb.AnswerDone) -> None:
        if not done.tool_calls or answer.tools is None or answer.cancelled:
            answer.finish(done, self.id)
            return
        task = asyncio.create_task(self._call(answer, done), name=f"{answer.turn}:tools")
        self._calling[answer] = task
        task.add_done_callback(partial(self._called, answer))

    def _hear(self, message: pb.Session) -> None:
        info = session_info(message)
        self._on_session(info)
        self._hear_health(info.source_health)

    def _hear_health(self, health: SourceHealth) -> None:
        self._health = health
        for watch in self._healths:
            watch.add(health)

    def _refuse(self, message: pb.ErrorEvent) -> None:
        error = error_of(message)
        if message.turn:
            if error.reason == Reason.DRAINING and (answer := self._answers.get(message.turn)):
                self._leaving = True
                answer.sent = False  # it is asked again over the next connection
                self._put_off.add(message.turn)
                return
            if (answer := self._answers.pop(message.turn, None)) is None:
                return
            if answer.cancelled:  # the server knows of nothing to cancel
                answer.finish_cancelled(self.id)
            else:
                answer.fail(error)
        elif message.watch:
            if (watch := self._watches.pop(message.watch, None)) is not None:
                watch.fail(error)
        else:
            self._fail(error)
