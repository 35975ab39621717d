"""One call: a Realtime conversation by WebRTC, sound in its tracks and events in a data channel."""

import asyncio
import base64
import contextlib
import json
import logging
import secrets
from collections.abc import Awaitable, Callable
from typing import Any

from aiortc import (
    AudioStreamTrack,
    RTCDataChannel,
    RTCIceServer,
    RTCRtpSender,
    RTCSessionDescription,
)
from aiortc.mediastreams import MediaStreamError
from aiortc.rtcrtpparameters import RTCRtpCodecParameters
from aiortc.rtcrtpsender import RTCEncodedFrame

from services.common.tasks import cancel_and_wait, spawn
from services.gateway.api.realtime.conversation import Conversation
from services.gateway.api.realtime.fields import WireError
from services.gateway.api.realtime.items import new_id
from services.gateway.api.realtime.line import Visitor, json_of
from services.gateway.api.realtime.mouth import Heard, Mouth
from services.gateway.api.realtime.server_events import ServerEvent
from services.gateway.api.realtime.settings import Settings
from services.gateway.auth.caller import Caller
from services.gateway.sources.whip.microphone_track import MicrophoneTrack
from services.gateway.sources.whip.peer import close_peer, negotiation
from services.gateway.webrtc.port import WebRtcPort
from sightline.errors import InternalError, SightlineError

log = logging.getLogger(__name__)

CHANNEL = "oai-events"
NEGOTIATE_S, CONNECT_S, CLOSE_S = 10.0, 8.0, 5.0
CHANNEL_S = 5.0  # that a client which is connected has to open its channel
MAX_EVENTS = 256  # that wait to be acted on
MAX_UNSENT_BYTES = 4 * 1024 * 1024
MAX_SPOKEN = 2  # responses whose words may come back as an echo
ECHO_S = 3.0  # … after they were played
GOODBYE_S = 0.2  # for the last events to leave
CLEAR = "output_audio_buffer.clear"

Converse = Callable[[Visitor], Conversation]


