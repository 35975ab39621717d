"""RTSP between libavformat and a server (RFC 2326): every message is read and written anew.

So libavformat sees no address of the server's choosing and no password, and a server that says
other things than it should is cut off.
"""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from services.gateway.sources.remote.answers import NotServedError
from services.gateway.sources.remote.credentials import Credentials
from services.gateway.sources.remote.datagrams import Datagrams
from services.gateway.sources.remote.egress_policy import UnreachableError
from services.gateway.sources.remote.rtp_format import RtpFormat, formats_of
from services.gateway.sources.remote.rtp_sender import RTCP, RtpSender
from services.gateway.sources.remote.url import SourceUrl

MAX_HEADER_BYTES = 16 * 1024
MAX_BODY_BYTES = 256 * 1024
LEAST_PACKET_BYTES = 8  # of shorter ones libavformat reads what is inside as a message
MAX_WAITING_BYTES = 4 * 1024 * 1024  # that the player has not read yet
MAX_PENDING = 16  # requests without a reply
MAX_TRACKS = 4  # by UDP: each has a pair of ports
GOODBYE_S = 1.0  # a sender that said so and then is silent has left; others have but changed
_INTERLEAVED = 0x24  # "$"
_END = re.compile(rb"\r?\n\r?\n")
_STATUS = re.compile(r"RTSP/[12]\.[0-9] ([1-9][0-9]{2})(?: [\x20-\x7e]*)?")
_REQUEST = re.compile(r"([A-Z_]{1,32}) ([\x21-\x7e]{1,4096}) RTSP/[12]\.[0-9]")
_HEADER = re.compile(r"([A-Za-z0-9-]{1,64})[ \t]*:[ \t]*([\x20-\x7e\t]*)")
_PASSED_ON = (
    "session",
    "content-type",
    "content-base",
    "rtp-info",
    "public",
    "range",
    "server",
)
# Of a Transport header: where packets come from and go to is not for the server to say.
_TRANSPORT = re.compile(r"RTP/AVP/TCP|unicast|interleaved=\d{1,3}(-\d{1,3})?|ssrc=[0-9A-Fa-f]{1,8}")

_SENDER_REPORT, _BYE = 200, 203  # of RTCP
_SERVER_PORTS = re.compile(r"server_port=([0-9]{1,5})-([0-9]{1,5})")


@dataclass(slots=True)
class _Message:
    """`headers`: names as they were written, because cameras may not know them in other letters."""

    first: str
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key.lower() == name]

    def one(self, name: str) -> str:
        return next(iter(self.all(name)), "")

    def written(self) -> bytes:
        lines = [self.first, *(f"{name}: {value}" for name, value in self.headers)]
        if self.body:
            lines.append(f"Content-Length: {len(self.body)}")
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + self.body


@dataclass(slots=True)
class _Asked:
    """A request on its way. `answered`: with how many challenges' answers it was sent."""

    sequence: str  # the player's own number
    method: str
    uri: str
    message: _Message
    answered: int = 0
    track: int | None = None  # of `datagrams`, for a SETUP


