"""Faults of a running suite: what can be done to each process and link, and undone."""

import asyncio
import contextlib
import os
import secrets
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from services.local.config import LocalConfig
from services.local.process import Process, is_serving
from services.local.suite import READY_S, Suite

CHUNK_BYTES = 64 * 1024


class Link:
    """A TCP connection's way to one address, on a port of its own, that can be cut or clogged."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self._target = (host, int(port))
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._port = 0

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._port}"

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]

    async def cut(self) -> None:
        """End every connection and take no more, until `open`."""
        if self._server is not None:
            self._server.close()
        for writer in list(self._writers):
            writer.transport.abort()

    def clog(self) -> None:
        """Let nothing through, and break nothing, until `flow`."""
        self._flowing.clear()

    def flow(self) -> None:
        self._flowing.set()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            there_reader, there = await asyncio.open_connection(*self._target)
        except OSError:
            writer.transport.abort()
            self._writers.discard(writer)
            return
        self._writers.add(there)
        ways = (self._pump(reader, there), self._pump(there_reader, writer))
        pumps = [asyncio.ensure_future(way) for way in ways]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            for each in (writer, there):
                self._writers.discard(each)
                each.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(CHUNK_BYTES):
                await self._flowing.wait()
                writer.write(data)
                await writer.drain()


class Stage:
    """A whole suite on free ports whose gateways reach each worker over a link of its own."""

    def __init__(
        self, config: LocalConfig, folder: Path, media: Path, *, two_gateways: bool = False
    ) -> None:
        redis = folder / "redis"
        redis.mkdir()
        self.suite = Suite(config, folder, redis, lambda process, what: None, media=media)
        self.links = [Link(worker.address) for worker in self.suite.workers]
        self.gateways = [self.suite.gateway]
        if two_gateways:
            self._share_sessions(folder)
        self.complaints: list[str] = []

    def _share_sessions(self, folder: Path) -> None:
        """Give the gateway another beside it: each goes on with the sessions of the other."""
        first = self.suite.gateway
        first.environment = {
            **first.environment,
            "GATEWAY_REDIS_URL": self.suite.dialogue.environment["DIALOGUE_REDIS_URL"],
            "GATEWAY_CLUSTER_SECRET": secrets.token_hex(16),
        }
        free = LocalConfig.from_env().on_free_ports().with_ports()
        ports = {
            "GATEWAY_GRPC_PORT": free.gateway_grpc_port,
            "GATEWAY_HTTP_PORT": free.gateway_http_port,
            "GATEWAY_METRICS_PORT": free.gateway_metrics_port,
            "GATEWAY_RTMP_PORT": free.gateway_rtmp_port,
            "GATEWAY_WEBRTC_PORT": free.gateway_webrtc_port,
        }
        address = f"127.0.0.1:{free.gateway_grpc_port}"
        second = Process(
            "gateway-2",
            first.command,
            folder / "logs" / "gateway-2.log",
            {**first.environment, **{name: str(port) for name, port in ports.items()}},
            ready=partial(is_serving, address),
            address=address,
        )
        for gateway, port in ((first, free.tts_grpc_port), (second, free.worker_grpc_port)):
            gateway.environment = {**gateway.environment, "GATEWAY_PEER_PORT": str(port)}
        self.gateways.append(second)

    async def start(self) -> None:
        for link in self.links:
            await link.open()
        addresses = ",".join(link.address for link in self.links)
        for gateway in self.gateways:
            gateway.environment = {**gateway.environment, "GATEWAY_WORKERS": addresses}
        await self.suite.start()
        for gateway in self.gateways[1:]:
            await self._start(gateway)

    async def aclose(self) -> None:
        for gateway in self.gateways[1:]:
            if complaint := await gateway.stop():
                self.complaints.append(complaint)
            await gateway.kill()
        self.complaints += await self.suite.stop()
        await self.suite.kill()
        for link in self.links:
            await link.cut()

    # --- what can be done -------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def killed(self, process: Process) -> AsyncIterator[None]:
        await process.kill()
        yield
        await self._start(process)

    @contextlib.asynccontextmanager
    async def hung(self, process: Process) -> AsyncIterator[None]:
        assert process.pid is not None
        os.killpg(process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.killpg(process.pid, signal.SIGCONT)

    @contextlib.asynccontextmanager
    async def told_to_end(self, process: Process) -> AsyncIterator[None]:
        """SIGTERM, to which every service's answer is exit 0."""
        ending = asyncio.create_task(process.stop(), name=f"stop:{process.name}")
        yield
        if complaint := await ending:
            self.complaints.append(complaint)
        await self._start(process)

    @contextlib.asynccontextmanager
    async def cut(self, link: Link) -> AsyncIterator[None]:
        await link.cut()
        yield
        await link.open()

    @contextlib.asynccontextmanager
    async def clogged(self, link: Link) -> AsyncIterator[None]:
        link.clog()
        try:
            yield
        finally:
            link.flow()

    @contextlib.asynccontextmanager
    async def full(self, redis_process: Process) -> AsyncIterator[None]:
        from redis.asyncio import Redis

        client = Redis(unix_socket_path=redis_process.address)
        try:
            await client.config_set("maxmemory-policy", "noeviction")
            await client.config_set("maxmemory", "1")
            yield
            await client.config_set("maxmemory", "0")
        finally:
            await client.aclose()

    async def _start(self, process: Process) -> None:
        await process.start()
        await process.wait_ready(READY_S)


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of fault. `share`: how often it is drawn against the others. `of`: what it befalls.
    `act`: the fault, of a stage and the number of a worker, for as long as the context lasts.
    `moves`: the worker's sessions go to another."""

    name: str
    share: int
    of: str  # worker, gateway, dialogue, redis
    act: Callable[[Stage, int], AbstractAsyncContextManager[None]] = field(repr=False)
    moves: bool = False


def _redis(stage: Stage) -> Process:
    assert stage.suite.redis is not None
    return stage.suite.redis


KINDS = (
    Kind("worker killed", 4, "worker", lambda s, n: s.killed(s.suite.workers[n]), moves=True),
    Kind("worker hung", 6, "worker", lambda s, n: s.hung(s.suite.workers[n]), moves=True),
    Kind("worker ended", 4, "worker", lambda s, n: s.told_to_end(s.suite.workers[n]), moves=True),
    Kind("link cut", 6, "worker", lambda s, n: s.cut(s.links[n]), moves=True),
    Kind("link clogged", 5, "worker", lambda s, n: s.clogged(s.links[n]), moves=True),
    Kind("dialogue killed", 4, "dialogue", lambda s, n: s.killed(s.suite.dialogue)),
    Kind("dialogue hung", 3, "dialogue", lambda s, n: s.hung(s.suite.dialogue)),
    Kind("redis killed", 3, "redis", lambda s, n: s.killed(_redis(s))),
    Kind("redis hung", 3, "redis", lambda s, n: s.hung(_redis(s))),
    Kind("redis full", 2, "redis", lambda s, n: s.full(_redis(s))),
)
# Only where sessions outlive their gateway.
GATEWAY = (
    Kind("gateway killed", 4, "gateway", lambda s, n: s.killed(s.gateways[n])),
    Kind("gateway hung", 2, "gateway", lambda s, n: s.hung(s.gateways[n])),
)
