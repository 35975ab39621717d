"""One viewer's WebRTC connection: negotiated, fed from a programme, closed."""

import asyncio
import logging
import re
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import Any

from aiortc import (
    AudioStreamTrack,
    RTCIceServer,
    RTCRtpSender,
    RTCSessionDescription,
    VideoStreamTrack,
)
from aiortc.mediastreams import MediaStreamError
from aiortc.rtcrtpparameters import RTCRtpCodecParameters
from aiortc.rtcrtpsender import RTCEncodedFrame

from services.common.tasks import cancel_and_wait, spawn
from services.gateway import metrics
from services.gateway.playback.programme import Programme
from services.gateway.playback.soundtrack import Listener
from services.gateway.playback.subscription import Subscription
from services.gateway.sources.whip.microphone_track import Hear, MicrophoneTrack
from services.gateway.sources.whip.offer import UnsupportedVideoError
from services.gateway.sources.whip.peer import ENCODER, add_candidates, close_peer, negotiation
from services.gateway.webrtc.port import WebRtcPort
from sightline.errors import InternalError, InvalidArgumentError

log = logging.getLogger(__name__)

CONNECT_S = 8.0  # from the answer to media flowing
NEGOTIATE_S = 10.0
CLOSE_S = 5.0
REPEAT_S = 0.5  # between two keyframes that a viewer asks for
BURST_BYTES = 64 * 1024  # sent at once; then others have their turn, and routers theirs
BURST_PAUSE_S = 0.004
_OPUS = re.compile(r"^a=rtpmap:\d+ opus/48000/2", re.IGNORECASE | re.MULTILINE)
_H264 = re.compile(r"^a=rtpmap:\d+ H264/90000", re.IGNORECASE | re.MULTILINE)


