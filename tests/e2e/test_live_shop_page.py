"""The pages of examples/live_shop in a real browser: a card, an answer, an alarm."""

import asyncio

import pytest

from tests.e2e.browser import Driver
from tests.live_shop import IDLE, PROHIBITED, SHIRT, open_shop
from tests.processes import RedisServer

pytestmark = pytest.mark.needs("redis", "chromium", "chromedriver")

CARD = (
    "return document.getElementById('card').hidden ? '' : document.querySelector('#card').innerText"
)
ANSWER = (
    "return document.querySelector('#answers a') && document.querySelector('#answers').innerText"
)
ALARM = "return document.querySelector('.alarm img')?.naturalWidth"


def _look(driver: Driver, viewers: str, operators: str) -> None:
    page = driver.page()
    try:
        page.goto(viewers)
        assert page.wait(CARD).split("\n") == ["a red shirt", "75 €", "Buy"]
        page.type("#question", "How much is it?")
        page.click("#ask button")
        assert "75 euros" in page.wait(ANSWER)
        page.goto(operators)
        assert page.wait(ALARM) > 0
        page.click(".alarm button")
        page.wait("return !document.querySelector('.alarm')")
    finally:
        page.close()  # servers wait for those who read them


async def test_a_viewer_and_an_operator(
    driver: Driver, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_shop(redis_server, monkeypatch) as shop:
        shop.show(**{IDLE: 0.1, SHIRT: 0.9, PROHIBITED: 0.9})

        async def go_on() -> None:
            while True:
                await asyncio.sleep(0.2)
                shop.show()

        showing = asyncio.create_task(go_on())
        addresses = [str(each.make_url("/")) for each in (shop.viewers, shop.operators)]
        try:
            await asyncio.to_thread(_look, driver, *addresses)
        finally:
            showing.cancel()