class RtspPipe:
    """`base`: what libavformat takes for scheme, host and first part of the path of `url`.

    libavformat always gets RTP over its connection. A server that refuses that is asked for UDP,
    on the ports that `open_datagrams` gives for each track; without it, it cannot be read.
    `datagrams` has those ports. `refused` is set when the server refuses a track, `not_served` when
    it describes no video. Both ways of packets raise SenderChangedError where they are of another
    sender, who is to be described anew. `advance` is for time that passes.
    """

    def __init__(
        self,
        url: SourceUrl,
        base: str,
        open_datagrams: Callable[[], Datagrams] | None = None,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.to_player, self.to_server = bytearray(), bytearray()
        self.moved: str | None = None
        self._base = base
        self._real = f"{url.scheme}://{url.place}"
        self._credentials = None
        if url.user is not None:
            self._credentials = Credentials(url.user, url.password or "")
        self._challenges: list[str] = []
        self._asked: dict[str, _Asked] = {}
        self._sequence = 0
        self._open_datagrams = open_datagrams
        self._by_udp = False
        self._tracks = 0  # that were answered
        self.datagrams: list[Datagrams] = []
        self.refused = False
        self.not_served: NotServedError | None = None
        self._formats: dict[int, RtpFormat] = {}
        self._senders: dict[int, RtpSender] = {}  # by channel
        self._goodbyes: dict[int, tuple[float, bytes]] = {}  # when they hold, by channel
        self._clock_s = clock_s
        self._player, self._server = bytearray(), bytearray()

    def from_player(self, data: bytes) -> None:
        self._player += data
        while (item := _next(self._player)) is not None:
            if isinstance(item, bytes):  # a receiver's report
                if not self.datagrams:
                    self.to_server += item
                elif item[1] // 2 < len(self.datagrams):
                    self.datagrams[item[1] // 2].send(item[1] % 2, item[4:])
            else:
                self._request(item)

    def from_server(self, data: bytes) -> None:
        self._server += data
        while (item := _next(self._server)) is not None:
            if isinstance(item, bytes):
                self._packet(item[1], item[4:])
            elif status := _STATUS.fullmatch(item.first):
                self._reply(int(status[1]), item)
            elif request := _REQUEST.fullmatch(item.first):
                known = request[1] in ("OPTIONS", "GET_PARAMETER", "SET_PARAMETER")
                first = "RTSP/1.0 200 OK" if known else "RTSP/1.0 501 Not Implemented"
                reply = _Message(first, [("CSeq", item.one("cseq"))])
                self.to_server += reply.written()
            else:
                raise UnreachableError("not an RTSP message")

    def from_datagrams(self, track: int, index: int, packet: bytes) -> None:
        """A track's packet of RTP (0) or RTCP (1). What no longer fits is lost, as it is on a
        network."""
        if len(self.to_player) < MAX_WAITING_BYTES:
            self._packet(2 * track + index, packet)

    def advance(self) -> None:
        """Pass on the goodbyes of senders that nobody has followed."""
        now_s = self._clock_s()
        for channel, (due_s, packet) in list(self._goodbyes.items()):
            if now_s >= due_s:
                del self._goodbyes[channel]
                self._show(channel, packet)

    def _packet(self, channel: int, packet: bytes) -> None:
        """Pass a packet on as one of the sender that the player knows."""
        if len(packet) < LEAST_PACKET_BYTES:
            return
        reports = _reports_of(packet)
        if reports:
            sender = self._senders.get(channel) or self._senders.get(channel - 1)
            if _BYE in reports:
                self._goodbyes[channel] = (self._clock_s() + GOODBYE_S, packet)
            elif _SENDER_REPORT not in reports or sender is None or not sender.is_shifted:
                self._show(channel, packet)
            return
        if channel not in self._senders and len(self._senders) < 2 * MAX_TRACKS:
            self._senders[channel] = RtpSender(self._formats, self._clock_s)
        for each in (channel, channel + 1):
            self._goodbyes.pop(each, None)
        sender = self._senders.get(channel)
        for shown in [packet] if sender is None else sender.take(packet):
            self._show(channel, shown)

    def _show(self, channel: int, packet: bytes) -> None:
        self.to_player += bytes((_INTERLEAVED, channel)) + len(packet).to_bytes(2) + packet

    def _request(self, message: _Message) -> None:
        found = _REQUEST.fullmatch(message.first)
        if found is None:
            raise UnreachableError("not an RTSP request")
        uri = found[2]
        # The first one says what only libavformat knows; later ones go to where the server says.
        if not self._sequence and not uri.startswith(self._base):
            raise UnreachableError("a stranger on the loopback port")
        if uri.startswith(self._base):
            uri = self._real + uri.removeprefix(self._base)
        self._send(_Asked(message.one("cseq"), found[1], uri, message))

    def _send(self, asked: _Asked) -> None:
        if len(self._asked) > MAX_PENDING:
            raise UnreachableError("the server does not answer")
        self._sequence += 1
        self._asked[str(self._sequence)] = asked
        headers = [("CSeq", str(self._sequence))]
        headers += [header for header in asked.message.headers if header[0].lower() != "cseq"]
        if asked.method == "SETUP" and self._by_udp:
            if asked.track is None:
                asked.track = self._add_track()
            port = self.datagrams[asked.track].port
            headers = [header for header in headers if header[0].lower() != "transport"]
            headers.append(("Transport", f"RTP/AVP;unicast;client_port={port}-{port + 1}"))
        if self._challenges and self._credentials is not None:
            answer = self._credentials.answer(self._challenges, asked.method, asked.uri)
            if answer is not None:
                headers.append(("Authorization", answer))
        first = f"{asked.method} {asked.uri} RTSP/1.0"
        self.to_server += _Message(first, headers, asked.message.body).written()

    def _add_track(self) -> int:
        if self._open_datagrams is None:
            raise UnreachableError("the server sends by UDP only")
        if len(self.datagrams) >= MAX_TRACKS:
            raise UnreachableError("too many tracks")
        self.datagrams.append(self._open_datagrams())
        return len(self.datagrams) - 1

    def _reply(self, status: int, message: _Message) -> None:
        if 100 <= status < 200:
            return
        asked = self._asked.pop(message.one("cseq"), None)
        if asked is None:
            raise UnreachableError("a reply to no request")
        if 300 <= status < 400:
            self.moved = message.one("location") or None
            raise UnreachableError("the server says that the video is elsewhere")
        if status == 401 and self._credentials is not None and asked.answered < 2:
            self._challenges = message.all("www-authenticate")
            asked.answered += 1
            self._send(asked)
            return
        if status == 461 and asked.method == "SETUP" and not self._by_udp and not self._tracks:
            self._by_udp = True
            self._send(asked)
            return
        if asked.method in ("OPTIONS", "DESCRIBE") and status >= 400:
            self.not_served = NotServedError(status, asked_as_user=asked.answered > 0)
        if asked.method == "DESCRIBE":
            self._formats = formats_of(message.body.decode("latin-1"))
        if asked.method == "SETUP":
            self.refused = self.refused or status >= 400
            self._tracks += 1
        headers = [("CSeq", asked.sequence)]
        headers += [header for header in message.headers if header[0].lower() in _PASSED_ON]
        transport = message.one("transport")
        if transport and asked.track is not None:
            found = _SERVER_PORTS.search(transport)
            if found is None or not all(0 < int(port) < 65536 for port in found.groups()):
                raise UnreachableError("the server does not say where it sends from")
            self.datagrams[asked.track].connect((int(found[1]), int(found[2])))
            channels = f"{2 * asked.track}-{2 * asked.track + 1}"
            headers.append(("Transport", f"RTP/AVP/TCP;unicast;interleaved={channels}"))
        elif transport:
            parts = [part.strip() for part in transport.split(";")]
            headers.append(("Transport", ";".join(filter(_TRANSPORT.fullmatch, parts))))
        self.to_player += _Message(f"RTSP/1.0 {status} .", headers, message.body).written()


def _reports_of(packet: bytes) -> list[int]:
    """Types of the reports in a packet of RTCP (RFC 3550, section 6.1); none of any other."""
    kinds: list[int] = []
    while len(packet) >= 4 and packet[0] >> 6 == 2 and packet[1] in RTCP:
        kinds.append(packet[1])
        packet = packet[4 + 4 * int.from_bytes(packet[2:4]) :]
    return kinds


def _next(buffer: bytearray) -> bytes | _Message | None:
    """The next interleaved packet or message, taken out of the buffer; None until it is whole.

    Raises UnreachableError for what is neither.
    """
    while buffer.startswith((b"\r", b"\n")):
        del buffer[:1]
    if not buffer:
        return None
    if buffer[0] == _INTERLEAVED:
        size = 4 + int.from_bytes(buffer[2:4])
        if len(buffer) < max(4, size):
            return None
        packet = bytes(buffer[:size])
        del buffer[:size]
        return packet
    end = _END.search(buffer, 0, MAX_HEADER_BYTES)
    if end is None:
        if len(buffer) > MAX_HEADER_BYTES:
            raise UnreachableError("an RTSP message without an end")
        return None
    lines = [line.rstrip("\r") for line in buffer[: end.start()].decode("latin-1").split("\n")]
    headers = []
    for line in lines[1:]:
        found = _HEADER.fullmatch(line)
        if found is None:
            raise UnreachableError("a malformed RTSP header")
        headers.append((found[1], found[2].strip()))
    message = _Message(lines[0], headers)
    length = message.one("content-length") or "0"
    if not length.isdecimal() or len(length) > 7 or int(length) > MAX_BODY_BYTES:
        raise UnreachableError("an RTSP body of absurd length")
    if len(buffer) < end.end() + int(length):
        return None
    message.body = bytes(buffer[end.end() : end.end() + int(length)])
    message.headers = [header for header in headers if header[0].lower() != "content-length"]
    del buffer[: end.end() + int(length)]
    return message
