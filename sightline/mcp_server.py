"""`sightline mcp`: a server of the Model Context Protocol, by which assistants look at live video.

It needs the official SDK: `pip install "sightline-live[mcp]"`. By stdio, or by streamable HTTP for
several assistants; whoever reaches that port may do all that this program's token allows.
"""

import argparse
import asyncio
import contextlib
import dataclasses
import functools
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, TypeVar

from sightline import aio
from sightline.errors import InvalidArgumentError, NotFoundError, SightlineError
from sightline.mcp_rules import MOST_EVENTS, RuleTools
from sightline.version import __version__

__all__ = ["Tools", "serve"]

T = TypeVar("T")

MOST_S = 300.0  # that a call may wait for something to happen
MOST_PAST_S = 366 * 86400.0
INSTRUCTIONS = (
    "Live video streams, watched by a vision model. `list_sessions` tells which there are; `ask` "
    "asks one about what it sees now, `decide` scores statements about it, `watch` waits until a "
    "condition begins or ceases to hold, `snapshot` shows the newest picture. Where a stream is "
    "remembered, `ask` also answers about earlier times, `memory` finds moments by their words and "
    "`memory_picture` shows one; `transcript` reads what was said in it. `rules` are watched for "
    "when nobody looks: `create_rule` makes one, `rule_events` tells what they found. Ask briefly: "
    "`describe_server` tells what the models can be asked."
)


async def serve(client: aio.Client, options: argparse.Namespace) -> int:
    """Serve until the assistant leaves, or for ever by HTTP."""
    try:
        from mcp.server import MCPServer
    except ImportError:
        raise ImportError('this needs the SDK: pip install "sightline-live[mcp]"') from None
    server = MCPServer("sightline", version=__version__, instructions=INSTRUCTIONS)
    server.settings.log_level = "WARNING"  # standard output is the protocol's
    for tool in (*Tools(client).all(), *RuleTools(client).all()):
        server.add_tool(told(tool))
    if options.http is None:
        await server.run_stdio_async()
    else:
        await server.run_streamable_http_async(host=options.host, port=options.http)
    return 0


