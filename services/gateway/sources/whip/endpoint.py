"""WHIP (RFC 9725): browsers and OBS publish by WebRTC with one HTTP request."""

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

import grpc
from aiohttp import web
from aiortc import (
    RTCBundlePolicy,
    RTCConfiguration,
    RTCIceServer,
    RTCPeerConnection,
    RTCRtpReceiver,
    RTCSessionDescription,
)
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack

from services.common.http_status import HTTP_STATUS
from services.common.tasks import cancel_and_wait, spawn
from services.gateway.sources.source import FrameSink, PublisherGate
from services.gateway.sources.whip.offer import check_offer
from services.gateway.sources.whip.rtp_video import RtpVideo
from sightline.errors import (
    InvalidArgumentError,
    ResourceExhaustedError,
    SightlineError,
    UnavailableError,
)

log = logging.getLogger(__name__)

SDP = "application/sdp"
# WHIP says 503 for a server that is full (RFC 9725), where the API says 429.
_STATUS = HTTP_STATUS | {grpc.StatusCode.RESOURCE_EXHAUSTED: 503}


@dataclass(frozen=True, slots=True)
class WhipLimits:
    """`connect_s`: from the answer to media flowing; `idle_s`: without a packet after that."""

    publishers: int = 64
    offer_bytes: int = 64 * 1024
    negotiate_s: float = 10.0
    connect_s: float = 30.0
    idle_s: float = 15.0
    close_s: float = 5.0


class WhipEndpoint:
    """POST <path>/<key> publishes, DELETE of its Location ends. `gate` decides whose.

    The key may also come as a bearer token of POST <path>. `ice_servers` are stun: or turn: URLs,
    turn:user:password@host:port; without any, no server is ever asked.
    """

    kind = "whip"

    def __init__(
        self,
        gate: PublisherGate,
        *,
        ice_servers: Sequence[str] = (),
        path: str = "/whip",
        limits: WhipLimits | None = None,
    ) -> None:
        self._gate = gate
        self._path = path
        self._limits = limits or WhipLimits()
        self._ice_servers = [ice_server(url) for url in ice_servers]
        self._publications: dict[str, _Publication] = {}
        self._closing = False
        logging.getLogger("aioice").setLevel(logging.WARNING)  # it tells of every candidate

    def add_to(self, app: web.Application) -> None:
        """Before the application starts."""
        for route in (self._path, self._path + "/{key}"):
            app.router.add_post(route, self._post)
            app.router.add_route("OPTIONS", route, self._options)
        resource = self._path + "/{key}/{resource}"
        app.router.add_delete(resource, self._delete)
        app.router.add_patch(resource, self._patch)

    async def start(self) -> None:
        """Nothing to do: the HTTP server is its owner's."""

    async def aclose(self) -> None:
        """End every publication; sinks get `ended("closed")`."""
        self._closing = True
        publications = list(self._publications.values())
        await asyncio.gather(*(self._end(publication, "closed") for publication in publications))

    @property
    def num_publishers(self) -> int:
        return len(self._publications)

    # --- HTTP ---------------------------------------------------------------------------------

    async def _post(self, request: web.Request) -> web.Response:
        if request.content_type != SDP:
            return _refusal(415, "INVALID_ARGUMENT", f"an offer is {SDP}")
        try:
            offer = await self._read_offer(request)
            publication = await self._publish(_key_of(request), _peer_of(request), offer)
        except SightlineError as error:
            response = _refusal(_STATUS.get(error.code, 500), error.code.name, error.message)
            if response.status == 401:
                response.headers["WWW-Authenticate"] = "Bearer"
            return response
        headers = {
            "Location": f"{self._path}/{publication.key}/{publication.id}",
            "ETag": f'"{secrets.token_hex(8)}"',
            "Access-Control-Expose-Headers": "Location, ETag, Link",
        }
        response = web.Response(
            status=201, body=publication.answer.encode(), content_type=SDP, headers=headers
        )
        for server in self._ice_servers:
            response.headers.add("Link", _link(server))
        return response

    async def _read_offer(self, request: web.Request) -> str:
        if (request.content_length or 0) > self._limits.offer_bytes:
            raise InvalidArgumentError("the offer is too long")
        try:
            async with asyncio.timeout(self._limits.negotiate_s):
                body = await request.content.read(self._limits.offer_bytes + 1)
                while len(body) <= self._limits.offer_bytes and not request.content.at_eof():
                    body += await request.content.read(self._limits.offer_bytes + 1)
            offer = body.decode()
        except TimeoutError:
            raise InvalidArgumentError("the offer did not arrive in time") from None
        except UnicodeDecodeError:
            raise InvalidArgumentError("the offer is not text") from None
        if len(body) > self._limits.offer_bytes:
            raise InvalidArgumentError("the offer is too long")
        check_offer(offer)
        return offer

    async def _publish(self, key: str, peer: str, offer: str) -> "_Publication":
        """Negotiate and start. Raises what the gate raises, and InvalidArgumentError."""
        if self._closing or len(self._publications) >= self._limits.publishers:
            raise ResourceExhaustedError("no more WebRTC publishers are taken now")
        sink = await self._gate.accept(key, peer)
        publication = _Publication(key, sink, self._ice_servers, self._limits)
        self._publications[publication.id] = publication
        try:
            await publication.negotiate(offer)
            if self._closing:
                raise UnavailableError("the gateway is draining")
        except BaseException:
            await self._over(publication, "error")
            raise
        publication.task = spawn(self._look_after(publication), name=f"whip:{peer}")
        log.info("WHIP publisher accepted", extra={"peer": peer})
        return publication

    async def _look_after(self, publication: "_Publication") -> None:
        """Until the publisher leaves by itself; `_end` cancels it."""
        reason = await publication.run()
        await self._over(publication, reason)

    async def _end(self, publication: "_Publication", reason: str) -> None:
        await cancel_and_wait(publication.task)
        await self._over(publication, reason)

    async def _over(self, publication: "_Publication", reason: str) -> None:
        """Close and give the key back, once; whoever asks waits until it is done."""
        if publication.closing is None:
            closing = self._close(publication, reason)
            publication.closing = spawn(closing, name=f"whip:{publication.id[:4]}:close")
        await asyncio.shield(publication.closing)

    async def _close(self, publication: "_Publication", reason: str) -> None:
        try:
            await publication.aclose(reason)
        finally:
            del self._publications[publication.id]
            self._gate.released(publication.key)
            log.info("WHIP publisher left", extra={"reason": reason})

    async def _delete(self, request: web.Request) -> web.Response:
        publication = self._find(request)
        if publication is None:
            return _refusal(404, "NOT_FOUND", "no such WHIP session")
        await self._end(publication, "publisher_left")
        return web.Response(status=200)

    async def _patch(self, request: web.Request) -> web.Response:
        """Neither trickle ICE nor ICE restarts: the answer holds every candidate."""
        if self._find(request) is None:
            return _refusal(404, "NOT_FOUND", "no such WHIP session")
        response = _refusal(405, "UNIMPLEMENTED", "neither trickle ICE nor restarts are supported")
        response.headers["Allow"] = "DELETE"
        return response

    async def _options(self, request: web.Request) -> web.Response:
        return web.Response(status=204, headers={"Accept-Post": SDP, "Allow": "POST, OPTIONS"})

    def _find(self, request: web.Request) -> "_Publication | None":
        publication = self._publications.get(request.match_info["resource"])
        if publication is None or publication.closing is not None:
            return None
        return publication if publication.key == request.match_info["key"] else None


