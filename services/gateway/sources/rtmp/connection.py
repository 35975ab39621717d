"""One publisher's connection: commands in, replies out, video to its sink's decoder."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from services.common.threads import on_thread
from services.gateway.sources.rtmp import RtmpError, handshake, messages
from services.gateway.sources.rtmp.chunks import (
    STRANGER,
    ChunkLimits,
    ChunkReader,
    ChunkWriter,
    Message,
)
from services.gateway.sources.rtmp.flv import FOUR_CC
from services.gateway.sources.rtmp.messages import Command
from services.gateway.sources.rtmp.publication import Publication
from services.gateway.sources.source import PublisherGate
from sightline.errors import AlreadyExistsError, SightlineError, UnauthenticatedError

log = logging.getLogger(__name__)

READ_BYTES = 65_536
SLICE_BYTES = 4096  # parsed at once; then, if that was many small chunks, others have their turn
SLICE_CHUNKS = 128
CHUNK_BYTES = 4096  # of what we send
WINDOW_BYTES = 2_500_000  # after this many bytes the peer is to acknowledge
DEFAULT_ACK_BYTES = 2_500_000  # and we, unless the peer names its own window
PING = messages.PING_REQUEST.to_bytes(2)
LINGER_S = 1.0
PAUSE_S = 0.2  # after which a picture that may have more parts is taken for whole


@dataclass(frozen=True, slots=True)
class RtmpLimits:
    """Bounds of what a connection may take. `handshake_s` and `setup_s`: from connecting to having
    shaken hands and to publishing; `first_picture_s`: from then to a picture; `idle_s`: from one
    picture to the next, or without a single byte where nothing is published. `setup_bytes`: all it
    may say before its key was right, in messages of `stranger`; after that `chunks` holds.
    `chunks_per_s`: chunks and messages that are read; who sends more is read more slowly."""

    handshake_s: float = 5.0
    setup_s: float = 10.0
    setup_bytes: int = 64 * 1024
    first_picture_s: float = 15.0
    idle_s: float = 60.0
    chunks_per_s: float = 8000.0
    stranger: ChunkLimits = STRANGER
    chunks: ChunkLimits = field(default_factory=ChunkLimits)


@contextlib.contextmanager
def _as_rtmp_error() -> Iterator[None]:
    """Pictures of an absurd size break the protocol."""
    try:
        yield
    except SightlineError as error:
        raise RtmpError(error.message) from error


class RtmpConnection:
    """Serves one accepted socket; `run` returns when it is over.

    `count` is told why connections end badly: "bad_handshake", "protocol_error", "idle",
    "setup_timeout", "setup_bytes", "refused_key", "refused_busy", "refused"; and how often one was
    "throttled". `settled` is called once its key was right.
    """

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        gate: PublisherGate,
        *,
        app: str,
        limits: RtmpLimits,
        count: Callable[[str], None],
        settled: Callable[[], None] = lambda: None,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._reader, self._writer, self._gate = reader, writer, gate
        self._app = app
        self._limits = limits
        self._count = count
        self._settled = settled
        self._clock_ns = clock_ns
        address = writer.get_extra_info("peername")  # None when the peer has gone already
        self.peer = f"{address[0]}:{address[1]}" if address else "unknown"
        self._chunks = ChunkReader(limits.stranger)
        self._allowance = limits.chunks_per_s  # chunks it may send at once
        self._allowed_s = time.monotonic()
        self._chunk_writer = ChunkWriter()
        self._received_bytes = 0
        self._acknowledged_bytes = 0
        self._ack_bytes = DEFAULT_ACK_BYTES
        self._connected = False
        self._over = "publisher_left"  # why reading ended
        self._publication: Publication | None = None

    async def run(self) -> None:
        reason = "publisher_left"
        try:
            reason = await self._serve()
        except RtmpError as error:
            reason = "protocol_error"
            self._count("protocol_error" if self._connected else "bad_handshake")
            log.info("RTMP peer refused", extra={"peer": self.peer, "reason": str(error)})
            await self._say_goodbye(str(error))
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        except asyncio.CancelledError:
            reason = "closed"
            raise
        finally:
            try:
                await self._unpublish(reason)
                if reason in ("refused", "protocol_error"):
                    await self._linger()
            finally:
                self._writer.close()

    # --- reading ------------------------------------------------------------------------------

    async def _serve(self) -> str:
        """Reads until the peer leaves; returns the reason. Raises RtmpError."""
        try:
            async with asyncio.timeout(self._limits.setup_s):
                async with asyncio.timeout(self._limits.handshake_s):
                    await self._shake_hands()
                while self._publication is None:
                    if not await self._read_some():
                        return self._over
                    if self._publication is None and self._said_bytes > self._limits.setup_bytes:
                        self._count("setup_bytes")
                        return "refused"
        except TimeoutError:
            self._count("setup_timeout")
            return "idle"
        heard_s = time.monotonic()
        while True:
            data = None
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PAUSE_S):
                    data = await self._reader.read(READ_BYTES)
            if data is not None:
                heard_s = time.monotonic()
                if not await self._take(data):
                    return self._over
            if self._publication is not None:
                with _as_rtmp_error():
                    self._publication.settle(PAUSE_S)
            if await self._overdue(heard_s):
                self._count("idle")
                return "idle"

    async def _overdue(self, heard_s: float) -> bool:
        """Whether the publisher is waited for no longer; it is told why."""
        limits = self._limits
        if self._publication is None:
            return time.monotonic() - heard_s > limits.idle_s
        text = self._publication.overdue(limits.first_picture_s, limits.idle_s)
        if text:
            await self._say_goodbye(text)
        return bool(text)

    async def _shake_hands(self) -> None:
        handshake.check_version(await self._reader.readexactly(1))
        c1 = await self._reader.readexactly(handshake.PACKET_BYTES)
        await self._write(handshake.reply(c1))
        await self._reader.readexactly(handshake.PACKET_BYTES)  # C2: an echo nobody checks
        self._received_bytes = 1 + 2 * handshake.PACKET_BYTES

    @property
    def _said_bytes(self) -> int:
        """Number of bytes that were received after the handshake."""
        return self._received_bytes - 1 - 2 * handshake.PACKET_BYTES

    async def _read_some(self) -> bool:
        """Handle what arrives next; False at the end of the stream or after a refusal."""
        return await self._take(await self._reader.read(READ_BYTES))

    async def _take(self, data: bytes) -> bool:
        if not data:
            return False
        arrival_ns = self._clock_ns()
        self._received_bytes += len(data)
        for start in range(0, len(data), SLICE_BYTES):
            before, num_messages = self._chunks.num_chunks, 0
            for message in self._chunks.feed(data[start : start + SLICE_BYTES]):
                num_messages += 1
                if not await self._handle(message, arrival_ns):
                    self._over = "refused"
                    return False
            await self._give_way(self._chunks.num_chunks - before + num_messages)
        if self._received_bytes - self._acknowledged_bytes >= self._ack_bytes:
            self._acknowledged_bytes = self._received_bytes
            await self._send(messages.acknowledgement(self._received_bytes))
        return True

    async def _give_way(self, num_pieces: int) -> None:
        """Let others have their turn after many small pieces, and wait if there were too many."""
        now_s, rate = time.monotonic(), self._limits.chunks_per_s
        grown = self._allowance + (now_s - self._allowed_s) * rate
        self._allowance, self._allowed_s = min(rate, grown) - num_pieces, now_s
        if self._allowance < 0:
            self._count("throttled")
            await asyncio.sleep(-self._allowance / rate)
        elif num_pieces > SLICE_CHUNKS:
            await asyncio.sleep(0)

    async def _handle(self, message: Message, arrival_ns: int) -> bool:
        """One message; False ends the connection."""
        kind = message.type_id
        if kind in (messages.VIDEO, messages.AUDIO, messages.AGGREGATE):
            if self._publication is None:
                return True  # late packets of a stream that was deleted
            with _as_rtmp_error():
                self._publication.media(message, arrival_ns)
        elif kind in (messages.DATA_AMF0, messages.DATA_AMF3):
            if self._publication is not None:
                self._publication.metadata(message)
        elif kind in (messages.COMMAND_AMF0, messages.COMMAND_AMF3):
            return await self._command(messages.parse_command(message), message.stream_id)
        elif kind == messages.WINDOW_SIZE and len(message.payload) >= 4:
            self._ack_bytes = max(1024, int.from_bytes(message.payload[:4]) // 2)
        elif kind == messages.USER_CONTROL and message.payload[:2] == PING:
            timestamp = message.payload[2:6]
            await self._send(messages.user_control(messages.PING_RESPONSE, timestamp))
        return True  # acknowledgements and everything else need no answer

    # --- commands -----------------------------------------------------------------------------

    async def _command(self, command: Command, stream_id: int) -> bool:
        name, transaction = command.name, command.transaction
        if name == "connect":
            return await self._connect(command)
        if not self._connected:
            raise RtmpError(f"{name} before connect")
        if name == "publish":
            return await self._publish(command, stream_id)
        if name == "createStream":
            await self._send(messages.result(transaction, None, messages.PUBLISH_STREAM_ID))
        elif name in ("deleteStream", "closeStream", "FCUnpublish"):
            if name == "FCUnpublish":
                await self._answer_fc("onFCUnpublish", "NetStream.Unpublish.Success", command)
            if self._publication is not None:
                await self._unpublish("publisher_left")
                code = "NetStream.Unpublish.Success"
                await self._status("status", code, "the stream was unpublished")
        elif name == "FCPublish":
            return await self._fc_publish(command)
        elif name in ("releaseStream", "_checkbw", "getStreamLength"):
            await self._send(messages.result(transaction, None, None))
        elif name in ("play", "play2"):
            code, text = "NetStream.Play.StreamNotFound", "this server only takes streams in"
            await self._status("error", code, text)
            self._count("refused")
            return False
        elif transaction:
            code = "NetConnection.Call.Failed"
            await self._send(messages.error(transaction, code, "no such call"))
        return True

    async def _connect(self, command: Command) -> bool:
        properties = command.object if isinstance(command.object, dict) else {}
        app = str(properties.get("app", "")).split("?")[0].strip("/")
        if app != self._app:
            code = "NetConnection.Connect.InvalidApp"
            text = f"unknown application; publish to /{self._app}/<key>"
            await self._send(messages.error(command.transaction, code, text))
            self._count("refused")
            return False
        self._connected = True
        await self._send(messages.window_size(WINDOW_BYTES))
        await self._send(messages.peer_bandwidth(WINDOW_BYTES))
        await self._send(messages.set_chunk_size(CHUNK_BYTES))
        self._chunk_writer.chunk_bytes = CHUNK_BYTES
        codecs = list(FOUR_CC)
        server = {"fmsVer": "FMS/3,0,1,123", "capabilities": 31.0, "fourCcList": codecs}
        info = {
            "level": "status",
            "code": "NetConnection.Connect.Success",
            "description": "connected",
            "objectEncoding": 0.0,
            "fourCcList": codecs,
        }
        await self._send(messages.result(command.transaction, server, info))
        return True

    async def _publish(self, command: Command, stream_id: int) -> bool:
        key = str(command.argument(0) or "").split("?")[0]
        if self._publication is not None:
            code, text = "NetStream.Publish.BadName", "this connection already publishes"
            await self._status("error", code, text, stream_id)
            self._count("refused")
            return False
        try:
            sink = await self._gate.accept(key, self.peer, self._evict)
        except SightlineError as error:
            code = "NetStream.Publish.BadName"
            if isinstance(error, UnauthenticatedError):
                self._count("refused_key")
                text = error.message or "wrong stream key"
            elif isinstance(error, AlreadyExistsError):
                self._count("refused_busy")
                text = error.message or "somebody else is publishing with this key"
            else:
                self._count("refused")
                code, text = "NetStream.Publish.Failed", error.message
            await self._status("error", code, text, stream_id)
            return False
        self._publication = Publication(key, sink, self.peer)
        self._chunks.limits = self._limits.chunks
        self._settled()
        begin = stream_id.to_bytes(4)
        await self._send(messages.user_control(messages.STREAM_BEGIN, begin))
        text = "publishing"
        await self._status("status", "NetStream.Publish.Start", text, stream_id)
        log.info("RTMP publisher accepted", extra={"peer": self.peer})
        return True

    async def _fc_publish(self, command: Command) -> bool:
        """Flash encoders announce a key before they publish with it, and believe the answer."""
        try:
            await self._gate.check(str(command.argument(0) or "").split("?")[0])
        except SightlineError as error:
            self._count("refused_key")
            await self._answer_fc("onFCPublish", "NetStream.Publish.BadName", command)
            await self._status("error", "NetStream.Publish.BadName", error.message)
            return False
        await self._answer_fc("onFCPublish", "NetStream.Publish.Start", command)
        return True

    def _evict(self) -> None:
        """Another has come with the key, and this one has shown nothing for a while."""
        status = messages.status(
            messages.PUBLISH_STREAM_ID,
            "error",
            "NetStream.Publish.Failed",
            "another publisher came with this key",
        )
        self._writer.write(self._chunk_writer.message(messages.STATUS_STREAM, status))
        self._reader.feed_eof()  # our reading ends, as if the peer had left

    async def _unpublish(self, reason: str) -> None:
        """The publisher is gone: its last pictures, its sink's end, its key."""
        publication, self._publication = self._publication, None
        if publication is None:
            return
        try:
            await asyncio.shield(on_thread(publication.close, reason, name="close:rtmp"))
        finally:
            self._gate.released(publication.key)
            log.info("RTMP publisher left", extra={"peer": self.peer, "reason": reason})

    async def _answer_fc(self, name: str, code: str, command: Command) -> None:
        text = str(command.argument(0) or "")
        await self._send(messages.status(0, "status", code, text, name=name))

    # --- writing ------------------------------------------------------------------------------

    async def _status(self, level: str, code: str, text: str, stream_id: int = 0) -> None:
        stream_id = stream_id or messages.PUBLISH_STREAM_ID
        await self._send(messages.status(stream_id, level, code, text))

    async def _send(self, message: Message) -> None:
        stream = messages.COMMAND_STREAM
        if message.type_id < messages.AUDIO:
            stream = messages.CONTROL_STREAM
        elif message.stream_id:
            stream = messages.STATUS_STREAM
        await self._write(self._chunk_writer.message(stream, message))

    async def _write(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def _linger(self) -> None:
        """Let the peer read why it was refused: closing on unread data would reset its socket."""
        try:
            async with asyncio.timeout(LINGER_S):
                self._writer.write_eof()
                while await self._reader.read(READ_BYTES):
                    pass
        except (OSError, TimeoutError):
            pass

    async def _say_goodbye(self, text: str) -> None:
        """Tell a publisher why it is cut off, if it still listens."""
        if self._publication is None:
            return
        try:
            async with asyncio.timeout(1.0):
                await self._status("error", "NetStream.Publish.Failed", text)
        except (ConnectionError, TimeoutError):
            pass