class PlaybackConnection:
    """One peer connection that is sent a session's video, and its sound where the offer takes it,
    from the moment it is connected."""

    def __init__(
        self,
        programme: Programme,
        port: WebRtcPort,
        ice_servers: list[RTCIceServer],
        hear: Hear | None = None,
    ) -> None:
        """hear: gets the viewer's microphone, where the offer has one."""
        self.id = secrets.token_hex(16)
        self._programme = programme
        self._peer = port.peer_connection(ice_servers)
        self._connected = asyncio.Event()
        self._over = asyncio.Event()
        self._reason = "left"
        self._subscription: Subscription | None = None
        self._listener: Listener | None = None
        self._hear = hear
        self._microphone: MicrophoneTrack | None = None
        self._num_candidates = 0
        self._repeated_s = 0.0
        self._burst = 0
        self._peer.on("connectionstatechange", self._state_changed)

    async def negotiate(self, offer: str) -> str:
        """The answer to a viewer's offer, with every candidate in it. Raises InvalidArgumentError,
        UnsupportedVideoError for a viewer who takes no H.264."""
        if not _H264.search(offer):
            raise UnsupportedVideoError("viewers are sent H.264, which the offer does not take")
        video = self._peer.addTransceiver(VideoStreamTrack(), direction="sendonly")
        known = RTCRtpSender.getCapabilities("video").codecs
        video.setCodecPreferences(
            [
                codec
                for codec in known
                if codec.mimeType == "video/rtx"
                or (
                    codec.mimeType == "video/H264"
                    and codec.parameters.get("packetization-mode") == "1"
                )
            ]
        )
        self._take_over(video.sender, self._next)
        if _OPUS.search(offer):
            direction = "sendonly" if self._hear is None else "sendrecv"
            sound = self._peer.addTransceiver(AudioStreamTrack(), direction=direction)
            if self._hear is not None:
                self._microphone = MicrophoneTrack(sound.receiver, self._hear)
            known = RTCRtpSender.getCapabilities("audio").codecs
            sound.setCodecPreferences([one for one in known if one.mimeType == "audio/opus"])
            self._take_over(sound.sender, self._next_sound)
        async with negotiation(NEGOTIATE_S):
            await self._peer.setRemoteDescription(RTCSessionDescription(offer, "offer"))
            if len([one for one in self._peer.getTransceivers() if one.kind == "video"]) != 1:
                raise InvalidArgumentError("a viewer takes one video")
            await self._peer.setLocalDescription(await self._peer.createAnswer())
        if video.currentDirection not in ("sendonly", "sendrecv"):
            raise InvalidArgumentError("the offer receives no video: recvonly is what viewers ask")
        answer: str = self._peer.localDescription.sdp
        return answer

    async def add_candidates(self, fragment: str) -> None:
        """Take further candidates. Raises as its namesake."""
        count = self._num_candidates
        self._num_candidates = await add_candidates(self._peer, fragment, count)

    async def run(self) -> str:
        """Serve until the viewer is gone; returns why."""
        connected = spawn(self._connected.wait(), name="whep:connected")
        over = spawn(self._over.wait(), name="whep:over")
        listening = None
        if self._microphone is not None:
            listening = spawn(self._microphone.run(), name="whep:microphone")
        try:
            await asyncio.wait(
                {connected, over}, timeout=CONNECT_S, return_when=asyncio.FIRST_COMPLETED
            )
            if not connected.done():
                log.info(
                    "a WebRTC viewer could not be reached: let UDP and TCP through to "
                    "GATEWAY_WEBRTC_PORT, and name in GATEWAY_WEBRTC_ADDRESSES what leads to it",
                    extra={"ice": self._peer.iceConnectionState},
                )
                return "unreachable"
            await over
            return self._reason
        finally:
            await cancel_and_wait(connected, over, listening)

    async def aclose(self, reason: str = "closed") -> None:
        self._peer.remove_all_listeners()
        if self._microphone is not None:
            self._microphone.close()
        if self._subscription is not None:
            self._programme.leave(self._subscription)
        if self._listener is not None:
            self._programme.sound.leave(self._listener)
        await close_peer(self._peer, CLOSE_S)

    def _state_changed(self) -> None:
        state = self._peer.connectionState
        if state == "connected":
            self._connected.set()
        elif state in ("failed", "closed"):
            self._over.set()

    # --- in the place of aiortc's encoder ---------------------------------------------------

    def _take_over(self, sender: Any, following: Callable[..., Awaitable[Any]]) -> None:
        """aiortc encodes for each viewer, or packs for each; here all share the payloads. Raises
        InternalError when aiortc is not the one this was written for."""
        for name in ENCODER:
            if not hasattr(sender, name):
                raise InternalError(f"this version of aiortc has no {name}")
        sender._next_encoded_frame = following
        sender._send_keyframe = self._repeat

    async def _next(self, codec: RTCRtpCodecParameters) -> RTCEncodedFrame | None:
        """The next picture: asked for once media can flow."""
        if self._subscription is None:
            self._subscription = self._programme.join()
        try:
            picture, stamp = await self._subscription.next()
        except EOFError:
            self._reason = "session_over"
            self._over.set()
            raise MediaStreamError from None
        self._burst += picture.num_bytes
        if not self._subscription.is_waiting:
            self._burst = 0
        elif self._burst > BURST_BYTES:
            self._burst = 0
            await asyncio.sleep(BURST_PAUSE_S)
        metrics.WHEP_BYTES.inc(picture.num_bytes)
        # The audio level is for audio.
        return RTCEncodedFrame(picture.payloads, stamp & 0xFFFFFFFF, None)  # type: ignore[arg-type]

    async def _next_sound(self, codec: RTCRtpCodecParameters) -> RTCEncodedFrame | None:
        """The next packet of sound: asked for once media can flow."""
        if self._listener is None:
            self._listener = self._programme.sound.join()
        try:
            data, place = await self._listener.next()
        except EOFError:
            raise MediaStreamError from None
        metrics.WHEP_BYTES.inc(len(data))
        return RTCEncodedFrame([data], place & 0xFFFFFFFF, None)  # type: ignore[arg-type]

    def _repeat(self) -> None:
        """The viewer lost a picture and asks for a keyframe."""
        now_s = time.monotonic()
        if self._subscription is not None and now_s - self._repeated_s > REPEAT_S:
            self._repeated_s = now_s
            self._programme.repeat(self._subscription)
