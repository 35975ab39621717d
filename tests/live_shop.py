"""The live shop of examples/, open in this process with a worker of few lines."""

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

import sightline
from tests.eventually import eventually
from tests.processes import REPOSITORY, RedisServer
from tests.rule_parts import settings
from tests.unit.fake_worker import FakeWorker
from tests.unit.gateway_parts import picture, running

FOLDER = REPOSITORY / "examples" / "live_shop"
SHIRT, IDLE = "the hand is holding a red shirt", "the hand is holding nothing"
PROHIBITED = "something prohibited is shown"
Client = TestClient[web.Request, web.Application]


@dataclass(slots=True)
class OpenShop:
    """A shop that is open, and the session that it shows."""

    worker: FakeWorker
    viewers: Client
    operators: Client
    sink: Any
    client: sightline.aio.Client
    number: int = 1

    def show(self, **scores: float) -> None:
        """One more picture, of which the model thinks this."""
        self.worker.scores |= scores
        self.sink.take(picture(self.number))
        self.number += 1


@contextlib.asynccontextmanager
async def open_again(shop: OpenShop, catalogue: Path) -> AsyncIterator[Client]:
    """The viewers' page of the shop's program as it is started once more, with this catalogue."""
    from catalogue import Catalogue  # type: ignore[import-not-found]
    from shop import Shop, pages  # type: ignore[import-not-found]

    again = Shop(shop.client, "demo", Catalogue(catalogue), "http://127.0.0.1:9")
    await again.set_rules()
    following = asyncio.create_task(again.follow())
    try:
        async with TestClient(TestServer(pages(again)[0])) as viewers:
            yield viewers
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)


@contextlib.asynccontextmanager
async def open_shop(redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[OpenShop]:
    monkeypatch.syspath_prepend(str(FOLDER))
    for name in ("catalogue", "voices", "shop"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    from catalogue import Catalogue  # type: ignore[import-not-found]
    from shop import Shop, pages  # type: ignore[import-not-found]

    worker = FakeWorker()
    worker.scores |= {IDLE: 0.9, PROHIBITED: 0.1, SHIRT: 0.1}
    goods = Catalogue(FOLDER / "catalogue.csv")
    worker.scores |= {
        f"the hand is holding {name}": 0.1
        for product in goods.products.values()
        for name in product["names"]
    }
    worker.answer = "the red shirt is 75 euros"
    async with (
        running(worker, **settings(redis)) as parts,
        sightline.aio.connect(parts.address) as client,
    ):
        session = await parts.push_session(name="demo")
        sink = session.admit("rtmp").sink
        sink.take(picture(0))
        shop = Shop(client, "demo", goods, "http://127.0.0.1:9")
        await shop.set_rules()
        await shop.set_rules()  # as when it is started again
        assert len(await client.rules.all("demo")) == 2
        following = asyncio.create_task(shop.follow())
        viewers, operators = pages(shop)
        try:
            await eventually(lambda: parts.rules.events.readers)
            async with (
                TestClient(TestServer(viewers)) as one,
                TestClient(TestServer(operators)) as two,
            ):
                yield OpenShop(worker, one, two, sink, client)
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
