"""The suite that `make run` starts, as its real processes, on free ports."""

import asyncio
import contextlib
import os
import urllib.request
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc

from benchmarks.samples import Histogram
from services.local.config import LocalConfig
from services.local.process import Process, ProcessError
from services.local.suite import READY_S, Suite
from sightline.v1 import gateway_pb2, gateway_pb2_grpc


@dataclass(frozen=True, slots=True)
class Running:
    """Suite that runs. Addresses are host:port of gRPC."""

    suite: Suite
    processes: list[Process]

    @property
    def gateway(self) -> str:
        return self.suite.gateway.address

    @property
    def worker(self) -> str:
        return self.suite.workers[0].address

    @property
    def pids(self) -> list[tuple[str, int]]:
        return [(process.name, process.pid) for process in self.processes if process.pid]

    def worker_histogram(self, name: str) -> Histogram:
        """A histogram of the worker's /metrics. Blocks."""
        return _histogram(self.suite.config.worker_metrics_port, name)

    def gateway_histogram(self, name: str) -> Histogram:
        """A histogram of the gateway's /metrics. Blocks."""
        return _histogram(self.suite.config.gateway_metrics_port, name)


def _histogram(port: int, name: str) -> Histogram:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as reply:
        return Histogram.read(reply.read().decode(), name)


@contextlib.asynccontextmanager
async def running(
    folder: Path, *, worker_only: bool = False, media: Path | None = None, model: str = ""
) -> AsyncIterator[Running]:
    """Redis, dialogue, tts, one worker and the gateway, or that worker alone, until the context
    ends. The services' own variables reach them, so that `WORKER_THREADS=1 make bench` measures
    that. media: folder that sessions may read. model: another than is configured, which is the
    built-in one where nothing is.
    Raises ProcessError for what does not come up."""
    config = LocalConfig.from_env().on_free_ports().with_ports()
    if model or not {"MODEL", "WORKER_MODEL"} & os.environ.keys():
        config = replace(config, worker_model=model or "builtin")
    redis = folder / "redis"
    redis.mkdir()
    suite = Suite(config, folder, redis, lambda process, what: None, media=media)
    try:
        if worker_only:
            worker = suite.workers[0]
            await worker.start()
            await worker.wait_ready(READY_S)
            yield Running(suite, [worker])
        else:
            await suite.start()
            await model_ready(suite.gateway.address)
            yield Running(suite, suite.processes)
    except ProcessError as error:
        error.add_note("\n".join(error.process.last_lines()))
        raise
    finally:
        complaints = await suite.stop()
        await suite.kill()
    if complaints:
        raise RuntimeError("; ".join(complaints))


async def model_ready(gateway: str) -> None:
    """Wait until the gateway knows that its worker serves, which it hears a moment later."""
    async with grpc.aio.insecure_channel(gateway) as channel, asyncio.timeout(READY_S):
        stub: Any = gateway_pb2_grpc.SightlineServiceStub(channel)
        request = gateway_pb2.GetServerInfoRequest()
        while not any(  # noqa: ASYNC110 - nothing tells of it
            model.ready for model in (await stub.GetServerInfo(request)).models
        ):
            await asyncio.sleep(0.1)
