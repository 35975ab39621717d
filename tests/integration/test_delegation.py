"""A delegate that is a real relay before a model server, and what the interfaces say of it."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp

from sightline import aio
from tests.eventually import eventually
from tests.integration.test_relay import levels
from tests.model_server import MODEL, WORDS, ModelServer
from tests.processes import ServiceProcess
from tests.unit.fake_worker import ANSWER, FakeWorker
from tests.unit.gateway_parts import KEY, Parts, picture
from tests.unit.http_parts import served

TEXT = "".join(WORDS)
UNAVAILABLE = ["delegate_unavailable"]


class Relay(FakeWorker):
    """A relay worker, a process, where tests expect one of theirs."""

    def __init__(self, server: ModelServer, folder: Path) -> None:
        super().__init__()
        environment = {"WORKER_MODEL": f"openai:{server.url}#{MODEL}", "WORKER_POOL": "hard"}
        self.process = ServiceProcess("inference_worker", environment, folder)
        self.process.start(60)
        self.address = self.process.address

    async def start(self) -> None:
        """It runs already: gateways are told where."""

    async def stop(self) -> None:
        self.process.kill()


@contextlib.asynccontextmanager
async def site(
    folder: Path,
) -> AsyncIterator[tuple[Parts, aiohttp.ClientSession, FakeWorker, Relay, ModelServer]]:
    server, small = ModelServer(), FakeWorker()
    relay = Relay(server, folder)
    settings = {"default_model": "builtin", "delegate": "hard", "delegate_timeout_s": 1.0}
    try:
        async with served(small, relay, **settings) as (parts, client):
            yield parts, client, small, relay, server
    finally:
        server.stop()


async def test_a_relay_answers_what_the_small_model_is_unsure_of(tmp_path: Path) -> None:
    """Through the SDK, HTTP and chat completions; then its server breaks, hangs and is killed."""
    async with site(tmp_path) as (parts, client, small, relay, server):
        small.confidence = 0.3
        async with aio.connect(parts.address) as sdk:
            session = await sdk.open(push=True, key=KEY, name="cam", delegate="unsure")
            assert (session.info.delegate, session.info.delegate_to) == ("unsure", "hard")
            own = parts.sessions.find("cam")
            publisher = own.admit("push")
            for number in range(5):
                publisher.sink.take(picture(40 * number, width=64, height=48))
            await eventually(lambda: own.counts.processed)

            result = await session.ask("What is there?").result()
            assert (result.text, result.answered_by, result.degraded) == (TEXT, MODEL, ())
            assert result.confidence is None  # which a relay does not tell
            [body] = server.requests
            assert all(
                abs(a - b) <= 4 for a, b in zip(levels(body), (40, 80, 120, 160), strict=True)
            )

            question = {
                "question": {"text": "And now?"},
                "history": [{"question": "Who is there?", "answer": "Nobody."}],
            }
            reply = await (await client.post("/api/sessions/cam/ask", json=question)).json()
            assert reply["answer"]["answered_by"] == MODEL
            roles = [message["role"] for message in server.requests[-1]["messages"]]
            assert roles == ["user", "assistant", "user"]

            chat = {
                "model": "sightline://cam",
                "messages": [{"role": "user", "content": "And now?"}],
            }
            reply = await (await client.post("/v1/chat/completions", json=chat)).json()
            assert reply["choices"][0]["message"]["content"] == TEXT
            assert reply["sightline"]["answered_by"] == MODEL

            contents = {"contents": [{"parts": [{"text": "And now?"}]}]}
            place = "/v1beta/models/sightline://cam:generateContent"
            reply = await (await client.post(place, json=contents)).json()
            assert reply["sightline"]["answeredBy"] == MODEL, reply

            for fault in ("cut", "error", "400", "hang"):
                server.faults.append(fault)
                result = await session.ask("What is there?").result()
                assert (result.text, list(result.degraded)) == (ANSWER, UNAVAILABLE), fault
                assert (result.answered_by, result.confidence) == ("", 0.3)
                assert (await session.ask("What is there?").result()).answered_by == MODEL
            assert server.left.wait(30)  # what hung was let go of

            await session.update(delegate="always")
            relay.process.kill()
            result = await session.ask("What is there?").result()
            assert (result.text, list(result.degraded)) == (ANSWER, UNAVAILABLE)
            await session.update(delegate="never")
            assert not (await session.ask("What is there?").result()).degraded
