"""A camera that speaks RTSP: H.264 over its one TCP connection, or over UDP, real RTP packets."""

import base64
import contextlib
import re
import socket
import struct
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
from av.codec.context import Flags

from services.gateway.playback.h264 import units_of
from tests.sources import picture_array

SDP = (
    "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=camera\r\nc=IN IP4 0.0.0.0\r\nt=0 0\r\n"
    "m=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\na=fmtp:96 packetization-mode=1\r\n"
    "a=control:trackID=0\r\n"
)
SOUND_SDP = "m=audio 0 RTP/AVP 0\r\na=rtpmap:0 PCMU/8000\r\na=control:trackID=1\r\n"
SOUND_SAMPLES = 160  # of a packet: as many milliseconds as a picture takes
_OPTIONS = {"tune": "zerolatency", "preset": "ultrafast", "g": "5"}
_HEVC_OPTIONS = {"x265-params": "log-level=none:keyint=5:repeat-headers=1"}


@dataclass(frozen=True)
class Take:
    """What one encoder sends. Without `sender` its packets go on with the numbers and times of
    those before; with (source, first number, first time) they begin anew, as another sender's.
    `b_frames`: so many pictures between two are sent after both. `goodbye`: it says so when it
    ends. `described`: its parameter sets are in the description, and nowhere else.
    """

    codec: str = "libx264"
    width: int = 160
    height: int = 120
    num_pictures: int = 200
    sender: tuple[int, int, int] | None = None
    b_frames: int = 0
    goodbye: bool = False
    described: bool = False

    def setup(self, stream: av.VideoStream | av.VideoCodecContext, rate: int) -> None:
        stream.width, stream.height, stream.pix_fmt = self.width, self.height, "yuv420p"
        hevc = _HEVC_OPTIONS if self.codec == "libx265" else {}
        if self.described:
            hevc = {name: value.replace("repeat-headers=1", "") for name, value in hevc.items()}
            context = stream.codec_context if isinstance(stream, av.VideoStream) else stream
            context.flags |= Flags.global_header
        stream.options = _OPTIONS | hevc
        if self.b_frames:
            stream.options = {"g": "50", "bf": str(self.b_frames), "x264-params": "rc-lookahead=5"}
        stream.time_base = Fraction(1, rate)

    def sets(self) -> list[bytes]:
        """Parameter sets that the description holds."""
        if not self.described:
            return []
        context = av.CodecContext.create(self.codec, "w")
        assert isinstance(context, av.VideoCodecContext)
        self.setup(context, 50)
        context.open()
        return list(units_of(bytes(context.extradata or b""), 0))


