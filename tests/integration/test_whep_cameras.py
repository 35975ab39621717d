"""Live URLs from end to end: a real gateway reads them, and a real WebRTC viewer watches."""

import asyncio
import contextlib
import http.server
import io
import threading
from collections.abc import AsyncIterator, Iterator
from fractions import Fraction
from pathlib import Path

import av
import pytest
from aiohttp import ClientWebSocketResponse
from aioice.ice import get_host_addresses

from tests.eventually import eventually
from tests.integration.test_transport_streams import DATAGRAM_BYTES, sender
from tests.integration.test_whep import House, live, running_house
from tests.processes import free_port
from tests.rtsp_server import RtspServer
from tests.sources import write_clip
from tests.watcher import Watcher

SETTINGS = {"GATEWAY_URL_ALLOW": "127.0.0.1"}
LONG = 10_000  # pictures: more than any test lasts
pytestmark = pytest.mark.skipif(
    not get_host_addresses(True, True), reason="ICE needs a network address besides loopback"
)


@contextlib.contextmanager
def camera(port: int = 0) -> Iterator[RtspServer]:
    server = RtspServer(sound=True, num_pictures=LONG, port=port)
    try:
        yield server
    finally:
        server.close()


@contextlib.asynccontextmanager
async def states_of(house: House, session: str) -> AsyncIterator[list[str]]:
    """The states of a session as one of its viewers is told them, each once in a row."""
    told: list[str] = []

    async def listen(line: ClientWebSocketResponse) -> None:
        async for message in line:
            state = message.json().get("session_state", {}).get("state", "")
            state = state.removeprefix("SESSION_STATE_")
            if state and told[-1:] != [state]:
                told.append(state)

    url = f"{house.base}/api/sessions/{session}/converse"
    async with house.http.ws_connect(url) as line:
        await line.send_json({"start": {}})
        listening = asyncio.create_task(listen(line), name="listen")
        yield told
    await listening


@pytest.mark.parametrize(
    "away_s", [0.0, pytest.param(120.0, marks=[pytest.mark.slow, pytest.mark.timeout(400)])]
)
async def test_a_camera_is_watched_and_heard_and_its_absence_told(
    tmp_path: Path, away_s: float
) -> None:
    async with running_house(tmp_path, **SETTINGS) as house:
        with camera() as server:
            session = await house.open(f"rtsp://127.0.0.1:{server.port}/live")
            await live(house, session)
            watcher = Watcher(house.base)
            async with watcher, states_of(house, session["id"]) as states:
                await watcher.watch(session["id"], sound=True)
                await eventually(lambda: len(watcher.pictures) > 10 and len(watcher.sounds) > 20)
                figures = await house.figures()
                assert figures["sightline_whep_transcodes"] == 0  # as it came
                server.close()
                await eventually(lambda: states[-1:] == ["STALLED"])
                await asyncio.sleep(away_s)
                assert states[-1] == "STALLED"
                seen, heard = len(watcher.pictures), len(watcher.sounds)
                with camera(server.port):
                    await eventually(
                        lambda: (
                            len(watcher.pictures) > seen + 10 and len(watcher.sounds) > heard + 20
                        )
                    )
                    await eventually(lambda: states[-1] == "LIVE")
                assert states == ["LIVE", "STALLED", "LIVE"]


@pytest.fixture(scope="module")
def segments(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """A stream of five minutes in segments of a second: the first, again and again, later."""
    clip = write_clip(tmp_path_factory.mktemp("hls") / "clip.ts", seconds=1, gop=10)
    return [_later(clip, number) for number in range(60)]


def _later(clip: Path, seconds: int) -> bytes:
    output = io.BytesIO()
    with av.open(str(clip)) as source, av.open(output, "w", format="mpegts") as container:
        stream = container.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is None or packet.pts is None or packet.time_base is None:
                continue
            shift = round(seconds / Fraction(packet.time_base))
            packet.pts, packet.dts, packet.stream = packet.pts + shift, packet.dts + shift, stream
            container.mux(packet)
    return output.getvalue()


@contextlib.contextmanager
def playlist(segments: list[bytes]) -> Iterator[str]:
    """A live playlist: a segment more every second."""
    began = threading.Event()
    known = [3]

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            number = self.path.strip("/").removesuffix(".ts")
            if number.isdecimal():
                body = segments[int(number)]
            else:
                first = max(0, known[0] - 4)
                lines = "".join(f"#EXTINF:1.0,\n{one}.ts\n" for one in range(first, known[0]))
                head = "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:1\n"
                body = f"{head}#EXT-X-MEDIA-SEQUENCE:{first}\n{lines}".encode()
                began.set()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            with contextlib.suppress(ConnectionError):
                self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    serving = threading.Thread(target=server.serve_forever, args=(0.05,))
    over = threading.Event()

    def grow() -> None:
        began.wait()
        while not over.wait(1.0):
            known[0] = min(known[0] + 1, len(segments))

    growing = threading.Thread(target=grow)
    serving.start()
    growing.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/live.m3u8"
    finally:
        over.set()
        began.set()
        server.shutdown()
        server.server_close()
        growing.join()
        serving.join()


async def test_a_playlist_and_a_stream_by_udp_are_watched(
    tmp_path: Path, segments: list[bytes]
) -> None:
    stream = b"".join(segments)
    datagrams = [stream[at : at + DATAGRAM_BYTES] for at in range(0, len(stream), DATAGRAM_BYTES)]
    second = len(datagrams) // len(segments)
    port = free_port()
    async with running_house(tmp_path, **SETTINGS) as house:
        with playlist(segments) as url, sender(datagrams, ("127.0.0.1", port), pause_s=1 / second):
            for source in (url, f"udp://127.0.0.1:{port}"):
                session = await house.open(source)
                await live(house, session)
                async with Watcher(house.base) as watcher:
                    await watcher.watch(session["id"])
                    await eventually(lambda watcher=watcher: len(watcher.pictures) > 20)
                    assert watcher.pictures[-1][1:] == (160, 120)
                    assert (await house.figures())["sightline_whep_transcodes"] == 0
                await house.delete(session)
