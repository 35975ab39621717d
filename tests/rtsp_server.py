"""A camera that speaks RTSP: H.264 over its one TCP connection, or over UDP, real RTP packets."""

import contextlib
import re
import socket
import struct
import threading
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av

from tests.sources import picture_array

SDP = (
    "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=camera\r\nc=IN IP4 0.0.0.0\r\nt=0 0\r\n"
    "m=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\na=fmtp:96 packetization-mode=1\r\n"
    "a=control:trackID=0\r\n"
)
SOUND_SDP = "m=audio 0 RTP/AVP 0\r\na=rtpmap:0 PCMU/8000\r\na=control:trackID=1\r\n"
SOUND_SAMPLES = 160  # of a packet: as many milliseconds as a picture takes


class RtspServer:
    """`challenge`: what is asked before DESCRIBE; `moved`: where DESCRIBE sends its caller;
    `always`: what every request is answered; `udp_only`: SETUP over TCP is refused; `sound`: there
    is a second track, of G.711, whose SETUP is answered `sound_status`; `clip`: a file that is sent
    over and over, at its own pace, instead of made pictures.

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
        port: int = 0,
    ) -> None:
        self.num_pictures, self.clip = num_pictures, clip
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
            body = SDP + SOUND_SDP * self.sound
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

    def _play(self, connection: socket.socket, clients: list[tuple[str, int]]) -> None:
        """RTP packets as libavformat makes them, taken off a socket of our own, and silence."""
        if clients:
            self.punched = bool(self._media.recv(100))
        with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as own:
            own.bind(("127.0.0.1", 0))
            own.settimeout(0.05)
            address = f"rtp://127.0.0.1:{own.getsockname()[1]}?pkt_size=1200"
            with av.open(address, "w", format="rtp") as rtp:
                rate = 25 if self.clip else 50
                stream = rtp.add_stream("libx264", rate=rate)
                stream.width, stream.height = (256, 256) if self.clip else (160, 120)
                stream.pix_fmt = "yuv420p"
                stream.options = {"tune": "zerolatency", "preset": "ultrafast", "g": "5"}
                stream.time_base = Fraction(1, rate)
                own.setblocking(False)
                for number, frame in enumerate(self._pictures()):
                    frame.pts, frame.time_base = number, stream.time_base
                    rtp.mux(stream.encode(frame))
                    with contextlib.suppress(BlockingIOError):
                        while True:
                            self._send(own.recv(2048), 0, connection, clients)
                    if self.sound:
                        head = struct.pack("!BBHII", 0x80, 0, number, number * SOUND_SAMPLES, 77)
                        self._send(head + b"\xff" * SOUND_SAMPLES, 1, connection, clients)
                    if self._over.wait(1 / rate):
                        return

    def _pictures(self) -> Iterator[av.VideoFrame]:
        if self.clip is None:
            for number in range(self.num_pictures):
                yield av.VideoFrame.from_ndarray(picture_array(number, 160, 120))
            return
        while True:  # a camera has no end
            with av.open(str(self.clip)) as container:
                for frame in container.decode(video=0):
                    yield frame.reformat(256, 256, "yuv420p")

    def _send(
        self, packet: bytes, track: int, connection: socket.socket, clients: list[tuple[str, int]]
    ) -> None:
        if not clients:
            connection.sendall(bytes((0x24, 2 * track)) + len(packet).to_bytes(2) + packet)
        elif track < len(clients):
            self._media.sendto(packet, clients[track])
