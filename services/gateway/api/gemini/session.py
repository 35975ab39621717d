"""One Gemini Live session: acts on what its client says through a Realtime conversation, and says
what comes of it. It knows no sockets: messages come as text, and leave as JSON objects."""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from typing import Any

from services.common.tasks import cancel_and_wait, spawn
from services.gateway.api.gemini import client_messages as client
from services.gateway.api.gemini import server_messages as server
from services.gateway.api.gemini.closing import closing_of, closing_of_failure, reason_of
from services.gateway.api.gemini.resumption import Handles
from services.gateway.api.gemini.setup import Setup
from services.gateway.api.gemini.turn import Turn, TurnFailedError
from services.gateway.api.realtime import client_events as wish
from services.gateway.api.realtime import server_events as told
from services.gateway.api.realtime.conversation import Conversation
from services.gateway.api.realtime.fields import WireError
from services.gateway.api.realtime.items import Item, Part, new_id
from services.gateway.auth.caller import Caller
from sightline.errors import SightlineError

log = logging.getLogger(__name__)

MAX_NEWS = 8  # that wait for a moment's silence
GOING_S = 1.0  # between `goAway` and the end
GOING_AWAY, INTERNAL_ERROR = 1001, 1011

Send = Callable[[told.ServerEvent], Awaitable[None]]
Converse = Callable[[Send, Callable[[str], None]], Conversation]


