"""`/v1beta/models` and `generateContent`: Google's clients ask about sessions and pictures, as
OpenAI's do by chat completions."""

import json
import secrets
from typing import Any

from aiohttp import web

from services.common.bodies import read_text
from services.gateway.api.callers import Callers
from services.gateway.api.completions.chat import ChatApi
from services.gateway.api.completions.chat_request import SCHEME, ChatRequest, chat_request_of
from services.gateway.api.completions.pictures import MAX_BODY_BYTES
from services.gateway.api.gemini.candidates import Candidates
from services.gateway.api.gemini.contents import chat_body
from services.gateway.api.gemini.keys import key_of
from services.gateway.api.operations import JSON, SSE, Parameter, operation
from services.gateway.api.realtime.fields import WireError, object_of
from services.gateway.auth.caller import Permission
from sightline.errors import InvalidArgumentError, NotFoundError
from sightline.reasons import Reason

METHODS = ("generateContent", "streamGenerateContent", "bidiGenerateContent")
_ANY: dict[str, Any] = {"type": "object"}
_CONTENTS: dict[str, Any] = {
    "type": "object",
    "required": ["contents"],
    "properties": {"contents": {"type": "array", "items": _ANY, "minItems": 1}},
}
_REFUSALS = (400, 401, 403, 404, 409, 429, 503)
_KEY = Parameter(
    name="key", about="A token, for clients that have no other place for it than the address"
)
_ALT = Parameter(
    name="alt", about="sse: server-sent events", schema={"type": "string", "enum": ["sse", "json"]}
)


class GenerateApi:
    """Questions in the words of Gemini's API. Nothing of them is kept: clients keep it."""

    def __init__(self, chat: ChatApi, callers: Callers) -> None:
        self._chat = chat
        self._callers = callers

    @operation(
        "GET",
        "/v1beta/models",
        "gemini",
        "The models, and the sessions as models",
        about=f"A session is `models/{SCHEME}<name>`, for clients that can choose nothing but a "
        "model.",
        gives=_ANY,
        parameters=(_KEY,),
        refusals=(401, 403, 503),
    )
    async def models(self, request: web.Request) -> web.Response:
        listed = await self._chat.listed(request, key=key_of(request))
        return web.json_response({"models": [_model(each["id"]) for each in listed]})

    @operation(
        "GET",
        "/v1beta/models/{model:.+}",
        "gemini",
        "One of them",
        gives=_ANY,
        parameters=(_KEY,),
        refusals=(401, 403, 404, 503),
    )
    async def model(self, request: web.Request) -> web.Response:
        name = request.match_info["model"]
        for each in await self._chat.listed(request, key=key_of(request)):
            if each["id"] == name:
                return web.json_response(_model(name))
        raise NotFoundError("no such model", reason=Reason.MODEL_NOT_FOUND)

    @operation(
        "POST",
        "/v1beta/models/{model:.+}:generateContent",
        "gemini",
        "Ask as Google's clients do",
        about=f'A live session is the part `{{"fileData": {{"fileUri": "{SCHEME}<session>"}}}}` '
        "of a content, or that as the model. Pictures are `inlineData`.",
        takes=_CONTENTS,
        gives=_ANY,
        parameters=(_KEY,),
        refusals=_REFUSALS,
    )
    async def generate(self, request: web.Request) -> web.StreamResponse:
        return await self._reply(request, stream=False)

    @operation(
        "POST",
        "/v1beta/models/{model:.+}:streamGenerateContent",
        "gemini",
        "The same, as its words come",
        about="With `alt=sse` as server-sent events; else as a list, when all of it is said.",
        takes=_CONTENTS,
        gives={"type": "array", "items": _ANY},
        kinds=(JSON, SSE),
        parameters=(_ALT, _KEY),
        refusals=_REFUSALS,
    )
    async def stream(self, request: web.Request) -> web.StreamResponse:
        if request.query.get("alt") == "sse":
            return await self._reply(request, stream=True)
        reply = await self._reply(request, stream=False)
        assert isinstance(reply, web.Response)
        reply.text = f"[{reply.text}]"
        return reply

    # Newer ones ask there; its list of models is OpenAI's.

    @operation(
        "POST",
        "/v1/models/{model:.+}:generateContent",
        "gemini",
        "The same for newer clients",
        takes=_CONTENTS,
        gives=_ANY,
        parameters=(_KEY,),
        refusals=_REFUSALS,
    )
    async def generate_v1(self, request: web.Request) -> web.StreamResponse:
        return await self.generate(request)

    @operation(
        "POST",
        "/v1/models/{model:.+}:streamGenerateContent",
        "gemini",
        "The same for newer clients, as its words come",
        takes=_CONTENTS,
        gives={"type": "array", "items": _ANY},
        kinds=(JSON, SSE),
        parameters=(_ALT, _KEY),
        refusals=_REFUSALS,
    )
    async def stream_v1(self, request: web.Request) -> web.StreamResponse:
        return await self.stream(request)

    async def _reply(self, request: web.Request, *, stream: bool) -> web.StreamResponse:
        key = key_of(request)
        caller = await self._callers.of_request(request, Permission.ASK, key=key)
        caller.check(Permission.ASK)
        model = request.match_info["model"]
        asked = request_of(model, await read_text(request, MAX_BODY_BYTES), stream=stream)
        reply = Candidates(secrets.token_hex(12), model)
        return await self._chat.reply(request, asked, reply, caller, key=key)


def request_of(model: str, text: bytes, *, stream: bool) -> ChatRequest:
    """Raises InvalidArgumentError."""
    try:
        fields = object_of(text.decode(errors="replace"))
        body = chat_body(model, fields, stream=stream)
    except WireError as error:
        raise InvalidArgumentError(error.message) from None
    return chat_request_of(json.dumps(body).encode())


def _model(name: str) -> dict[str, Any]:
    return {
        "name": f"models/{name}",
        "displayName": name,
        "supportedGenerationMethods": list(METHODS),
    }
