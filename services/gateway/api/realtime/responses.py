"""The responses of one conversation: asked of its session, and told event by event."""

import asyncio
import contextlib
from collections.abc import Awaitable
from typing import Any, Protocol

from services.common.checks import MAX_ANSWER_TOKENS, MAX_CALLED
from services.common.tasks import cancel_and_wait, spawn
from services.gateway.api.realtime.attachment import Attachment
from services.gateway.api.realtime.fields import WireError
from services.gateway.api.realtime.history import (
    History,
    called_of,
    rounds_of,
    unanswered_of,
)
from services.gateway.api.realtime.line import Line, json_of
from services.gateway.api.realtime.response import Response
from services.gateway.api.realtime.server_events import ServerEvent
from services.gateway.api.realtime.settings import ResponseWish, Settings
from services.gateway.api.realtime.voices import Voices
from services.gateway.voice.loudspeaker import Loudspeaker
from sightline.errors import SightlineError
from sightline.v1 import dialogue_pb2, gateway_pb2

MAX_RESPONSES = 8  # at once, with those aside of the conversation
MAX_ROUNDS = 16  # of earlier ones that a model is given; it reads no more than it was trained to
GO_ON = "Go on with what came of that."  # where nobody asked for the calls
MAX_SPOKEN = 64  # items whose length is remembered


class Conversing(Protocol):
    """The conversation, as its responses need it."""

    @property
    def settings(self) -> Settings: ...
    @property
    def history(self) -> History: ...
    def attached(self) -> Attachment:
        """Raises WireError where there is no session."""
        ...

    def settled(self) -> Awaitable[None]:
        """What was said and shown is known. Raises WireError where it will not be."""
        ...