class GeminiSession:
    """One session. `converse` makes its conversation, of what sends its events and what hangs up;
    `send` raises ConnectionError once the client has left; `close` ends the connection with a code
    and a reason, soon. One event loop; one coroutine calls `take`."""

    def __init__(
        self,
        setup: Setup,
        caller: Caller,
        handles: Handles,
        converse: Converse,
        *,
        send: Callable[[dict[str, Any]], Awaitable[None]],
        close: Callable[[int, bytes], None],
    ) -> None:
        self._setup = setup
        self._handles = handles
        self._caller = caller
        self._out = send
        self._close = close
        self._sending = asyncio.Lock()
        self._turn = Turn(setup)
        self._index = 0  # of the newest message
        self._active = False  # the client says that somebody speaks
        self._due = list(setup.watches)  # once there is a video
        self._news: deque[str] = deque(maxlen=MAX_NEWS)
        self._changed = asyncio.Event()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._conversation = converse(self._tell, self.go_away)

    async def open(self) -> None:
        """Begin, or go on. Raises WireError, and what attaching to its session may."""
        settings = self._setup.settings
        if self._setup.handle:
            resumed = self._handles.read(self._setup.handle, self._caller)
            settings = replace(settings, stream=settings.stream or resumed.stream)
            for item in resumed.items:
                self._conversation.history.add(item)
        await self._conversation.open(settings)
        await self._send(self._resumption())
        self._spawn(self._keep_pace, "pace")
        if settings.stream:
            await self._watch()

    async def take(self, text: str) -> None:
        """Act on one message. Raises WireError and SightlineError for what is wrong with it."""
        self._index += 1
        match client.parsed(text):
            case client.RealtimeInput() as given:
                await self._input(given)
            case client.ClientContent() as content:
                await self._interrupt()
                await self._add(*self._said(content.items))
                if content.complete:
                    await self._conversation.answer()
            case client.ToolResponse() as response:
                await self._respond(response)
            case Setup():
                raise WireError("setup comes once, as the first message", param="setup")

    def go_away(self, reason: str) -> None:
        """Say that the end is near, and end."""
        self._spawn(partial(self.leave, reason), "leave")

    async def leave(self, reason: str) -> None:
        """Likewise, until it has ended."""
        with contextlib.suppress(ConnectionError):
            await self._send([server.GoAway(time_left_s=GOING_S)])
            await asyncio.sleep(GOING_S)
        self._close(GOING_AWAY, reason_of(reason))

    async def aclose(self) -> None:
        """The client has left, which may cancel whoever calls."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await self._conversation.aclose()
        await cancel_and_wait(*tasks)

    # --- what the client says -----------------------------------------------------------------

    async def _input(self, given: client.RealtimeInput) -> None:
        settings = self._conversation.settings
        by_hand = settings.turn_detection is None
        if (given.begins or given.ends) and not by_hand:
            raise WireError(
                "activityStart and activityEnd need automaticActivityDetection.disabled",
                param="realtimeInput",
            )
        if given.begins:
            self._active = True
            await self._conversation.act(wish.AudioClear())
            await self._interrupt()
        for piece in given.audio:
            if not self._conversation.hears:
                raise WireError("this server does not hear", code="input_audio_not_supported")
            if self._active or not by_hand:
                await self._conversation.act(wish.AudioAppend(audio=piece.pcm, rate=piece.rate))
        for picture in given.pictures:
            await self._conversation.look(picture)
            await self._watch()
        words = given.text.strip()
        if words:
            part = Part(type="input_text", text=words)
            await self._add(Item(id=new_id("item"), role="user", content=(part,)))
        if given.stream_ends or given.ends:
            self._active = False
            await self._commit()
        if given.ends or (words and not self._active):
            await self._interrupt()
            await self._conversation.answer()
        elif given.text and self._turn.idle and self._conversation.history.unanswered():
            await self._conversation.answer()  # a blank, which Pipecat asks with

    async def _commit(self) -> None:
        """What was heard until now is all; that may be nothing."""
        if not self._conversation.hears:
            return
        try:
            await self._conversation.act(wish.AudioCommit())
        except WireError as error:
            if error.code != "input_audio_buffer_commit_empty":
                raise

    def _said(self, items: tuple[Item, ...]) -> tuple[Item, ...]:
        """Without the full stops that LiveKit asks with, where something else was said."""
        said = tuple(item for item in items if not _is_blank(item))
        return said if said or self._conversation.history.unanswered() else items

    async def _add(self, *items: Item) -> None:
        for item in items:
            await self._conversation.act(wish.ItemCreate(item=item))
            if item.pictures:
                await self._watch()

    async def _respond(self, response: client.ToolResponse) -> None:
        came: list[client.Output] = []
        for output in response.outputs:
            call_id = self._turn.came(output.call_id)
            if call_id is not None:
                came.append(output)
                await self._add(client.output_item(replace(output, call_id=call_id)))
        if not came or self._turn.waits:
            return
        if all(output.silent for output in came):
            await self._send([server.TurnComplete()])
        else:
            await self._conversation.answer()

    async def _interrupt(self) -> None:
        await self._send(self._turn.interrupted())
        await self._conversation.interrupt()
        self._cut()

    async def _watch(self) -> None:
        """Set the watches that wait for a video."""
        due, self._due = self._due, []
        for watch in due:
            await self._conversation.act(watch)

    # --- what the conversation tells ----------------------------------------------------------

    async def _tell(self, event: told.ServerEvent) -> None:
        """Pass on what the client of this wire is told of it."""
        match event:
            case told.SessionCreated():
                await self._send([server.SetupComplete()])
                return
            case told.Failure():
                self._close(*closing_of_failure(dict(event.error)))
                return
            case told.WatchFailed() if not self._setup.extended:
                self._close(*closing_of_failure(dict(event.error)))
                return
            case told.WatchFired() if event.active and self._setup.proactive:
                self._news.append(_sentence(event.condition))
        try:
            messages = self._turn.tell(event)
        except TurnFailedError as failure:
            messages = self._failed(failure.error)
        await self._send(messages)
        self._cut()
        self._changed.set()

    def _failed(self, error: dict[str, Any]) -> list[server.ServerMessage]:
        """No answer comes. A client that knows us is told why, and stays."""
        if error.get("code") == "no_question":
            return [server.TurnComplete(reason="NEED_MORE_INPUT")]
        if self._setup.extended:
            return [server.Extension(kind="error", fields=error), server.TurnComplete()]
        self._close(*closing_of_failure(error))
        return []

    def _cut(self) -> None:
        """Keep of an answer what was heard of it."""
        cut, self._turn.cut = self._turn.cut, None
        if cut is not None:
            truncate = wish.ItemTruncate(
                item_id=cut.item_id, content_index=0, audio_end_ms=cut.heard_ms
            )
            self._spawn(partial(self._truncate, truncate), "truncate")

    async def _truncate(self, truncate: wish.ItemTruncate) -> None:
        with contextlib.suppress(WireError, ConnectionError):
            await self._conversation.act(truncate)

    async def _keep_pace(self) -> None:
        """End turns when they have been played, and tell news when nobody speaks."""
        with contextlib.suppress(ConnectionError):
            while True:
                self._changed.clear()
                left_s = self._turn.left_s
                if left_s is None and self._news and self._turn.idle:
                    await self._conversation.tell(self._news.popleft())
                elif left_s == 0:
                    await self._send(self._turn.played())
                else:
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(left_s):
                            await self._changed.wait()

    # --- the connection -----------------------------------------------------------------------

    def _resumption(self) -> list[server.ServerMessage]:
        if self._setup.handle is None:
            return []
        history = self._conversation.history
        handle = self._handles.make(self._caller, self._conversation.settings.stream, history)
        index = self._index if self._setup.transparent else None
        return [server.SessionResumptionUpdate(handle=handle, index=index)]

    async def _send(self, messages: list[server.ServerMessage]) -> None:
        """Those of one call stay together, whoever else sends."""
        if any(isinstance(message, server.TurnComplete) for message in messages):
            messages = [*messages, *self._resumption()]
        async with self._sending:
            for message in messages:
                await self._out(message.as_json())

    def _spawn(self, work: Callable[[], Awaitable[None]], what: str) -> None:
        task = spawn(self._guarded(work), name=f"gemini:{what}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _guarded(self, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except (WireError, SightlineError) as error:
            self._close(*closing_of(error))
        except Exception:
            log.exception("unhandled error", extra={"resource": "gemini"})
            self._close(INTERNAL_ERROR, b"internal error")


def _is_blank(item: Item) -> bool:
    """Whether a user's words are none."""
    blank = not any(letter.isalnum() for letter in item.words)
    return item.role == "user" and blank and not item.pictures


def _sentence(condition: str) -> str:
    words = condition.strip()
    end = "" if words.endswith((".", "!", "?")) else "."
    return f"{words[:1].upper()}{words[1:]}{end}"
