"""A live shop: the host holds something up, and viewers see its card with the link.

    make run                                         # shows a shop, as the session `demo`
    pip install sightline-live aiohttp prometheus-client
    python examples/live_shop/shop.py demo

Viewers go to http://localhost:8090: video, the card of what is held, questions by text and, where
the server hears (`make voice`), by voice. Operators go to http://localhost:8091, on this machine
alone: alarms with picture and seconds, and the figures of Prometheus at /metrics. What is watched
for stands in two rules of the server, which go on when this program ends; docs/rules.md says what
rules can do.
"""

import argparse
import asyncio
import contextlib
import hashlib
import json
import re
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web
from catalogue import Catalogue
from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from voices import Voices

import sightline.aio
from sightline.errors import NotFoundError, SightlineError

HERE = Path(__file__).parent
CLIENT = HERE.parents[1] / "clients" / "js" / "src"  # npm's sightline-live
STATEMENT, IDLE = "the hand is holding {}", "the hand is holding nothing"
PROHIBITED = "something prohibited is shown"
PRICE = re.compile(r"\b(?:how much|prices?|costs?|expensive|cheap)\b", re.IGNORECASE)
MAX_QUESTION = 500  # characters
MAX_RECORDING = 4 * 1024 * 1024  # bytes of a spoken question
WAITING = 32  # events for a page that does not read
Told = dict[str, Any]
Page = asyncio.Queue[Told]


def rules_of(session: str, goods: Catalogue) -> dict[str, dict[str, Any]]:
    """Rules of a shop by their names: what is held, and what may not be shown."""
    product = {"statement": STATEMENT, "idle": IDLE, "products": list(goods.products.values())}
    shown = {"product": product, "interval_s": 0.2, "debounce_s": 0.2}
    prohibited = {
        "predicate": {"condition": PROHIBITED},
        "interval_s": 0.2,
        "debounce_s": 0.4,
        "severity": "SEVERITY_CRITICAL",
    }
    return {f"{session}: shown": _marked(shown), f"{session}: prohibited": _marked(prohibited)}


def _marked(rule: dict[str, Any]) -> dict[str, Any]:
    """The rule with a mark of what it says, by which one of another catalogue is known."""
    mark = hashlib.sha256(json.dumps(rule, sort_keys=True).encode()).hexdigest()[:16]
    return {**rule, "labels": {"mark": mark}}


