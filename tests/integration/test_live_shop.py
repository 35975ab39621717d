"""The live shop of examples/: cards for viewers, alarms for operators, figures for its owner."""

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

import sightline
from tests.eventually import eventually
from tests.processes import REPOSITORY, RedisServer
from tests.unit.fake_worker import FakeWorker
from tests.unit.gateway_parts import picture, running

pytestmark = pytest.mark.needs("redis")

FOLDER = REPOSITORY / "examples" / "live_shop"
SHIRT, IDLE = "the hand is holding a red shirt", "the hand is holding nothing"
PROHIBITED = "something prohibited is shown"
Client = TestClient[web.Request, web.Application]


@dataclass(slots=True)
class Open:
    """A shop that is open, and the session that it shows."""

    worker: FakeWorker
    viewers: Client
    operators: Client
    sink: Any
    number: int = 1

    def show(self, **scores: float) -> None:
        """One more picture, of which the model thinks this."""
        self.worker.scores |= scores
        self.sink.take(picture(self.number))
        self.number += 1


@contextlib.asynccontextmanager
async def opened(redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Open]:
    monkeypatch.syspath_prepend(str(FOLDER))
    for name in ("catalogue", "shop"):
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
    secret = {"cluster_secret": "a secret of thirty-two characters"}
    async with (
        running(worker, redis_url=redis.url, **secret) as parts,
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
        await eventually(lambda: parts.rules.events.readers)
        viewers, operators = pages(shop)
        async with TestClient(TestServer(viewers)) as one, TestClient(TestServer(operators)) as two:
            yield Open(worker, one, two, sink)
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)


async def _told(stream: Any) -> dict[str, Any]:
    """The next event of a page."""
    async with asyncio.timeout(30):
        while not (line := (await stream.content.readline()).decode()).startswith("data: "):
            assert line, "the stream has ended"
    told: dict[str, Any] = json.loads(line.removeprefix("data: "))
    return told


async def test_a_shop_from_the_hand_to_the_click(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(redis_server, monkeypatch) as shop:
        assert "<video" in await (await shop.viewers.get("/")).text()
        stream = await shop.viewers.get("/events")
        assert await _told(stream) == {"card": None}
        held_s = time.monotonic()
        while True:  # a card must hold for some frames
            shop.show(**{IDLE: 0.1, SHIRT: 0.9})
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.2):
                    card = (await _told(stream))["card"]
                    break
        print(f"the card came {time.monotonic() - held_s:.2f} s after the pick-up")
        assert (card["sku"], card["names"]) == ("S-001", ["a red shirt"])

        asked = await shop.viewers.post("/ask", json={"question": "How much is it?"})
        answer = await asked.json()
        assert answer["answer"] == shop.worker.answer
        assert [each["sku"] for each in answer["products"]] == ["S-001"]
        assert "a red shirt: 75 €" in shop.worker.asked[-1].question.instructions
        followed = await shop.viewers.get("/go/S-001", allow_redirects=False)
        assert followed.headers["Location"] == card["link"]
        assert (await shop.viewers.get("/go/none", allow_redirects=False)).status == 404
        foreign = {"Origin": "https://elsewhere.example"}
        assert (await shop.viewers.post("/ask", json={}, headers=foreign)).status == 403

        alarms = await shop.operators.get("/alarms")
        for _ in range(3):
            shop.show(**{PROHIBITED: 0.9})
            await asyncio.sleep(0.3)
        alarm = await _told(alarms)
        assert alarm["active"]
        base = f"/alarms/{alarm['id']}"
        assert (await (await shop.operators.get(f"{base}/picture")).read()).startswith(b"\xff\xd8")
        assert (await shop.operators.post(f"{base}/acknowledge")).status == 200
        again = await shop.operators.get("/alarms")
        again.close()
        figures = await (await shop.operators.get("/metrics")).text()
        assert 'shop_cards_total{sku="S-001"} 1.0' in figures
        assert 'shop_clicks_total{sku="S-001"} 1.0' in figures
        assert "shop_questions_total 1.0" in figures
        assert "shop_alarms_total 1.0" in figures
        for each in (stream, alarms):
            each.close()
