"""The OpenAPI 3.1 document, written of what handlers declare, and the page that shows it."""

import re
from collections.abc import Iterable
from http import HTTPStatus
from pathlib import Path
from typing import Any

from aiohttp import web

from services.common.problems import PROBLEM
from services.gateway.api.completions.errors import PREFIX
from services.gateway.api.gemini import errors as gemini
from services.gateway.api.operations import JSON, Operation, operation
from services.gateway.api.schemas import Schemas
from sightline.reasons import Reason
from sightline.version import CONTRACT_VERSION

PAGE = Path(__file__).parent / "page" / "docs.html"
ABOUT = (
    "Live video, watched by a model that answers about it. Messages are those of the gRPC contract "
    "as protobuf JSON: what is at its default is left out, 64-bit numbers are strings. Errors are "
    "problems of RFC 9457 with a `reason` for programs. Streams are server-sent events."
)
EXAMPLES = {"session": "kitchen", "conversation": "tour-1"}  # of what stands in paths
_PROBLEM = {
    "type": "object",
    "required": ["type", "title", "status", "detail", "code", "message", "reason"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "code": {"type": "string", "description": "The name of the gRPC code."},
        "message": {"type": "string"},
        "reason": {
            "type": "string",
            "description": "Why, for programs; the code's name where there is none of its own: "
            + ", ".join(Reason),
        },
        "retry_after_s": {"type": "number"},
    },
}

_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code", "reason"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": "string"},
                "reason": {"type": "string", "description": "As of a problem."},
            },
        }
    },
}


class OpenApi:
    """`/openapi.json` and `/docs`. `describe` tells it the operations."""

    def __init__(self, sign_in: str = "") -> None:
        """sign_in: what callers must bring, "" or "token"."""
        self._sign_in = sign_in
        self._document: dict[str, Any] = {}

    def describe(self, operations: Iterable[Operation]) -> None:
        self._document = document(operations, self._sign_in)

    @operation(
        "GET", "/openapi.json", "server", "This document", gives={"type": "object"},
        refusals=(), anonymous=True,
    )  # fmt: skip
    async def show(self, request: web.Request) -> web.Response:
        return web.json_response(self._document)

    @operation(
        "GET", "/docs", "server", "A page that shows it", kinds=("text/html",),
        refusals=(), anonymous=True,
    )  # fmt: skip
    async def page(self, request: web.Request) -> web.FileResponse:
        return web.FileResponse(PAGE)


def document(operations: Iterable[Operation], sign_in: str = "") -> dict[str, Any]:
    """The document of these operations."""
    schemas = Schemas()
    paths: dict[str, Any] = {}
    tags: dict[str, None] = {}
    for each in operations:
        paths.setdefault(each.template, {})[each.method.lower()] = _described(each, schemas)
        tags[each.tag] = None
    shapes = {
        "Problem": _PROBLEM,
        "Error": _ERROR,
        "GeminiError": gemini.SCHEMA,
        **schemas.components,
    }
    components: dict[str, Any] = {"schemas": shapes}
    security: list[dict[str, list[str]]] = [{}]
    if sign_in:
        components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        security = [{"token": []}]
    return {
        "openapi": "3.1.0",
        "info": {"title": "Sightline", "version": CONTRACT_VERSION, "description": ABOUT},
        "servers": [{"url": "/"}],
        "tags": [{"name": name} for name in tags],
        "paths": paths,
        "components": components,
        "security": security,
    }


def _described(declared: Operation, schemas: Schemas) -> dict[str, Any]:
    found: dict[str, Any] = {
        "operationId": _id_of(declared),
        "tags": [declared.tag],
        "summary": declared.summary,
        "parameters": [
            {
                "name": name,
                "in": "path",
                "required": True,
                "schema": {"type": "string"},
                "example": EXAMPLES.get(name, "1"),
            }
            for name in re.findall(r"{(\w+)}", declared.template)
        ],
        "responses": _responses(declared, schemas),
    }
    if declared.about:
        found["description"] = declared.about
    found["parameters"] += [
        {"name": each.name, "in": each.where, "description": each.about, "schema": each.schema}
        for each in declared.parameters
    ]
    if declared.takes is not None:
        taken = {"schema": schemas.of(declared.takes)}
        content = dict.fromkeys(declared.takes_kinds, taken)
        found["requestBody"] = {"required": True, "content": content}
    if declared.anonymous:
        found["security"] = [{}]
    return found


def _responses(declared: Operation, schemas: Schemas) -> dict[str, Any]:
    done: dict[str, Any] = {"description": HTTPStatus(declared.status).phrase}
    if declared.status != 204:
        done["content"] = {kind: {} for kind in declared.kinds}
        if JSON in declared.kinds:
            done["content"][JSON] = {"schema": schemas.of(declared.gives)}
    responses = {str(declared.status): done}
    responses |= {str(each): {"description": HTTPStatus(each).phrase} for each in declared.also}
    kind, shape = PROBLEM, "Problem"
    if gemini.speaks_so(declared.path):
        kind, shape = JSON, "GeminiError"
    elif declared.path.startswith(PREFIX):
        kind, shape = JSON, "Error"
    refusal = {kind: {"schema": {"$ref": f"#/components/schemas/{shape}"}}}
    refusals = {*declared.refusals, *((413, 415, 504) if declared.takes is not None else ())}
    for status in sorted(refusals):
        responses[str(status)] = {
            "description": HTTPStatus(status).phrase,
            "content": refusal,
        }
    return responses


def _id_of(declared: Operation) -> str:
    """A name for generated clients: "get_api_sessions_session"."""
    path = re.sub(r"\W+", "_", declared.template).strip("_")
    return f"{declared.method.lower()}_{path}"