class Responses:
    """The responses under way, by their ids."""

    def __init__(
        self,
        conversation: Conversing,
        line: Line,
        voices: Voices,
        loudspeaker: Loudspeaker | None,
    ) -> None:
        self._conversation = conversation
        self._loudspeaker = loudspeaker
        self._line = line
        self._voices = voices
        self._under_way: dict[str, Response] = {}
        self._spoken: dict[str, int] = {}  # length of its speech in ms, by item
        self._tasks: set[asyncio.Task[Any]] = set()
        self._expected = ""  # id of the response that is answered ahead
        self._owed = False  # somebody spoke meanwhile, who was not to interrupt

    async def create(self, wish: ResponseWish) -> None:
        """Begin a response. Raises WireError."""
        if not wish.aside and (active := self._active()):
            raise WireError(
                "Conversation already has an active response in progress: "
                f"{active[0].id}. Wait until the response is finished before creating a new one",
                code="conversation_already_has_active_response",
            )
        if len(self._under_way) >= MAX_RESPONSES:
            raise WireError(f"at most {MAX_RESPONSES} responses at once", code="too_many_responses")
        self._owed = self._owed and wish.aside
        response, self._expected = self._response(wish, self._expected), ""
        self._under_way[response.id] = response
        await self._line.emit(*response.created())
        task = spawn(self._ask(response), name=f"realtime:{response.id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def answer(self) -> None:
        """Answer what was said, now or when the response under way is done."""
        if self._active():
            self._owed = True
        else:
            await self.create(ResponseWish())

    async def expect(self, text: str) -> None:
        """Begin to answer what somebody who may go on has said, and tell nobody; "": they do."""
        try:
            attachment = self._conversation.attached()
            if not text or self._active():
                attachment.expect_nothing()
                return
            response = self._response(ResponseWish(), self._expected)
            self._expected = response.id
            question = self._question(response, text)
            voice = await self._voices.known(response.voice)
            history = self._history(response.wish)
            attachment.ask(question, history, speech=response.spoken, voice=voice, ahead=True)
        except WireError:
            pass  # whoever asks is told

    async def tell(self, text: str) -> None:
        """Say this of one's own accord, and keep it as what an answer says. Speech that cannot be
        had is left out."""
        response = self._response(ResponseWish())
        self._under_way[response.id] = response
        said = [*response.created(), *response.begun(), *response.said(text)]
        await self._line.emit(*said)
        if response.spoken:
            with contextlib.suppress(SightlineError):
                async for chunk in self._voices.speak(text, response.voice):
                    if response.id not in self._under_way:
                        return
                    await self._line.emit(*response.heard(chunk))
        if self._under_way.pop(response.id, None) is not None:
            done = gateway_pb2.AnswerDone(finish_reason=gateway_pb2.FINISH_REASON_STOP)
            await self._end(response, response.done(done))

    async def cancel(self, response_id: str = "") -> None:
        """End a response at once: what the session still says of it is not passed on. Raises
        WireError."""
        found = [self._under_way.get(response_id)] if response_id else self._active()
        if not any(found):
            raise WireError(
                "Cancellation failed: no active response found", code="response_cancel_not_active"
            )
        cancelled = [each for each in found if each]
        if any(not each.wish.aside for each in cancelled):
            self._conversation.history.give_up()
        await self._cut_short(cancelled, "client_cancelled")

    async def interrupt(self) -> None:
        """Somebody speaks into what is being said."""
        await self._cut_short(self._active(), "turn_detected")

    async def lose(self, message: str) -> None:
        """Nobody answers those under way any more."""
        for response in list(self._under_way.values()):
            await self._fail(response, json_of(WireError(message, code="session_changed")))

    def truncate(self, item_id: str, content_index: int, audio_end_ms: int) -> None:
        """Keep of a spoken answer what was heard of it. Raises WireError."""
        whole_ms = self._spoken.get(item_id, 0)
        share = audio_end_ms / whole_ms if whole_ms else 1.0
        self._conversation.history.truncate(item_id, content_index, share)

    def leave(self) -> None:
        for task in self._tasks:
            task.cancel()

    async def aclose(self) -> None:
        await cancel_and_wait(*self._tasks)

    async def hear(self, event: gateway_pb2.ServerEvent) -> None:
        """Pass on what the session says of an answer."""
        match event.WhichOneof("event"):
            case "answer_started":
                if (response := self._under_way.get(event.answer_started.turn)) is not None:
                    await self._line.emit(*response.begun())
            case "text_delta":
                if (response := self._under_way.get(event.text_delta.turn)) is not None:
                    await self._line.emit(*response.said(event.text_delta.text))
            case "audio_chunk":
                audio = event.audio_chunk.audio
                if (response := self._under_way.get(event.audio_chunk.turn)) is not None:
                    if self._loudspeaker is not None and audio.sample_rate:
                        self._loudspeaker.say(audio.pcm, audio.sample_rate, audio.text)
                    await self._line.emit(*response.heard(audio))
            case "answer_done":
                done = event.answer_done
                if (response := self._under_way.pop(done.turn, None)) is not None:
                    await self._end(response, response.done(done))

    async def fail(self, turn: str, error: dict[str, Any]) -> None:
        """The session cannot answer."""
        if (response := self._under_way.get(turn)) is not None:
            await self._fail(response, error)

    # --- inside -------------------------------------------------------------------------------

    def _response(self, wish: ResponseWish, response_id: str = "") -> Response:
        return Response(
            wish,
            self._conversation.settings,
            self._conversation.history,
            can_speak=self._voices.configured,
            response_id=response_id,
        )

    def _active(self) -> list[Response]:
        return [each for each in self._under_way.values() if not each.wish.aside]

    async def _ask(self, response: Response) -> None:
        """Ask what is to be answered. What is in the way of it ends the response."""
        try:
            await self._conversation.settled()
            question = self._question(response)
            voice = await self._voices.known(response.voice)
            if response.id in self._under_way:
                attachment = self._conversation.attached()
                history = self._history(response.wish)
                attachment.ask(question, history, speech=response.spoken, voice=voice)
                attachment.expect_nothing()
        except (WireError, SightlineError) as error:
            with contextlib.suppress(ConnectionError):
                await self._fail(response, json_of(error))

    def _question(self, response: Response, coming: str = "") -> gateway_pb2.Question:
        """Raises WireError where there is nothing to answer, or no way to. coming: words that are
        not in the conversation yet."""
        wish, settings = response.wish, self._conversation.settings
        if wish.input is None:
            history = self._conversation.history
            said, called = history.unanswered(coming), history.called()
        else:
            said, called = unanswered_of(wish.input), called_of(wish.input)
        # Clients put the session's own before the instructions of one response.
        asked = said or wish.instructions.removeprefix(settings.instructions)
        asked = asked or (GO_ON if called else "")
        if not asked.strip():
            raise WireError("there is nothing to answer: say something first", code="no_question")
        question = gateway_pb2.Question(turn=response.id, text=asked.strip())
        question.instructions = (wish.instructions if said else "") or settings.instructions
        question.max_tokens = min(response.max_tokens, MAX_ANSWER_TOKENS)
        for sampling in (settings.sampling, wish.sampling):
            for name, value in sampling.said:
                setattr(question, name, value)
        question.stop.extend(wish.sampling.stop or settings.sampling.stop)
        question.tools.extend(
            gateway_pb2.Tool(
                name=each.name, description=each.description, parameters=each.parameters
            )
            for each in response.functions
        )
        question.tool_choice = wish.choice or settings.choice
        question.single_call = not settings.parallel
        question.called.extend(
            gateway_pb2.ToolCall(
                id=call.id, name=call.name, arguments=call.arguments, output=call.output
            )
            for call in called[-MAX_CALLED:]
        )
        return question

    def _history(self, wish: ResponseWish) -> list[dialogue_pb2.Round]:
        """What was said before the question, as far as a model may read it."""
        given = wish.input
        rounds = self._conversation.history.rounds() if given is None else rounds_of(given)
        return [
            dialogue_pb2.Round(question=question, answer=answer)
            for question, answer in rounds[-MAX_ROUNDS:]
        ]

    async def _cut_short(self, responses: list[Response], reason: str) -> None:
        for response in responses:
            if self._under_way.pop(response.id, None) is None:
                continue
            with contextlib.suppress(WireError):
                self._conversation.attached().cancel(response.id)
            await self._end(response, response.cut_short(reason))

    async def _fail(self, response: Response, error: dict[str, Any]) -> None:
        if self._under_way.pop(response.id, None) is not None:
            await self._end(response, response.failed(error))

    async def _end(self, response: Response, told: list[ServerEvent]) -> None:
        """Tell its end. Whoever is told may cut it to what was heard, at once."""
        self._spoken |= response.audio_ms()
        for oldest in list(self._spoken)[:-MAX_SPOKEN]:
            del self._spoken[oldest]
        await self._line.emit(*told)
        if self._owed and not self._active():
            self._owed = False
            await self.create(ResponseWish())
