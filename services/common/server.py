"""The bootstrap of every service: gRPC with health and reflection, HTTP, signals, drain.

A service's `__main__` builds its parts, adds its servicer to `host.server` and calls `host.run`.
"""

import asyncio
import logging
import signal
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import grpc
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from services.common.config import ConfigError, ServiceConfig
from services.common.errors import ErrorInterceptor

log = logging.getLogger(__name__)

MAX_MESSAGE_BYTES = 64 * 1024 * 1024  # an uncompressed 8K RGB frame is refused by its own check
GRPC_OPTIONS = (
    ("grpc.so_reuseport", 0),  # a second server on the port is refused, not load-balanced
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
)


def _is_worth_logging(record: logging.LogRecord) -> bool:
    """False for what aiohttp says of bytes that are not HTTP: kilobytes that strangers choose."""
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, HttpProcessingError)


def _no_drain() -> Awaitable[None]:
    return asyncio.sleep(0)


@dataclass(slots=True)
class ServiceHost:
    """One process's servers.

    `name` is the service's short name ("tts"); `full_names` the gRPC services it serves, for
    health and reflection. `app` takes further HTTP routes (the gateway's page); figures are on a
    port of their own, which whoever reaches `app` need not reach. `grpc_port`, `http_port` and
    `metrics_port` hold the real ports after `start`. `stopping` is set by SIGTERM or SIGINT, so
    that a long warm-up can give up. Messages over `max_message_bytes` are refused before they are
    read.
    """

    name: str
    config: ServiceConfig
    full_names: Sequence[str]
    max_message_bytes: int = MAX_MESSAGE_BYTES
    server: grpc.aio.Server = field(init=False)
    app: web.Application = field(init=False)
    grpc_port: int = field(init=False, default=0)
    http_port: int = field(init=False, default=0)
    metrics_port: int = field(init=False, default=0)
    stopping: asyncio.Event = field(init=False, default_factory=asyncio.Event)
    _health: health.aio.HealthServicer = field(init=False)
    _runner: web.AppRunner | None = field(init=False, default=None)
    _figures: web.AppRunner | None = field(init=False, default=None)
    _serving: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        limits = (
            ("grpc.max_receive_message_length", self.max_message_bytes),
            ("grpc.max_send_message_length", self.max_message_bytes),
        )
        self.server = grpc.aio.server(
            interceptors=[ErrorInterceptor()], options=(*GRPC_OPTIONS, *limits)
        )
        self._health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self.server)
        names = (*self.full_names, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self.server)
        self.app = web.Application()
        self.app.router.add_get("/healthz", self._healthz)

    async def start(self) -> None:
        """Listen on all ports; health stays NOT_SERVING until `set_serving(True)`.

        From here on SIGTERM and SIGINT end the service in order, even before `run`.
        Raises ConfigError, naming the variable, when a port is taken.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stopping.set)
        await self.set_serving(False)
        name = f"[{self.config.host}]" if ":" in self.config.host else self.config.host
        address = f"{name}:{self.config.grpc_port}"
        try:
            self.grpc_port = self.server.add_insecure_port(address)
        except RuntimeError as error:
            variable = f"{self.config.prefix}GRPC_PORT"
            raise ConfigError(
                f"cannot listen on {address}: choose another port with {variable}"
            ) from error
        logging.getLogger("aiohttp.server").addFilter(_is_worth_logging)
        self._runner = web.AppRunner(self.app, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, self.config.host, self.config.http_port).start()
        except OSError as error:
            variable = f"{self.config.prefix}HTTP_PORT"
            raise ConfigError(
                f"cannot listen on {self.config.host}:{self.config.http_port}: "
                f"choose another port with {variable}"
            ) from error
        self.http_port = self._runner.addresses[0][1]
        await self._show_figures()
        await self.server.start()
        log.info(
            "listening",
            extra={
                "host": self.config.host,
                "grpc": self.grpc_port,
                "http": self.http_port,
                "metrics": self.metrics_port,
            },
        )

    async def set_serving(self, serving: bool) -> None:
        """Tell health checks whether this service is ready for work."""
        self._serving = serving
        status = health_pb2.HealthCheckResponse.SERVING
        if not serving:
            status = health_pb2.HealthCheckResponse.NOT_SERVING
        for name in ("", *self.full_names):
            await self._health.set(name, status)

    async def run(self, drain: Callable[[], Awaitable[None]] = _no_drain) -> None:
        """Serve until SIGTERM or SIGINT, then drain: refuse new work, let calls end, stop.

        `drain` is awaited once health says NOT_SERVING and before calls are cut off.
        """
        if not self.stopping.is_set():
            await self.set_serving(True)
            log.info("serving")
        await self.stopping.wait()
        log.info("draining")
        await self.set_serving(False)
        try:
            await asyncio.wait_for(drain(), self.config.drain_s)
        except TimeoutError:
            log.warning("drain timed out")
        except Exception:  # the servers are stopped whatever happens
            log.exception("drain failed")
        await self.stop()
        log.info("stopped")

    async def stop(self) -> None:
        """Stop all servers. Streams that never end by themselves get a short grace."""
        await self.server.stop(min(self.config.drain_s, 2.0))
        if self._runner is not None:
            await self._runner.cleanup()
        if self._figures is not None:
            await self._figures.cleanup()

    async def _healthz(self, request: web.Request) -> web.Response:
        status = 200 if self._serving else 503
        return web.json_response({"service": self.name, "serving": self._serving}, status=status)

    async def _show_figures(self) -> None:
        """Serve /metrics. Raises ConfigError, naming the variable, when its port is taken."""
        app = web.Application()
        app.router.add_get("/metrics", self._metrics)
        self._figures = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await self._figures.setup()
        port = self.config.metrics_port
        try:
            await web.TCPSite(self._figures, self.config.host, port).start()
        except OSError as error:
            raise ConfigError(
                f"cannot listen on {self.config.host}:{port}: "
                f"choose another port with {self.config.prefix}METRICS_PORT"
            ) from error
        self.metrics_port = self._figures.addresses[0][1]

    async def _metrics(self, request: web.Request) -> web.Response:
        return web.Response(body=generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})
