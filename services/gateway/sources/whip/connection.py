"""One publisher's WebRTC connection: negotiated, watched, closed."""

import asyncio
import logging
import secrets
from dataclasses import dataclass

from aiortc import RTCIceServer, RTCRtpReceiver, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack

from services.common.tasks import cancel_and_wait, spawn
from services.gateway.sources.patience import FIRST_S, NEXT_S, Patience
from services.gateway.sources.sound import EncodedSound
from services.gateway.sources.source import FrameSink
from services.gateway.sources.whip.codecs import keep_parameters
from services.gateway.sources.whip.microphone_track import Hear, MicrophoneTrack
from services.gateway.sources.whip.peer import add_candidates, negotiation, stop_transports
from services.gateway.sources.whip.publication import Publication
from services.gateway.sources.whip.sound import SoundPublication, SoundSink
from services.gateway.webrtc.port import WebRtcPort
from sightline.errors import InvalidArgumentError

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class WhipLimits:
    """`connect_s`: from the answer to media flowing; `idle_s`: without a packet after that;
    `first_picture_s` and `picture_s`: with packets, but without a picture."""

    publishers: int = 64
    offer_bytes: int = 64 * 1024
    negotiate_s: float = 10.0
    connect_s: float = 8.0
    idle_s: float = 15.0
    first_picture_s: float = FIRST_S
    picture_s: float = NEXT_S
    close_s: float = 5.0


class _Both:
    """Sound that is a session's, and somebody's microphone as well."""

    def __init__(self, sink: FrameSink, microphone: MicrophoneTrack) -> None:
        self._sink = sink
        self._microphone = microphone

    def sound(self, sound: EncodedSound) -> None:
        self._sink.sound(sound)
        self._microphone.sound(sound)

    def noted(self, what: str, count: int = 1) -> None:
        self._sink.noted(what, count)


class WhipConnection:
    """One peer connection, whose video goes into a sink."""

    def __init__(
        self,
        key: str,
        sink: FrameSink,
        port: WebRtcPort,
        ice_servers: list[RTCIceServer],
        limits: WhipLimits,
        hear: Hear | None = None,
    ) -> None:
        """hear: gets its sound, which is somebody's microphone as well."""
        self._microphone = None if hear is None else MicrophoneTrack(None, hear)
        self.key = key
        self.id = secrets.token_hex(16)
        self.tag = f'"{secrets.token_hex(8)}"'  # of its ICE session (RFC 9725, section 4.3.1)
        self.answer = ""
        self._sink = sink
        self._limits = limits
        self._peer = port.peer_connection(ice_servers)
        self._connected = asyncio.Event()
        self._failed = asyncio.Event()
        self._peer.on("connectionstatechange", self._state_changed)
        self._publication: Publication | None = None
        self._tracks: list[MediaStreamTrack] = []
        self._sounds: list[SoundPublication] = []
        self._num_candidates = 0  # that came later than the offer

    async def negotiate(self, offer: str) -> None:
        """Make `answer`, with every candidate in it. Raises InvalidArgumentError."""
        async with negotiation(self._limits.negotiate_s):
            await self._peer.setRemoteDescription(RTCSessionDescription(offer, "offer"))
            self._attach()
            keep_parameters(self._peer)
            await self._peer.setLocalDescription(await self._peer.createAnswer())
        self.answer = self._peer.localDescription.sdp

    async def add_candidates(self, fragment: str) -> None:
        """Take further candidates of the publisher's (RFC 8840). Raises InvalidArgumentError, and
        RestartError for an ICE restart."""
        count = self._num_candidates
        self._num_candidates = await add_candidates(self._peer, fragment, count)

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
        self._publication = Publication(videos[0], self._sink, name=f"whip:{self.id[:4]}")
        sink: SoundSink = self._sink
        if self._microphone is not None:
            sink = _Both(self._sink, self._microphone)
        self._sounds = [
            SoundPublication(receiver, sink)
            for receiver in receivers
            if receiver.track.kind == "audio"
        ][:1]

    def _state_changed(self) -> None:
        state = self._peer.connectionState
        if state == "connected":
            self._connected.set()
        elif state in ("failed", "closed"):
            self._failed.set()

    async def run(self) -> str:
        """Serve until the publisher is gone; returns why."""
        assert self._publication is not None
        failed = spawn(self._failed.wait(), name="whip:failed")
        connected = spawn(self._connected.wait(), name="whip:connected")
        tasks = [failed, connected]
        try:
            await asyncio.wait(
                tasks, timeout=self._limits.connect_s, return_when=asyncio.FIRST_COMPLETED
            )
            if not connected.done():
                self._tell_why_not()
                return "idle"
            listening: list[asyncio.Task[None]] = []
            if self._microphone is not None:
                listening.append(spawn(self._microphone.run(), name="whip:microphone"))
            patience = Patience(self._sink, self._limits.first_picture_s, self._limits.picture_s)
            watching = self._publication.watch(self._limits.idle_s, patience)
            watch = spawn(watching, name="whip:watch")
            tasks.append(watch)
            tasks += [spawn(self._drain(track), name="whip:drain") for track in self._tracks]
            # The video's track comes to its end with the sender's BYE or its DTLS connection.
            video = next(
                task
                for task, track in zip(tasks[3:], self._tracks, strict=True)
                if track.kind == "video"
            )
            tasks += listening
            await asyncio.wait({failed, watch, video}, return_when=asyncio.FIRST_COMPLETED)
            return watch.result() if watch.done() else "publisher_left"
        finally:
            await cancel_and_wait(*tasks)

    def _tell_why_not(self) -> None:
        ice = self._peer.iceConnectionState
        if ice == "completed":
            self._sink.noted("dtls_failed")
            states = {one.receiver.transport.state for one in self._peer.getTransceivers()}
            log.info(
                "a WebRTC publisher was reached, but no encryption was agreed on: its certificate "
                "is to be RSA's, or on the curve P-256 (ffmpeg: -cert_file and -key_file)"
                if "failed" in states
                else "a WebRTC publisher was reached, but its encryption was not ready in time"
            )
            return
        self._sink.noted("ice_failed")
        log.info(
            "a WebRTC publisher could not be reached: let UDP and TCP through to "
            "GATEWAY_WEBRTC_PORT, and name in GATEWAY_WEBRTC_ADDRESSES what leads to it",
            extra={"ice": ice},
        )

    async def _drain(self, track: MediaStreamTrack) -> None:
        """Wait for a track's end: what it carries has gone another way, but for further sound."""
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
            await stop_transports(self._peer, self._limits.close_s)
        finally:
            for sound in self._sounds:
                sound.close()
            if self._microphone is not None:
                self._microphone.close()
            if self._publication is not None:
                await self._publication.close(reason)
            else:
                self._sink.ended(reason)
