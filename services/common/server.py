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

from services.common import descriptors
from services.common.admission import Admission, CallLimits
from services.common.certificate import Certificate
from services.common.config import ServiceConfig
from services.common.errors import ErrorInterceptor
from services.common.grpc_doors import GrpcDoors
from services.common.identity import Identity
from services.common.listener import DoorLimits, Listener, Visit, cannot_listen
from services.common.metrics import REFUSED, TASKS
from services.common.places import Trusted
from services.common.problems import problem
from services.common.tracing import shut_down_tracing

log = logging.getLogger(__name__)

MAX_MESSAGE_BYTES = 1024 * 1024  # of a request; a reply may have MAX_REPLY_BYTES
MAX_REPLY_BYTES = 64 * 1024 * 1024
MAX_GRPC_CONNECTIONS = 2048
KEEP_ALIVE_S = 30.0  # between two HTTP requests of a connection
GRPC_OPTIONS = (
    ("grpc.so_reuseport", 0),  # a second server on the port is refused, not load-balanced
    ("grpc.server_handshake_timeout_ms", 5_000),  # for whoever connects and says nothing
    ("grpc.max_connection_idle_ms", 300_000),  # channels connect again by themselves
    # What may arrive of a message before it is asked for. With probing, grpc would raise this to
    # megabytes a call for whoever sends fast.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", 128 * 1024),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
)


def _is_worth_logging(record: logging.LogRecord) -> bool:
    """False for what aiohttp says of bytes that are not HTTP, kilobytes that strangers choose, and
    of callers who left before their answer."""
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, HttpProcessingError | ConnectionError)


def _no_drain() -> Awaitable[None]:
    return asyncio.sleep(0)