class _Publication:
    """One peer connection into a sink."""

    def __init__(
        self, key: str, sink: FrameSink, ice_servers: list[RTCIceServer], limits: WhipLimits
    ) -> None:
        self.key = key
        self.id = secrets.token_urlsafe(16)
        self.answer = ""
        self.task: asyncio.Task[None] | None = None  # looks after it
        self.closing: asyncio.Task[None] | None = None
        self._sink = sink
        self._limits = limits
        self._peer = RTCPeerConnection(
            # An empty list, not None: None makes aiortc ask a public STUN server.
            RTCConfiguration(iceServers=ice_servers, bundlePolicy=RTCBundlePolicy.MAX_BUNDLE)
        )
        self._connected = asyncio.Event()
        self._failed = asyncio.Event()
        self._peer.on("connectionstatechange", self._state_changed)
        self._video: RtpVideo | None = None
        self._tracks: list[MediaStreamTrack] = []

    async def negotiate(self, offer: str) -> None:
        """Make `answer`, with every candidate in it. Raises InvalidArgumentError."""
        try:
            async with asyncio.timeout(self._limits.negotiate_s):
                await self._peer.setRemoteDescription(RTCSessionDescription(offer, "offer"))
                self._attach()
                await self._peer.setLocalDescription(await self._peer.createAnswer())
        except SightlineError:
            raise
        except TimeoutError:
            raise InvalidArgumentError("the negotiation took too long") from None
        except Exception as error:  # aiortc's parser raises whatever a broken line makes it raise
            log.info("offer refused", extra={"reason": f"{type(error).__name__}: {error}"})
            raise InvalidArgumentError("the SDP offer cannot be used") from error
        self.answer = self._peer.localDescription.sdp

    def _attach(self) -> None:
        """Connect the offered video with the sink, before any packet can arrive."""
        receivers: list[RTCRtpReceiver] = [
            transceiver.receiver
            for transceiver in self._peer.getTransceivers()
            if transceiver.receiver.track is not None
        ]
        if any(one.receiver.transport is None for one in self._peer.getTransceivers()):
            raise InvalidArgumentError("the offer's BUNDLE group lacks some of its media sections")
        videos = [receiver for receiver in receivers if receiver.track.kind == "video"]
        if len(videos) != 1:
            raise InvalidArgumentError("an offer has one video track that is sent to us")
        self._tracks = [receiver.track for receiver in receivers]
        self._video = RtpVideo(videos[0], self._sink, name=f"whip:{self.id[:4]}")

    def _state_changed(self) -> None:
        state = self._peer.connectionState
        if state == "connected":
            self._connected.set()
        elif state in ("failed", "closed"):
            self._failed.set()

    async def run(self) -> str:
        """Until the publisher is gone; returns why."""
        assert self._video is not None
        failed = spawn(self._failed.wait(), name="whip:failed")
        connected = spawn(self._connected.wait(), name="whip:connected")
        tasks = [failed, connected]
        try:
            await asyncio.wait(
                tasks, timeout=self._limits.connect_s, return_when=asyncio.FIRST_COMPLETED
            )
            if not connected.done():
                return "idle"
            watch = spawn(self._video.watch(self._limits.idle_s), name="whip:watch")
            tasks.append(watch)
            tasks += [spawn(self._drain(track), name="whip:drain") for track in self._tracks]
            # The video's track comes to its end with the sender's BYE or its DTLS connection.
            video = next(
                task
                for task, track in zip(tasks[3:], self._tracks, strict=True)
                if track.kind == "video"
            )
            await asyncio.wait({failed, watch, video}, return_when=asyncio.FIRST_COMPLETED)
            return watch.result() if watch.done() else "publisher_left"
        finally:
            await cancel_and_wait(*tasks)

    async def _drain(self, track: MediaStreamTrack) -> None:
        """Take what a track delivers: audio, which nobody listens to yet, and its end."""
        try:
            while True:
                await track.recv()
                self._sink.noted("audio_ignored")
        except MediaStreamError:
            pass

    async def aclose(self, reason: str) -> None:
        self._peer.remove_all_listeners()
        try:
            async with asyncio.timeout(self._limits.close_s):
                await self._peer.close()
        except TimeoutError:
            log.warning("a WebRTC connection did not close in time")
        except Exception as error:  # aiortc, of a connection that was half negotiated
            log.info("a WebRTC connection did not close", extra={"reason": type(error).__name__})
            await self._stop_transports()
        finally:
            if self._video is not None:
                await self._video.close(reason)
            else:
                self._sink.ended(reason)

    async def _stop_transports(self) -> None:
        """What a failed close left open: sockets, above all."""
        for transceiver in self._peer.getTransceivers():
            transport = transceiver.receiver.transport
            with contextlib.suppress(Exception):
                await asyncio.wait_for(transceiver.stop(), self._limits.close_s)
            if transport is not None:
                with contextlib.suppress(Exception):
                    await asyncio.wait_for(transport.stop(), self._limits.close_s)
                with contextlib.suppress(Exception):
                    await asyncio.wait_for(transport.transport.stop(), self._limits.close_s)


def ice_server(url: str) -> RTCIceServer:
    """stun:host:port or turn:user:password@host:port as aiortc takes it."""
    scheme, _, rest = url.partition(":")
    credentials, at, host = rest.rpartition("@")
    if not at:
        return RTCIceServer(urls=url)
    user, _, password = credentials.partition(":")
    return RTCIceServer(urls=f"{scheme}:{host}", username=user, credential=password)


def _link(server: RTCIceServer) -> str:
    """The Link header of an ICE server (RFC 9725, section 4.6)."""
    link = f'<{server.urls}>; rel="ice-server"'
    if server.username:
        link += f'; username="{server.username}"; credential="{server.credential}"'
        link += '; credential-type="password"'
    return link


def _key_of(request: web.Request) -> str:
    key = request.match_info.get("key")
    if key is None:
        scheme, _, key = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            return ""
    return key.strip()


def _peer_of(request: web.Request) -> str:
    address = request.transport.get_extra_info("peername") if request.transport else None
    return f"{address[0]}:{address[1]}" if address else "unknown"


def _refusal(status: int, code: str, message: str) -> web.Response:
    return web.json_response({"code": code, "message": message}, status=status)
