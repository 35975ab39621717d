"""Parts for tests of rules: a session whose pictures are shown one by one, a rule, and whoever
takes its events."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

from aiohttp import web
from aiohttp.test_utils import TestServer

from sightline.v1 import rules_pb2 as pb
from tests.eventually import PATIENCE_S, eventually
from tests.processes import REDIS_TIMEOUT_S, RedisServer
from tests.unit.gateway_parts import Parts, picture

SECRET = "a secret of thirty-two characters"
PHONE = "a phone is there"
T = TypeVar("T")


def settings(redis: RedisServer, **more: Any) -> dict[str, Any]:
    own = {"redis_url": redis.url, "cluster_secret": SECRET, "redis_timeout_s": REDIS_TIMEOUT_S}
    return own | more


class Shown:
    """A session whose pictures a test shows one by one."""

    def __init__(self, parts: Parts, session: Any) -> None:
        self.session = session
        self._sink = session.admit("rtmp").sink
        self._number = 0

    async def show(self) -> None:
        """One more picture, understood by the worker."""
        before = self.session.counts.processed
        self._sink.take(picture(self._number))
        self._number += 1
        await eventually(lambda: self.session.counts.processed > before)


def phone(**more: Any) -> pb.Rule:
    more.setdefault("name", "phones")
    return pb.Rule(predicate=pb.PredicateRule(condition=PHONE), interval_s=0.1, **more)


async def until(look: Callable[[], Awaitable[T]]) -> T:
    """The first of what looks give that is true."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            if found := await look():
                return found
            await asyncio.sleep(0.02)


async def events_of(parts: Parts, count: int) -> list[pb.RuleEvent]:
    """The events, oldest first, once there are so many."""

    async def look() -> list[pb.RuleEvent]:
        found = (await parts.stub.ListEvents(pb.ListEventsRequest())).events
        return list(reversed(found)) if len(found) >= count else []

    return await until(look)


class Receiver:
    """Whoever takes events by HTTP; `answers` says how, the last one for ever."""

    def __init__(self) -> None:
        self.answers = [200]
        self.got: list[tuple[dict[str, str], bytes]] = []
        self.tries = 0
        self.url = ""

    async def take(self, request: web.Request) -> web.Response:
        self.tries += 1
        status = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if status == 200:
            self.got.append((dict(request.headers), await request.read()))
        return web.Response(status=status)


@contextlib.asynccontextmanager
async def receiving(port: int | None = None) -> AsyncIterator[Receiver]:
    receiver = Receiver()
    app = web.Application()
    app.router.add_post("/hook", receiver.take)
    async with TestServer(app, port=port) as server:
        receiver.url = str(server.make_url("/hook"))
        yield receiver


async def webhook_state(parts: Parts) -> pb.WebhookState:
    (hook,) = (await parts.stub.ListWebhooks(pb.ListWebhooksRequest())).webhooks
    assert not hook.secret
    state: pb.WebhookState = hook.state
    return state
