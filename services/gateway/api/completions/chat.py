"""`/v1/chat/completions` and `/v1/models`: OpenAI's clients ask about sessions and pictures."""

import contextlib
import secrets
import time
from collections.abc import AsyncIterator, Iterable
from typing import Any, Protocol

from aiohttp import web

from services.common.bodies import read_text
from services.gateway.api.callers import Callers
from services.gateway.api.completions.answer_format import (
    AnswerFormat,
    UnmetError,
    refused,
    unmet_refusal,
)
from services.gateway.api.completions.chat_reply import ChatReply
from services.gateway.api.completions.chat_request import (
    SCHEME,
    ChatRequest,
    chat_request_of,
)
from services.gateway.api.completions.errors import ParameterError, told_in
from services.gateway.api.completions.pictures import MAX_BODY_BYTES, Pictures
from services.gateway.api.event_stream import EventStream, while_there
from services.gateway.api.info import ServerInfo
from services.gateway.api.messages import place_of_request
from services.gateway.api.operations import JSON, SSE, operation
from services.gateway.auth.caller import Caller, Permission
from services.gateway.config import GatewayConfig
from services.gateway.sessions.remote_session import AnySession
from services.gateway.sessions.sessions import Sessions
from services.gateway.viewers.viewers import Viewers
from sightline.errors import NotFoundError, SightlineError, UnavailableError
from sightline.reasons import Reason
from sightline.v1 import gateway_pb2, inference_pb2

OWNER = "sightline"
_ANY: dict[str, Any] = {"type": "object"}
CHAT: dict[str, Any] = {
    "type": "object",
    "required": ["model", "messages"],
    "properties": {
        "model": {"type": "string", "description": f"a model, or {SCHEME}<session>"},
        "messages": {"type": "array", "items": _ANY, "minItems": 1},
        "stream": {"type": "boolean"},
    },
}


