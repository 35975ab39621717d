"""A gateway's parts that take calls by WebRTC, and hear what they are told."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from services.gateway.api.http import HttpApi
from services.gateway.api.realtime.calls import CallsApi
from services.gateway.api.realtime.door import RealtimeApi
from services.gateway.webrtc.port import WebRtcPort
from tests.unit.fake_worker import FakeWorker
from tests.unit.gateway_parts import running
from tests.unit.realtime_parts import Speech
from tests.unit.test_gateway_voice import EarsOf
from tests.unit.voices import Hearsay, Loud

Client = TestClient[web.Request, web.Application]


class _Ears(EarsOf):
    configured = True

    def activity(self) -> Any:
        return Loud()


@contextlib.asynccontextmanager
async def called(
    *words: str, word_s: float = 0.1, addresses: tuple[str, ...] = ("127.0.0.1",), **settings: Any
) -> AsyncIterator[tuple[Client, FakeWorker]]:
    """Their HTTP side, about a session called kitchen. words: of one spoken turn after the other.
    At the end nothing may be left of a call."""
    worker = FakeWorker()
    worker.word_s = word_s
    port = WebRtcPort(0, addresses)
    await port.start()
    async with running(worker, **settings) as parts:
        await parts.push_session(seen=True, name="kitchen")
        parts.viewers.ears = _Ears(Hearsay(*words))
        speaker: Any = Speech()
        door = RealtimeApi(parts.config, parts.sessions, parts.viewers, speaker, parts.callers)
        calls = CallsApi(parts.config, door, port)
        app = web.Application()
        door.add_to(app)
        HttpApi(
            parts.config,
            parts.sessions,
            parts.viewers,
            addresses=parts.addresses,
            conversations=parts.conversations,
            info=parts.info,
            callers=parts.callers,
            others=(door, calls),
        ).add_to(app)
        async with TestClient(TestServer(app)) as http:
            try:
                yield http, worker
            finally:
                await calls.aclose()
                assert port.num_connections == 0
    await port.aclose()
