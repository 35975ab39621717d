"""`/v1/decisions`: many questions about a session or pictures, answered by probabilities."""

from typing import Any

from aiohttp import web

from services.common.bodies import read_text
from services.gateway.api.callers import Callers
from services.gateway.api.completions.chat_request import SCHEME
from services.gateway.api.completions.decision_request import (
    DecisionRequest,
    decision_request_of,
)
from services.gateway.api.completions.errors import ParameterError
from services.gateway.api.completions.pictures import MAX_BODY_BYTES, Pictures
from services.gateway.api.event_stream import while_there
from services.gateway.api.messages import place_of_request
from services.gateway.api.operations import operation
from services.gateway.auth.caller import Caller, Permission
from services.gateway.config import GatewayConfig
from services.gateway.sessions.sessions import Sessions
from services.gateway.viewers.viewers import Viewers
from sightline.v1 import gateway_pb2

_ANY: dict[str, Any] = {"type": "object"}
DECISIONS: dict[str, Any] = {
    "type": "object",
    "required": ["model", "input", "questions"],
    "properties": {
        "model": {"type": "string", "description": f"a model, or {SCHEME}<session>"},
        "input": {
            "anyOf": [{"type": "string"}, {"type": "array", "items": _ANY}],
            "description": f"{SCHEME}<session>, or messages with pictures",
        },
        "questions": {"type": "array", "items": _ANY, "minItems": 1, "maxItems": 400},
    },
}


class DecisionsApi:
    """Decisions in the words of OpenAI's."""

    def __init__(
        self, config: GatewayConfig, sessions: Sessions, viewers: Viewers, callers: Callers
    ) -> None:
        self._sessions = sessions
        self._pictures = Pictures(config, sessions)
        self._decisions = viewers.decisions
        self._callers = callers
        self._trusted = config.trusted()

    @operation(
        "POST",
        "/v1/decisions",
        "openai",
        "Decide as OpenAI's clients ask for it",
        about=f"The input is `{SCHEME}<session>`, or pictures as `input_image` parts.",
        takes=DECISIONS,
        gives=_ANY,
        refusals=(400, 401, 403, 404, 409, 429, 503),
    )
    async def decide(self, request: web.Request) -> web.Response:
        caller = await self._callers.of_request(request, Permission.ASK)
        caller.check(Permission.ASK)
        asked = decision_request_of(await read_text(request, MAX_BODY_BYTES))
        if asked.session and self._callers.case_by_case:
            path = self._sessions.name_of(asked.session)
            caller = await self._callers.of_request(request, Permission.ASK, path=path)
        place = place_of_request(request, self._trusted)
        decided = await while_there(request, self._decided(asked, caller, place))
        answers = zip(asked.questions, decided.decisions, strict=True)
        return web.json_response(
            {
                "answers": [question.answer(decision) for question, decision in answers],
                "model": asked.model,
                "usage": {
                    "input_tokens": decided.prompt_tokens,
                    "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
                    "output_tokens": 0,
                    "output_tokens_details": {"reasoning_tokens": 0},
                    "total_tokens": decided.prompt_tokens,
                },
                "sightline": {
                    "first_capture_ns": str(decided.first_capture_ns),
                    "last_capture_ns": str(decided.last_capture_ns),
                    "frames_seen": decided.frames_seen,
                    "total_ms": decided.total_ms,
                    "unfamiliar_picture": decided.unfamiliar_picture,
                    "strangeness": decided.strangeness,
                },
            }
        )

    async def _decided(
        self, asked: DecisionRequest, caller: Caller, place: str
    ) -> gateway_pb2.DecideResponse:
        wanted = asked.request
        if asked.session and asked.pictures:
            raise ParameterError("input", "is a session or pictures, not both")
        if asked.session:
            session = await self._sessions.locate(asked.session, caller)
            self._decisions.admit(wanted, session, caller)
            return await self._decisions.decide(wanted, session, place)
        if asked.pictures:
            self._decisions.admit(wanted, None, caller)
            async with self._pictures.seen(asked.pictures, asked.model, caller) as shown:
                return await self._decisions.decide(wanted, shown, place)
        raise ParameterError("input", f"say what to look at: {SCHEME}<session>, or pictures")