class ChatApi:
    """Questions in the words of chat completions. Nothing of them is kept: clients keep it."""

    def __init__(
        self,
        config: GatewayConfig,
        sessions: Sessions,
        viewers: Viewers,
        callers: Callers,
        info: ServerInfo,
    ) -> None:
        self._sessions = sessions
        self._pictures = Pictures(config, sessions)
        self._asks = viewers.asks
        self._callers = callers
        self._info = info
        self._trusted = config.trusted()

    @operation(
        "GET",
        "/v1/models",
        "openai",
        "The models, and the sessions as models",
        about=f"A session is `{SCHEME}<name>`, for clients that can choose nothing but a model.",
        gives=_ANY,
        refusals=(401, 403, 503),
    )
    async def models(self, request: web.Request) -> web.Response:
        data = await self.listed(request)
        return web.json_response({"object": "list", "data": data})

    @operation(
        "GET",
        "/v1/models/{model}",
        "openai",
        "One of them",
        gives=_ANY,
        refusals=(401, 403, 404, 503),
    )
    async def model(self, request: web.Request) -> web.Response:
        name = request.match_info["model"]
        for each in await self.listed(request):
            if each["id"] == name:
                return web.json_response(each)
        raise NotFoundError("no such model", reason=Reason.MODEL_NOT_FOUND)

    @operation(
        "POST",
        "/v1/chat/completions",
        "openai",
        "Ask as OpenAI's clients do",
        about='A live session is the part `{"type": "video_url", "video_url": {"url": '
        f'"{SCHEME}<session>"}}}}` of a message, or that as the model. Pictures are `image_url` '
        "parts with `data:` addresses.",
        takes=CHAT,
        gives=_ANY,
        kinds=(JSON, SSE),
        refusals=(400, 401, 403, 404, 409, 429, 503),
    )
    async def complete(self, request: web.Request) -> web.StreamResponse:
        caller = await self._callers.of_request(request, Permission.ASK)
        caller.check(Permission.ASK)
        asked = chat_request_of(await read_text(request, MAX_BODY_BYTES))
        reply = ChatReply(f"chatcmpl-{secrets.token_hex(12)}", int(time.time()), asked.model)
        return await self.reply(request, asked, reply, caller)

    async def reply(
        self,
        request: web.Request,
        asked: ChatRequest,
        reply: "Reply",
        caller: Caller,
        *,
        key: str = "",
    ) -> web.StreamResponse:
        """The reply to what is asked, whole or as it comes. key: as `Callers.of_request` has it."""
        if asked.session and self._callers.case_by_case:
            path = self._sessions.name_of(asked.session)
            caller = await self._callers.of_request(request, Permission.ASK, path=path, key=key)
        form = None if asked.schema is None else AnswerFormat(asked.schema)
        place = place_of_request(request, self._trusted)
        if asked.stream:
            return await self._stream(request, asked, form, reply, caller, place)

        async def whole() -> gateway_pb2.AnswerDone:
            async with self._session(asked, caller) as session:
                return await self._answer(asked, form, session, place)

        done = await while_there(request, whole())
        return web.json_response(reply.whole(done))

    async def listed(self, request: web.Request, *, key: str = "") -> list[dict[str, Any]]:
        """The models, and the sessions as models, that whoever asks may look at. key: as
        `Callers.of_request` has it."""
        caller = await self._callers.of_request(request, key=key)
        caller.check(Permission.VIEW)
        info = await self._info.message(caller)
        models = [_model(each.name, 0) for each in info.models]
        sessions = await self._sessions.listed(caller)
        names = [each.name for each in sessions]
        for each in sessions:
            name = each.name if names.count(each.name) == 1 else each.id
            models.append(_model(SCHEME + name, each.created_ns // 1_000_000_000))
        return models

    @contextlib.asynccontextmanager
    async def _session(self, asked: ChatRequest, caller: Caller) -> AsyncIterator[AnySession]:
        """The session that is meant, or one that is shown the pictures. Admits the question."""
        if asked.session and asked.pictures:
            raise ParameterError("messages", "are about a session or about pictures, not both")
        if asked.session:
            session = await self._sessions.locate(asked.session, caller)
            self._asks.admit(_ask_of(asked), session, caller)
            yield session
        elif asked.pictures:
            self._asks.admit(_ask_of(asked), None, caller)
            async with self._pictures.seen(asked.pictures, asked.model, caller) as session:
                yield session
        else:
            raise ParameterError(
                "messages",
                f"say what to look at: a video_url of {SCHEME}<session>, that as the model, or "
                "pictures as image_url",
            )

    async def _answer(
        self,
        asked: ChatRequest,
        form: AnswerFormat | None,
        session: AnySession,
        place: str,
        tell: "Telling | None" = None,
    ) -> gateway_pb2.AnswerDone:
        """The answer, in the form that was asked for. A model that is not held to that is asked
        once more where its answer does not fit, and `tell` hears of it when it does."""
        unmet, tokens = UnmetError(), 0
        for _ in range(2):
            wanted = gateway_pb2.AskRequest(history=asked.history)
            wanted.question.CopyFrom(asked.question)
            if form is not None:
                wanted.question.instructions += refused(unmet)
            done, held = await self._once(wanted, session, place, tell, free=form is None)
            tokens += done.answer_tokens
            if not (form is None or held or done.tool_calls):
                try:
                    done.text = form.checked(done.text)
                except UnmetError as error:
                    unmet = error
                    continue
                if tell is not None:
                    await tell.words(done.text)
            done.answer_tokens = tokens
            return done
        raise unmet_refusal(unmet)

    async def _once(
        self,
        wanted: gateway_pb2.AskRequest,
        session: AnySession,
        place: str,
        tell: "Telling | None",
        *,
        free: bool,
    ) -> tuple[gateway_pb2.AnswerDone, bool]:
        """One answer, and whether it was held to its form. free: it has none. What is held or free
        is told as it comes."""
        done, held = gateway_pb2.AnswerDone(), False
        events = self._asks.stream(wanted, session, place, keep=False)
        async with contextlib.aclosing(events):
            async for event in events:
                kind = event.WhichOneof("event")
                if kind == "started":
                    held = event.started.formed
                    if tell is not None:
                        tell.anew()
                if tell is not None and (free or held):
                    await tell.hear(event)
                if kind == "done":
                    done.CopyFrom(event.done)
        return done, held

    async def _stream(
        self,
        request: web.Request,
        asked: ChatRequest,
        form: AnswerFormat | None,
        reply: "Reply",
        caller: Caller,
        place: str,
    ) -> web.StreamResponse:
        async with EventStream(request) as stream:
            tell = Telling(stream, reply)

            async def relay() -> None:
                async with self._session(asked, caller) as session:
                    done = await self._answer(asked, form, session, place, tell)
                await tell.end(done)
                for last in reply.ended(done, include_usage=asked.include_usage):
                    await stream.send(last)

            async with told_in(stream, reply.failed):
                await while_there(request, relay())
        return stream.response


class Reply(Protocol):
    """How clients of one protocol are told of an answer: whole, or in chunks."""

    def whole(self, done: gateway_pb2.AnswerDone) -> dict[str, Any]: ...
    def first(self) -> dict[str, Any]: ...
    def delta(self, text: str) -> dict[str, Any]: ...
    def calls(self, done: gateway_pb2.AnswerDone) -> Iterable[dict[str, Any]]: ...
    def last(self, done: gateway_pb2.AnswerDone) -> dict[str, Any]: ...
    def ended(
        self, done: gateway_pb2.AnswerDone, *, include_usage: bool
    ) -> Iterable[dict[str, Any] | str]:
        """What comes after the last chunk."""
        ...

    def failed(self, error: SightlineError) -> dict[str, Any]:
        """What comes instead of more."""
        ...


class Telling:
    """An answer's words, sent as they come. One that begins anew goes on where it was, as long as
    it says the same; these clients cannot be told to forget."""

    def __init__(self, stream: EventStream, reply: Reply) -> None:
        self._stream = stream
        self._reply = reply
        self._sent = self._said = ""

    def anew(self) -> None:
        """The answer begins, or begins anew."""
        self._said = ""

    async def hear(self, event: inference_pb2.AnswerEvent) -> None:
        """Raises UnavailableError where an answer began anew and says something else."""
        match event.WhichOneof("event"):
            case "started":
                await self._begin()
            case "text_delta":
                await self.words(event.text_delta.text)

    async def words(self, text: str) -> None:
        """More words. Raises UnavailableError as `hear` does."""
        self._said += text
        if not (self._said.startswith(self._sent) or self._sent.startswith(self._said)):
            raise UnavailableError("the answer broke off and was begun anew")
        await self._begin()
        if len(self._said) > len(self._sent):
            await self._stream.send(self._reply.delta(self._said[len(self._sent) :]))
            self._sent = self._said

    async def end(self, done: gateway_pb2.AnswerDone) -> None:
        """What is called, and why the answer ends."""
        await self._begin()
        for delta in self._reply.calls(done):
            await self._stream.send(delta)
        await self._stream.send(self._reply.last(done))

    async def _begin(self) -> None:
        if not self._stream.begun:
            await self._stream.send(self._reply.first())


def _ask_of(asked: ChatRequest) -> gateway_pb2.AskRequest:
    return gateway_pb2.AskRequest(question=asked.question, history=asked.history)


def _model(name: str, created_s: int) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": created_s, "owned_by": OWNER}
