"""The fallback model: a worker of its own, in a process of ours, that answers where ours cannot.

It shares nothing with the model that it stands in for: not its device, where another is named, not
its memory, not its fate. It is started with this worker, so that it is ready when it is needed.
"""

import asyncio
import contextlib
import logging
import os
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import grpc

from services.common.backoff import Backoff
from services.common.channels import channel_to
from services.common.child import child_command
from services.common.identity import Identity
from services.common.tasks import cancel_and_wait, spawn
from services.inference_worker import metrics
from services.inference_worker.config import WorkerConfig
from sightline.v1 import inference_pb2, inference_pb2_grpc

log = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parents[3]
PREFIX = WorkerConfig.prefix
# What the fallback's worker has in common with ours. Everything else of it is as it is by default.
_SHARED = (
    *("DIALOGUE", "TTS", "LOG_LEVEL", "DRAIN_S", "HISTORY_ROUNDS", "QUESTION_TOKENS"),
    *("TRACES", "TRACES_SHARE", "EDGE", "PEER_CA", "PEER_CERT", "PEER_KEY", "PEER_NAME"),
    *("MAX_SESSIONS", "WAITING_QUESTIONS", "MAX_ANSWERS", "FIRST_FRAME_S", "THREADS"),
)
LOOK_S = 0.5  # between two looks at whether it is ready
LOOK_TIMEOUT_S = 3.0


class StandIn(Protocol):
    """A worker that answers for a session whose own model degenerates. `description` is None while
    it cannot."""

    @property
    def stub(self) -> inference_pb2_grpc.InferenceServiceStub: ...
    @property
    def description(self) -> inference_pb2.ModelDescription | None: ...


class Fallback:
    """The fallback's worker: started, and started again when it ends. A `StandIn`. One event
    loop."""

    def __init__(self, config: WorkerConfig, identity: Identity | None = None) -> None:
        assert config.fallback_model is not None
        self._config = config
        self._identity = identity
        self._stub: inference_pb2_grpc.InferenceServiceStub | None = None
        self._description: inference_pb2.ModelDescription | None = None
        self._keeping: asyncio.Task[None] | None = None

    @property
    def stub(self) -> inference_pb2_grpc.InferenceServiceStub:
        assert self._stub is not None, "not started"
        return self._stub

    @property
    def description(self) -> inference_pb2.ModelDescription | None:
        return self._description

    def start(self) -> None:
        self._keeping = spawn(self._keep(), name="fallback")

    async def aclose(self) -> None:
        await cancel_and_wait(self._keeping)

    async def _keep(self) -> None:
        backoff = Backoff(1.0, 60.0)
        while True:
            port = _free_port()
            process = await asyncio.create_subprocess_exec(
                *child_command([sys.executable, "-m", "services.inference_worker"]),
                cwd=ROOT,
                env=environment_of(self._config, port, os.environ),
                stdin=asyncio.subprocess.DEVNULL,
            )
            channel, _ = channel_to(f"127.0.0.1:{port}", self._identity)
            self._stub = inference_pb2_grpc.InferenceServiceStub(channel)
            looking = spawn(self._look(), name="fallback:look")
            try:
                code = await process.wait()
                log.error("the fallback's worker ended", extra={"code": code})
            finally:
                self._forget()
                await cancel_and_wait(looking)
                await _end(process, self._config.drain_s)
                await channel.close()
            await asyncio.sleep(backoff.next_s())

    async def _look(self) -> None:
        """Wait until its model is ready."""
        request = inference_pb2.DescribeRequest()
        while self._description is None:
            await asyncio.sleep(LOOK_S)
            with contextlib.suppress(grpc.aio.AioRpcError):
                described = await self.stub.Describe(request, timeout=LOOK_TIMEOUT_S)
                if not described.HasField("loading"):
                    self._description = described
        metrics.FALLBACK_READY.set(1)
        log.info("fallback ready", extra={"model": self._description.model})

    def _forget(self) -> None:
        self._description = None
        metrics.FALLBACK_READY.set(0)


def environment_of(config: WorkerConfig, port: int, environ: Mapping[str, str]) -> dict[str, str]:
    """The environment of the fallback's worker."""
    shared = {PREFIX + name for name in _SHARED}
    ours = {
        name: value
        for name, value in environ.items()
        if not name.startswith(PREFIX) or name in shared
    }
    return ours | {
        f"{PREFIX}MODEL": config.fallback_model or "",
        f"{PREFIX}DEVICE": config.fallback_device,
        f"{PREFIX}HOST": "127.0.0.1",
        f"{PREFIX}GRPC_PORT": str(port),
        f"{PREFIX}GUARD_ANSWERS": "0",
    }


def _free_port() -> int:
    """A port nobody listens on now; should somebody be faster, the next start takes another."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def _end(process: asyncio.subprocess.Process, drain_s: float) -> None:
    if process.returncode is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        async with asyncio.timeout(drain_s):
            await process.wait()
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