class Figures:
    """What a shop wants to know of itself."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.cards = Counter("shop_cards", "Cards shown.", ["sku"], registry=self.registry)
        self.clicks = Counter("shop_clicks", "Links followed.", ["sku"], registry=self.registry)
        self.questions = Counter("shop_questions", "Questions asked.", registry=self.registry)
        self.alarms = Counter("shop_alarms", "Prohibited things shown.", registry=self.registry)
        self.viewers = Gauge("shop_viewers", "Pages that listen.", registry=self.registry)


class Shop:
    """One live session with its catalogue."""

    def __init__(
        self, client: sightline.aio.Client, name: str, goods: Catalogue, http: str
    ) -> None:
        self._client = client
        self._name = name
        self._goods = goods
        self._http = http
        names = [name for product in goods.products.values() for name in product["names"]]
        self._voices = Voices(client, http, names)
        self._card: Told | None = None
        self._pages: dict[str, set[Page]] = {"viewers": set(), "alarms": set()}
        self.figures = Figures()

    # --- the rules and what they tell --------------------------------------------------------

    async def set_rules(self) -> None:
        """Watch for goods and for what may not be shown. Rules that are there stay as they are,
        unless they are of another catalogue."""
        there = {rule.name: rule for rule in await self._client.rules.all(self._name)}
        for name, rule in rules_of(self._name, self._goods).items():
            old = there.get(name)
            if old is not None and old.spec.get("labels") == rule["labels"]:
                continue
            if old is not None:
                await self._client.rules.delete(old.id)
            await self._client.rules.create(self._name, {"name": name, **rule})

    async def follow(self) -> None:
        """Pass on what the rules tell, for ever; first what is held already."""
        newest = await self._client.rules.events(session=self._name, limit=1)
        for rule in await self._client.rules.all(self._name):
            if rule.kind == "product" and rule.active:
                told = await self._client.rules.events(rule=rule.id, limit=1)
                self._show(dict(told[0].product) if told and told[0].active else None)
        after = newest[0].id if newest else ""
        async for event in self._client.rules.follow(session=self._name, after=after):
            if event.kind == "product":
                if event.active:
                    self.figures.cards.labels(event.value).inc()
                self._show(dict(event.product) if event.active else None)
            elif event.kind == "predicate":
                if event.active:
                    self.figures.alarms.inc()
                self._tell("alarms", _alarm(event))

    def _show(self, card: Told | None) -> None:
        self._card = card
        self._tell("viewers", {"card": card})

    def _tell(self, whom: str, what: Told) -> None:
        for page in self._pages[whom]:
            if page.full():
                page.get_nowait()
            page.put_nowait(what)

    # --- viewers -----------------------------------------------------------------------------

    async def listen(self, request: web.Request) -> web.StreamResponse:
        async def first() -> list[Told]:
            return [{"card": self._card}]

        return await self._stream(request, "viewers", first)

    async def _stream(
        self, request: web.Request, whom: str, first: Callable[[], Awaitable[list[Told]]]
    ) -> web.StreamResponse:
        """Server-sent events for a page: what is so, and then all that comes."""
        page: Page = asyncio.Queue(WAITING)
        self._pages[whom].add(page)
        self.figures.viewers.set(len(self._pages["viewers"]))
        try:
            before = await first()
            reply = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
            await reply.prepare(request)
            for told in before:
                await reply.write(f"data: {json.dumps(told)}\n\n".encode())
            while True:
                try:
                    async with asyncio.timeout(15):
                        told = await page.get()
                    await reply.write(f"data: {json.dumps(told)}\n\n".encode())
                except TimeoutError:
                    await reply.write(b": still here\n\n")
        except ConnectionError:
            return reply
        finally:
            self._pages[whom].discard(page)
            self.figures.viewers.set(len(self._pages["viewers"]))

    async def ask(self, request: web.Request) -> web.Response:
        try:
            question = str((await request.json())["question"]).strip()[:MAX_QUESTION]
        except (ValueError, TypeError, KeyError):
            question = ""
        if not question:
            raise web.HTTPBadRequest(text="ask something")
        return web.json_response(await self._answered(question))

    async def hears(self, request: web.Request) -> web.Response:
        """Whether a viewer may ask by voice."""
        return web.json_response({"hears": await self._voices.hears()})

    async def say(self, request: web.Request) -> web.Response:
        """The same of a recording; the answer can be listened to."""
        question = (await self._voices.words(await request.read()))[:MAX_QUESTION]
        if not question:
            raise web.HTTPBadRequest(text="no words were heard")
        told = await self._answered(question)
        turn = secrets.token_hex(16)
        self._voices.keep(turn, told["answer"])
        return web.json_response({**told, "aloud": f"/aloud/{turn}"})

    async def aloud(self, request: web.Request) -> web.Response:
        wav = await self._voices.aloud(request.match_info["turn"])
        if wav is None:
            raise web.HTTPNotFound
        return web.Response(body=wav, content_type="audio/wav")

    async def _answered(self, question: str) -> Told:
        """An answer by what the model sees, and what the catalogue says of what it is about."""
        self.figures.questions.inc()
        session = await self._client.session(self._name)
        about = self._goods.named_in(question)
        shown = [self._card] if self._card is not None and not about else []
        async with session.conversation() as conversation:
            asked = conversation.ask(question, instructions=self._goods.told([*about, *shown]))
            result = await asked.result()
        await session.aclose()
        products = self._goods.named_in(question, result.text) or shown
        answer = result.text
        if "instructions_ignored" in result.degraded and PRICE.search(question):
            answer = self._goods.prices([*about, *shown]) or answer  # the model knows no catalogue
        return {"question": question, "answer": answer, "products": products}

    async def go(self, request: web.Request) -> web.Response:
        """The link of a card, counted."""
        product = self._goods.products.get(request.match_info["sku"], {})
        if "link" not in product:
            raise web.HTTPNotFound
        self.figures.clicks.labels(product["sku"]).inc()
        raise web.HTTPFound(product["link"])

    async def video(self, request: web.Request) -> web.Response:
        """The WHEP handshake, passed on; video goes from the server to the viewer itself."""
        try:
            async with (
                aiohttp.ClientSession() as client,
                client.post(
                    f"{self._http}/whep/{self._name}",
                    data=await request.read(),
                    headers={"Content-Type": "application/sdp"},
                ) as reply,
            ):
                return web.Response(
                    status=reply.status, body=await reply.read(), content_type=reply.content_type
                )
        except aiohttp.ClientError:
            raise web.HTTPBadGateway from None

    # --- operators ---------------------------------------------------------------------------

    async def alarms(self, request: web.Request) -> web.StreamResponse:
        async def first() -> list[Told]:
            rule = f"{self._name}: prohibited"
            found = await self._client.rules.events(rule=rule, unacknowledged=True, limit=100)
            return [_alarm(each) for each in reversed(found)]

        return await self._stream(request, "alarms", first)

    async def picture(self, request: web.Request) -> web.Response:
        jpeg = await self._client.rules.picture(request.match_info["event"])
        return web.Response(body=jpeg, content_type="image/jpeg", status=200 if jpeg else 404)

    async def clip(self, request: web.Request) -> web.Response:
        mp4 = await self._client.rules.clip(request.match_info["event"])
        return web.Response(body=mp4, content_type="video/mp4", status=200 if mp4 else 404)

    async def acknowledge(self, request: web.Request) -> web.Response:
        await self._client.rules.acknowledge(request.match_info["event"])
        return web.json_response({})

    async def metrics(self, request: web.Request) -> web.Response:
        return web.Response(body=generate_latest(self.figures.registry), content_type="text/plain")


def _alarm(event: sightline.RuleEvent) -> Told:
    """An event as the operators' page reads it."""
    fields = ("id", "rule_name", "active", "probability", "time_ns", "clip")
    return {name: getattr(event, name) for name in fields}


