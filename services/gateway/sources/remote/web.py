"""Files of the web for libavformat: read by us, because it would follow a redirect, a playlist, a
segment or a key to any address at all."""

import contextlib
import http.client
import io
import os
import re
import socket
import time
from collections.abc import Callable, Mapping

from services.common.retry_after import seconds_of
from services.gateway.sources.patience import Patience
from services.gateway.sources.remote.answers import NotServedError
from services.gateway.sources.remote.credentials import Credentials
from services.gateway.sources.remote.decrypted import Decrypted
from services.gateway.sources.remote.egress_policy import EgressPolicy, UnreachableError
from services.gateway.sources.remote.secured import secured
from services.gateway.sources.remote.url import SourceUrl
from sightline.errors import InvalidArgumentError

MAX_REDIRECTS = 5
MAX_OPENED = 64  # files of one source while it is opened: a master playlist names its variants
MAX_PLAYLIST_BYTES = 4 * 1024 * 1024
MAX_RESUMED = 8  # broken connections in a row that are taken up where they broke
MAX_MISSING = 8  # segments in a row that the server does not have; it is asked for no more
_REDIRECTS = (301, 302, 303, 307, 308)
_PLAYLIST_TYPES = ("mpegurl", "m3u8")
_PLAYLIST_START = b"#EXTM3U"
_SEQUENCE = re.compile(rb"#EXT-X-MEDIA-SEQUENCE:([0-9]{1,18})\s")
MAX_REWINDS = 8  # of a file whose server knows no ranges; each one fetches it again
_PEEKED_BYTES, _SKIPPED_BYTES = 4096, 1024 * 1024
# An MP4 (ISO 14496-12) whose pictures come before the index, which then is at its end.
_ENDS_WITH_INDEX = re.compile(
    rb".{4}(?:mdat|(?:ftyp|wide|free|skip)(?:(?!moov|moof).){0,512}?mdat)", re.DOTALL
)
_HEAD_BYTES = 4096  # of a playlist, before its segments
_SECTION_BYTES = 64 * 1024  # of an initialisation section that is looked at


def _nothing() -> None:
    pass