@dataclass(slots=True)
class ServiceHost:
    """One process's servers.

    `name` is the service's short name ("tts"); `full_names` the gRPC services it serves, for
    health and reflection. `app` takes further HTTP routes (the gateway's page); figures are on a
    port of their own, which whoever reaches `app` need not reach. `grpc_port`, `http_port` and
    `metrics_port` hold the real ports after `start`. `stopping` is set by SIGTERM or SIGINT, so
    that a long warm-up can give up. Requests over `max_message_bytes` are refused before they are
    read; `doors` and `calls` say what strangers may hold of the HTTP ports and the gRPC port, and
    `trusted` whose addresses are not counted. With a `certificate`, gRPC and HTTP are encrypted;
    the figures' port, which also tells probes about health, is not. `unready` says why nobody
    should be sent here although all is well with this process; "": nothing speaks against it. With
    an `identity`, the gRPC port is for peers alone that have one of the same authority.
    """

    name: str
    config: ServiceConfig
    full_names: Sequence[str]
    max_message_bytes: int = MAX_MESSAGE_BYTES
    doors: DoorLimits = field(default_factory=DoorLimits)
    calls: CallLimits = field(default_factory=CallLimits)
    trusted: Trusted = field(default_factory=Trusted)
    certificate: Certificate | None = None
    unready: Callable[[], str] = lambda: ""
    identity: Identity | None = None
    reflects: bool = True
    admission: Admission = field(init=False)
    max_descriptors: int = field(init=False)
    server: grpc.aio.Server = field(init=False)
    app: web.Application = field(init=False)
    grpc_port: int = field(init=False, default=0)
    http_port: int = field(init=False, default=0)
    metrics_port: int = field(init=False, default=0)
    stopping: asyncio.Event = field(init=False, default_factory=asyncio.Event)
    _health: health.aio.HealthServicer = field(init=False)
    _sites: list[tuple[web.AppRunner, Listener]] = field(init=False, default_factory=list)
    _grpc_connections: int = field(init=False)
    _grpc_doors: GrpcDoors | None = field(init=False, default=None)
    _serving: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        self.max_descriptors = descriptors.raise_limit()
        self._grpc_connections = min(MAX_GRPC_CONNECTIONS, self.max_descriptors // 4)
        limits = (
            ("grpc.max_receive_message_length", self.max_message_bytes),
            ("grpc.max_send_message_length", MAX_REPLY_BYTES),
            ("grpc.max_allowed_incoming_connections", self._grpc_connections),
            # Calls that came and were not looked at yet: from 1,000 on grpc would drop some of them
            # by lot. Ours are refused in words, by `calls`.
            ("grpc.server.max_pending_requests", self.calls.calls),
            ("grpc.server.max_pending_requests_hard_limit", 2 * self.calls.calls),
            # Of one connection. Above what one place may have: grpc's refusal has no words.
            ("grpc.max_concurrent_streams", self.calls.streams_per_connection),
        )
        self.admission = Admission(self.calls, self.trusted)
        self.server = grpc.aio.server(
            interceptors=[ErrorInterceptor(self.admission)], options=(*GRPC_OPTIONS, *limits)
        )
        self._health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self.server)
        names = (*self.full_names, health.SERVICE_NAME, reflection.SERVICE_NAME)
        if self.reflects:
            reflection.enable_server_reflection(names, self.server)
        self.app = web.Application(middlewares=[self._attend])
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
            if self.identity is not None:
                credentials = self.identity.server_credentials()
                self.grpc_port = self.server.add_secure_port(address, credentials)
            elif self.certificate is not None:
                credentials = self.certificate.credentials()
                self.grpc_port = self.server.add_secure_port(address, credentials)
            else:
                self.grpc_port = self.server.add_insecure_port(address)
        except RuntimeError as error:
            prefix = self.config.prefix
            raise cannot_listen(
                self.config.host, self.config.grpc_port, f"{prefix}GRPC_PORT", f"{prefix}HOST"
            ) from error
        logging.getLogger("aiohttp.server").addFilter(_is_worth_logging)
        figures = web.Application(middlewares=[self._attend])
        figures.router.add_get("/metrics", self._metrics)
        figures.router.add_get("/healthz", self._healthz)
        figures.router.add_get("/readyz", self._readyz)
        self.http_port = await self._listen(
            self.app, self.config.http_port, "HTTP_PORT", self.certificate
        )
        self.metrics_port = await self._listen(
            figures,
            self.config.metrics_port,
            "METRICS_PORT",
            host=self.config.metrics_host or self.config.host,
        )
        await self.server.start()
        self._grpc_doors = GrpcDoors(
            self.doors.within(self._grpc_connections // 2),
            self.trusted,
            is_busy=self.admission.is_busy,
            count=lambda reason: REFUSED.labels("grpc", reason).inc(),
        )
        self._grpc_doors.start(self.grpc_port)
        log.info(
            "listening",
            extra={
                "host": self.config.host,
                "grpc": self.grpc_port,
                "http": self.http_port,
                "metrics": self.metrics_port,
            },
        )

    async def _listen(
        self,
        app: web.Application,
        port: int,
        variable: str,
        certificate: Certificate | None = None,
        host: str = "",
    ) -> int:
        """Serve `app`; the real port. Raises ConfigError, naming the variable, when it is taken."""
        # Bodies are taken as they come: nothing here needs a compressed one, and a few bytes of
        # those can be a gigabyte.
        runner = web.AppRunner(
            app,
            access_log=None,
            shutdown_timeout=1.0,
            keepalive_timeout=KEEP_ALIVE_S,
            lingering_time=2.0,
            auto_decompress=False,
        )
        await runner.setup()

        def protocol(visit: Visit) -> asyncio.Protocol:
            if runner.server is None:
                raise ConnectionAbortedError("the service has stopped")
            return runner.server()

        listener = Listener(
            protocol,
            limits=self.doors.within(self.max_descriptors // 4),
            trusted=self.trusted,
            count=lambda reason: REFUSED.labels("http", reason).inc(),
            encryption=None if certificate is None else certificate.context,
        )
        self._sites.append((runner, listener))
        try:
            await listener.start(host or self.config.host, port)
        except OSError as error:
            prefix = self.config.prefix
            raise cannot_listen(
                host or self.config.host,
                port,
                f"{prefix}{variable}",
                f"{prefix}METRICS_HOST" if host else f"{prefix}HOST",
            ) from error
        return listener.port

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
            async with asyncio.timeout(self.config.drain_s):
                await drain()
        except TimeoutError:
            log.warning("drain timed out")
        except Exception:  # the servers are stopped whatever happens
            log.exception("drain failed")
        await self.stop()
        log.info("stopped")

    async def stop(self) -> None:
        """Stop all servers. Streams that never end by themselves get a short grace."""
        if self._grpc_doors is not None:
            await self._grpc_doors.aclose()
        await self.server.stop(min(self.config.drain_s, 2.0))
        for runner, listener in self._sites:
            await listener.aclose()
            await runner.cleanup()
        await asyncio.to_thread(shut_down_tracing)

    @web.middleware
    async def _attend(
        self,
        request: web.Request,
        handler: Callable[[web.Request], Awaitable[web.StreamResponse]],
    ) -> web.StreamResponse:
        """A request has come whole, so its connection no longer is one that only holds a place."""
        visits = (listener.visit_of(request.transport) for _, listener in self._sites)
        visit = next((visit for visit in visits if visit is not None), None)
        if visit is not None:
            visit.settle()
        try:
            if request.headers.get("Content-Encoding", "identity").lower() != "identity":
                REFUSED.labels("http", "compressed").inc()
                message = "compressed bodies are not read: send it without Content-Encoding"
                return problem(415, code="INVALID_ARGUMENT", message=message)
            return await handler(request)
        finally:
            if visit is not None:
                visit.wait(KEEP_ALIVE_S)

    async def _healthz(self, request: web.Request) -> web.Response:
        status = 200 if self._serving else 503
        return web.json_response({"service": self.name, "serving": self._serving}, status=status)

    async def _readyz(self, request: web.Request) -> web.Response:
        """Whether new work should come here. Health is about this process, which a restart mends;
        this is also about those that it cannot do without."""
        reason = self.unready() if self._serving else "not serving"
        body = {"service": self.name, "ready": not reason, "reason": reason}
        return web.json_response(body, status=503 if reason else 200)

    async def _metrics(self, request: web.Request) -> web.Response:
        TASKS.set(len(asyncio.all_tasks()))
        return web.Response(body=generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})
