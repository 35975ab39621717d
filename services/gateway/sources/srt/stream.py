"""An SRT connection as a file of MPEG-TS that PyAV reads on the source's thread."""

import contextlib
import time
from urllib.parse import parse_qs

from services.gateway.sources.remote.egress_policy import EgressPolicy, UnreachableError
from services.gateway.sources.remote.url import SourceUrl
from services.gateway.sources.srt.library import Line, SrtSocket


class SrtStream:
    """What comes by one connection. `abort` may be called on any thread."""

    def __init__(self, connection: SrtSocket, timeout_s: float) -> None:
        """`timeout_s`: for each read, after which the file is at its end."""
        self._connection = connection
        self._left = b""
        self._closed = False
        connection.wait_at_most(timeout_s)

    def line(self) -> Line:
        return self._connection.line()

    def read(self, size: int) -> bytes:
        data = self._left or self._connection.receive()
        self._left = data[size:]
        return data[:size]

    def abort(self) -> None:
        if not self._closed:
            self._closed = True
            self._connection.close()

    close = abort


class SrtCaller:
    """A connection that is opened to `url` within `egress`. `abort` ends the wait for it."""

    def __init__(self, egress: EgressPolicy, url: SourceUrl) -> None:
        """Raises UnreachableError for a URL that asks for something else, OSError without
        libsrt."""
        self._egress = egress
        self._url = url
        query = {
            name: values[-1] for name, values in parse_qs(url.target.partition("?")[2]).items()
        }
        if query.get("mode", "caller") != "caller":
            raise UnreachableError("SRT sources are called: mode=caller")
        latency = query.get("latency", "")
        if latency and not (latency.isdecimal() and int(latency) < 60_000):
            raise UnreachableError("the latency is a number of milliseconds")
        self._connection = SrtSocket.new(
            stream_id=query.get("streamid", ""),
            passphrase=query.get("passphrase", ""),
            latency_ms=int(latency) if latency else None,
        )
        self._stream: SrtStream | None = None

    def open(self, timeout_s: tuple[float, float]) -> SrtStream:
        """`timeout_s`: to connect, and for each read. Raises OSError, UnreachableError."""
        end_s = time.monotonic() + timeout_s[0]
        address = self._egress.addresses(self._url.host, self._url.port)[0]
        try:
            self._connection.connect(str(address), self._url.port, end_s - time.monotonic())
            self._stream = SrtStream(self._connection, timeout_s[1])
        except BaseException:
            self._connection.close()
            raise
        return self._stream

    def abort(self) -> None:
        with contextlib.suppress(OSError):
            (self._stream.abort if self._stream is not None else self._connection.close)()
