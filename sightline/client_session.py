"""Sessions, and what comes of them, for programs without an event loop: see `sightline.client`."""

import contextlib
from collections.abc import Iterator
from typing import Any

from sightline import aio
from sightline.background import background
from sightline.closing import Closing, Leaving
from sightline.errors import NotFoundError
from sightline.frames import split_frames
from sightline.types import (
    AnswerResult,
    Audio,
    Decision,
    Event,
    Moment,
    PushReport,
    Round,
    Said,
    SessionInfo,
    SessionState,
    SessionStats,
    SourceHealth,
    WatchStatus,
)

__all__ = ["Answer", "Conversation", "Pusher", "Session", "Watch"]


class Session(Leaving):
    """A watched video. `with` deletes it at the end. See `sightline.aio.Session`."""

    def __init__(self, session: aio.Session) -> None:
        self._session = session

    def __repr__(self) -> str:
        return repr(self._session)

    def _leave(self, error: BaseException | None) -> None:
        with contextlib.suppress(NotFoundError):
            self.delete()

    @property
    def id(self) -> str:
        return self._session.id

    @property
    def name(self) -> str:
        return self._session.name

    @property
    def key(self) -> str:
        return self._session.key

    @property
    def rtmp_url(self) -> str:
        return self._session.rtmp_url

    @property
    def whip_url(self) -> str:
        return self._session.whip_url

    @property
    def srt_url(self) -> str:
        return self._session.srt_url

    @property
    def info(self) -> SessionInfo:
        return self._session.info

    @property
    def state(self) -> SessionState:
        return self._session.state

    @property
    def stats(self) -> SessionStats:
        """Figures as last heard; `refresh` asks."""
        return self._session.stats

    @property
    def start_ns(self) -> int | None:
        return self._session.start_ns

    @property
    def played(self) -> PushReport:
        return self._session.played

    def refresh(self) -> SessionInfo:
        """Ask the server how the session is now."""
        return background.run(self._session.refresh())

    def update(self, **changes: Any) -> SessionInfo:
        """Change the session while it runs: `name`, `fps`, `window`, `grace_s`, `labels`,
        `listen`, `delegate`, `delegate_to`."""
        return background.run(self._session.update(**changes))

    def delete(self, *, conversations: bool = False, events: bool = False) -> None:
        """End the video and free its place on the worker; with `conversations`, also remove those
        that began on it, which stay until they expire otherwise, with `events` those of its
        rules."""
        background.run(self._session.delete(conversations=conversations, events=events))

    def ask(self, text: str, **options: Any) -> "Answer":
        """Ask about the video as it is now; iterate over the answer for its text.

        Options: `timeout_s`, those of `sightline.AskOptions`, and `tools`, functions that the
        model may call first, as in `sightline.aio.Session.ask`.
        """
        return Answer(background.run(_call(self._session.ask, text, **options)))

    def decide(self, *statements: str, **options: Any) -> list[Decision]:
        """How likely each statement holds now, in one call. Options: `choices`, `levels`,
        `timeout_s`; as `sightline.aio.Session.decide`."""
        return background.run(self._session.decide(*statements, **options))

    def memory(self, text: str = "", **options: Any) -> list[Moment]:
        """What is remembered of the session beyond its window, the newest first, with all words of
        `text`. Options: `from_ns`, `to_ns`, `pictures`, `limit`."""
        return background.run(self._session.memory(text, **options))

    def moment(self, id: str) -> Moment:
        """A moment that is remembered, as `AnswerResult.memory` names them, with its pictures."""
        return background.run(self._session.moment(id))

    def picture(self, *, width: int = 0) -> bytes:
        """The newest picture as JPEG, at most `width` pixels wide (0: 640)."""
        return background.run(self._session.picture(width=width))

    def transcript(self, *, from_ns: int = 0, to_ns: int = 0) -> list[Said]:
        """What was said in the video, the oldest first, where the session listens. Times are
        capture times; 0: all that is kept."""
        return background.run(self._session.transcript(from_ns=from_ns, to_ns=to_ns))

    def watch(self, condition: str, **options: Any) -> "Watch":
        """Iterate over it to be told whenever `condition` begins or ceases to hold.

        Options: `interval_s`, `debounce_s`, `cooldown_s`, and what ends the loop: `timeout_s`,
        `limit` (events).
        """
        return Watch(background.run(_call(self._session.watch, condition, **options)))

    def source_health(self, *, timeout_s: float | None = None) -> Iterator[SourceHealth]:
        """Iterate over it to be told how the pictures are: now, and whenever they become dead,
        dark, covered, frozen or repeating, or fine again. It ends after `timeout_s`."""
        watch = background.run(_call(self._session.source_health, timeout_s=timeout_s))
        return background.iterate(aiter(watch))

    def conversation(
        self, id: str = "", *, speech: bool = False, voice: str = ""
    ) -> "Conversation":
        """A conversation of its own: a new one, or the one with that id continued."""
        work = _call(self._session.conversation, id, speech=speech, voice=voice)
        return Conversation(background.run(work))

    def pusher(self, **options: Any) -> "Pusher":
        """An open stream for frames. Options: `fps`, `codec`, `extradata`."""
        return Pusher(background.run(_call(self._session.pusher, **options)))

    def push(self, frames: Any, **options: Any) -> PushReport:
        """Push frames, wait until they are understood, and say what became of them.

        `frames` is one frame or an iterable (run in this thread) of height x width x 3 uint8 RGB
        arrays, JPEG bytes, (frame, capture_ns) or `Packet`. Options as for `pusher`.
        """
        with self.pusher(**options) as pusher:
            for frame in split_frames(frames):
                pusher.send(frame)
            return pusher.end()

    def wait(self) -> PushReport:
        """Wait until the file that is played from here is through and understood."""
        return background.run(self._session.wait())

    def wait_for_picture(self, timeout_s: float = 10.0) -> bool:
        """Wait until the model has seen a picture. False if none came in time."""
        return background.run(self._session.wait_for_picture(timeout_s))