class RtspServer:
    """`challenge`: what is asked before DESCRIBE; `moved`: where DESCRIBE sends its caller;
    `always`: what every request is answered; `udp_only`: SETUP over TCP is refused; `sound`: there
    is a second track, of G.711, whose SETUP is answered `sound_status`; `clip`: a file that is sent
    over and over, at its own pace, instead of made pictures; `takes`: what is sent one after the
    other, whoever comes gets the one that it has come to.

    `asked`: method and address of each request; `accepted`: whether credentials came.
    """

    def __init__(
        self,
        *,
        challenge: str = "",
        moved: str = "",
        always: bytes = b"",
        udp_only: bool = False,
        sound: bool = False,
        sound_status: str = "200 OK",
        num_pictures: int = 200,
        clip: Path | None = None,
        takes: Sequence[Take] = (),
        port: int = 0,
    ) -> None:
        self.clip = clip
        self._takes = takes or [Take(num_pictures=num_pictures)]
        self._anew = not takes  # for everybody who comes
        self._num_played = 0
        self._next = (77, 5000, 900_000)  # sender, number and time of the next packet
        self.sound, self.sound_status = sound, sound_status
        self.challenge, self.moved, self.always, self.udp_only = challenge, moved, always, udp_only
        self.asked: list[str] = []
        self.accepted = False
        self.punched = False  # a packet came on the port that was named for RTP
        self._connections: list[socket.socket] = []
        self._over = threading.Event()
        self._media = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._media.bind(("127.0.0.1", 0))
        self._media.settimeout(5)
        self._listener = socket.create_server(("0.0.0.0", port))
        self._listener.settimeout(30)
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._listen, daemon=True).start()

    def close(self) -> None:
        self._over.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # whoever waits to accept holds it open
        self._listener.close()
        self._media.close()
        for connection in self._connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _listen(self) -> None:
        with contextlib.suppress(OSError):
            while not self._over.is_set():
                connection, _ = self._listener.accept()
                self._connections.append(connection)
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            data = b""
            clients: list[tuple[str, int]] = []
            while not self._over.is_set():
                more = connection.recv(4096)
                if not more:
                    return
                data += more
                while data[:1] == b"$" and len(data) >= 4 + int.from_bytes(data[2:4]):
                    data = data[4 + int.from_bytes(data[2:4]) :]
                if data[:1] == b"$" or b"\r\n\r\n" not in data:
                    continue
                head, data = data.split(b"\r\n\r\n", 1)
                text = head.decode()
                method, address = text.split()[:2]
                self.asked.append(f"{method} {address}")
                if self.always:
                    connection.sendall(self.always)
                    continue
                transport = re.search(r"client_port=(\d+)", text)
                if transport:
                    clients.append((connection.getpeername()[0], int(transport[1])))
                connection.sendall(self._answer(method, text))
                if method == "PLAY":
                    target = (connection, clients)
                    threading.Thread(target=self._play, args=target, daemon=True).start()

    def _answer(self, method: str, text: str) -> bytes:
        number = re.search(r"CSeq: (\d+)", text)
        status, headers, body = "200 OK", [f"CSeq: {number[1] if number else 0}"], ""
        if method == "DESCRIBE" and self.challenge and "Authorization" not in text:
            status = "401 Unauthorized"
            headers.append(f"WWW-Authenticate: {self.challenge}")
        elif method == "DESCRIBE" and self.moved:
            status = "302 Moved Temporarily"
            headers.append(f"Location: {self.moved}")
        elif method == "DESCRIBE":
            self.accepted = "Authorization" in text
            headers.append("Content-Type: application/sdp")
            headers.append(f"Content-Base: {text.split()[1]}/")  # as nearly every camera does
            body = self._description() + SOUND_SDP * self.sound
        elif method == "SETUP" and self.udp_only and "TCP" in text:
            status = "461 Unsupported Transport"
        elif method == "SETUP" and "trackID=1" in text and self.sound_status != "200 OK":
            status = self.sound_status
        elif method == "SETUP":
            found = re.search(r"Transport: (.*)", text)
            asked = found[1].strip() if found else ""
            extra = f";server_port={self._media.getsockname()[1]}-{self._media.getsockname()[1]}"
            extra = f"{extra};source=10.0.0.1" if "client_port" in asked else ""
            headers += [f"Transport: {asked}{extra}", "Session: 1;timeout=60"]
        elif method == "OPTIONS":
            headers.append("Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN")
        if body:
            headers.append(f"Content-Length: {len(body)}")
        return ("\r\n".join([f"RTSP/1.0 {status}", *headers]) + "\r\n\r\n" + body).encode()

    def _description(self) -> str:
        hevc = self._take.codec == "libx265"
        sets = [base64.b64encode(unit).decode() for unit in self._take.sets()]
        if not hevc:
            sprop = f"; sprop-parameter-sets={','.join(sets[:2])}" if sets else ""
            return SDP.replace("packetization-mode=1", f"packetization-mode=1{sprop}")
        names = ("sprop-vps", "sprop-sps", "sprop-pps")
        pairs = [f"{name}={unit}" for name, unit in zip(names, sets, strict=False)]
        fmtp = "; ".join(["sprop-max-don-diff=0", *pairs])
        return SDP.replace("H264/", "H265/").replace("packetization-mode=1", fmtp)

    @property
    def _take(self) -> Take:
        return self._takes[min(self._num_played, len(self._takes) - 1)]

    def _play(self, connection: socket.socket, clients: list[tuple[str, int]]) -> None:
        """Every take from the one on that it has come to, and silence."""
        if clients:
            self.punched = bool(self._media.recv(100))
        with contextlib.suppress(OSError):
            while self._num_played < len(self._takes):
                if not self._show(self._take, connection, clients) or self._anew:
                    return
                self._num_played += 1

    def _show(self, take: Take, connection: socket.socket, clients: list[tuple[str, int]]) -> bool:
        """RTP packets as libavformat makes them, taken off a socket of our own."""
        self._next = take.sender or self._next
        first: tuple[int, int] | None = None
        sender, number, stamp = self._next
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as own:
            own.bind(("127.0.0.1", 0))
            address = f"rtp://127.0.0.1:{own.getsockname()[1]}?pkt_size=1200"
            with av.open(address, "w", format="rtp") as rtp:
                rate = 25 if self.clip else 50
                stream = rtp.add_stream(take.codec, rate=rate)
                take.setup(stream, rate)
                if self.clip:
                    stream.width = stream.height = 256
                own.setblocking(False)
                for position, frame in enumerate(self._pictures(take)):
                    frame.pts, frame.time_base = position, Fraction(1, rate)
                    rtp.mux(stream.encode(frame))
                    with contextlib.suppress(BlockingIOError):
                        while True:
                            packet = own.recv(2048)
                            own_number, own_stamp = struct.unpack("!HI", packet[2:8])
                            first = first or (own_number, own_stamp)
                            number = own_number - first[0] + self._next[1] & 0xFFFF
                            stamp = own_stamp - first[1] + self._next[2] & 0xFFFFFFFF
                            head = packet[:2] + struct.pack("!HII", number, stamp, sender)
                            self._send(head + packet[12:], 0, connection, clients)
                    if self.sound:
                        times = struct.pack("!HII", position, position * SOUND_SAMPLES, 77)
                        sound = b"\x80\0" + times + b"\xff" * SOUND_SAMPLES
                        self._send(sound, 1, connection, clients)
                    if self._over.wait(1 / rate):
                        return False
        if take.goodbye:
            bye = struct.pack("!BBHIBBHI", 0x80, 201, 1, sender, 0x81, 203, 1, sender)
            self._send(bye, 0, connection, clients, report=True)
        self._next = (sender, number + 1 & 0xFFFF, stamp + 90_000 // rate & 0xFFFFFFFF)
        return True

    def _pictures(self, take: Take) -> Iterator[av.VideoFrame]:
        if self.clip is None:
            for number in range(take.num_pictures):
                made = picture_array(number, take.width, take.height)
                yield av.VideoFrame.from_ndarray(made).reformat(format="yuv420p")
            return
        while True:  # a camera has no end
            with av.open(str(self.clip)) as container:
                for frame in container.decode(video=0):
                    yield frame.reformat(256, 256, "yuv420p")

    def _send(
        self,
        packet: bytes,
        track: int,
        connection: socket.socket,
        clients: list[tuple[str, int]],
        *,
        report: bool = False,
    ) -> None:
        if not clients:
            head = bytes((0x24, 2 * track + report)) + len(packet).to_bytes(2)
            connection.sendall(head + packet)
        elif track < len(clients):
            host, port = clients[track]
            self._media.sendto(packet, (host, port + report))
