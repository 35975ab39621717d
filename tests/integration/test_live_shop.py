"""The live shop of examples/: cards for viewers, alarms for operators, figures for its owner."""

import asyncio
import contextlib
import json
import time
from pathlib import Path
from typing import Any

import pytest

from tests.live_shop import FOLDER, IDLE, PROHIBITED, SHIRT, OpenShop, open_again, open_shop
from tests.processes import RedisServer

pytestmark = pytest.mark.needs("redis")


async def _told(stream: Any) -> dict[str, Any]:
    """The next event of a page."""
    async with asyncio.timeout(30):
        while not (line := (await stream.content.readline()).decode()).startswith("data: "):
            assert line, "the stream has ended"
    told: dict[str, Any] = json.loads(line.removeprefix("data: "))
    return told


async def _card(viewers: Any, shop: OpenShop) -> dict[str, Any]:
    """The card that a viewer who comes now is shown, as soon as there is one."""

    async def go_on() -> None:
        while True:
            shop.show()
            await asyncio.sleep(0.2)

    showing = asyncio.create_task(go_on())
    stream = await viewers.get("/events")
    while (card := (await _told(stream))["card"]) is None:
        pass
    stream.close()
    showing.cancel()
    found: dict[str, Any] = card
    return found


async def test_a_shop_from_the_hand_to_the_click(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async with open_shop(redis_server, monkeypatch) as shop:
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
        shop.worker.degraded = ["instructions_ignored"]  # one that reads none knows no prices
        asked = await shop.viewers.post("/ask", json={"question": "How much is a red shirt?"})
        assert (await asked.json())["answer"] == "a red shirt: 75 €"
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
        assert "shop_questions_total 2.0" in figures
        assert "shop_alarms_total 1.0" in figures
        for nonsense in (b"{", b"[]", b"{}", b'{"question": " "}'):
            assert (await shop.viewers.post("/ask", data=nonsense)).status == 400
        assert await (await shop.viewers.get("/hears")).json() == {"hears": False}
        said = await shop.viewers.post("/say", data=b"RIFF")
        assert (said.status, await said.text()) == (503, "The server does not hear now.")
        assert (await shop.viewers.get("/aloud/0")).status == 404
        assert (await shop.operators.get("/alarms/1-1/picture")).status == 404
        shop.show(**{PROHIBITED: 0.1})
        async with open_again(shop, FOLDER / "catalogue.csv") as viewers:
            assert (await _card(viewers, shop))["sku"] == "S-001", "it is still held"
        dearer = tmp_path / "catalogue.csv"
        dearer.write_text((FOLDER / "catalogue.csv").read_text().replace("75 €", "99 €"))
        async with open_again(shop, dearer) as viewers:
            assert len(await shop.client.rules.all("demo")) == 2
            assert (await _card(viewers, shop))["price"] == "99 €"
        for each in (stream, alarms):
            each.close()