class Conversation(Closing):
    """One dialogue about a session, with its own history."""

    def __init__(self, conversation: aio.Conversation) -> None:
        self._conversation = conversation

    @property
    def id(self) -> str:
        """Known after the first answer; give it to `session.conversation` to continue later."""
        return self._conversation.id

    def history(self) -> list[Round]:
        """Rounds that are still kept, oldest first."""
        return background.run(self._conversation.history())

    def forget(self) -> bool:
        """Remove every trace of what was said until now; whether there was any."""
        return background.run(self._conversation.forget())

    def ask(self, text: str, **options: Any) -> "Answer":
        """Ask, as `Session.ask` does."""
        return Answer(background.run(_call(self._conversation.ask, text, **options)))

    def watch(self, condition: str, **options: Any) -> "Watch":
        """Watch, as `Session.watch` does."""
        return Watch(background.run(_call(self._conversation.watch, condition, **options)))

    def close(self) -> None:
        """Hang up. What was said is kept by the server until it expires."""
        background.run(self._conversation.aclose())


class Answer:
    """An answer. Iterate for its text as it comes; `result` is the whole, `audio` the speech."""

    def __init__(self, answer: aio.Answer) -> None:
        self._answer = answer

    def __iter__(self) -> Iterator[str]:
        return background.iterate(aiter(self._answer))

    def parts(self) -> Iterator[str | Audio]:
        """Text and speech in the order they came."""
        return background.iterate(self._answer.parts())

    def audio(self) -> Iterator[Audio]:
        """Speech, where the conversation was opened with it."""
        return background.iterate(self._answer.audio())

    def result(self) -> AnswerResult:
        """Waits for the end."""
        return background.run(self._answer.result())

    def cancel(self) -> AnswerResult:
        """Stop answering. Returns what was said until then."""
        return background.run(self._answer.cancel())


class Watch(Closing):
    """A watched condition. Iterate for its events; leaving the loop closes it."""

    def __init__(self, watch: aio.Watch) -> None:
        self._watch = watch

    def __iter__(self) -> Iterator[Event]:
        return background.iterate(aiter(self._watch))

    @property
    def dropped(self) -> int:
        return self._watch.dropped

    @property
    def status(self) -> WatchStatus | None:
        """How it stood when that was told last; None before its first check."""
        return self._watch.status

    def next(self, timeout_s: float | None = None) -> Event | None:
        """The next event; None once closed. Raises TimeoutError after `timeout_s`."""
        return background.run(self._watch.next(timeout_s))

    def close(self) -> None:
        """Stop watching. Idempotent."""
        background.run(_call(self._watch.close))


class Pusher(Leaving):
    """A stream of frames. `send` them in capture order; leaving `with` waits until all are
    understood."""

    def __init__(self, pusher: aio.Pusher) -> None:
        self._pusher = pusher

    def _leave(self, error: BaseException | None) -> None:
        try:
            if error is None:
                self.end()
        finally:
            background.run(self._pusher.aclose())

    @property
    def report(self) -> PushReport:
        return self._pusher.report

    def send(self, frame: Any, capture_ns: int | None = None) -> None:
        """One frame; on a lossless session this waits until there is room for it."""
        background.run(self._pusher.send(frame, capture_ns))

    def end(self) -> PushReport:
        """No more frames; returns once all are understood or dropped."""
        return background.run(self._pusher.end())


async def _call(function: Any, *arguments: Any, **options: Any) -> Any:
    """Run something that wants to be called on the event loop."""
    return function(*arguments, **options)
