"""URLs as sources: where they may lead, by redirects, playlists, relays and names that change."""

import asyncio
import contextlib
import http.server
import itertools
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import av
import pytest
from aiohttp import web
from cryptography.hazmat.primitives import padding
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from services.common.jpeg import encode_jpeg
from services.gateway.sources import file as file_source
from services.gateway.sources.file import FileLimits, FileSource
from services.gateway.sources.remote import secured as secured_module
from services.gateway.sources.remote.egress_policy import EgressPolicy
from services.gateway.sources.source_opener import NOT_OPENED
from sightline.errors import InvalidArgumentError
from tests.certificates import Authority
from tests.conftest import RedisServer
from tests.eventually import eventually
from tests.integration.test_sources import written
from tests.rtmp_player_server import RtmpPlayerServer
from tests.rtsp_server import RtspServer, Take
from tests.sources import TONE_RATE, RecordingSink, picture_array, tone, write_clip

SHORT = FileLimits(open_timeout_s=4.0, read_timeout_s=2.0, away_s=0.05, backoff_s=0.05)
LOOPBACK = EgressPolicy(["127.0.0.1"])
SECOND_NS = 1_000_000_000
ELSEWHERE = "127.0.0.2"  # an address of this machine that no rule of these tests allows
KEY, IV = bytes(range(16)), bytes(range(16, 32))


