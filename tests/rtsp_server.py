"""A camera that speaks RTSP: H.264 over its one TCP connection, or over UDP, real RTP packets."""

import contextlib
import re
import socket
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


class RtspServer:
    """`challenge`: what is asked before DESCRIBE; `moved`: where DESCRIBE sends its caller;
    `always`: what every request is answered; `udp_only`: SETUP over TCP is refused; `clip`: a file
    that is sent over and over, at its own pace, instead of made pictures.

    `asked`: method and address of each request; `accepted`: whether credentials came.
    """

    def __init__(
        self,
        *,
        challenge: str = "",
        moved: str = "",
        always: bytes = b"",
        udp_only: bool = False,
        clip: Path | None = None,
        port: int = 0,
    ) -> None:
        self.clip = clip
        self.challenge, self.moved, self.always, self.udp_only = challenge, moved, always, udp_only
        self.asked: list[str] = []
        self.accepted = False
        self.punched = False  # a packet came on the port that was named for RTP
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
        self._listener.close()
        self._media.close()

    def _listen(self) -> None:
        with contextlib.suppress(OSError):
            while not self._over.is_set():
                connection, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            data = b""
            client: tuple[str, int] | None = None
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
                    client = (connection.getpeername()[0], int(transport[1]))
                connection.sendall(self._answer(method, text))
                if method == "PLAY":
                    target = (connection, client)
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
            body = SDP
        elif method == "SETUP" and self.udp_only and "TCP" in text:
            status = "461 Unsupported Transport"
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

    def _play(self, connection: socket.socket, client: tuple[str, int] | None) -> None:
        """RTP packets as libavformat makes them, taken off a socket of our own."""
        if client is not None:
            self.punched = bool(self._media.recv(100))
        with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as own:
            own.bind(("127.0.0.1", 0))
            own.settimeout(0.05)
            address = f"rtp://127.0.0.1:{own.getsockname()[1]}?pkt_size=1200"
            with av.open(address, "w", format="rtp") as rtp:
                stream = rtp.add_stream("libx264", rate=25)
                stream.width, stream.height = (256, 256) if self.clip else (160, 120)
                stream.pix_fmt = "yuv420p"
                stream.options = {"tune": "zerolatency", "preset": "ultrafast", "g": "5"}
                stream.time_base = Fraction(1, 25)
                for number, frame in enumerate(self._pictures()):
                    frame.pts, frame.time_base = number, stream.time_base
                    rtp.mux(stream.encode(frame))
                    self._forward(own, connection, client)
                    if self._over.wait(0.04 if self.clip else 0.02):
                        return

    def _pictures(self) -> Iterator[av.VideoFrame]:
        if self.clip is None:
            for number in range(200):
                yield av.VideoFrame.from_ndarray(picture_array(number, 160, 120))
            return
        while True:  # a camera has no end
            with av.open(str(self.clip)) as container:
                for frame in container.decode(video=0):
                    yield frame.reformat(256, 256, "yuv420p")

    def _forward(
        self, own: socket.socket, connection: socket.socket, client: tuple[str, int] | None
    ) -> None:
        own.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                packet = own.recv(2048)
                if client is None:
                    connection.sendall(b"$\0" + len(packet).to_bytes(2) + packet)
                else:
                    self._media.sendto(packet, client)