class RealtimeCall:
    """One peer connection and its conversation. `converse` makes that of its visitor. Belongs to
    the event loop."""

    def __init__(
        self,
        converse: Converse,
        settings: Settings,
        caller: Caller,
        place: str,
        authorise: Callable[[str], Awaitable[Caller]],
        port: WebRtcPort,
        ice_servers: list[RTCIceServer],
    ) -> None:
        self.id = f"rtc_{secrets.token_hex(24)}"  # whoever knows it may hang up
        self.caller = caller
        self.place = place
        self._settings = settings
        self._peer = port.peer_connection(ice_servers)
        self._connected = asyncio.Event()
        self._opened = asyncio.Event()
        self._over = asyncio.Event()
        self._reason = "left"
        self._channel: RTCDataChannel | None = None
        self._said: asyncio.Queue[str] = asyncio.Queue(MAX_EVENTS)
        self._microphone: MicrophoneTrack | None = None
        self._mouth = Mouth(self._played)
        self._speaking = ""  # the response under way
        self._cut: Heard | None = None  # what was heard of that response, which was cut off
        self._words: dict[str, str] = {}  # of the newest responses that are spoken
        visitor = Visitor(
            caller=caller,
            place=place,
            authorise=authorise,
            send=self._send,
            hang_up=self.hang_up,
            playing=self,
        )
        self._conversation = converse(visitor)
        self._peer.on("connectionstatechange", self._state_changed)
        self._peer.on("datachannel", self._channel_opened)

    async def negotiate(self, offer: str) -> str:
        """The answer, with every candidate in it. Raises InvalidArgumentError."""
        sound = self._peer.addTransceiver(AudioStreamTrack(), direction="sendrecv")
        known = RTCRtpSender.getCapabilities("audio").codecs
        sound.setCodecPreferences([one for one in known if one.mimeType == "audio/opus"])
        sender: Any = sound.sender
        if not hasattr(sender, "_next_encoded_frame"):
            raise InternalError("this version of aiortc has no _next_encoded_frame")
        sender._next_encoded_frame = self._next_packet
        self._microphone = MicrophoneTrack(sound.receiver, self._hear)
        async with negotiation(NEGOTIATE_S):
            await self._peer.setRemoteDescription(RTCSessionDescription(offer, "offer"))
            for transceiver in self._peer.getTransceivers():
                if transceiver is not sound:  # nobody looks at it, or listens
                    transceiver.direction = "inactive"
            await self._peer.setLocalDescription(await self._peer.createAnswer())
        answer: str = self._peer.localDescription.sdp
        return answer

    def hang_up(self, reason: str) -> None:
        """End soon."""
        self._reason = reason
        self._over.set()

    async def run(self) -> str:
        """Converse until the client is gone; returns why."""
        over = spawn(self._over.wait(), name="call:over")
        tasks = [over]
        try:
            if not await self._within(CONNECT_S, self._connected, over):
                return "left" if over.done() else "unreachable"
            # Without a channel it is sound alone.
            await self._within(CHANNEL_S, self._opened, over)
            assert self._microphone is not None
            tasks.append(spawn(self._microphone.run(), name="call:microphone"))
            tasks.append(spawn(self._converse(), name="call:converse"))
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if not over.done():
                self._reason = "error"
            await asyncio.sleep(GOODBYE_S)
            return self._reason
        finally:
            await cancel_and_wait(*tasks)

    async def aclose(self, reason: str) -> None:
        self._peer.remove_all_listeners()
        self._mouth.close()
        if self._microphone is not None:
            self._microphone.close()
        await self._conversation.aclose()
        await close_peer(self._peer, CLOSE_S)

    # --- the connection -----------------------------------------------------------------------

    async def _within(
        self, seconds: float, event: asyncio.Event, over: "asyncio.Task[Any]"
    ) -> bool:
        """Whether it came in time, and nobody hung up."""
        coming = spawn(event.wait(), name="call:wait")
        try:
            await asyncio.wait({coming, over}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            return coming.done() and not over.done()
        finally:
            await cancel_and_wait(coming)

    def _state_changed(self) -> None:
        state = self._peer.connectionState
        if state == "connected":
            self._connected.set()
        elif state in ("failed", "closed"):
            self._over.set()

    def _channel_opened(self, channel: RTCDataChannel) -> None:
        if self._channel is not None or channel.label != CHANNEL:
            channel.close()
            return
        self._channel = channel
        channel.on("message", self._take)
        channel.on("close", lambda: self.hang_up("left"))
        self._opened.set()

    def _take(self, message: str | bytes) -> None:
        """An event of the client's."""
        text = message if isinstance(message, str) else message.decode(errors="replace")
        try:
            self._said.put_nowait(text)
        except asyncio.QueueFull:
            self.hang_up("too_fast")

    async def _next_packet(self, codec: RTCRtpCodecParameters) -> RTCEncodedFrame | None:
        """The next packet of speech, where aiortc would ask its encoder."""
        try:
            data, stamp = await self._mouth.next()
        except EOFError:
            raise MediaStreamError from None
        return RTCEncodedFrame([data], stamp & 0xFFFFFFFF, None)  # type: ignore[arg-type]

    # --- the conversation ---------------------------------------------------------------------

    async def _converse(self) -> None:
        try:
            await self._conversation.open(self._settings)
            while True:
                text = await self._said.get()
                if CLEAR in text and _kind_of(text) == CLEAR:
                    self.stop()
                else:
                    await self._conversation.take(text)
        except ConnectionError:
            self.hang_up("slow_reader")
        except SightlineError as error:
            with contextlib.suppress(ConnectionError):
                await self._conversation.refuse(error)
            self.hang_up("refused")

    def _hear(self, pcm: bytes, sample_rate: int) -> None:
        try:
            self._conversation.hear(pcm, sample_rate)
        except SightlineError as error:
            log.info("a call is not heard", extra={"reason": error.reason})
            assert self._microphone is not None
            self._microphone.close()  # one refusal says it all
            with contextlib.suppress(ConnectionError):
                self._put({"type": "error", "error": json_of(error)})

    async def _send(self, told: ServerEvent) -> None:
        """An event for the client; speech goes by the track. Raises ConnectionError for one that
        does not read."""
        event = told.as_json(new_id("event"))
        match event["type"]:
            case "response.output_audio.delta":
                pcm = base64.b64decode(event["delta"])
                self._mouth.say(event["response_id"], event["item_id"], pcm)
                return
            case "response.created":
                self._speaking = event["response"]["id"]
            case "response.output_audio_transcript.delta":
                response = event["response_id"]
                self._words[response] = self._words.get(response, "") + event["delta"]
                for oldest in list(self._words)[:-MAX_SPOKEN]:
                    del self._words[oldest]
        self._put(event)
        if event["type"] == "response.done":
            self._end(event["response"]["id"])

    # --- what is played: `Playing` ------------------------------------------------------------

    def spoken(self) -> str:
        return " ".join(self._words.values()) if self._mouth.quiet_s() < ECHO_S else ""

    def pause(self) -> None:
        self._mouth.pause()

    def resume(self) -> None:
        self._mouth.resume()

    def stop(self) -> None:
        """What was not played is not part of the conversation."""
        heard = self._mouth.clear()
        if heard is None or not heard.item:
            return
        if heard.response == self._speaking:
            self._cut = heard  # once it is over
        else:
            self._truncate(heard)

    def _end(self, response: str) -> None:
        """End of a response: nothing more of it comes."""
        self._mouth.end(response)
        if response == self._speaking:
            self._speaking = ""
        if self._cut is not None and self._cut.response == response:
            cut, self._cut = self._cut, None
            self._truncate(cut)

    def _truncate(self, heard: Heard) -> None:
        """At once: what is asked next is asked after what was heard."""
        with contextlib.suppress(WireError):  # the client has deleted it
            cut = self._conversation.cut(heard.item, 0, heard.ms)
            self._put(cut.as_json(new_id("event")))

    def _played(self, how: str, response: str) -> None:
        """The mouth tells."""
        with contextlib.suppress(ConnectionError):
            self._put({"type": f"output_audio_buffer.{how}", "response_id": response})

    def _put(self, event: dict[str, Any]) -> None:
        channel = self._channel
        if channel is None or channel.readyState != "open":
            return
        if channel.bufferedAmount > MAX_UNSENT_BYTES:
            raise ConnectionError("the client does not read its events")
        channel.send(json.dumps({"event_id": new_id("event"), **event}))


def _kind_of(text: str) -> str:
    try:
        event = json.loads(text)
    except ValueError:
        return ""
    return str(event.get("type", "")) if isinstance(event, dict) else ""