class WebFiles:
    """The files that one source opens; `open` is what PyAV calls.

    `opened` ends the time that all of them together may take. `abort` may be called on any thread:
    whatever waits for a server gives up.

    A segment that the server does not have is an empty one, which libavformat passes over; it would
    be the end of all otherwise. A playlist whose numbers begin anew, as those of an encoder that
    was started again, is an error: libavformat would wait until they are as high as they were. So
    is another initialisation section of what is live: it would decode by what the first one says.
    """

    def __init__(
        self,
        egress: EgressPolicy,
        timeout_s: tuple[float, float],
        missing: Callable[[], None] = _nothing,
    ) -> None:
        """`timeout_s`: until `opened`, and for each read after it. `missing` hears of each segment
        that the server does not have."""
        open_s, self._read_s = timeout_s
        self._egress = egress
        self._end_s: float | None = time.monotonic() + open_s
        self._num_opened = 0
        self._missing, self._num_missing = missing, 0
        self._playlists: dict[str, int] = {}  # the first number of each, by target
        self._sections: set[bytes] = set()  # that begin what its segments go on with
        self._connections: set[socket.socket] = set()
        self._aborted = False
        self._patience: Patience | None = None  # with what is live
        self._first: tuple[str, WebFile | io.BytesIO] | None = None

    def start(self, url: SourceUrl) -> "WebFile":
        """The source's own file, kept for the first `open`. Raises UnreachableError."""
        file = self._file(url)
        self._first = (self.name(url), file)
        return file

    def put(self, url: SourceUrl, text: str) -> None:
        """Let the first `open` of a playlist give this one in its place."""
        self._first = (self.name(url), io.BytesIO(text.encode()))

    @staticmethod
    def name(url: SourceUrl) -> str:
        """Name by which libavformat knows a source: without user and password."""
        return f"{url.scheme}://{url.place}{url.target}"

    def opened(self, patience: Patience | None = None) -> None:
        """patience: with the pictures, after which nothing more is read: libavformat itself may
        wait for ever in what it does not understand."""
        self._end_s, self._patience = None, patience

    def open(
        self, name: str, flags: int, options: Mapping[str, str]
    ) -> "WebFile | Decrypted | io.BytesIO":
        """Raises OSError for whatever is not a file of the web that may be read."""
        if flags & 2:  # AVIO_FLAG_WRITE
            raise UnreachableError("a source is not written to")
        if self._first is not None and self._first[0] == name:
            file, self._first = self._first[1], None
            return file
        encrypted = name.startswith(("crypto+", "crypto:"))
        try:
            url = SourceUrl.parse(name[len("crypto+") :] if encrypted else name)
            key, iv = (bytes.fromhex(options.get(part, "")) for part in ("key", "iv"))
        except (InvalidArgumentError, ValueError) as error:
            raise UnreachableError("a playlist names a malformed address or key") from error
        if encrypted and (len(key), len(iv)) != (16, 16):
            raise UnreachableError("a playlist's key has not 16 bytes")
        if url.scheme not in ("http", "https"):
            raise UnreachableError("a playlist leads out of the web")
        known = url.target in self._playlists
        if self._num_missing >= MAX_MISSING and not known:  # until a playlist is read again
            return io.BytesIO()
        try:
            opened = self._file(url)
        except NotServedError:
            if known:
                raise
            self._num_missing += 1
            self._missing()
            return io.BytesIO()
        self._num_missing = 0
        if not encrypted:
            return opened
        return Decrypted(opened, key, iv)

    def abort(self) -> None:
        self._aborted = True
        for connection in list(self._connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _file(self, url: SourceUrl) -> "WebFile":
        self._num_opened += 1
        if self._end_s is not None and self._num_opened > MAX_OPENED:
            raise UnreachableError("the source opens too many files")
        file = WebFile(self, url)
        file.request(0)
        return file

    # --- for the files ------------------------------------------------------------------------

    def left_s(self) -> float:
        """Seconds that the next wait for a server may take. Raises UnreachableError when time is
        up."""
        if self._aborted:
            raise UnreachableError("closed")
        if self._patience is not None and self._patience.is_over:
            self._patience.tell()
            raise UnreachableError("no picture for too long")
        if self._patience is not None and self._playlists and len(self._sections) > 1:
            raise UnreachableError("the segments begin anew")
        if self._end_s is None:
            return self._read_s
        left_s = self._end_s - time.monotonic()
        if left_s <= 0:
            raise UnreachableError("no answer in time")
        return left_s

    def playlist(self, url: SourceUrl, head: bytes) -> None:
        """Look at the beginning of a playlist. Raises UnreachableError where it begins anew."""
        found = _SEQUENCE.search(head)
        before = self._playlists.get(url.target, 0)
        number = int(found[1]) if found else before
        if number < before:
            raise UnreachableError("the playlist's numbers begin anew")
        self._playlists[url.target] = number
        self._num_missing = 0

    def section(self, content: bytes) -> None:
        """An initialisation section (ISO 14496-12) was read; no more is of what is live, once there
        is a second one."""
        self._sections.add(content)

    def fed(self, num_bytes: int) -> None:
        """So much of what is no playlist was read."""
        if self._patience is not None:
            self._patience.fed(num_bytes)

    def connect(self, url: SourceUrl) -> socket.socket:
        connection = self._egress.connect(url.host, url.port, self.left_s())
        self._connections.add(connection)
        if url.scheme == "https":
            plain = connection
            try:
                connection = secured(plain, url.host)
            except BaseException:
                self.closed(plain)
                raise
            self._connections.discard(plain)
            self._connections.add(connection)
        if self._aborted:
            self.closed(connection)
            raise UnreachableError("closed")
        return connection

    def closed(self, connection: socket.socket) -> None:
        self._connections.discard(connection)
        connection.close()


class WebFile:
    """One resource, read by ranges where its server knows them."""

    def __init__(self, files: WebFiles, url: SourceUrl) -> None:
        self._files = files
        self._url = url
        self._connection: socket.socket | None = None
        self._response: http.client.HTTPResponse | None = None
        self._position = 0
        self._size: int | None = None
        self._ranges = False
        self._playlist = self._section = False
        self._head = b""  # of a playlist, or an initialisation section
        self._resumed = 0
        self._rewinds = 0  # that are left, of a file that is sought in by reading it again
        self.content_type = ""

    @property
    def is_playlist(self) -> bool:
        return any(kind in self.content_type for kind in _PLAYLIST_TYPES)

    @property
    def has_end(self) -> bool:
        """Whether the server says where it ends, which is not believed of pictures that a camera
        sends one after the other."""
        return self._size is not None and not self.content_type.startswith("multipart/")

    def peek(self) -> bytes:
        """What it begins with, as far as it has come, and is read again. Waits for it. Raises
        OSError."""
        assert self._response is not None
        try:
            head = self._response.peek(_PEEKED_BYTES)
        except http.client.HTTPException as error:
            raise UnreachableError("broken off") from error
        if not self._ranges and self._size is not None and _ENDS_WITH_INDEX.match(head):
            self._rewinds = MAX_REWINDS
        return head

    def request(self, position: int) -> None:
        """Ask for everything from `position` on, through redirects. Raises OSError."""
        self.close()
        url, authorization = self._url, None
        for _ in range(MAX_REDIRECTS + 2):
            response = self._ask(url, position, authorization)
            if response.status in _REDIRECTS and (where := response.getheader("Location")):
                try:
                    url = url.joined(where)
                except InvalidArgumentError as error:
                    raise UnreachableError("a redirect to a malformed address") from error
                if url.scheme not in ("http", "https"):
                    raise UnreachableError("a redirect leads out of the web")
                authorization = None
            elif response.status == 401 and url.user is not None and authorization is None:
                credentials = Credentials(url.user, url.password or "")
                challenges = response.headers.get_all("WWW-Authenticate") or []
                authorization = credentials.answer(challenges, "GET", url.target)
                if authorization is None:
                    self.close()
                    raise NotServedError(response.status)
            elif response.status == 206 or (response.status == 200 and position == 0):
                self._take(response, position)
                return
            elif response.status == 200 and self._rewinds:
                self._take(response, 0)
                self._skip(position)
                return
            else:
                self.close()
                raise NotServedError(
                    response.status,
                    asked_as_user=authorization is not None,
                    wait_s=seconds_of(response.getheader("Retry-After", ""), time.time()),
                )
            self.close()
        self.close()
        raise UnreachableError("too many redirects")

    def _ask(
        self, url: SourceUrl, position: int, authorization: str | None
    ) -> http.client.HTTPResponse:
        self._connection = self._files.connect(url)
        self._connection.settimeout(self._files.left_s())
        asking = http.client.HTTPConnection(url.place)
        asking.sock = self._connection
        headers = {
            "Host": url.place,
            "User-Agent": "Sightline",
            "Accept": "*/*",
            "Accept-Encoding": "identity",
            "Connection": "close",
        }
        if position:
            headers["Range"] = f"bytes={position}-"
        if authorization:
            headers["Authorization"] = authorization
        try:
            asking.request("GET", url.target, headers=headers)
            response = asking.getresponse()
        except (http.client.HTTPException, ValueError) as error:
            self.close()
            raise UnreachableError(f"no HTTP: {type(error).__name__}") from error
        except OSError:
            self.close()
            raise
        self._response = response
        return response

    def _take(self, response: http.client.HTTPResponse, position: int) -> None:
        self._position = position
        if position == 0:
            self.content_type = (response.getheader("Content-Type") or "").lower()
            self._size = response.length
            self._ranges = response.status == 206 or "bytes" in (
                response.getheader("Accept-Ranges") or ""
            )

    # --- what PyAV calls, on the source's thread ----------------------------------------------

    def read(self, size: int) -> bytes:
        """Read at most `size` bytes; b"" at the end. Raises OSError."""
        while True:
            if self._response is None:
                if self._at_end():
                    return b""
                self.request(self._position)
            assert self._response is not None
            try:
                if self._connection is not None:
                    self._connection.settimeout(self._files.left_s())
                data = self._response.read1(size)
            except TimeoutError:
                raise
            except (OSError, http.client.HTTPException):
                data = b""
            if data or self._at_end() or not self._may_resume():
                break
            self.close()
        if data:
            self._resumed = 0
        if self._position == 0 and data.startswith(_PLAYLIST_START):
            self._playlist = True
        if self._playlist and self._position < _HEAD_BYTES:
            self._head = self._head[: self._position] + data
            self._files.playlist(self._url, self._head)
        if self._position == 0:
            self._section = data[4:8] == b"ftyp"
        if self._section and self._position < _SECTION_BYTES:
            self._head = self._head[: self._position] + data
            if not data or self._position + len(data) == self._size:
                self._files.section(self._head)
        self._position += len(data)
        self._files.fed(0 if self._playlist else len(data))
        if self._playlist and self._position > MAX_PLAYLIST_BYTES:
            raise UnreachableError("a playlist is too long")
        return data

    def seekable(self) -> bool:
        return self._ranges or self._rewinds > 0

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """The next `read` asks for what follows."""
        if whence == os.SEEK_CUR:
            offset += self._position
        elif whence == os.SEEK_END:
            if self._size is None:
                raise UnreachableError("a file of unknown size")
            offset += self._size
        elif whence != os.SEEK_SET:
            raise UnreachableError("no such seek")
        if offset < 0:
            raise UnreachableError("a seek before the start")
        if offset != self._position:
            self.close()
            self._position = offset
        return offset

    def close(self) -> None:
        response, self._response = self._response, None
        connection, self._connection = self._connection, None
        if response is not None:
            response.close()
        if connection is not None:
            self._files.closed(connection)

    def _skip(self, num_bytes: int) -> None:
        """Read from the beginning up to where `num_bytes` are behind us, from a server that knows
        no ranges. Raises OSError."""
        self._rewinds -= 1
        assert self._response is not None
        assert self._connection is not None
        while self._position < num_bytes:
            self._connection.settimeout(self._files.left_s())
            try:
                data = self._response.read1(min(_SKIPPED_BYTES, num_bytes - self._position))
            except http.client.HTTPException as error:
                raise UnreachableError("broken off") from error
            if not data:
                break
            self._position += len(data)

    def _at_end(self) -> bool:
        return self._size is not None and self._position >= self._size

    def _may_resume(self) -> bool:
        """Whether a broken connection is taken up again: only where something is missing."""
        self._resumed += 1
        return self._size is not None and self._ranges and self._resumed <= MAX_RESUMED
