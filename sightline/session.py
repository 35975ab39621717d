"""A watched video: asking about it, pushing into it, playing a file into it."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Mapping, Sequence
from typing import Any, Unpack

from sightline.answer import Answer, Watch
from sightline.calls import Calls
from sightline.closing import AsyncLeaving
from sightline.conversation import Conversation
from sightline.errors import FailedPreconditionError, NotFoundError
from sightline.feed import Feed
from sightline.frames import split_frames
from sightline.health import HealthWatch
from sightline.push import Pusher
from sightline.talk import Talk
from sightline.tools import Tool, Tools
from sightline.types import (
    AskOptions,
    Decision,
    Moment,
    PushReport,
    Said,
    SessionInfo,
    SessionState,
    SessionStats,
)
from sightline.v1 import gateway_pb2 as pb
from sightline.video import VideoFile
from sightline.wire import decision_of, delegate_mode, message_of, moment_of, session_info

__all__ = ["Session"]

_POLL_S = 0.05
_PAGE = 1000  # moments


class Session(AsyncLeaving):
    """A watched video. `async with` deletes it at the end.

    `info` and `stats` are as last heard: on opening, every second while a conversation is open,
    and from `refresh`. `key`, `rtmp_url`, `whip_url` and `srt_url` are known to whoever
    opened it.
    """

    def __init__(
        self, calls: Calls, info: SessionInfo, key: str, on_close: Callable[["Session"], None]
    ) -> None:
        self.info = info
        self.key = key
        self.rtmp_url = ""
        self.whip_url = ""
        self.srt_url = ""  # stays empty where the server takes no SRT
        self._calls = calls
        self._on_close = on_close
        self._conversation: Conversation | None = None
        self._conversations: set[Conversation] = set()
        self._feed: Feed | None = None
        self._playing: asyncio.Task[PushReport] | None = None

    def __repr__(self) -> str:
        return f"<sightline session {self.name} ({self.id}), {self.state}>"

    @property
    def id(self) -> str:
        return self.info.id

    @property
    def name(self) -> str:
        return self.info.name

    @property
    def state(self) -> SessionState:
        return self.info.state

    @property
    def stats(self) -> SessionStats:
        return self.info.stats

    async def _leave(self, error: BaseException | None) -> None:
        with contextlib.suppress(NotFoundError):
            await self.delete()

    async def refresh(self) -> SessionInfo:
        """Ask the server how the session is now."""
        request = pb.GetSessionRequest(session=self.id)
        self.info = session_info(await self._calls.unary(self._calls.stub.GetSession, request))
        return self.info

    async def update(
        self,
        *,
        name: str | None = None,
        fps: float | None = None,
        window: int | None = None,
        grace_s: float | None = None,
        labels: Mapping[str, str] | None = None,
        listen: bool | None = None,
        delegate: str = "",
        delegate_to: str | None = None,
    ) -> SessionInfo:
        """Change the session while it runs; what is left out stays. `fps` 0 and `window` 0 are the
        model's preference, `labels` take the place of those it had. `listen`: whether what is said
        in the video is heard; False also erases what was.

        Raises ResourceExhaustedError where the model has no room for a longer window, and
        UnavailableError where nobody hears.
        """
        request = message_of(
            pb.UpdateSessionRequest,
            session=self.id,
            name=name,
            fps=fps,
            window=window,
            grace_s=grace_s,
            labels=None if labels is None else pb.Labels(labels=labels),
            delegate=delegate_mode(delegate),
            delegate_to=delegate_to,
        )
        if listen is not None:
            request.listen = listen
        self.info = session_info(await self._calls.unary(self._calls.stub.UpdateSession, request))
        return self.info

    async def delete(self, *, conversations: bool = False, events: bool = False) -> None:
        """End the video and free its place on the worker; with `conversations`, also remove those
        that began on it, which stay until they expire otherwise, with `events` those of its
        rules."""
        await self.aclose()
        request = pb.DeleteSessionRequest(
            session=self.id, conversations=conversations, events=events
        )
        await self._calls.unary(self._calls.stub.DeleteSession, request)

    async def aclose(self) -> None:
        """Stop playing, asking and watching from here. The session stays on the server."""
        self._on_close(self)
        if self._playing is not None and not self._playing.done():
            self._playing.cancel()
            await asyncio.wait([self._playing])
        for conversation in list(self._conversations):
            await conversation.aclose()

    # Asking

    def ask(
        self,
        text: str,
        *,
        timeout_s: float | None = None,
        tools: Iterable[Tool] = (),
        **options: Unpack[AskOptions],
    ) -> Answer:
        """Ask about the video as it is now, in this session's own conversation.

        tools: functions, also coroutines, that the model may call before it answers. It reads their
        docstrings and the types of their parameters, and what they return; `result().called` tells
        of the calls. A model that calls nothing says `tools_ignored` in `degraded`.
        """
        return self._own_conversation().ask(text, timeout_s=timeout_s, tools=tools, **options)

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
        """Be told whenever `condition` begins or ceases to hold.

        It is checked every `interval_s` (a second; 0: with every frame); a change must hold for
        `debounce_s` and comes at most once in `cooldown_s`. A loop over it ends after `timeout_s`
        or `limit` events; without them it goes on until it is left.
        """
        return self._own_conversation().watch(
            condition,
            interval_s=interval_s,
            debounce_s=debounce_s,
            cooldown_s=cooldown_s,
            timeout_s=timeout_s,
            limit=limit,
        )

    def source_health(self, *, timeout_s: float | None = None) -> HealthWatch:
        """Be told how the pictures are: now, and whenever they become dead, dark, covered, frozen
        or repeating, or fine again. A loop over it ends after `timeout_s`, or when it is left."""
        return self._own_conversation().source_health(timeout_s=timeout_s)

    def conversation(self, id: str = "", *, speech: bool = False, voice: str = "") -> Conversation:
        """A conversation of its own: a new one, or the one with that id continued.

        With `speech` its answers are spoken too (`answer.audio()`).
        """
        return self._converse(pb.Start(conversation=id, speech=speech, voice=voice))

    def _converse(self, start: pb.Start) -> Conversation:
        start.session = self.id
        conversation = Conversation(self._calls, start, self._heard)
        self._conversations = {other for other in self._conversations if not other.closed}
        self._conversations.add(conversation)
        return conversation

    def _heard(self, info: SessionInfo) -> None:
        self.info = info

    def _own_conversation(self) -> Conversation:
        if self._conversation is None or self._conversation.closed:
            self._conversation = self.conversation()
        return self._conversation

    async def decide(
        self,
        *statements: str,
        choices: Sequence[str] = (),
        levels: Sequence[str] = (),
        timeout_s: float | None = None,
    ) -> list[Decision]:
        """How likely each of up to 400 statements holds now, in one call. With `choices`, which of
        them makes it hold; with `levels`, the same of a scale, from the least to the most. They
        stand in the place of {} in a statement, or behind it.

        `decide("a phone is there")`, `decide("the cup is {}", choices=["full", "empty"])`.
        """
        questions = [
            pb.DecideQuestion(statement=text, choices=choices, levels=levels) for text in statements
        ]
        request = pb.DecideRequest(session=self.id, questions=questions)
        limit_s = self._calls.timeouts.answer_s if timeout_s is None else timeout_s
        reply = await self._calls.unary(self._calls.stub.Decide, request, limit_s)
        pairs = zip(questions, reply.decisions, strict=True)
        return [decision_of(*pair, reply.unfamiliar_picture) for pair in pairs]

    async def picture(self, *, width: int = 0) -> bytes:
        """The newest picture as JPEG, at most `width` pixels wide (0: 640). Raises
        FailedPreconditionError before the first."""
        request = pb.GetPictureRequest(session=self.id, width=width)
        reply = await self._calls.unary(self._calls.stub.GetPicture, request)
        return bytes(reply.jpeg)

    async def memory(
        self,
        text: str = "",
        *,
        from_ns: int = 0,
        to_ns: int = 0,
        pictures: bool = False,
        limit: int = 100,
    ) -> list[Moment]:
        """What is remembered of the session beyond its window, the newest first: at most `limit`
        moments, those with all words of `text`, between two capture times."""
        request = pb.GetMemoryRequest(
            session=self.id, text=text, from_ns=from_ns, to_ns=to_ns, pictures=pictures
        )
        moments: list[Moment] = []
        while len(moments) < limit:
            request.page_size = min(limit - len(moments), _PAGE)
            reply = await self._calls.unary(self._calls.stub.GetMemory, request)
            moments += map(moment_of, reply.moments)
            request.page_token = reply.next_page_token
            if not request.page_token:
                break
        return moments

    async def moment(self, id: str) -> Moment:
        """A moment that is remembered, as `AnswerResult.memory` names them, with its pictures.
        Raises NotFoundError where it is not, or no more."""
        request = pb.GetMemoryRequest(session=self.id, moment=id, pictures=True)
        reply = await self._calls.unary(self._calls.stub.GetMemory, request)
        if not reply.moments:
            raise NotFoundError("no such moment is remembered")
        return moment_of(reply.moments[0])

    async def transcript(self, *, from_ns: int = 0, to_ns: int = 0) -> list[Said]:
        """What was said in the video, the oldest first. Times are capture times; 0: all that is
        kept. Raises FailedPreconditionError for a session that does not listen."""
        request = pb.GetTranscriptRequest(session=self.id, from_ns=from_ns, to_ns=to_ns)
        reply = await self._calls.unary(self._calls.stub.GetTranscript, request)
        return [Said(each.text, each.start_ns, each.end_ns, each.language) for each in reply.said]

    def talk(
        self,
        *,
        conversation: str = "",
        speech: bool = True,
        voice: str = "",
        tools: Iterable[Tool] = (),
        **options: Unpack[AskOptions],
    ) -> Talk:
        """Talk with the video: give the microphone to `hear`, and read what is heard and answered.

        Answers are spoken, in `voice` or the server's default; speech=False: they are words alone.
        Whoever speaks into an answer interrupts it. conversation: one to continue. tools, options:
        of every spoken question, as of `ask`; an answer that calls functions is followed by
        another, of a turn of its own, once they have returned.
        """
        functions = Tools(tools)
        wishes = pb.Question(tools=functions.messages(), **options)
        start = pb.Start(conversation=conversation, speech=speech, voice=voice, spoken=wishes)
        return self._converse(start).talk(functions)

    # Pushing

    def pusher(
        self, *, fps: float | None = None, codec: str = "h264", extradata: bytes = b""
    ) -> Pusher:
        """An open stream for frames, for programs that push one at a time.

        Frames without a time are taken `fps` apart, or as they come. `codec` and `extradata`
        describe packets.
        """
        return Pusher(
            self._calls,
            self.id,
            self.key,
            lossless=self.info.lossless,
            fps=fps,
            codec=codec,
            extradata=extradata,
            reconnects=not self.info.lossless,
        )

    async def push(
        self,
        frames: Any,
        *,
        fps: float | None = None,
        codec: str = "h264",
        extradata: bytes = b"",
    ) -> PushReport:
        """Push frames, wait until they are understood, and say what became of them.

        `frames` is one frame or an iterable of frames: height x width x 3 uint8 RGB arrays, JPEG
        bytes, (frame, capture_ns) or `Packet`. Frames without a time are taken `fps` apart, or
        as they come. A plain iterable runs on the event loop; give an async one where it waits.
        """
        async with self.pusher(fps=fps, codec=codec, extradata=extradata) as pusher:
            async for frame in _iterate(split_frames(frames)):
                await pusher.send(frame)
            return await pusher.end()

    def play(self, file: VideoFile, *, realtime: bool = True, loop: bool = False) -> None:
        """Push an opened file in the background. `wait` tells when it is through."""
        if self._playing is not None and not self._playing.done():
            raise FailedPreconditionError("this session already plays a file")
        start_ns = time.time_ns()
        if not realtime and file.end_s is not None:
            start_ns -= round(file.end_s * 1e9)  # as if the video ended just now
        self._feed = Feed(
            self._calls,
            self.id,
            self.key,
            file,
            realtime=realtime,
            loop=loop,
            lossless=self.info.lossless,
            start_ns=start_ns,
        )
        self._playing = asyncio.create_task(self._feed.run(), name=f"{self.id}:feed")
        self._playing.add_done_callback(_consume)

    @property
    def start_ns(self) -> int | None:
        """Capture time of the first picture of a file that is played from here."""
        return None if self._feed is None else self._feed.start_ns

    @property
    def played(self) -> PushReport:
        """Report of what became of the frames of the file so far."""
        return PushReport() if self._feed is None else self._feed.report

    async def wait(self) -> PushReport:
        """Wait until the file that is played from here is through and understood.

        Raises what stopped it. Returns at once where nothing is played.
        """
        if self._playing is None:
            return PushReport()
        await asyncio.wait([self._playing])
        if self._playing.cancelled():
            raise FailedPreconditionError("the session was closed before the video's end")
        return self._playing.result()

    async def wait_for_picture(self, timeout_s: float = 10.0) -> bool:
        """Wait until the model has seen a picture. False if none came in time.

        Raises what stopped a file that is played from here.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        while not (await self.refresh()).stats.frames_processed:
            if self._playing is not None and self._playing.done():
                await self.wait()
                return bool((await self.refresh()).stats.frames_processed)
            if loop.time() > deadline:
                return False
            await asyncio.sleep(_POLL_S)
        return True


async def _iterate(frames: Iterable[Any] | AsyncIterable[Any]) -> AsyncIterator[Any]:
    if isinstance(frames, AsyncIterable):
        async for frame in frames:
            yield frame
    else:
        for frame in frames:
            yield frame


def _consume(task: "asyncio.Task[PushReport]") -> None:
    """`wait` raises a feed's error; one that nobody waits for is no news for the event loop."""
    if not task.cancelled():
        task.exception()
