"""One Realtime conversation: acts on what its client says, and says what happens.

It knows no sockets: events come as text, and leave as JSON objects.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from services.common.checks import MAX_ANSWER_TOKENS
from services.common.tasks import cancel_and_wait, spawn
from services.gateway.api.realtime import client_events as client
from services.gateway.api.realtime import server_events as server
from services.gateway.api.realtime.attachment import Attachment
from services.gateway.api.realtime.fields import WireError, object_of
from services.gateway.api.realtime.history import History
from services.gateway.api.realtime.items import new_id
from services.gateway.api.realtime.response import Response
from services.gateway.api.realtime.settings import Settings
from services.gateway.api.speaker import Speaker
from services.gateway.auth.caller import Caller
from services.gateway.sessions.sessions import Sessions
from services.gateway.viewers.viewers import Viewers
from sightline.errors import (
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    SightlineError,
)
from sightline.v1 import gateway_pb2

_SECOND_NS = 1_000_000_000
VOICES_PATIENCE_S = 1.0
MAX_RESPONSES = 8  # at once, with those aside of the conversation
CANCELLED = gateway_pb2.AnswerDone(finish_reason=gateway_pb2.FINISH_REASON_CANCELLED)
_CLIENTS_FAULT = (InvalidArgumentError, NotFoundError, FailedPreconditionError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Visitor:
    """Whoever is at the other end. `authorise` knows them again for a session of this name, and
    raises where they may not view it."""

    caller: Caller
    place: str
    authorise: Callable[[str], Awaitable[Caller]]
    send: Callable[[dict[str, Any]], Awaitable[Any]]
    hang_up: Callable[[str], None]  # for a reason


class Conversation:
    """A conversation of one connection. One event loop; one coroutine calls `take`."""

    def __init__(
        self,
        sessions: Sessions,
        viewers: Viewers,
        visitor: Visitor,
        speaker: Speaker,
        *,
        model: str = "",
    ) -> None:
        """model: what the client calls it."""
        self.id = new_id("sess")
        self._sessions = sessions
        self._viewers = viewers
        self._visitor = visitor
        self._speaker = speaker
        self._voices = gateway_pb2.VoicesResponse()  # as far as they are known
        self._model = model
        self._settings = Settings()
        self._history = History()
        self._attachment: Attachment | None = None
        self._responses: dict[str, Response] = {}
        self._audio_ms: dict[str, int] = {}  # of what was spoken, by item
        self._tasks: set[asyncio.Task[Any]] = set()
        self._sending = asyncio.Lock()

    async def open(self, settings: Settings) -> None:
        """Greet the client. Raises what attaching to the session of `settings` may."""
        await self._adopt(settings)
        await self._emit(server.SessionCreated(session=self._session_json()))

    async def take(self, text: str) -> None:
        """Act on one event; what is wrong with it is told."""
        event_id = None
        try:
            fields = object_of(text)
            event_id = client.event_id_of(fields)
            await self._act(client.event_of(fields))
        except (WireError, SightlineError) as error:
            await self._fail(_json_of(error, event_id))

    async def refuse(self, error: SightlineError) -> None:
        """Say why there is no conversation."""
        await self._fail(_json_of(error))

    async def aclose(self) -> None:
        """The client has left, which may cancel whoever calls."""
        if self._attachment is not None:
            self._attachment.leave()
        await cancel_and_wait(*self._tasks)
        if self._attachment is not None:
            await self._attachment.aclose()

    # --- what the client says -----------------------------------------------------------------

    async def _act(self, event: client.ClientEvent) -> None:
        match event:
            case client.SessionUpdate():
                await self._adopt(self._settings.updated(event.wishes))
                await self._emit(server.SessionUpdated(session=self._session_json()))
            case client.ItemCreate():
                await self._add_item(event)
            case client.ItemRetrieve():
                await self._emit(server.ItemRetrieved(item=self._history.get(event.item_id)))
            case client.ItemDelete():
                self._history.delete(event.item_id)
                await self._emit(server.ItemDeleted(item_id=event.item_id))
            case client.ItemTruncate():
                await self._truncate(event)
            case client.ResponseCreate():
                await self._respond(event)
            case client.ResponseCancel():
                await self._cancel(event)
            case client.WatchCreate():
                await self._watch(event)
            case client.WatchDelete():
                self._attached().unwatch(event.watch_id)
                await self._emit(server.WatchDeleted(watch_id=event.watch_id))
            case client.AudioAppend() | client.AudioClear():
                await self._sound(event)
            case client.AudioCommit():
                raise WireError(
                    "this server does not understand speech", code="input_audio_not_supported"
                )

    async def _adopt(self, settings: Settings) -> None:
        """Live by other settings from here on; by none of them where their session is not there."""
        if settings.stream and settings.stream != self._settings.stream:
            await self._attach(settings.stream)
        self._settings = settings
        if settings.voice:
            await self._learn_voices()

    async def _attach(self, stream: str) -> None:
        """Talk about this session instead of the one before. Raises NotFoundError."""
        caller = await self._visitor.authorise(stream)
        session = await self._sessions.locate(stream, caller)
        before = self._attachment
        if before is not None and before.session is session:
            return
        self._attachment = Attachment(
            self._viewers,
            session,
            caller,
            place=self._visitor.place,
            conversation="" if before is None else before.conversation,
            hear=self._hear,
            lost=lambda: self._visitor.hang_up("the session is not served any more"),
        )
        if before is not None:
            await before.aclose()
            for response in self._ended():
                error = {"type": "invalid_request_error", "code": "session_changed"}
                await self._emit(*response.failed(error | {"message": "the session was changed"}))

    async def _add_item(self, event: client.ItemCreate) -> None:
        item = event.item
        if item.pictures:
            raise WireError("pictures are not taken here", code="input_image_not_supported")
        item = item.kept()
        before = self._history.add(item, event.after)
        await self._emit(
            server.ItemAdded(previous_item_id=before, item=item),
            server.ItemDone(previous_item_id=before, item=item),
        )

    async def _truncate(self, event: client.ItemTruncate) -> None:
        whole_ms = self._audio_ms.get(event.item_id, 0)
        share = event.audio_end_ms / whole_ms if whole_ms else 1.0
        self._history.truncate(event.item_id, event.content_index, share)
        await self._emit(
            server.ItemTruncated(
                item_id=event.item_id,
                content_index=event.content_index,
                audio_end_ms=event.audio_end_ms,
            )
        )

    async def _sound(self, event: client.AudioAppend | client.AudioClear) -> None:
        """Sound goes nowhere where nobody understands it; `turn_detection: null` says so."""
        if isinstance(event, client.AudioClear):
            await self._emit(server.AudioCleared())

    # --- responses ----------------------------------------------------------------------------

    async def _respond(self, event: client.ResponseCreate) -> None:
        wish = event.wish
        under_way = [each for each in self._responses.values() if not each.wish.aside]
        if under_way and not wish.aside:
            raise WireError(
                "Conversation already has an active response in progress: "
                f"{under_way[0].id}. Wait until the response is finished before creating a new one",
                code="conversation_already_has_active_response",
            )
        if len(self._responses) >= MAX_RESPONSES:
            raise WireError(f"at most {MAX_RESPONSES} responses at once", code="too_many_responses")
        response = Response(wish, self._settings, self._history, can_speak=self._speaker.configured)
        self._responses[response.id] = response
        await self._emit(*response.created())
        self._start(self._ask(response), response.id)

    async def _ask(self, response: Response) -> None:
        """Ask what is to be answered. What is in the way of it ends the response."""
        try:
            question = self._question(response)
            if response.voice:
                await self._learn_voices()
            attachment = self._attached()
            attachment.ask(question, speech=response.spoken, voice=self._voice(response.voice))
        except (WireError, SightlineError) as error:
            with contextlib.suppress(ConnectionError):
                await self._end_failed(response, _json_of(error))

    def _question(self, response: Response) -> gateway_pb2.Question:
        """Raises WireError where there is nothing to answer, or no way to."""
        wish = response.wish
        if self._settings.needs_tools if wish.needs_tools is None else wish.needs_tools:
            raise WireError(
                "this model calls no functions, so that it cannot be required to",
                code="tools_not_supported",
                param="tool_choice",
            )
        if wish.input is None:
            said = self._history.unanswered()
        else:
            said = "\n".join(item.words for item in wish.input if item.role == "user")
        # Clients put the session's own before the instructions of one response.
        asked = said or wish.instructions.removeprefix(self._settings.instructions)
        if not asked.strip():
            raise WireError("there is nothing to answer: say something first", code="no_question")
        question = gateway_pb2.Question(turn=response.id, text=asked.strip())
        question.max_tokens = min(response.max_tokens, MAX_ANSWER_TOKENS)
        if wish.temperature is not None:
            question.temperature = wish.temperature
        return question

    async def _cancel(self, event: client.ResponseCancel) -> None:
        """End a response at once: what the session still says of it is not passed on."""
        wanted = event.response_id
        found = [
            each
            for each in self._responses.values()
            if (each.id == wanted if wanted else not each.wish.aside)
        ]
        if not found:
            raise WireError(
                "Cancellation failed: no active response found", code="response_cancel_not_active"
            )
        for response in self._ended(*found):
            if self._attachment is not None:
                self._attachment.cancel(response.id)
            await self._emit(*response.done(CANCELLED))
            self._note_audio(response)

    async def _end_failed(self, response: Response, error: dict[str, Any]) -> None:
        for each in self._ended(response):
            await self._emit(*each.failed(error))

    def _ended(self, *some: Response) -> list[Response]:
        """These responses, or all, which are over now; those that have ended before are left
        out."""
        return [
            response
            for response in some or list(self._responses.values())
            if self._responses.pop(response.id, None) is not None
        ]

    # --- what the session says ----------------------------------------------------------------

    async def _hear(self, event: gateway_pb2.ServerEvent) -> None:
        """Pass on what the viewer is told."""
        match event.WhichOneof("event"):
            case "answer_started":
                started = event.answer_started
                response = self._responses.get(started.turn)
                if response is not None:
                    await self._emit(*response.begun())
            case "text_delta":
                if (response := self._responses.get(event.text_delta.turn)) is not None:
                    await self._emit(*response.said(event.text_delta.text))
            case "audio_chunk":
                if (response := self._responses.get(event.audio_chunk.turn)) is not None:
                    await self._emit(*response.heard(event.audio_chunk.audio))
            case "answer_done":
                if (response := self._responses.pop(event.answer_done.turn, None)) is not None:
                    await self._emit(*response.done(event.answer_done))
                    self._note_audio(response)
            case "watch_event":
                fired = event.watch_event
                await self._emit(
                    server.WatchFired(
                        watch_id=fired.watch,
                        condition=fired.condition,
                        active=fired.active,
                        score=fired.score,
                        captured_at=fired.capture_ns / _SECOND_NS,
                    )
                )
            case "error":
                await self._hear_error(event.error)
            case "go_away":
                self._visitor.hang_up(event.go_away.reason)

    async def _hear_error(self, error: gateway_pb2.ErrorEvent) -> None:
        told = server.error_json(
            error.message, code=error.reason.lower(), kind=_kind_of(error.code)
        )
        if error.watch:
            await self._emit(server.WatchFailed(watch_id=error.watch, error=told))
        elif error.turn:
            if (response := self._responses.get(error.turn)) is not None:
                await self._end_failed(response, told)
        else:
            await self._fail(told)

    async def _watch(self, event: client.WatchCreate) -> None:
        watch = gateway_pb2.Watch(
            watch=event.watch_id,
            condition=event.condition,
            debounce_s=event.debounce_s,
            cooldown_s=event.cooldown_s,
        )
        if event.interval_s is not None:
            watch.interval_s = event.interval_s
        attachment = self._attached()
        await self._emit(server.WatchCreated(watch_id=event.watch_id, condition=event.condition))
        attachment.watch(watch)

    # --- the rest -----------------------------------------------------------------------------

    def _attached(self) -> Attachment:
        if self._attachment is None:
            raise WireError(
                "this conversation is about no video: name a session with ?session=… or in "
                "session.update, session.sightline.session",
                code="no_session",
                param="session.sightline.session",
            )
        return self._attachment

    def _voice(self, name: str) -> str:
        """A voice of ours for a name that may be OpenAI's; "" is the default."""
        return name if any(voice.id == name for voice in self._voices.voices) else ""

    async def _learn_voices(self) -> None:
        """Ask what there is to speak with, once."""
        if self._speaker.configured and not self._voices.voices:
            with contextlib.suppress(SightlineError, TimeoutError):
                async with asyncio.timeout(VOICES_PATIENCE_S):
                    self._voices = await self._speaker.voices()

    def _session_json(self) -> dict[str, Any]:
        """The session as it is: what the client has said, and what holds of it here."""
        settings = self._settings
        said = dict(settings.said)
        audio = {
            "input": {
                "transcription": None,
                "noise_reduction": None,
                **said.get("audio", {}).get("input", {}),
                "format": settings.input_format.as_json(),
                "turn_detection": None,  # nobody understands speech here
            },
            "output": {
                "speed": 1.0,
                **said.get("audio", {}).get("output", {}),
                "format": settings.output_format.as_json(),
                "voice": self._voice(settings.voice) or self._voices.default_voice or "default",
            },
        }
        about: dict[str, Any] = {"session": None, "conversation": None}
        model = said.get("model") or self._model
        if self._attachment is not None:
            session = self._attachment.session
            model = session.message().model
            about = {
                "session": session.id,
                "name": session.name,
                "conversation": self._attachment.conversation,
            }
        spoken = self._speaker.configured and settings.modality == "audio"
        return {
            "tools": [],
            "tool_choice": "auto",
            **said,
            "type": "realtime",
            "object": "realtime.session",
            "id": self.id,
            "model": model,
            "output_modalities": ["audio" if spoken else "text"],
            "instructions": settings.instructions,
            "max_output_tokens": settings.max_tokens or "inf",
            "audio": audio,
            "sightline": about,
        }

    def _note_audio(self, response: Response) -> None:
        """How long the answer takes to be heard, for clients who stop in the middle."""
        known = {item.id for item in self._history}
        kept = {item: ms for item, ms in self._audio_ms.items() if item in known}
        self._audio_ms = kept | response.audio_ms()

    def _start(self, coroutine: Coroutine[Any, Any, None], name: str) -> None:
        task = spawn(coroutine, name=f"realtime:{name}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _emit(self, *events: server.ServerEvent) -> None:
        async with self._sending:  # those that belong together stay together
            for event in events:
                await self._visitor.send(event.as_json(new_id("event")))

    async def _fail(self, error: dict[str, Any]) -> None:
        await self._emit(server.Failure(error=error))


def _json_of(error: WireError | SightlineError, event_id: str | None = None) -> dict[str, Any]:
    """An error as clients read it; one of the gateway's by its reason."""
    if isinstance(error, WireError):
        return server.error_json(
            error.message, code=error.code, param=error.param, event_id=event_id
        )
    return server.error_json(
        error.message,
        code=error.reason.lower(),
        kind=_kind_of(error.code.name),
        event_id=event_id,
    )


def _kind_of(code: str) -> str:
    known = (each.code.name for each in _CLIENTS_FAULT)
    return "invalid_request_error" if code in known else "server_error"