class Tools:
    """What an assistant may do, each with a description for it."""

    def __init__(self, client: aio.Client) -> None:
        self._client = client

    def all(self) -> list[Callable[..., Coroutine[Any, Any, Any]]]:
        return [
            self.list_sessions,
            self.describe_server,
            self.ask,
            self.decide,
            self.watch,
            self.events,
            self.snapshot,
            self.memory,
            self.memory_picture,
            self.transcript,
            self.conversation,
        ]

    async def list_sessions(self) -> list[dict[str, Any]]:
        """The video streams that can be asked about: name, id, state, source, and when they last
        showed something."""
        return [
            {
                "name": info.name,
                "id": info.id,
                "state": str(info.state),
                "source": info.source or info.source_kind,
                "model": info.model,
                "last_capture_ns": info.stats.last_capture_ns,
                "labels": dict(info.labels),
            }
            for info in await self._client.sessions()
        ]

    async def describe_server(self) -> list[dict[str, Any]]:
        """The models and what each can and cannot be asked, with questions and conditions to
        try."""
        info = await self._client.info()
        return [
            {"name": model.name, "ready": model.ready, **dataclasses.asdict(model.card)}
            for model in info.models
        ]

    async def ask(self, session: str, question: str, conversation: str = "") -> dict[str, Any]:
        """Ask a stream, by its name or id, about what it shows now or showed earlier ("ten minutes
        ago", "when did ... show"). `conversation`: of an earlier answer, to go on with. `memory`:
        the moments that an answer about the past is made of; `unsure`: the model was not sure;
        `confidence`: how sure it was of its words; `answered_by`: the greater model that answered
        in its place, if one did."""
        async with self._session(session) as opened, opened.conversation(conversation) as talk:
            answer = await talk.ask(question).result()
        return {
            "answer": answer.text,
            "conversation": answer.conversation,
            "last_capture_ns": answer.last_capture_ns,
            "unsure": answer.unsure,
            "confidence": answer.confidence,
            "answered_by": answer.answered_by,
            "memory": [dataclasses.asdict(each) for each in answer.memory],
        }

    async def decide(
        self, session: str, statements: list[str], choices: list[str] | None = None
    ) -> list[dict[str, Any]]:
        """How likely each statement about a stream holds now, such as "a phone is there". With
        choices, which of them makes it hold: they stand in the place of {} in it."""
        async with self._session(session) as opened:
            decisions = await opened.decide(*statements, choices=choices or ())
        return [dataclasses.asdict(each) for each in decisions]

    async def watch(
        self, session: str, condition: str, for_s: float = 30.0, limit: int = 1
    ) -> list[dict[str, Any]]:
        """Wait until a condition begins (active) or ceases to hold on a stream, such as "a person
        is at the till": at most `for_s` seconds (300), until `limit` events have come."""
        return await self.events(session, [condition], for_s, limit)

    async def events(
        self, session: str, conditions: list[str], for_s: float = 30.0, limit: int = 20
    ) -> list[dict[str, Any]]:
        """What happens on a stream in the next `for_s` seconds (at most 300), of several conditions
        at once: an event whenever one begins or ceases to hold, at most `limit` of them."""
        if not 0 < for_s <= MOST_S:
            raise InvalidArgumentError(f"for_s is at most {MOST_S:g}")
        if not 0 < limit <= MOST_EVENTS:
            raise InvalidArgumentError(f"limit is at most {MOST_EVENTS}")
        found: list[dict[str, Any]] = []
        async with self._session(session) as opened, opened.conversation() as talk:

            async def follow(condition: str) -> None:
                async for event in talk.watch(condition, timeout_s=for_s):
                    found.append(dataclasses.asdict(event))
                    if len(found) >= limit:
                        return

            tasks = [asyncio.create_task(follow(each), name="mcp:watch") for each in conditions]
            try:
                waiting: set[asyncio.Task[None]] = set(tasks)
                while waiting and len(found) < limit:
                    done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                    for task in done:
                        task.result()
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
        return found[:limit]

    async def snapshot(self, session: str, width: int = 640) -> Any:
        """The newest picture of a stream."""
        from mcp.server.mcpserver import Image

        async with self._session(session) as opened:
            return Image(data=await opened.picture(width=width), format="jpeg")

    async def memory(
        self, session: str, words: str = "", last_s: float = 0.0, limit: int = 20
    ) -> list[dict[str, Any]]:
        """What is remembered of a stream beyond what its model sees, the newest first: moments with
        their times, a line about each and what was said. `words`: only those with all of them;
        `last_s`: only of so many seconds."""
        if not 0 < limit <= MOST_EVENTS:
            raise InvalidArgumentError(f"limit is at most {MOST_EVENTS}")
        if not 0 <= last_s <= MOST_PAST_S:
            raise InvalidArgumentError(f"last_s is at most {MOST_PAST_S:g}")
        async with self._session(session) as opened:
            moments = await opened.memory(words, from_ns=_since_ns(opened, last_s), limit=limit)
        found = [dataclasses.asdict(each) for each in moments]
        for each in found:
            del each["pictures"]
        return found

    async def memory_picture(self, session: str, moment: str) -> Any:
        """The picture of a remembered moment, by its id."""
        from mcp.server.mcpserver import Image

        async with self._session(session) as opened:
            remembered = await opened.moment(moment)
        if not remembered.pictures:
            raise NotFoundError("no picture of that moment is remembered")
        return Image(data=remembered.pictures[0], format="jpeg")

    async def transcript(self, session: str, last_s: float = 0.0) -> list[dict[str, Any]]:
        """What was said in a stream's video, the oldest first, where it listens. `last_s`: only of
        so many seconds."""
        if not 0 <= last_s <= MOST_PAST_S:
            raise InvalidArgumentError(f"last_s is at most {MOST_PAST_S:g}")
        async with self._session(session) as opened:
            said = await opened.transcript(from_ns=_since_ns(opened, last_s))
        return [each._asdict() for each in said]

    async def conversation(self, conversation: str) -> list[dict[str, Any]]:
        """What was asked and answered in a conversation, by the id that `ask` gave, the oldest
        first."""
        return [dataclasses.asdict(each) for each in await self._client.history(conversation)]

    @contextlib.asynccontextmanager
    async def _session(self, name: str) -> AsyncIterator[aio.Session]:
        """A session that stays on the server when the call is over."""
        opened = await self._client.session(name)
        try:
            yield opened
        finally:
            await opened.aclose()


def _since_ns(session: aio.Session, last_s: float) -> int:
    """When the last so many seconds of a stream began, by its own clock; 0 for all of it."""
    return max(0, session.stats.last_capture_ns - round(last_s * 1e9)) if last_s else 0


def told(tool: Callable[..., Coroutine[Any, Any, T]]) -> Callable[..., Coroutine[Any, Any, T]]:
    """A tool whose refusals are told to the assistant in the words of the server."""
    from mcp.server.mcpserver.exceptions import ToolError

    @functools.wraps(tool)
    async def call(*arguments: Any, **options: Any) -> T:
        try:
            return await tool(*arguments, **options)
        except SightlineError as error:
            raise ToolError(f"{error.message} ({error.reason})") from None

    return call
