"""Answers as they are written and watched conditions: what a conversation delivers.

Both belong to one event loop. The conversation feeds them; any number of readers may follow an
answer, each from its beginning.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

from sightline import wire
from sightline.closing import AsyncLeaving
from sightline.errors import DeadlineExceededError, InternalError, SightlineError
from sightline.tools import Tools, called_of
from sightline.types import AnswerResult, Audio, Event, WatchStatus
from sightline.v1 import gateway_pb2 as pb

__all__ = ["Answer", "Watch"]

PENDING_EVENTS = 256


class _Signal:
    """Wakes everybody who waits, each time something changes."""

    def __init__(self) -> None:
        self._future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def notify(self) -> None:
        self._future.set_result(None)
        self._future = asyncio.get_running_loop().create_future()

    async def wait(self) -> None:
        await asyncio.shield(self._future)


class Answer:
    """An answer: its text by `async for`, the whole by `await result()`, speech by `audio()`.

    Raises what went wrong (a SightlineError) from whichever of them is waited on. An answer that
    was cancelled just ends.
    """

    def __init__(
        self,
        question: pb.Question,
        timeout_s: float,
        cancel: Callable[["Answer"], None],
        tools: Tools | None = None,
    ) -> None:
        self.tools = tools
        self.turn = question.turn
        self.question = question
        self.restarted = False  # the text began anew
        self.cancelled = False
        self.sent = False  # the server may know of it
        self._cancel = cancel
        self._parts: list[str | Audio] = []
        self._text = ""  # delivered
        self._attempt: str | None = None  # text of the attempt after a restart; None: the first
        self._audio_bytes = self._audio_skip = 0
        self._changed = _Signal()
        self._result: AnswerResult | None = None
        self._error: SightlineError | None = None
        self._timer = asyncio.get_running_loop().call_later(timeout_s, self._expire, timeout_s)

    async def parts(self) -> AsyncIterator[str | Audio]:
        """Text and speech in the order they came."""
        position = 0
        while True:
            while position < len(self._parts):
                yield self._parts[position]
                position += 1
            if self._error is not None:
                raise self._error
            if self._result is not None:
                return
            await self._changed.wait()

    async def __aiter__(self) -> AsyncIterator[str]:
        async for part in self.parts():
            if isinstance(part, str):
                yield part

    async def audio(self) -> AsyncIterator[Audio]:
        """Speech, where the conversation was opened with it; none otherwise."""
        async for part in self.parts():
            if isinstance(part, Audio):
                yield part

    async def result(self) -> AnswerResult:
        """Waits for the end."""
        while self._result is None and self._error is None:
            await self._changed.wait()
        if self._error is not None:
            raise self._error
        assert self._result is not None
        return self._result

    async def cancel(self) -> AnswerResult:
        """Stop answering. Returns what was said until then."""
        if self._result is None and self._error is None and not self.cancelled:
            self.cancelled = True
            self._cancel(self)
        return await self.result()

    # Fed by the conversation

    @property
    def done(self) -> bool:
        return self._result is not None or self._error is not None

    def restart(self) -> None:
        """The answer is made again from nothing; what was delivered stays delivered."""
        self.restarted = True
        self._attempt = ""
        self._audio_skip, self._audio_bytes = max(self._audio_skip, self._audio_bytes), 0

    def add_text(self, text: str) -> None:
        """Deliver a delta. After a restart only what goes beyond the old text; where the new
        answer differs it follows whole, on a line of its own."""
        if self._attempt is None:
            self._text += text
            self._deliver(text)
            return
        self._attempt += text
        if self._text.startswith(self._attempt):
            return
        if self._attempt.startswith(self._text):
            fresh, self._text = self._attempt[len(self._text) :], self._attempt
            self._attempt = None
            self._deliver(fresh)
        else:
            self._text, self._attempt = self._attempt, None
            self._deliver("\n" + self._text)

    def add_audio(self, audio: Audio) -> None:
        start = self._audio_bytes
        self._audio_bytes += len(audio.pcm)
        pcm = audio.pcm[max(0, self._audio_skip - start) :]
        if pcm:
            self._deliver(Audio(audio.sample_rate, pcm))

    def go_on(self, question: pb.Question) -> None:
        """The question is asked again, with what came of the functions that were called."""
        self.turn, self.question, self.sent = question.turn, question, False
        self._text, self._attempt = "", None
        self._audio_bytes = self._audio_skip = 0

    def finish(self, message: pb.AnswerDone, conversation: str) -> None:
        if message.finish_reason == pb.FINISH_REASON_ERROR:
            self.fail(InternalError("the answer broke off"))
            return
        delivered = self._text if self._attempt is None else self._attempt
        if message.text.startswith(delivered) and message.text != delivered:
            self.add_text(message.text[len(delivered) :])  # a finished turn may come whole
        if self._attempt is not None and message.text != self._text:  # the new answer is shorter
            self._deliver("\n" + message.text)
        result = wire.answer_result(message, conversation, self.restarted)
        self._end(replace(result, called=called_of(self.question.called)), None)

    def finish_cancelled(self, conversation: str) -> None:
        """A cancelled answer whose connection is gone ends with what was said."""
        message = pb.AnswerDone(
            turn=self.turn, text=self._text, finish_reason=pb.FINISH_REASON_CANCELLED
        )
        self._end(wire.answer_result(message, conversation, self.restarted), None)

    def fail(self, error: SightlineError) -> None:
        self._end(None, error)

    def _end(self, result: AnswerResult | None, error: SightlineError | None) -> None:
        if self.done:
            return
        self._timer.cancel()
        self._result, self._error = result, error
        self._changed.notify()

    def _deliver(self, part: str | Audio) -> None:
        self._parts.append(part)
        self._changed.notify()

    def _expire(self, timeout_s: float) -> None:
        if self.done:
            return
        self.fail(DeadlineExceededError(f"no whole answer in {timeout_s:g} s"))
        self.cancelled = True
        self._cancel(self)


class Watch(AsyncLeaving):
    """A watched condition: its events by `async for` until `close`. Leaving the loop closes it, and
    so do `timeout_s` after its start and `limit` events.

    A reader that falls more than 256 events behind loses the oldest; `dropped` counts them.
    `status` is how it stood when that was told last, about every two seconds; None before its
    first check.
    """

    def __init__(
        self,
        watch: pb.Watch,
        close: Callable[["Watch"], None],
        *,
        timeout_s: float | None = None,
        limit: int | None = None,
    ) -> None:
        self.id = watch.watch
        self.condition = watch.condition
        self.dropped = 0
        self.status: WatchStatus | None = None
        self.request = watch
        self.sent = False  # the server may know of it
        self._close = close
        self._timeout_s = timeout_s
        self._limit = limit
        self._events: deque[Event] = deque()
        self._active = False
        self._replayed = False
        self._closed = False
        self._error: SightlineError | None = None
        self._changed = _Signal()

    async def _leave(self, error: BaseException | None) -> None:
        self.close()

    async def __aiter__(self) -> AsyncIterator[Event]:
        loop = asyncio.get_running_loop()
        end = None if self._timeout_s is None else loop.time() + self._timeout_s
        told = 0
        try:
            while self._limit is None or told < self._limit:
                left_s = None if end is None else max(0.0, end - loop.time())
                if (event := await self.next(left_s)) is None:
                    return
                told += 1
                yield event
        except TimeoutError:
            return
        finally:
            self.close()

    async def next(self, timeout_s: float | None = None) -> Event | None:
        """The next event; None once closed. Raises TimeoutError after `timeout_s`."""
        async with asyncio.timeout(timeout_s):
            while not self._events:
                if self._error is not None:
                    raise self._error
                if self._closed:
                    return None
                await self._changed.wait()
        return self._events.popleft()

    def close(self) -> None:
        """Stop watching. Idempotent."""
        if not self._closed:
            self._closed = True
            self._close(self)
            self._changed.notify()

    # Fed by the conversation

    def restart(self) -> None:
        """Registered anew: the server tells the present state again, which may be no news."""
        self._replayed = True

    def add(self, message: pb.WatchEvent) -> None:
        replayed, self._replayed = self._replayed, False
        if replayed and message.active == self._active:
            return
        self._active = message.active
        if len(self._events) == PENDING_EVENTS:
            self._events.popleft()
            self.dropped += 1
        self._events.append(wire.event(message))
        self._changed.notify()

    def fail(self, error: SightlineError) -> None:
        if self._error is None and not self._closed:
            self._error = error
            self._changed.notify()