@web.middleware
async def of_this_site(request: web.Request, handler: Any) -> web.StreamResponse:
    """No page of another site acts here, and what the server refuses is said in words."""
    if request.headers.get("Origin", f"http://{request.host}") != f"http://{request.host}":
        raise web.HTTPForbidden
    try:
        return await handler(request)
    except NotFoundError as error:
        raise web.HTTPNotFound(text=error.message) from None
    except SightlineError as error:
        raise web.HTTPServiceUnavailable(text=error.message) from None


async def page(file: Path, request: web.Request) -> web.FileResponse:
    return web.FileResponse(file)


def pages(shop: Shop) -> tuple[web.Application, web.Application]:
    """What viewers see, and what operators do."""
    viewers = web.Application(middlewares=[of_this_site], client_max_size=MAX_RECORDING)
    operators = web.Application(middlewares=[of_this_site])
    for app, index in ((viewers, "index.html"), (operators, "operator.html")):
        app.router.add_get("/", partial(page, HERE / "page" / index))
        app.router.add_static("/page", HERE / "page")
    viewers.router.add_get("/events", shop.listen)
    viewers.router.add_static("/client", CLIENT)
    viewers.router.add_post("/ask", shop.ask)
    viewers.router.add_get("/hears", shop.hears)
    viewers.router.add_post("/say", shop.say)
    viewers.router.add_get("/aloud/{turn}", shop.aloud)
    viewers.router.add_get("/go/{sku}", shop.go)
    viewers.router.add_post("/video", shop.video)
    operators.router.add_get("/alarms", shop.alarms)
    operators.router.add_get("/alarms/{event}/picture", shop.picture)
    operators.router.add_get("/alarms/{event}/clip", shop.clip)
    operators.router.add_post("/alarms/{event}/acknowledge", shop.acknowledge)
    operators.router.add_get("/metrics", shop.metrics)
    return viewers, operators


@contextlib.asynccontextmanager
async def serving(app: web.Application, host: str, port: int) -> AsyncIterator[None]:
    runner = web.AppRunner(app, shutdown_timeout=1)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        yield
    finally:
        await runner.cleanup()


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("session", help="a live session's name")
    parser.add_argument("--server", help="$SIGHTLINE_SERVER, else localhost:50051")
    parser.add_argument("--http", default="http://localhost:8080", help="the server's HTTP port")
    parser.add_argument("--catalogue", type=Path, default=HERE / "goods.csv")
    parser.add_argument("--host", default="127.0.0.1", help="where viewers come from")
    parser.add_argument("--port", type=int, default=8090, help="of viewers; operators: the next")
    options = parser.parse_args()

    async with sightline.aio.connect(options.server) as client:
        shop = Shop(client, options.session, Catalogue(options.catalogue), options.http)
        await shop.set_rules()
        viewers, operators = pages(shop)
        async with (
            serving(viewers, options.host, options.port),
            serving(operators, "127.0.0.1", options.port + 1),
        ):
            print(f"viewers http://localhost:{options.port}", flush=True)
            print(f"operators http://localhost:{options.port + 1}", flush=True)
            await shop.follow()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main())