class Site:
    """A web server on every loopback address: `pages` by path; `asked` (address, path) of each
    request. A page is bytes and its headers: with `Needs` it asks for that, with `Without` it
    knows no ranges, with `Endless` nobody is told how long it is."""

    def __init__(self) -> None:
        self.pages: dict[str, tuple[int, dict[str, str], bytes]] = {}
        self.asked: list[tuple[str, str]] = []
        self.authorized: list[str] = []
        site = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                address = self.request.getsockname()[0]
                site.asked.append((address, self.path))
                site.authorized.append(self.headers.get("Authorization", ""))
                status, headers, body = site.pages.get(self.path, (404, {}, b""))
                if headers.get("Needs") and not self.headers.get("Authorization"):
                    status, headers, body = 401, {"WWW-Authenticate": headers["Needs"]}, b""
                ranges, endless = "Without" not in headers, "Endless" in headers
                wanted = self.headers.get("Range", "") if ranges else ""
                if status == 200 and wanted:
                    first = int(wanted.removeprefix("bytes=").partition("-")[0])
                    status, body = 206, body[first:]
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                if ranges:
                    self.send_header("Accept-Ranges", "bytes")
                if not endless:
                    self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                with contextlib.suppress(ConnectionError):
                    self.wfile.write(body)

            def log_message(self, format: str, *arguments: object) -> None: ...

        self._server = http.server.ThreadingHTTPServer(("0.0.0.0", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def url(self, path: str, address: str = "127.0.0.1") -> str:
        return f"http://{address}:{self.port}{path}"

    def page(self, path: str, body: bytes | str = b"", status: int = 200, **headers: str) -> None:
        body = body.encode() if isinstance(body, str) else body
        self.pages[path] = (
            status,
            {name.replace("_", "-"): v for name, v in headers.items()},
            body,
        )

    def redirect(self, path: str, location: str) -> None:
        self.page(path, status=302, Location=location)

    def secure(self, context: ssl.SSLContext) -> None:
        """Speak TLS from now on."""
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site()
    clip = write_clip(tmp_path / "clip.mp4", seconds=1)
    site.page("/clip.mp4", clip.read_bytes())
    segment = write_clip(tmp_path / "segment.ts", seconds=1).read_bytes()
    site.page("/segment.ts", segment)
    padder = padding.PKCS7(128).padder()
    encryptor = Cipher(algorithms.AES(KEY), modes.CBC(IV)).encryptor()
    padded = padder.update(segment) + padder.finalize()
    site.page("/secret.ts", encryptor.update(padded) + encryptor.finalize())
    site.page("/key", KEY)
    yield site
    site.close()


def playlist(segment: str, key: str = "") -> str:
    line = f'#EXT-X-KEY:METHOD=AES-128,URI="{key}",IV=0x{IV.hex()}\n' if key else ""
    return (
        "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:2\n#EXT-X-MEDIA-SEQUENCE:0\n"
        f"{line}#EXTINF:1.0,\n{segment}\n#EXT-X-ENDLIST\n"
    )


async def play(url: str, egress: EgressPolicy) -> RecordingSink:
    sink = RecordingSink()
    source = FileSource(url, sink, paced=False, limits=SHORT, egress=egress)
    try:
        await source.start()
        await asyncio.to_thread(sink.wait_for_end, 20)
    finally:
        await source.aclose()
    return sink


async def refusal(url: str, egress: EgressPolicy) -> str:
    """What the caller reads. A source that begins and then breaks off is refused as well."""
    try:
        sink = await play(url, egress)
    except InvalidArgumentError as error:
        return error.message
    assert not sink.pictures, "it was read"
    return ""


async def test_without_a_rule_nothing_of_this_machine_is_asked(site: Site) -> None:
    for host in ("127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0"):
        assert await refusal(f"http://{host}:{site.port}/clip.mp4", EgressPolicy()) == NOT_OPENED
    assert not site.asked


@pytest.mark.parametrize("rule", ["127.0.0.1", "127.0.0.1/32", "127.0.0.0/31", "localhost"])
async def test_a_rule_opens_what_it_names(site: Site, rule: str) -> None:
    host = "localhost" if rule == "localhost" else "127.0.0.1"
    sink = await play(site.url("/clip.mp4", host), EgressPolicy([rule]))
    assert len(sink.pictures) == 15
    assert sink.reasons == ["end"]


async def test_a_rule_may_be_for_one_port(site: Site) -> None:
    assert (
        len((await play(site.url("/clip.mp4"), EgressPolicy([f"127.0.0.1:{site.port}"]))).pictures)
        == 15
    )
    site.asked.clear()
    assert await refusal(site.url("/clip.mp4"), EgressPolicy(["127.0.0.1:1"])) == NOT_OPENED
    assert not site.asked


async def test_redirects_are_followed_and_looked_at(site: Site) -> None:
    allowed = EgressPolicy(["127.0.0.1"])
    site.redirect("/near", "/clip.mp4")
    site.redirect("/far", site.url("/clip.mp4", ELSEWHERE))
    site.redirect("/far-in-two", "/far")
    site.redirect("/round", "/round")
    site.redirect("/file", "file:///etc/passwd")
    site.redirect("/rtsp", f"rtsp://127.0.0.1:{site.port}/x")
    site.redirect("/odd", f"http://0x7f000001:{site.port}/clip.mp4")
    assert len((await play(site.url("/near"), allowed)).pictures) == 15
    for path in ("/far", "/far-in-two", "/round", "/file", "/rtsp", "/odd"):
        assert await refusal(site.url(path), allowed) == NOT_OPENED
    assert {address for address, _ in site.asked} == {"127.0.0.1"}
    assert len(site.asked) < 20


async def test_playlists_are_read(site: Site) -> None:
    """A master playlist whose variants, key and segments are relative, absolute and encrypted."""
    allowed = EgressPolicy(["127.0.0.1"])
    site.page("/live.m3u8", playlist("segment.ts"))
    site.page("/typed", playlist("/segment.ts"), Content_Type="application/vnd.apple.mpegurl")
    site.page("/encrypted.m3u8", playlist("secret.ts", "/key"))
    site.page(
        "/master.m3u8",
        "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1000\nlive.m3u8\n"
        f"#EXT-X-STREAM-INF:BANDWIDTH=90000\n{site.url('/encrypted.m3u8')}\n",
    )
    for path in ("/live.m3u8", "/typed", "/encrypted.m3u8", "/master.m3u8"):
        sink = await play(site.url(path), allowed)
        assert len(sink.pictures) == 15, path
        assert not sink.drops, path


async def test_one_variant_is_read_and_no_other_is_asked_for(site: Site) -> None:
    allowed = EgressPolicy(["127.0.0.1"])
    site.page("/v/720.m3u8", playlist("/segment.ts"))
    site.page(
        "/master.m3u8",
        "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=300000,RESOLUTION=640x360\nv/360.m3u8\n"
        '#EXT-X-STREAM-INF:BANDWIDTH=2000000,CODECS="avc1.64001f,mp4a.40.2",RESOLUTION=1280x720\n'
        "v/720.m3u8\n#EXT-X-STREAM-INF:BANDWIDTH=9000000,RESOLUTION=3840x2160\nv/2160.m3u8\n",
    )
    sink = await play(site.url("/master.m3u8"), allowed)
    assert len(sink.pictures) == 15
    assert {path for _, path in site.asked} == {"/master.m3u8", "/v/720.m3u8", "/segment.ts"}


async def test_live_segments_are_shown_at_the_pace_of_their_pictures(site: Site) -> None:
    """Three seconds of them are there at once."""
    lines = "#EXT-X-DISCONTINUITY\n#EXTINF:1.0,\nsegment.ts\n" * 3
    site.page("/live.m3u8", f"#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:1\n{lines}")
    sink = RecordingSink()
    source = FileSource(site.url("/live.m3u8"), sink, egress=EgressPolicy(["127.0.0.1"]))
    await source.start()
    await asyncio.to_thread(sink.wait_for_pictures, 40)
    await source.aclose()
    shown = [picture.at_ns / 1e9 for picture in sink.pictures[:40]]
    assert shown[-1] - shown[0] > 2.2
    assert max(later - earlier for earlier, later in itertools.pairwise(shown)) < 1.0
    captured = [picture.capture_ns for picture in sink.pictures[:40]]
    assert len(set(captured)) == 40


async def test_segments_that_the_server_lacks_are_passed_over(site: Site) -> None:
    lines = "".join(f"#EXTINF:1.0,\n{name}\n" for name in ("gone.ts", "segment.ts", "gone.ts"))
    site.page("/holes.m3u8", f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n{lines}#EXT-X-ENDLIST\n")
    sink = await play(site.url("/holes.m3u8"), LOOPBACK)
    assert len(sink.pictures) == 15
    assert sink.notes["segment_missing"] == 2
    site.page(
        "/none.m3u8",
        "#EXTM3U\n#EXT-X-TARGETDURATION:1\n" + "#EXTINF:1.0,\ngone.ts\n" * 50 + "#EXT-X-ENDLIST\n",
    )
    site.asked.clear()
    assert await refusal(site.url("/none.m3u8"), LOOPBACK) == NOT_OPENED
    assert len(site.asked) < 15


async def test_a_live_playlist_that_begins_anew_is_read_anew(site: Site) -> None:
    """As that of an encoder which was started again: its numbers are lower than they were."""

    def show(number: int, end: str = "") -> None:
        head = f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXT-X-MEDIA-SEQUENCE:{number}\n"
        lines = "#EXT-X-DISCONTINUITY\n#EXTINF:1.0,\nsegment.ts\n" * 3
        site.page("/live.m3u8", head + lines + end)

    show(500)
    sink = RecordingSink()
    limits = FileLimits(open_timeout_s=5.0, read_timeout_s=5.0, backoff_s=0.05)
    source = FileSource(
        site.url("/live.m3u8"), sink, paced=False, limits=limits, egress=EgressPolicy(["127.0.0.1"])
    )
    await source.start()
    show(0)
    await asyncio.to_thread(sink.wait_for_note, "reconnect", 1)
    before = len(sink.pictures)
    await asyncio.to_thread(sink.wait_for_pictures, before + 30)
    await source.aclose()


def fragments(folder: Path, side: int) -> list[bytes]:
    """An initialisation section, and segments of a second, as HLS has them in MP4."""
    folder.mkdir()
    options = {"hls_time": "1", "hls_segment_type": "fmp4", "hls_list_size": "0"}
    with av.open(str(folder / "list.m3u8"), "w", format="hls", options=options) as hls:
        stream = hls.add_stream("libx264", rate=15)
        stream.width = stream.height = side
        stream.pix_fmt, stream.gop_size = "yuv420p", 15
        for number in range(60):
            made = av.VideoFrame.from_ndarray(picture_array(number, side, side))
            hls.mux(stream.encode(made.reformat(format="yuv420p")))
        hls.mux(stream.encode(None))
    segments = sorted(folder.glob("list*.m4s"))
    return [path.read_bytes() for path in (folder / "init.mp4", *segments)]


async def test_live_segments_that_begin_anew_are_read_anew(site: Site, tmp_path: Path) -> None:
    """After another initialisation section, which says how to decode what follows."""
    for name, side in (("a", 160), ("b", 320)):
        for number, data in enumerate(fragments(tmp_path / name, side)):
            site.page(f"/{name}{number}.mp4", data)

    def show(first: int, *lines: str) -> None:
        head = f"#EXTM3U\n#EXT-X-VERSION:7\n#EXT-X-TARGETDURATION:1\n#EXT-X-MEDIA-SEQUENCE:{first}"
        site.page("/live.m3u8", "\n".join((head, *lines, "")))

    begin = {name: f'#EXT-X-MAP:URI="{name}0.mp4"' for name in "ab"}
    part = {f"{name}{n}": f"#EXTINF:1.0,\n{name}{n}.mp4" for name in "ab" for n in (1, 2, 3, 4)}
    sink = RecordingSink()
    show(0, begin["a"], part["a1"], part["a2"])
    limits = FileLimits(backoff_s=0.05)
    source = FileSource(site.url("/live.m3u8"), sink, limits=limits, egress=LOOPBACK)
    await source.start()
    show(0, begin["a"], part["a1"], part["a2"], "#EXT-X-DISCONTINUITY", begin["b"], part["b1"])
    await asyncio.to_thread(sink.wait_for_note, "reconnect", 1)
    assert all(one.width == 160 for one in sink.pictures)
    show(2, begin["b"], part["b1"], part["b2"], part["b3"])
    await eventually(lambda: sum(one.width == 320 for one in list(sink.pictures)) >= 15)
    await source.aclose()
    assert not sink.drops


async def test_a_recording_whose_segments_begin_anew_is_shown_to_its_end(
    site: Site, tmp_path: Path
) -> None:
    """Its second half has another initialisation section: it is decoded by that one."""
    for name, side in (("a", 160), ("b", 320)):
        for number, data in enumerate(fragments(tmp_path / name, side)):
            site.page(f"/{name}{number}.mp4", data)
    lines = ["#EXTM3U", "#EXT-X-VERSION:7", "#EXT-X-TARGETDURATION:1"]
    for name in "aba":
        lines += ["#EXT-X-DISCONTINUITY", f'#EXT-X-MAP:URI="{name}0.mp4"']
        lines += [f"#EXTINF:1.0,\n{name}{number}.mp4" for number in (1, 2)]
    site.page("/recording.m3u8", "\n".join((*lines, "#EXT-X-ENDLIST", "")))
    sink = await play(site.url("/recording.m3u8"), LOOPBACK)
    assert [one.width for one in sink.pictures] == [160] * 30 + [320] * 30 + [160] * 30
    times = [one.capture_ns for one in sink.pictures]
    assert all(0 < b - a < SECOND_NS // 2 for a, b in itertools.pairwise(times))
    assert sink.reasons == ["end"]
    assert not sink.drops


@pytest.mark.parametrize("codec", ["libx264", "libx265", "mpeg2video"])
async def test_a_recording_whose_codec_becomes_another(
    site: Site, tmp_path: Path, codec: str
) -> None:
    """In transport streams, at a discontinuity; a part that is missing is passed over."""
    other = tmp_path / "other.ts"
    with av.open(str(other), "w") as container:
        stream = container.add_stream(codec, rate=15)
        assert isinstance(stream, av.VideoStream)
        stream.width = stream.height = 320
        stream.pix_fmt = "yuv420p"
        for number in range(15):
            made = av.VideoFrame.from_ndarray(picture_array(number, 320, 320))
            container.mux(stream.encode(made.reformat(format="yuv420p")))
        container.mux(stream.encode(None))
    site.page("/other.ts", other.read_bytes())
    names = ("segment.ts", "other.ts", "gone.ts", "segment.ts")
    lines = "".join(f"#EXT-X-DISCONTINUITY\n#EXTINF:1.0,\n{name}\n" for name in names)
    site.page("/codecs.m3u8", f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n{lines}#EXT-X-ENDLIST\n")
    sink = await play(site.url("/codecs.m3u8"), LOOPBACK)
    widths = [one.width for one in sink.pictures]
    assert [width == 320 for width in widths] == [False] * 15 + [True] * 15 + [False] * 15
    assert sink.notes["segment_missing"] == 2  # the segment, and with it the part


async def test_a_camera_that_sends_one_jpeg_after_another(site: Site) -> None:
    """Whose size changes on the way; bytes between that are no picture do no harm."""
    parts = []
    for number in range(40):
        side = 160 if number < 20 else 320
        picture = av.VideoFrame.from_ndarray(picture_array(number, side, side), "rgb24")
        jpeg = encode_jpeg(picture.reformat(format="yuvj420p"))
        if number == 5:
            jpeg = b"no picture"
        head = f"--cam\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
        parts.append(head.encode() + jpeg + b"\r\n")
    site.page("/mjpeg", b"".join(parts), Content_Type="multipart/x-mixed-replace;boundary=cam")
    sink = RecordingSink()
    source = FileSource(site.url("/mjpeg"), sink, limits=SHORT, egress=LOOPBACK)
    await source.start()
    await asyncio.to_thread(sink.wait_for_pictures, 39)
    await source.aclose()
    assert [picture.width for picture in sink.pictures[:39]] == [160] * 19 + [320] * 20


async def test_a_camera_slower_than_a_read_may_take_is_not_opened_for_each_picture() -> None:
    """It sends a picture in 1.5 s; a read waits for a second at first."""
    num_opened = 0

    async def pictures(request: web.Request) -> web.StreamResponse:
        nonlocal num_opened
        num_opened += 1
        response = web.StreamResponse()
        response.headers["Content-Type"] = "multipart/x-mixed-replace;boundary=cam"
        await response.prepare(request)
        for number in range(1000):
            made = av.VideoFrame.from_ndarray(picture_array(number, 640, 640), "rgb24")
            jpeg = encode_jpeg(made.reformat(format="yuvj420p"))
            head = f"--cam\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
            await response.write(head.encode() + jpeg + b"\r\n")
            await asyncio.sleep(1.5)
        return response

    app = web.Application()
    app.router.add_get("/slow", pictures)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    sink = RecordingSink()
    limits = FileLimits(read_timeout_s=1.0, backoff_s=0.05)
    url = f"http://127.0.0.1:{runner.addresses[0][1]}/slow"
    source = FileSource(url, sink, limits=limits, egress=LOOPBACK)
    try:
        await source.start()
        await asyncio.to_thread(sink.wait_for_pictures, 10, 40)
        # On a busy machine a picture may come late once more, and be waited for longer after that.
        assert num_opened <= 4
        assert sink.notes["reconnect"] == num_opened - 1 > 0
        assert not sink.reasons
    finally:
        await source.aclose()
        await runner.cleanup()


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (401, "asks for a user and a password"),
        (403, "does not allow that"),
        (404, "has nothing of that name"),
        (410, "any longer"),
        (429, "asked too often"),
        (500, "answered 500"),
        (503, "overloaded or away"),
    ],
)
async def test_what_a_server_answers_is_told(site: Site, status: int, words: str) -> None:
    site.page("/x", status=status)
    told = await refusal(site.url("/x"), LOOPBACK)
    assert words in told
    assert "127.0.0.1" not in told


async def test_a_wrong_password_is_told(site: Site) -> None:
    site.page("/locked", status=401, WWW_Authenticate='Basic realm="x"')
    url = f"http://user:secret@127.0.0.1:{site.port}/locked"
    told = await refusal(url, LOOPBACK)
    assert "does not take this user and password" in told
    with rtsp(challenge='Digest realm="cam", nonce="abc"') as server:
        told = await refusal(f"rtsp://127.0.0.1:{server.port}/live", LOOPBACK)
    assert "asks for a user and a password" in told


async def test_what_is_no_video_is_told(site: Site, tmp_path: Path) -> None:
    clip = site.pages["/clip.mp4"][2]
    site.page("/page", "\n<!DOCTYPE html><html>a camera's page</html>", Content_Type="text/html")
    site.page("/empty.mp4")
    site.page("/cut.mp4", clip[: len(clip) // 2])
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=TONE_RATE)
        container.mux(stream.encode(tone(0, 44_100)))
        container.mux(stream.encode(None))
    site.page("/sound.mp4", (tmp_path / "sound.mp4").read_bytes())
    for path, words in (
        ("/page", "a web page"),
        ("/empty.mp4", "is empty"),
        ("/cut.mp4", "cut short"),
        ("/sound.mp4", "has no video"),
    ):
        assert words in await refusal(site.url(path), LOOPBACK)


@pytest.mark.parametrize(
    ("days", "host", "known", "words"),
    [
        (-1, "localhost", True, "has expired"),
        (1, "other.example", True, "is for another name"),
        (1, "localhost", False, "somebody who is not"),
    ],
)
async def test_certificates_of_public_servers_are_looked_at(
    site: Site,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    days: int,
    host: str,
    known: bool,
    words: str,
) -> None:
    """As if loopback addresses were public; those of a private network write their own."""
    certificate, key = tmp_path / "c.pem", tmp_path / "k.pem"
    authority = Authority(tmp_path)
    authority.sign(certificate, key, days=days)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    site.secure(context)
    egress = EgressPolicy(["127.0.0.1"], resolve=lambda host, port: ["127.0.0.1"])
    url = f"https://{host}:{site.port}/clip.mp4"
    assert len((await play(url, egress)).pictures) == 15
    monkeypatch.setattr(secured_module, "is_public", lambda address: True)
    if known:
        monkeypatch.setenv("SSL_CERT_FILE", str(authority.ca))
    told = await refusal(url, egress)
    assert words in told
    assert "127.0.0.1" not in told


async def test_a_recording_whose_index_is_at_its_end_is_read_from_any_server(site: Site) -> None:
    """Also from one that knows no ranges, by reading it again."""
    site.page("/old.mp4", site.pages["/clip.mp4"][2], Without="ranges")
    sink = await play(site.url("/old.mp4"), LOOPBACK)
    assert len(sink.pictures) == 15
    assert sink.reasons == ["end"]
    assert len(site.asked) <= 4


async def test_a_file_of_a_server_without_ranges_ends(site: Site) -> None:
    """It is no live source, though nobody can tell how long it plays."""
    for path in ("/segment.ts", "/clip.mkv"):
        site.page(path, site.pages["/segment.ts"][2], Without="ranges")
        sink = await play(site.url(path), LOOPBACK)
        assert len(sink.pictures) == 15
        assert sink.reasons == ["end"]
        assert not sink.notes["reconnect"]


async def test_a_camera_that_shows_one_picture_to_whoever_asks(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Is asked again and again, as people do."""
    monkeypatch.setattr(file_source, "STILL_S", 0.05)
    jpegs = [
        encode_jpeg(
            av.VideoFrame.from_ndarray(picture_array(1, side, side)).reformat(format="yuvj420p")
        )
        for side in (160, 320)
    ]
    site.page("/snapshot.jpg", jpegs[0])
    sink = RecordingSink()
    source = FileSource(site.url("/snapshot.jpg"), sink, limits=SHORT, egress=LOOPBACK)
    await source.start()
    await asyncio.to_thread(sink.wait_for_pictures, 5)
    site.page("/snapshot.jpg", jpegs[1], Content_Type="image/jpeg")
    await eventually(lambda: sink.pictures[-1].width == 320)
    await source.aclose()
    assert not sink.notes["reconnect"]
    times = [one.capture_ns for one in sink.pictures]
    assert times == sorted(times)


@pytest.mark.parametrize(
    ("name", "encoder", "pixel_format", "num_pictures"),
    [
        ("a.png", "png", "rgb24", 1),
        ("a.webp", "libwebp", "yuv420p", 1),
        ("a.bmp", "bmp", "bgr24", 1),
        ("a.gif", "gif", "rgb8", 5),
        ("a.apng", "apng", "rgb24", 5),
    ],
)
async def test_pictures_of_other_kinds_come_from_servers_too(
    site: Site, tmp_path: Path, name: str, encoder: str, pixel_format: str, num_pictures: int
) -> None:
    """What moves has an end; a still is shown again."""
    path = written(
        tmp_path / f"%d{name}" if num_pictures == 1 else tmp_path / name,
        encoder,
        pixel_format,
        num_pictures,
    )
    site.page("/picture", (tmp_path / f"1{name}" if num_pictures == 1 else path).read_bytes())
    sink = RecordingSink()
    source = FileSource(site.url("/picture"), sink, limits=SHORT, egress=LOOPBACK)
    await source.start()
    await asyncio.to_thread(sink.wait_for_pictures, max(2, num_pictures))
    if num_pictures > 1:
        await asyncio.to_thread(sink.wait_for_end)
        assert (len(sink.pictures), sink.reasons) == (num_pictures, ["end"])
    await source.aclose()
    assert {(one.width, one.height) for one in sink.pictures} == {(160, 120)}


async def test_a_server_that_asks_to_be_left_alone_is(site: Site, tmp_path: Path) -> None:
    """As long as it says, and not as often as others are asked."""
    site.page("/live", site.pages["/segment.ts"][2], Endless="yes")
    sink = RecordingSink()
    limits = FileLimits(backoff_s=0.05, max_backoff_s=0.1)
    source = FileSource(site.url("/live"), sink, limits=limits, egress=LOOPBACK)
    await source.start()
    site.page("/live", status=503, Retry_After="3600")
    await asyncio.to_thread(sink.wait_for_note, "reconnect", 2)
    asked = len(site.asked)
    await asyncio.sleep(1.0)
    assert len(site.asked) == asked
    await source.aclose()


async def test_no_playlist_leads_elsewhere(site: Site) -> None:
    allowed = EgressPolicy(["127.0.0.1"])
    far = site.url("/segment.ts", ELSEWHERE)
    site.redirect("/moved.ts", far)
    site.page("/variant.m3u8", playlist("segment.ts"))
    site.page("/segment-far.m3u8", playlist(far))
    site.page("/segment-moved.m3u8", playlist("/moved.ts"))
    site.page("/key-far.m3u8", playlist("secret.ts", site.url("/key", ELSEWHERE)))
    site.page("/file.m3u8", playlist("file:///etc/passwd"))
    site.page("/tcp.m3u8", playlist(f"tcp://127.0.0.1:{site.port}/"))
    site.page("/crypto.m3u8", playlist("crypto+file:///etc/passwd", "/key"))
    site.page("/malformed.m3u8", playlist("http://[::1/x"))
    site.page("/keyless.m3u8", playlist(f"crypto+{site.url('/secret.ts')}"))
    site.page("/own.m3u8", playlist("/own.m3u8"))
    site.page(
        "/master.m3u8",
        f"#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\n{site.url('/variant.m3u8', ELSEWHERE)}\n",
    )
    for path in [name for name in site.pages if name.endswith(".m3u8") and name != "/variant.m3u8"]:
        assert await refusal(site.url(path), allowed) in (NOT_OPENED, ""), path
    assert {address for address, _ in site.asked} == {"127.0.0.1"}


async def test_a_playlist_without_an_end(site: Site) -> None:
    lines = "#EXTINF:1.0,\nsegment.ts\n" * 400_000
    site.page("/long.m3u8", "#EXTM3U\n#EXT-X-TARGETDURATION:2\n" + lines)
    assert await refusal(site.url("/long.m3u8"), EgressPolicy(["127.0.0.1"])) == NOT_OPENED


async def test_a_name_is_resolved_once(site: Site) -> None:
    """A name that means an allowed address when it is looked at and another one a moment later."""
    answers = iter(["127.0.0.1", ELSEWHERE, ELSEWHERE, ELSEWHERE])
    egress = EgressPolicy(["127.0.0.1"], resolve=lambda host, port: [next(answers)])
    with pytest.raises(InvalidArgumentError):
        await play(f"http://rebinding.example:{site.port}/nothing", egress)
    assert site.asked == [("127.0.0.1", "/nothing")]
    site.asked.clear()
    answers = iter([ELSEWHERE])
    assert await refusal(f"http://rebinding.example:{site.port}/clip.mp4", egress) == NOT_OPENED
    assert not site.asked


@pytest.mark.parametrize(
    "challenge", ['Basic realm="x"', 'Digest realm="x", nonce="n", qop="auth"']
)
async def test_passwords_go_to_their_own_server_only(site: Site, challenge: str) -> None:
    site.page("/locked.mp4", site.pages["/clip.mp4"][2], Needs=challenge)
    url = f"http://user:pa%3Ass@127.0.0.1:{site.port}/locked.mp4"
    assert len((await play(url, EgressPolicy(["127.0.0.1"]))).pictures) == 15
    assert site.authorized[0] == ""
    assert site.authorized[1].startswith(challenge.split()[0])
    site.authorized.clear()
    site.redirect("/away", site.url("/locked.mp4", ELSEWHERE))
    both = EgressPolicy(["127.0.0.0/8"])
    told = await refusal(f"http://user:secret@127.0.0.1:{site.port}/away", both)
    assert "asks for a user" in told
    assert not any(site.authorized)


# --- RTSP and RTMP --------------------------------------------------------------------------------


@contextmanager
def rtsp(**options: object) -> Iterator[RtspServer]:
    server = RtspServer(**options)  # type: ignore[arg-type]
    try:
        yield server
    finally:
        server.close()


async def first_pictures(url: str, egress: EgressPolicy, count: int = 10) -> RecordingSink:
    sink = RecordingSink()
    source = FileSource(url, sink, limits=SHORT, egress=egress)
    try:
        await source.start()
        await asyncio.to_thread(sink.wait_for_pictures, count, 20)
    finally:
        await source.aclose()
    return sink


@pytest.mark.parametrize("challenge", ["", 'Basic realm="cam"', 'Digest realm="cam", nonce="abc"'])
async def test_a_camera_is_read_through_the_relay(challenge: str) -> None:
    with rtsp(challenge=challenge) as server:
        url = f"rtsp://admin:pa%40ss@127.0.0.1:{server.port}/live/main?channel=1"
        await first_pictures(url, EgressPolicy([f"127.0.0.1:{server.port}"]))
        assert server.asked[0] == f"OPTIONS rtsp://127.0.0.1:{server.port}/live/main?channel=1"
        assert all("pa" not in asked.replace("param", "") for asked in server.asked)
        assert server.accepted or not challenge


async def test_a_camera_that_sends_by_udp_only() -> None:
    """And says that its packets come from elsewhere, which nobody believes."""
    with rtsp(udp_only=True) as server:
        url = f"rtsp://127.0.0.1:{server.port}/live"
        await first_pictures(url, EgressPolicy(["127.0.0.1"]))
        assert [asked.split()[0] for asked in server.asked][:5] == [
            "OPTIONS",
            "DESCRIBE",
            "SETUP",
            "SETUP",
            "PLAY",
        ]
        assert server.punched


@pytest.mark.parametrize("udp_only", [False, True])
async def test_a_camera_is_heard(udp_only: bool) -> None:
    sink = RecordingSink()
    with rtsp(sound=True, udp_only=udp_only, num_pictures=10_000) as server:
        url = f"rtsp://127.0.0.1:{server.port}/live"
        source = FileSource(url, sink, limits=SHORT, egress=LOOPBACK)
        await source.start()
        await eventually(lambda: len(sink.sounds) > 30)
        heard = list(sink.sounds)
        # Pictures wait for a decoder, sounds do not: those of the same time come later.
        last_ns = heard[-1].capture_ns
        await eventually(lambda: sink.pictures[-1].capture_ns > last_ns - SECOND_NS)
        await source.aclose()
    assert {(each.codec, each.rate, each.channels) for each in heard} == {("pcm_mulaw", 8000, 1)}
    assert all(set(each.data) == {0xFF} for each in heard)
    times = [each.capture_ns for each in heard]
    assert times == sorted(times)
    assert sink.pictures[0].capture_ns - SECOND_NS < times[0]


async def test_a_camera_that_refuses_its_sound_is_seen() -> None:
    with rtsp(sound=True, sound_status="404 Not Found") as server:
        sink = await first_pictures(f"rtsp://127.0.0.1:{server.port}/live", LOOPBACK)
    assert not sink.sounds


async def test_a_camera_that_was_away_is_back_as_soon_as_it_is() -> None:
    """Away for longer than any number of tries that somebody would count."""
    sink = RecordingSink()
    limits = FileLimits(read_timeout_s=1.0, backoff_s=0.02, max_backoff_s=0.05)
    with rtsp() as camera:
        url = f"rtsp://127.0.0.1:{camera.port}/live"
        source = FileSource(url, sink, limits=limits, egress=EgressPolicy(["127.0.0.1"]))
        await source.start()
        await asyncio.to_thread(sink.wait_for_pictures, 5, 20)
    await asyncio.to_thread(sink.wait_for_note, "reconnect", 30)
    before = len(sink.pictures)
    assert not sink.reasons
    with rtsp(port=camera.port):
        await asyncio.to_thread(sink.wait_for_pictures, before + 5, 20)
        await source.aclose()
    assert sink.reasons == ["closed"]


BEGINNING = Take(num_pictures=60)


@pytest.mark.parametrize("udp_only", [False, True])
@pytest.mark.parametrize(
    "then",
    [
        Take(width=320, height=240),
        Take(width=320, height=240, sender=(78, 100, 5)),
        Take(width=320, height=240, sender=(77, 100, 5)),
        Take(codec="libx265", width=320, height=240, num_pictures=2000),
        Take(codec="libx265", width=320, height=240, sender=(78, 60_000, 5)),
    ],
    ids=["size", "other sender", "same sender anew", "codec", "codec and sender"],
)
async def test_a_camera_whose_encoder_becomes_another(then: Take, udp_only: bool) -> None:
    """On the connection that there is, and without a word."""
    sink = RecordingSink()
    with rtsp(takes=[BEGINNING, then], udp_only=udp_only) as server:
        url = f"rtsp://127.0.0.1:{server.port}/live"
        source = FileSource(url, sink, limits=FileLimits(backoff_s=0.05), egress=LOOPBACK)
        await source.start()
        await eventually(lambda: sum(one.width == 320 for one in list(sink.pictures)) >= 20)
        await source.aclose()
    shown = list(sink.pictures)
    changed = next(n for n, one in enumerate(shown) if one.width == 320)
    assert changed > 30
    assert all(one.width == (160 if n < changed else 320) for n, one in enumerate(shown))
    assert sink.reasons == ["closed"]


@pytest.mark.parametrize("udp_only", [False, True])
@pytest.mark.parametrize("codec", ["libx264", "libx265"])
async def test_a_camera_that_changes_its_sender_again_and_again(codec: str, udp_only: bool) -> None:
    """Its parameter sets come with each: no picture is lost, and it is asked for once."""
    sink = RecordingSink()
    takes = [
        Take(codec, num_pictures=40, sender=(n, 9000 * n, n % 2 << 31), goodbye=n % 2 > 0)
        for n in range(1, 6)
    ]
    with rtsp(takes=takes, udp_only=udp_only) as server:
        url = f"rtsp://127.0.0.1:{server.port}/live"
        source = FileSource(url, sink, limits=SHORT, egress=LOOPBACK)
        await source.start()
        await eventually(lambda: len(sink.pictures) >= 190)
        await source.aclose()
        assert sum(asked.startswith("PLAY") for asked in server.asked) == 1
    assert not sink.notes["reconnect"]
    assert not sink.drops
    times = [one.capture_ns for one in sink.pictures]
    assert len(set(times)) > 170
    # A busy machine's camera is slow; the next sender's times are hours away.
    assert all(abs(one.at_ns - one.capture_ns) < 60 * SECOND_NS for one in sink.pictures)


async def test_a_cameras_pictures_are_shown_in_their_order() -> None:
    """Though they are sent in another, and their sender is renewed on the way."""
    sink = RecordingSink()
    takes = [Take(num_pictures=100, b_frames=3, sender=(n, 777 * n, n << 24)) for n in (1, 2)]
    with rtsp(takes=takes) as server:
        url = f"rtsp://127.0.0.1:{server.port}/live"
        source = FileSource(url, sink, limits=SHORT, egress=LOOPBACK)
        await source.start()
        await eventually(lambda: len(sink.pictures) >= 170)
        await source.aclose()
    assert not sink.notes["reconnect"]
    assert not sink.notes["non_monotonic"]
    assert not sink.drops


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
async def test_a_camera_that_only_describes_its_parameters(codec: str) -> None:
    """They are in no packet. Another sender's are described anew."""
    sink = RecordingSink()
    before = Take(codec, num_pictures=60, described=True)
    then = Take(codec, width=320, height=240, sender=(9, 9, 9), described=True)
    with rtsp(takes=[before, then]) as server:
        url = f"rtsp://127.0.0.1:{server.port}/live"
        source = FileSource(url, sink, limits=FileLimits(backoff_s=0.05), egress=LOOPBACK)
        await source.start()
        await eventually(lambda: sum(one.width == 320 for one in list(sink.pictures)) >= 20)
        await source.aclose()
    assert sum(one.width == 160 for one in sink.pictures) > 30
    assert not sink.drops["corrupt"]


@pytest.mark.parametrize("stamp", [5, 900_000 + 45 * 90_000, 2**32 - 90_000])
async def test_a_camera_whose_times_leap(stamp: int) -> None:
    """Each picture keeps a time of its own, which is near that of its coming."""
    sink = RecordingSink()
    leapt = Take(num_pictures=100, sender=(77, 5100, stamp))
    with rtsp(takes=[BEGINNING, leapt]) as server:
        url = f"rtsp://127.0.0.1:{server.port}/live"
        source = FileSource(url, sink, limits=SHORT, egress=LOOPBACK)
        await source.start()
        await eventually(lambda: len(sink.pictures) >= 150)
        await source.aclose()
    times = [one.capture_ns for one in sink.pictures[:150]]
    assert times == sorted(times)
    assert len(set(times)) > 140
    assert not sink.notes["reconnect"]
    assert times[-1] - times[0] < sink.pictures[149].at_ns - times[0] < 60 * SECOND_NS


async def test_an_rtsp_redirect_is_looked_at() -> None:
    with rtsp() as camera, rtsp(moved=f"rtsp://127.0.0.1:{camera.port}/there") as first:
        await first_pictures(f"rtsp://127.0.0.1:{first.port}/here", EgressPolicy(["127.0.0.1"]))
        assert camera.asked
    with rtsp() as camera, rtsp(moved=f"rtsp://{ELSEWHERE}:{camera.port}/there") as first:
        url = f"rtsp://127.0.0.1:{first.port}/here"
        assert await refusal(url, EgressPolicy(["127.0.0.1"])) == NOT_OPENED
        assert first.asked
        assert not camera.asked


@pytest.mark.parametrize(
    "reply",
    [
        b"HTTP/1.0 200 OK\r\n\r\n",
        b"RTSP/1.0 302 Moved\r\nCSeq: 1\r\nLocation: rtsp://127.0.0.2:1/\r\n\r\n",
        b"RTSP/1.0 200 OK\r\nCSeq: 1\r\nContent-Length: 99999999\r\n\r\n",
        b"RTSP/1.0 200 OK\r\nCSeq: 9\r\n\r\n",
        b"RTSP/1.0 200 OK\r\nno header\r\n\r\n",
        b"REDIRECT rtsp://127.0.0.2/ RTSP/1.0\r\nCSeq: 1\r\nLocation: rtsp://127.0.0.2:1/\r\n\r\n",
        b"-ERR unknown command\r\n" * 3000,
        b"\x16\x03\x01" + bytes(1000),
    ],
)
async def test_servers_that_say_other_things(reply: bytes) -> None:
    with rtsp(always=reply) as server:
        source = FileSource(
            f"rtsp://127.0.0.1:{server.port}/x",
            RecordingSink(),
            limits=FileLimits(open_timeout_s=0.5),
            egress=EgressPolicy(["127.0.0.1"]),
        )
        with pytest.raises(InvalidArgumentError, match="cannot open"):
            await source.start()


INJECTIONS: list[Callable[[int], str]] = [
    lambda port: f"rtsp://127.0.0.1:{port}/a\r\nSET injected 1\r\nDEL victim\r\n",
    lambda port: f"rtsp://127.0.0.1:{port}/a\nSET injected 1\nDEL victim\n",
    lambda port: f"rtsp://127.0.0.1:{port}/a%0d%0aSET%20injected%201%0d%0aDEL%20victim%0d%0a",
    lambda port: f"rtsp://127.0.0.1:{port}/a%0D%0ADEL%20victim%0D%0A",
    lambda port: f"rtsp://u:p\r\nDEL victim\r\n@127.0.0.1:{port}/",
    lambda port: f"rtsp://u%0d%0aDEL%20victim%0d%0a:p@127.0.0.1:{port}/",
    lambda port: f"rtsp://127.0.0.1:{port}/a\u2028DEL victim\u2028",
    lambda port: f"rtsp://127.0.0.1:{port}\\\r\nDEL victim\r\n/",
    lambda port: f"rtmp://127.0.0.1:{port}/a\r\nDEL victim\r\n/b",
    lambda port: f"http://127.0.0.1:{port}/a\r\nDEL victim\r\n",
    lambda port: f"http://127.0.0.1:{port}/a HTTP/1.1\r\nDEL victim\r\n",
]


@pytest.mark.parametrize("number", range(len(INJECTIONS)))
def test_no_url_speaks_to_redis(redis_server: RedisServer, number: int) -> None:
    """Even where the operator allows the address."""
    import redis

    with redis.Redis.from_url(redis_server.url) as client:
        client.set("victim", "alive")
        url = INJECTIONS[number](redis_server.port)
        with pytest.raises(InvalidArgumentError):
            asyncio.run(play(url, EgressPolicy(["127.0.0.0/8"])))
        assert client.get("victim") == b"alive"
        assert client.get("injected") is None


async def test_rtmp_is_read_through_the_relay(tmp_path: Path) -> None:
    server = RtmpPlayerServer(write_clip(tmp_path / "clip.mp4", seconds=2))
    url = f"rtmp://127.0.0.1:{server.port}/live/room/stream?token=x"
    await first_pictures(url, EgressPolicy(["127.0.0.1"]))
    server.close()
    assert server.connected["tcUrl"] == f"rtmp://127.0.0.1:{server.port}/live/room"
    assert server.connected["app"] == "live/room"
    assert server.played == "stream?token=x"
