"""What the HTTP interface offers, declared where it is handled: routes and OpenAPI come of it."""

import re
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

from aiohttp import web
from google.protobuf.message import Message

Handler = TypeVar("Handler", bound=Callable[..., Awaitable[web.StreamResponse]])
Shape = type[Message] | dict[str, Any] | None  # a message of the contract, or a JSON Schema

JSON = "application/json"
SSE = "text/event-stream"
_MARK = "__operation__"


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """A parameter of the query or, by `where`, a header."""

    name: str
    about: str
    schema: dict[str, Any] = field(default_factory=lambda: {"type": "string"})
    where: str = "query"


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One method of one path. `takes` and `gives` are the bodies; a `gives` of None is no content
    or, where `kinds` says so, something that is no JSON. kinds: content types of the reply;
    takes_kinds: of the request.
    """

    method: str
    path: str
    tag: str
    summary: str
    about: str = ""
    takes: Shape = None
    takes_kinds: tuple[str, ...] = (JSON,)
    gives: Shape = None
    status: int = 200
    kinds: tuple[str, ...] = (JSON,)
    parameters: tuple[Parameter, ...] = ()
    refusals: tuple[int, ...] = (400, 401, 403, 404, 429, 503)
    also: tuple[int, ...] = ()  # other statuses that are no refusal, without a body
    anonymous: bool = False

    @property
    def template(self) -> str:
        """The path without the patterns of its parameters."""
        return re.sub(r"{(\w+):[^}]+}", r"{\1}", self.path)


def operation(
    method: str, path: str, tag: str, summary: str, **more: Any
) -> Callable[[Handler], Handler]:
    """Declares a handler: `Operation`'s fields."""
    declared = Operation(method=method, path=path, tag=tag, summary=summary, **more)

    def mark(handler: Handler) -> Handler:
        setattr(handler, _MARK, declared)
        return handler

    return mark


def operations_of(api: object) -> Iterator[tuple[Operation, Any]]:
    """The declared handlers of an object with their declarations, in the order of its source."""
    for name, member in vars(type(api)).items():
        declared = getattr(member, _MARK, None)
        if declared is not None:
            yield declared, getattr(api, name)


def add_operations(app: web.Application, *apis: object) -> list[Operation]:
    """Register what the objects declare, before the application starts. Their operations."""
    found = []
    for api in apis:
        for declared, handler in operations_of(api):
            app.router.add_route(declared.method, declared.path, handler)
            if declared.method == "GET" and JSON in declared.kinds:
                app.router.add_route("HEAD", declared.path, handler)
            found.append(declared)
    return found
