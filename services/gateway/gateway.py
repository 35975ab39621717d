"""The gateway, put together: what starts in which order, and what ends in which."""

import asyncio
import contextlib
import logging
import socket
from collections import Counter
from typing import TYPE_CHECKING

from services.common.certificate import Certificate
from services.common.config import ConfigError
from services.common.identity import Identity, identity_of
from services.common.listener import cannot_listen
from services.common.server import ServiceHost
from services.common.tasks import cancel_and_wait, spawn
from services.gateway import metrics
from services.gateway.api.addresses import Addresses
from services.gateway.api.audio.speech import SpeechApi
from services.gateway.api.audio.transcriptions import TranscriptionsApi
from services.gateway.api.callers import Callers
from services.gateway.api.conversations import Conversations
from services.gateway.api.gemini.door import GeminiApi
from services.gateway.api.grpc import SightlineServicer
from services.gateway.api.http import HttpApi
from services.gateway.api.info import ServerInfo
from services.gateway.api.realtime.calls import CallsApi
from services.gateway.api.realtime.door import RealtimeApi
from services.gateway.api.speaker import Speaker
from services.gateway.api.uploads import UploadsApi
from services.gateway.api.whep import WhepApi
from services.gateway.auth.sign_in import authoriser_of
from services.gateway.config import GatewayConfig
from services.gateway.sessions.key_gate import KeyGate
from services.gateway.sessions.session_spec import SessionSpec
from services.gateway.sessions.sessions import Sessions
from services.gateway.sources.file import FileLimits, FileSource
from services.gateway.sources.remote.egress_policy import EgressPolicy
from services.gateway.sources.rtmp.server import RTMP_DOORS, RtmpServer
from services.gateway.sources.source import FrameSink, Source
from services.gateway.sources.srt.library import SrtMissingError
from services.gateway.sources.srt.server import SrtServer
from services.gateway.sources.uploads import SCHEME, Uploads
from services.gateway.sources.whip.server import WhipServer
from services.gateway.viewers.viewers import Viewers
from services.gateway.webrtc.port import WebRtcPort
from services.gateway.workers.discovery import discovery_of
from services.gateway.workers.workers import Workers
from sightline.errors import PermissionDeniedError
from sightline.v1 import gateway_pb2_grpc

if TYPE_CHECKING:
    from services.gateway.cluster.cluster import Cluster
    from services.gateway.rules.rules import Rules

log = logging.getLogger(__name__)

MEASURE_S = 1.0
WITHOUT_WORKERS_S = 30.0  # after which others should be asked; workers that restart take less
GOODBYES_S = 3.0  # of the drain, after the last answer: for viewers, publishers and workers


