"""The SRT port: publishers of MPEG-TS, each read and decoded on a thread of its own."""

import asyncio
import contextlib
import logging
import threading
import time
from collections import Counter

import av

from services.common.tasks import cancel_and_wait, spawn
from services.common.threads import on_thread
from services.gateway.sources.clock import ArrivalClock
from services.gateway.sources.container import open_transport_stream
from services.gateway.sources.decoder import FrameOutlet
from services.gateway.sources.programme_map import ProgrammeWatch
from services.gateway.sources.source import FrameSink, PublisherGate
from services.gateway.sources.srt.library import Line, SrtSocket
from services.gateway.sources.srt.stream import SrtStream
from services.gateway.sources.srt.stream_id import key_of
from sightline.errors import InvalidArgumentError, SightlineError, UnauthenticatedError

log = logging.getLogger(__name__)

CHECK_S = 1.0  # that a caller may wait for its key to be looked up; others wait behind it
IDLE_S = 30.0  # without a packet
CLOSE_S = 5.0
COUNT_S = 2.0
BAD_REQUEST, WRONG_KEY, UNAVAILABLE = 400, 401, 503
_REFUSALS = {BAD_REQUEST: "no_key", WRONG_KEY: "wrong_key", UNAVAILABLE: "unavailable"}


class SrtServer:
    """Takes publishers at srt://host:port?streamid=publish:<key>. `gate` decides whose; who has a
    wrong key is refused before there is a connection.

    `port` 0 picks a free one; `port` holds the real one after `start`. With a `passphrase`
    everybody needs that too, and all is encrypted. `counts` says what became of callers, and
    `packets` what became of theirs.
    """

    kind = "srt"

    def __init__(
        self, gate: PublisherGate, *, host: str, port: int, passphrase: str | None = None
    ) -> None:
        self._gate = gate
        self._host = host
        self.port = port
        self._passphrase = passphrase
        self._socket: SrtSocket | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._listening: threading.Thread | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self.counts: Counter[str] = Counter()
        self.packets: Counter[str] = Counter()

    async def start(self) -> None:
        """Listen. Raises OSError when the port is taken, or without libsrt."""
        self._loop = asyncio.get_running_loop()
        self._socket = SrtSocket.listening(self._host, self.port, self._passphrase, self._check)
        self.port = self._socket.port
        self._listening = threading.Thread(
            target=self._listen, args=(self._socket,), name="srt:listen", daemon=True
        )
        self._listening.start()

    async def aclose(self) -> None:
        """Stop listening and end every connection; sinks get `ended("closed")`."""
        if self._socket is None or self._listening is None:
            return
        # On a thread: a check under way needs this loop, and libsrt waits for it.
        await on_thread(self._socket.close, name="srt:close")
        await on_thread(self._listening.join, CLOSE_S, name="srt:close")
        self._socket = None
        await cancel_and_wait(*self._connections)

    # --- threads of libsrt and the listening one ----------------------------------------------

    def _check(self, stream_id: str) -> int:
        status = self._status(key_of(stream_id))
        if status:
            self.counts[_REFUSALS[status]] += 1
            log.info("SRT caller refused", extra={"status": status})
        return status

    def _status(self, key: str) -> int:
        loop = self._loop
        if not key or loop is None:
            return BAD_REQUEST
        try:
            asyncio.run_coroutine_threadsafe(self._gate.check(key), loop).result(CHECK_S)
        except UnauthenticatedError:
            return WRONG_KEY
        except (SightlineError, TimeoutError, RuntimeError):
            return UNAVAILABLE
        return 0

    def _listen(self, own: SrtSocket) -> None:
        assert self._loop is not None
        while (caller := own.accept()) is not None:
            try:
                self._loop.call_soon_threadsafe(self._accepted, *caller)
            except RuntimeError:  # the loop is closed
                return

    # --- the event loop -----------------------------------------------------------------------

    def _accepted(self, connection: SrtSocket, peer: str) -> None:
        self.counts["accepted"] += 1
        task = spawn(self._serve(connection, peer), name=f"srt:{peer}")
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _serve(self, connection: SrtSocket, peer: str) -> None:
        try:
            stream = SrtStream(connection, IDLE_S)
            key = key_of(connection.stream_id)
            sink = await self._gate.accept(key, peer, lambda: _end(stream))
        except (SightlineError, OSError) as error:
            reason = error.message if isinstance(error, SightlineError) else str(error)
            self.counts["refused"] += 1
            log.info("SRT publisher refused", extra={"peer": peer, "reason": reason})
            _end(connection)
            return
        publication = _Publication(stream, sink, peer, self.counts, self.packets)
        try:
            await publication.run()
        finally:
            self._gate.released(key)


class _Publication:
    """One publication, from the gate's yes until the publisher leaves."""

    def __init__(
        self,
        stream: SrtStream,
        sink: FrameSink,
        peer: str,
        counts: Counter[str],
        packets: Counter[str],
    ) -> None:
        self._counts = counts
        self._packets = packets
        self._line = Line()  # as it was counted
        self._stream = stream
        self._sink = sink
        self._peer = peer
        self._closing = False

    async def run(self) -> None:
        """Returns once the sink has heard the end."""
        reading = spawn(on_thread(self._read, name=f"srt:{self._peer}"), name="srt:read")
        try:
            while not reading.done():
                await asyncio.wait([reading], timeout=COUNT_S)
                self._count()
        finally:
            self._closing = not reading.done()
            await on_thread(self._stream.abort, name="srt:close")
            await reading

    def _count(self) -> None:
        line, before = self._stream.line(), self._line
        if line.received >= before.received:  # else it is closed
            self._packets["received"] += line.received - before.received
            self._packets["missing"] += line.missed - before.missed
            self._packets["lost"] += line.lost - before.lost
            self._line = line

    def _read(self) -> None:
        reason = "error"
        try:
            reason = self._play()
        except InvalidArgumentError as error:
            self._counts["malformed"] += 1
            log.info("SRT publisher refused", extra={"peer": self._peer, "reason": error.message})
        except (av.FFmpegError, OSError) as error:
            self._counts["broken"] += 1
            log.info("SRT broke off", extra={"peer": self._peer, "reason": type(error).__name__})
        except Exception:
            log.exception("SRT failed")
        finally:
            self._sink.ended("closed" if self._closing else reason)

    def _play(self) -> str:
        outlet, watch = FrameOutlet(self._sink), ProgrammeWatch(self._stream)
        while True:
            clock = ArrivalClock()
            with contextlib.closing(
                open_transport_stream(watch, self._sink, lambda: None)
            ) as reading:
                for frame, time_ns in reading.pictures:
                    capture_ns, clock_source = clock.map(time_ns, time.time_ns())
                    outlet.deliver(frame, capture_ns, clock_source, reading.aspect)
            if not watch.changed:
                return "publisher_left"
            watch.go_on()


def _end(connection: SrtSocket | SrtStream) -> None:
    """Close soon: libsrt may wait for its own threads."""
    spawn(on_thread(connection.close, name="srt:close"), name="srt:close")
