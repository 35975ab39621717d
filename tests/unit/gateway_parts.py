"""The gateway's parts in one process, with a fake worker, for unit tests of any of them."""

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator
from typing import Any

import av
import grpc
import numpy as np

from services.common.errors import ErrorInterceptor
from services.gateway.api.addresses import Addresses
from services.gateway.api.callers import Callers
from services.gateway.api.conversations import Conversations
from services.gateway.api.grpc import SightlineServicer
from services.gateway.api.info import ServerInfo
from services.gateway.api.speaker import Speaker
from services.gateway.auth.sign_in import authoriser_of
from services.gateway.config import GatewayConfig
from services.gateway.sessions.session import Session
from services.gateway.sessions.session_spec import SessionSpec
from services.gateway.sessions.sessions import Sessions
from services.gateway.sources.source import DecodedFrame, FrameSink
from services.gateway.sources.uploads import SCHEME
from services.gateway.viewers.viewers import Viewers
from services.gateway.workers.workers import Workers
from sightline.v1 import gateway_pb2 as pb
from sightline.v1 import gateway_pb2_grpc
from tests.unit.fake_worker import FakeWorker

SECOND_NS = 1_000_000_000
KEY = "secret-key-1"


class FakeSource:
    """A file source that tests play picture by picture; it knows "clip.mp4" and
    what was handed over."""

    kind = "file"

    def __init__(self, spec: SessionSpec, sink: FrameSink) -> None:
        self.spec = spec
        self.sink = sink
        self.closed = False

    async def start(self) -> None:
        if self.spec.source == "slow.mp4":
            await asyncio.Event().wait()
        if self.spec.source != "clip.mp4" and not self.spec.source.startswith(SCHEME):
            from sightline.errors import InvalidArgumentError

            raise InvalidArgumentError("no such file")

    async def aclose(self) -> None:
        self.closed = True


class Parts:
    """Workers, sessions, viewers and the gRPC service, wired as the gateway wires them."""

    def __init__(self, *workers: FakeWorker, **settings: Any) -> None:
        addresses = tuple(worker.address for worker in workers)
        self.config = GatewayConfig(workers=addresses, http_port=8080, **settings)
        self.sources: list[FakeSource] = []
        self.workers = Workers(
            self.config.workers,
            default_model=self.config.default_model,
            patience_s=self.config.worker_patience_s,
        )
        self.sessions = Sessions(self.config, self.workers, self._make_source)
        self.viewers = Viewers(self.sessions, self.workers, self.config)
        self.rules = None
        if self.config.redis_url is not None:
            from services.gateway.rules.rules import Rules

            self.rules = Rules(self.config, self.sessions, self.viewers)
        self.speaker = Speaker(self.config.tts, self.config.max_speaks)
        self.addresses = Addresses(self.config, 1935)
        self._folder = tempfile.TemporaryDirectory(prefix="sl")
        self.server = grpc.aio.server(interceptors=[ErrorInterceptor()])
        self.conversations = Conversations(self.config.dialogue, self.viewers.turns)
        self.callers = Callers(authoriser_of(self.config))
        self.info = ServerInfo(
            self.config,
            self.workers,
            self.speaker,
            self.conversations,
            self.addresses,
            self.callers.wanted,
        )
        self.servicer = SightlineServicer(
            self.config,
            self.sessions,
            self.viewers,
            self.speaker,
            self.addresses,
            self.conversations,
            self.info,
            self.callers,
            self.rules,
        )
        gateway_pb2_grpc.add_SightlineServiceServicer_to_server(self.servicer, self.server)
        self.address = f"unix:{self._folder.name}/g"
        self.server.add_insecure_port(self.address)
        self.channel = grpc.aio.insecure_channel(self.address)
        self.stub = gateway_pb2_grpc.SightlineServiceStub(self.channel)

    async def start(self) -> None:
        self.workers.start()
        if self.rules is not None:
            self.rules.start()
        await self.server.start()

    async def aclose(self) -> None:
        await self.channel.close()
        await self.viewers.aclose()
        await self.sessions.aclose()
        if self.rules is not None:
            await self.rules.aclose()
        await self.speaker.aclose()
        await self.conversations.aclose()
        await self.workers.aclose()
        await self.server.stop(None)

    def _make_source(self, spec: SessionSpec, sink: FrameSink) -> FakeSource:
        source = FakeSource(spec, sink)
        self.sources.append(source)
        return source

    async def push_session(self, *, seen: bool = False, **options: Any) -> Session:
        """A session that publishers push to. seen: one did, and has left."""
        request = pb.CreateSessionRequest(
            push=pb.Push(key=options.pop("key", KEY)), options=pb.SessionOptions(**options)
        )
        session = await self.sessions.create(request)
        session.counts.processed += seen
        return session


@contextlib.asynccontextmanager
async def running(*workers: FakeWorker, **settings: Any) -> AsyncIterator[Parts]:
    """Parts and their workers, started; closed at the end."""
    for worker in workers:
        await worker.start()
    parts = Parts(*workers, **settings)
    await parts.start()
    try:
        yield parts
    finally:
        await parts.aclose()
        for worker in workers:
            await worker.stop()


def picture(number: int, *, width: int = 32, height: int = 32) -> DecodedFrame:
    """A grey picture captured `number` seconds into the video."""
    pixels = np.full((height, width, 3), number % 256, np.uint8)
    frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
    return DecodedFrame(frame, (number + 1) * SECOND_NS, "stream")