class Gateway:
    """Every part of the service on one `ServiceHost`, which the caller starts and runs."""

    def __init__(self, config: GatewayConfig, host: ServiceHost) -> None:
        self._config = config
        self._host = host
        host.unready = self._unready
        self._discovery = discovery_of(config)
        identity = identity_of(config)
        self._workers = Workers(
            default_model=config.default_model,
            patience_s=config.worker_patience_s,
            identity=identity,
        )
        self._uploads = Uploads(config.uploads, config.upload_bytes, config.uploads_bytes)
        self._egress = EgressPolicy(config.url_allow, public=not config.edge)
        self._sessions = Sessions(config, self._workers, self._make_source)
        self._cluster = _cluster_of(config, self._sessions, self._workers, identity)
        self._viewers = Viewers(self._sessions, self._workers, config, identity)
        self._rules = _rules_of(config, self._sessions, self._viewers)
        self._speaker = Speaker(config.tts, config.max_speaks, identity)
        self._conversations = Conversations(config.dialogue, self._viewers.turns, identity)
        self._webrtc = WebRtcPort(
            config.webrtc_port,
            config.webrtc_addresses,
            dropped=lambda reason, count=1: metrics.WEBRTC_DROPPED.labels(reason).inc(count),
        )
        self._whip = WhipServer(
            KeyGate(self._sessions, "whip"),
            self._webrtc,
            ice_servers=config.ice_servers,
            microphone_of=self._viewers.microphone_of,
        )
        self._callers = Callers(authoriser_of(config), host.trusted)
        self._whep = WhepApi(config, self._sessions, self._viewers, self._callers, self._webrtc)
        self._realtime = RealtimeApi(
            config, self._sessions, self._viewers, self._speaker, self._callers
        )
        self._calls = CallsApi(config, self._realtime, self._webrtc)
        self._gemini = GeminiApi(config, self._sessions, self._realtime, self._callers)
        self._transcriptions = TranscriptionsApi(config, self._viewers, self._callers)
        self._discovering: asyncio.Task[None] | None = None
        self._measuring: asyncio.Task[None] | None = None
        self._rtmp = self._rtmp_server(config.rtmp_port)
        self._rtmps = self._rtmp_server(config.rtmps_port, host.certificate)
        self._srt: SrtServer | None = None
        if config.srt_port is not None:
            self._srt = SrtServer(
                KeyGate(self._sessions, "srt"),
                host=config.rtmp_host or config.host,
                port=config.srt_port,
                passphrase=config.srt_passphrase,
            )

    async def start(self) -> None:
        """Listen on every port. Raises ConfigError, naming the variable, when one is taken."""
        for server, variable in ((self._rtmp, "RTMP_PORT"), (self._rtmps, "RTMPS_PORT")):
            if server is not None:
                await self._listen(server, variable)
        await asyncio.to_thread(self._uploads.sweep)
        if self._srt is not None:
            await self._listen_srt(self._srt)
        await self._open_webrtc()
        addresses = Addresses(
            self._config,
            self._rtmp.port if self._rtmp else None,
            self._rtmps.port if self._rtmps else None,
            self._srt.port if self._srt else None,
        )
        info = ServerInfo(
            self._config,
            self._workers,
            self._speaker,
            self._conversations,
            addresses,
            self._callers.wanted,
        )
        servicer = SightlineServicer(
            self._config,
            self._sessions,
            self._viewers,
            self._speaker,
            addresses,
            self._conversations,
            info,
            self._callers,
            self._rules,
        )
        gateway_pb2_grpc.add_SightlineServiceServicer_to_server(servicer, self._host.server)
        api = HttpApi(
            self._config,
            self._sessions,
            self._viewers,
            addresses=addresses,
            conversations=self._conversations,
            info=info,
            callers=self._callers,
            rules=self._rules,
            others=(
                self._realtime,
                self._calls,
                self._transcriptions,
                SpeechApi(self._config, self._speaker, self._callers),
                UploadsApi(
                    self._uploads, self._sessions, addresses, self._callers, self._config.trusted()
                ),
            ),
        )
        self._whip.add_to(self._host.app)
        self._whep.add_to(self._host.app)
        self._realtime.add_to(self._host.app)
        self._gemini.add_to(self._host.app)
        api.add_to(self._host.app)
        self._measuring = spawn(self._measure(), name="gateway:measure")
        self._workers.start()
        self._discovering = spawn(self._discover(), name="gateway:discover")
        self._sessions.start()
        if self._cluster is not None:
            await self._cluster.start()
        if self._rules is not None:
            self._rules.start()
        await self._host.start()
        addresses.http_port, addresses.grpc_port = self._host.http_port, self._host.grpc_port

    async def drain(self) -> None:
        """Let answers and texts under way end, send viewers away, let publishers go, free the
        workers' memory. Where there are other gateways, they get the sessions first."""
        self._sessions.refuse()
        leaving = None
        if self._cluster is not None:
            # Clients are told to connect again, which leads them to another gateway: publishers at
            # once, and viewers when what they asked is answered.
            stopping = self._host.server.stop(self._config.drain_s)
            leaving = asyncio.create_task(stopping, name="gateway:leave")
            if self._rules is not None:
                await self._rules.drain()
            await self._cluster.drain()
        await self._end_answers()
        await cancel_and_wait(self._measuring, self._discovering)
        await asyncio.gather(self._calls.aclose(), self._viewers.aclose(), self._whep.aclose())
        for server in (self._rtmp, self._rtmps, self._srt):
            if server is not None:
                await server.aclose()
        await self._whip.aclose()
        await self._webrtc.aclose()
        if self._cluster is not None:
            await self._cluster.drain()  # what has come meanwhile
        await self._sessions.aclose()
        if self._rules is not None:
            await self._rules.aclose()
        await asyncio.to_thread(self._uploads.close)
        if self._cluster is not None:
            await self._cluster.aclose()
        peers = (self._speaker, self._conversations, self._viewers.memories, self._workers)
        await asyncio.gather(*(peer.aclose() for peer in peers))
        await cancel_and_wait(leaving)

    async def _end_answers(self) -> None:
        """Videos go on meanwhile: some answers may not have seen theirs yet."""
        viewers = self._viewers
        questions = (viewers.drain(), viewers.asks.drain(), viewers.decisions.drain())
        drains = [*questions, self._speaker.drain(), self._transcriptions.drain()]
        try:
            async with asyncio.timeout(max(0.0, self._config.drain_s - GOODBYES_S)):
                await asyncio.gather(*drains)
        except TimeoutError:
            log.warning("answers are cut off by the drain's end")

    def _unready(self) -> str:
        """Why new sessions should go to another gateway."""
        if self._workers.silent_s() < WITHOUT_WORKERS_S:
            return ""
        return "no worker answers"

    async def _discover(self) -> None:
        async with contextlib.aclosing(self._discovery.changes()) as changes:
            async for found in changes:
                self._workers.set(found)

    async def _measure(self) -> None:
        """Counts of the RTMP and SRT servers, for Prometheus."""
        counting = [
            (metrics.RTMP_CONNECTIONS, server.counts)
            for server in (self._rtmp, self._rtmps)
            if server is not None
        ]
        if self._srt is not None:
            counting.append((metrics.SRT_CONNECTIONS, self._srt.counts))
            counting.append((metrics.SRT_PACKETS, self._srt.packets))
        counted = [Counter[str]() for _ in counting]
        while counting:
            for (metric, counts), before in zip(counting, counted, strict=True):
                for outcome, count in list(counts.items()):
                    metric.labels(outcome).inc(count - before[outcome])
                    before[outcome] = count
            await asyncio.sleep(MEASURE_S)

    def _rtmp_server(
        self, port: int | None, certificate: Certificate | None = None
    ) -> RtmpServer | None:
        if port is None:
            return None
        return RtmpServer(
            KeyGate(self._sessions, "rtmp"),
            host=self._config.rtmp_host or self._config.host,
            port=port,
            doors=RTMP_DOORS.within(self._host.max_descriptors // 8),
            trusted=self._host.trusted,
            encryption=None if certificate is None else certificate.context,
        )

    async def _listen(self, server: RtmpServer, variable: str) -> None:
        try:
            await server.start()
        except OSError as error:
            host = self._config.rtmp_host
            raise cannot_listen(
                host or self._config.host,
                server.port,
                f"GATEWAY_{variable}",
                "GATEWAY_RTMP_HOST" if host else "GATEWAY_HOST",
            ) from error
        log.info("listening for RTMP", extra={variable.partition("_")[0].lower(): server.port})

    async def _listen_srt(self, server: SrtServer) -> None:
        try:
            await server.start()
        except SrtMissingError as error:
            raise ConfigError(f"GATEWAY_SRT_PORT: {error}") from error
        except OSError as error:
            raise ConfigError(
                f"cannot listen on UDP port {server.port} ({error}): choose another with "
                "GATEWAY_SRT_PORT"
            ) from error
        log.info("listening for SRT", extra={"srt": server.port})

    async def _open_webrtc(self) -> None:
        try:
            await self._webrtc.start()
        except socket.gaierror as error:
            names = ", ".join(self._config.webrtc_addresses)
            raise ConfigError(
                f"GATEWAY_WEBRTC_ADDRESSES: {names} cannot be looked up: {error.strerror}"
            ) from error
        except ValueError as error:
            raise ConfigError(f"GATEWAY_WEBRTC_ADDRESSES: {error}") from error
        except OSError as error:
            raise ConfigError(
                f"cannot listen on port {self._config.webrtc_port} by UDP and TCP: "
                f"{error.strerror}; choose another port with GATEWAY_WEBRTC_PORT"
            ) from error
        log.info("listening for WebRTC", extra={"webrtc": self._webrtc.port})

    def _make_source(self, spec: SessionSpec, sink: FrameSink) -> Source:
        if "://" in spec.source and not self._config.url_sources:
            raise PermissionDeniedError("this server reads no URLs")
        uploaded = spec.source.startswith(SCHEME)
        return FileSource(
            spec.source.removeprefix(SCHEME),
            sink,
            loop=spec.loop,
            paced=not spec.lossless,
            root=self._uploads.folder if uploaded else self._config.media_root,
            egress=self._egress,
            limits=FileLimits(away_s=self._config.url_away_s),
            name=f"file:{spec.name or 'session'}",
        )


def _cluster_of(
    config: GatewayConfig, sessions: Sessions, workers: Workers, identity: Identity | None
) -> "Cluster | None":
    """The other gateways, where there may be some."""
    if config.redis_url is None:
        return None
    from services.gateway.cluster.cluster import Cluster  # with a client of Redis, which is large

    return Cluster(config, sessions, workers, identity)


def _rules_of(config: GatewayConfig, sessions: Sessions, viewers: Viewers) -> "Rules | None":
    """Standing rules, where there is a Redis that they can live in."""
    with_redis = config.of_rules()
    if with_redis is None:
        return None
    from services.gateway.rules.rules import Rules  # likewise

    return Rules(with_redis, sessions, viewers)
