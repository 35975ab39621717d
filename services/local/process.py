"""One process of the suite: started, watched, stopped."""

import asyncio
import contextlib
import json
import os
import signal
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.common.child import child_command
from services.common.progress import words_of
from sightline.v1 import inference_pb2, inference_pb2_grpc

ROOT = Path(__file__).resolve().parents[2]
CHECK_S = 1.0
KILL_S = 5.0


@dataclass(slots=True)
class Process:
    """`ready` says whether it serves; None: it is ready once it runs. `progress` says how far it is
    until then, "" where it does not answer. `drain_s` is how long it
    gets to end after SIGTERM. Its output goes to `log`. Ends with this process, however that ends.
    """

    name: str
    command: Sequence[str]
    log: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    ready: Callable[[], Awaitable[bool]] | None = None
    progress: Callable[[], Awaitable[str]] | None = None
    address: str = ""
    drain_s: float = 15.0
    stopped_codes: tuple[int, ...] = (0, -signal.SIGTERM)  # what SIGTERM may end it with
    most_restart_s: float = 15.0  # longest pause before it is started again
    _process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    async def start(self) -> None:
        with self.log.open("ab") as output:
            self._process = await asyncio.create_subprocess_exec(
                *child_command(self.command),
                cwd=ROOT,
                env={**os.environ, **self.environment},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # Ctrl-C is ours: we stop them in order
            )

    async def wait(self) -> int:
        """Wait until the process ends. Returns its exit code, or minus the signal that killed
        it."""
        assert self._process is not None
        return await self._process.wait()

    async def wait_ready(
        self, timeout_s: float, tell: Callable[[str], None] = lambda words: None
    ) -> None:
        """Raises ProcessError when it ends first, or is not ready in time. As long as it tells how
        far it is, which `tell` hears, it has time."""
        if self.ready is None:
            return
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        while not await self.ready():
            if not self.running:
                code = await self.wait()
                raise ProcessError(self, f"ended with {describe_exit(code)}{self.last_words()}")
            if self.progress is not None and (words := await self.progress()):
                tell(words)
                deadline = loop.time() + timeout_s
            if loop.time() > deadline:
                raise ProcessError(self, f"was not ready after {timeout_s:g} s")
            await asyncio.sleep(0.1)

    async def stop(self) -> str | None:
        """SIGTERM, and SIGKILL after `drain_s`. A complaint if it did not end well."""
        if not self.running or self._process is None:
            return None
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(self.drain_s):
                code = await self._process.wait()
        except TimeoutError:
            await self.kill()
            return f"{self.name} did not end {self.drain_s:g} s after SIGTERM and was killed"
        return None if code in self.stopped_codes else f"{self.name}: {describe_exit(code)}"

    async def kill(self) -> None:
        if self.running and self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(KILL_S):
                    await self._process.wait()

    def last_words(self) -> str:
        """Last words of a service that cannot start: one line, by its name."""
        last = self.last_lines(1)
        name, colon, words = last[0].partition(": ") if last else ("", "", "")
        return f": {words}" if colon and name.isidentifier() else ""

    def last_lines(self, count: int = 12) -> list[str]:
        """The end of its log, for people."""
        try:
            with self.log.open(errors="replace") as lines:
                return [_readable(line) for line in deque(lines, count)]
        except FileNotFoundError:
            return []


class ProcessError(Exception):
    """A process ended, or did not become ready."""

    def __init__(self, process: Process, what: str) -> None:
        super().__init__(f"{process.name} {what}")
        self.process = process


def describe_exit(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


async def is_serving(address: str) -> bool:
    """Whether gRPC health says SERVING; False while nobody answers."""
    async with grpc.aio.insecure_channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        try:
            reply = await stub.Check(health_pb2.HealthCheckRequest(), timeout=CHECK_S)
        except grpc.aio.AioRpcError:
            return False
    return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)


async def is_healthy(port: int) -> bool:
    """Whether /healthz says so at a port of this machine; False while nobody answers."""
    try:
        async with asyncio.timeout(CHECK_S):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            status = await reader.readline()
            writer.close()
    except (OSError, TimeoutError):
        return False
    return b" 200 " in status


async def loading_words(address: str) -> str:
    """Progress of a worker's model in words; "" where it does not say."""
    async with grpc.aio.insecure_channel(address) as channel:
        stub: Any = inference_pb2_grpc.InferenceServiceStub(channel)
        try:
            described = await stub.Describe(inference_pb2.DescribeRequest(), timeout=CHECK_S)
        except grpc.aio.AioRpcError:
            return ""
    return words_of(described) if described.HasField("loading") else ""


def _readable(line: str) -> str:
    """A JSON log entry as one line, anything else as it is."""
    try:
        entry = json.loads(line)
    except ValueError:
        return line.rstrip()
    if not isinstance(entry, dict):
        return line.rstrip()
    head = (
        f"{str(entry.pop('time', ''))[11:23]} {entry.pop('level', '')} {entry.pop('message', '')}"
    )
    trace = entry.pop("traceback", "")
    for noise in ("service", "logger"):
        entry.pop(noise, None)
    rest = " ".join(f"{name}={value}" for name, value in entry.items())
    return " ".join(filter(None, (head, rest))) + (f"\n{trace}" if trace else "")
