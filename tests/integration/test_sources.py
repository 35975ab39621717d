"""Files, URLs and pushes as sources: real clips, real sockets, real threads."""

import asyncio
import itertools
import re
import struct
import threading
import time
import zlib
from collections.abc import AsyncIterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import psutil
import pytest

from services.common.tasks import QueueClosed
from services.gateway.frames.frame_size import FrameSize
from services.gateway.sources.file import FileLimits, FileSource
from services.gateway.sources.push import PushSource
from services.gateway.sources.remote.egress_policy import EgressPolicy
from services.gateway.sources.source import DecodeBudget
from sightline.errors import (
    FailedPreconditionError,
    InvalidArgumentError,
    PermissionDeniedError,
    SightlineError,
)
from tests.bombs import many_references, progressive_jpeg
from tests.eventually import eventually, until_threads_end
from tests.processes import free_port
from tests.sources import START_NS, RecordingSink, Ring, encode_clip, picture_array, write_clip

SECOND_NS = 1_000_000_000
MEDIA = Path(__file__).resolve().parents[3] / "shared" / "media"
needs_media = pytest.mark.skipif(not MEDIA.is_dir(), reason=f"needs the clips in {MEDIA}")
LOOPBACK = EgressPolicy(["127.0.0.1"])
SHORT = FileLimits(open_timeout_s=1.0, read_timeout_s=1.0, away_s=0.2, backoff_s=0.05)


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return write_clip(tmp_path / "clip.mp4", seconds=2)


async def play(source: FileSource, sink: RecordingSink) -> None:
    await source.start()
    await asyncio.to_thread(sink.wait_for_end, 60)
    await source.aclose()


def gaps_ms(sink: RecordingSink) -> list[float]:
    times = [picture.capture_ns for picture in sink.pictures]
    return [(late - early) / 1e6 for early, late in itertools.pairwise(times)]


# --- files ----------------------------------------------------------------------------------------


async def test_a_file_comes_at_its_own_pace(clip: Path) -> None:
    sink = RecordingSink()
    began_ns = time.time_ns()
    await play(FileSource("clip.mp4", sink, root=clip.parent), sink)
    assert len(sink.pictures) == 30
    assert sink.reasons == ["end"]
    assert all(gap == pytest.approx(1000 / 15, abs=1) for gap in gaps_ms(sink))
    elapsed_s = (sink.pictures[-1].at_ns - began_ns) / SECOND_NS
    assert elapsed_s > 29 / 15 - 0.05
    for picture in sink.pictures:
        assert picture.at_ns >= picture.capture_ns - 5_000_000
    assert {picture.clock_source for picture in sink.pictures} == {"stream"}


async def test_an_unpaced_file_comes_as_fast_as_it_is_taken(clip: Path) -> None:
    sink = RecordingSink()
    await play(FileSource("clip.mp4", sink, paced=False, root=clip.parent), sink)
    assert len(sink.pictures) == 30
    spread_s = (sink.pictures[-1].at_ns - sink.pictures[0].at_ns) / SECOND_NS
    assert spread_s < 29 / 15
    assert all(gap == pytest.approx(1000 / 15, abs=1) for gap in gaps_ms(sink))


@pytest.mark.parametrize("paced", [True, False])
async def test_a_loop_goes_on_without_a_gap_in_time(tmp_path: Path, paced: bool) -> None:
    path = write_clip(tmp_path / "short.mp4", seconds=0.4, b_frames=2)
    sink = RecordingSink()
    source = FileSource("short.mp4", sink, loop=True, paced=paced, root=tmp_path)
    await source.start()
    await asyncio.to_thread(sink.wait_for_pictures, 24)
    await source.aclose()
    assert sink.reasons == ["closed"]
    assert path.exists()
    gaps = gaps_ms(sink)[:23]
    assert min(gaps) > 0
    assert sorted(gaps)[len(gaps) // 2] == pytest.approx(1000 / 15, abs=1)
    assert max(gaps) < 1000


async def test_closing_is_prompt_and_leaves_no_thread(clip: Path) -> None:
    before = set(threading.enumerate())
    source = FileSource("clip.mp4", RecordingSink(), loop=True, root=clip.parent, name="file:test")
    await source.start()
    began_s = time.monotonic()
    await source.aclose()
    await source.aclose()
    assert time.monotonic() - began_s < 20
    await until_threads_end(before)


async def test_closing_before_the_start_is_allowed(clip: Path) -> None:
    sink = RecordingSink()
    source = FileSource("clip.mp4", sink, root=clip.parent)
    await source.aclose()
    await source.start()
    assert not sink.pictures


@pytest.fixture
def media_root(tmp_path: Path, clip: Path) -> Path:
    """A media folder full of traps, and a file outside it."""
    root = tmp_path / "root"
    (root / "folder").mkdir(parents=True)
    secret = tmp_path / "secret.mp4"
    secret.write_bytes(clip.read_bytes())
    (root / "link.mp4").symlink_to(secret)
    (root / "text.mp4").write_text("not a video")
    (root / "list.mp4").write_text(f"ffconcat version 1.0\nfile {secret}\n")
    (root / "playlist.mp4").write_text(f"#EXTM3U\n#EXTINF:1,\n{secret}\n#EXT-X-ENDLIST\n")
    (root / "cut.mp4").write_bytes(clip.read_bytes()[:200])
    (root / "empty.mp4").touch()
    with av.open(str(root / "sound.mp4"), "w") as file:
        stream = file.add_stream("aac", rate=48000, layout="mono")
        frame = av.AudioFrame.from_ndarray(
            np.zeros((1, 1024), np.float32), format="fltp", layout="mono"
        )
        frame.sample_rate = 48000
        file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return root


@pytest.mark.parametrize(
    ("named", "error"),
    [
        ("../secret.mp4", PermissionDeniedError),
        ("link.mp4", PermissionDeniedError),
        ("folder/../../secret.mp4", PermissionDeniedError),
        ("/etc/passwd", PermissionDeniedError),
        ("file:///etc/passwd", PermissionDeniedError),
        ("missing.mp4", InvalidArgumentError),
        ("folder", InvalidArgumentError),
        ("", InvalidArgumentError),
        ("a\0b", InvalidArgumentError),
        ("ftp://example.org/x.mp4", InvalidArgumentError),
        ("concat:a.mp4|b.mp4", InvalidArgumentError),
        ("text.mp4", InvalidArgumentError),
        ("list.mp4", InvalidArgumentError),
        ("playlist.mp4", InvalidArgumentError),
        ("cut.mp4", InvalidArgumentError),
        ("sound.mp4", InvalidArgumentError),
        ("empty.mp4", InvalidArgumentError),
    ],
)
async def test_what_is_not_opened(
    tmp_path: Path, media_root: Path, named: str, error: type[SightlineError]
) -> None:
    sink = RecordingSink()
    with pytest.raises(error) as caught:
        await FileSource(named, sink, root=media_root).start()
    assert str(tmp_path) not in str(caught.value)
    assert not sink.pictures


async def test_files_that_ask_for_gigabytes(tmp_path: Path) -> None:
    """The issue's: 8160x4880 with sixteen references; and one of hundreds of tracks."""
    packets = many_references(8160, 4880, 16, 1)
    (tmp_path / "references.h264").write_bytes(b"".join(packets))
    (tmp_path / "scans.mjpeg").write_bytes(2 * progressive_jpeg(3600, 2600, 3000))
    with av.open(str(tmp_path / "tracks.mkv"), "w") as file:
        streams = [file.add_stream("pcm_s16le", rate=8000, layout="mono") for _ in range(200)]
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 80), np.int16), "s16", "mono")
        frame.sample_rate = 8000
        for stream in streams:
            file.mux(stream.encode(frame))
    for name, words in (
        ("references.h264", "kept at once"),
        ("scans.mjpeg", "3001 scans"),
        ("tracks.mkv", "no video|cannot open"),
    ):
        with pytest.raises(InvalidArgumentError, match=words):
            await FileSource(name, RecordingSink(), root=tmp_path).start()


async def test_a_stream_that_grows_in_the_middle_ends(tmp_path: Path) -> None:
    small, large = many_references(64, 64, 1, 5), many_references(2048, 2048, 16, 5)
    (tmp_path / "grows.h264").write_bytes(b"".join(small + large))
    sink = RecordingSink(budget=DecodeBudget(decoder_bytes=32 << 20))
    await play(FileSource("grows.h264", sink, paced=False, root=tmp_path), sink)
    assert {picture.width for picture in sink.pictures} == {64}
    assert (sink.reasons, sink.drops) == (["error"], {"over_budget": 1})


async def test_without_a_media_folder_no_file_is_opened(clip: Path) -> None:
    with pytest.raises(PermissionDeniedError, match="no media folder"):
        FileSource(str(clip), RecordingSink())


@pytest.mark.parametrize(
    ("name", "encoder", "pixel_format"),
    [
        ("still.png", "png", "rgb24"),
        ("still.jpg", "mjpeg", "yuvj420p"),
        ("still-1.webp", "libwebp", "yuv420p"),
        ("still%03d.bmp", "bmp", "bgr24"),
    ],
)
async def test_a_still_picture_is_one_picture(
    tmp_path: Path, name: str, encoder: str, pixel_format: str
) -> None:
    """Also one whose name libavformat would take for a numbered series of files."""
    image = av.VideoFrame.from_ndarray(picture_array(3, 160, 120), "rgb24")
    context = av.CodecContext.create(encoder, "w")
    assert isinstance(context, av.VideoCodecContext)
    context.width, context.height, context.pix_fmt = 160, 120, pixel_format
    context.time_base = Fraction(1, 25)
    packets = [*context.encode(image.reformat(format=pixel_format)), *context.encode(None)]
    (tmp_path / name).write_bytes(b"".join(bytes(packet) for packet in packets))
    sink = RecordingSink()
    await play(FileSource(name, sink, root=tmp_path), sink)
    assert sink.reasons == ["end"]
    assert [(seen.width, seen.height) for seen in sink.pictures] == [(160, 120)]


def written(path: Path, encoder: str, pixel_format: str, num_pictures: int) -> Path:
    """A file of that encoder's pictures, in the container that the name says."""
    with av.open(str(path), "w") as output:
        stream = output.add_stream(encoder, rate=10)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = 160, 120, pixel_format
        for number in range(num_pictures):
            image = av.VideoFrame.from_ndarray(picture_array(number, 160, 120), "rgb24")
            output.mux(stream.encode(image.reformat(format=pixel_format)))
        output.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("num_before", [0, 5000])
async def test_an_animated_png_is_played(tmp_path: Path, num_before: int) -> None:
    """Also one that begins with as many bytes of something else, as palettes and texts are."""
    png = written(tmp_path / "moves.apng", "apng", "rgb24", 3).read_bytes()
    chunk = b"tEXtComment\0" + b"." * num_before
    text = struct.pack("!I", len(chunk) - 4) + chunk + struct.pack("!I", zlib.crc32(chunk))
    begin = png.index(b"acTL") - 4
    (tmp_path / "moves-1.png").write_bytes(png[:begin] + text + png[begin:])
    sink = RecordingSink()
    await play(FileSource("moves-1.png", sink, root=tmp_path), sink)
    assert len(sink.pictures) == 3


async def test_who_brings_what_is_not_read_is_told_what_it_is(tmp_path: Path) -> None:
    written(tmp_path / "cinepak.avi", "cinepak", "rgb24", 2)
    (tmp_path / "empty.mp4").touch()
    webp = b"RIFF\x40\0\0\0WEBPVP8X\x0a\0\0\0\x12\0\0\0" + bytes(40)
    (tmp_path / "moves.webp").write_bytes(webp)
    avif = written(tmp_path / "still.avif", "libsvtav1", "yuv420p", 1)
    tiled = re.sub(rb"(infe\x02.{7})av01", rb"\1grid", avif.read_bytes(), flags=re.DOTALL)
    (tmp_path / "tiles.heic").write_bytes(tiled)
    await play(FileSource("still.avif", sink := RecordingSink(), root=tmp_path), sink)
    assert len(sink.pictures) == 1
    for name, words in (
        ("tiles.heic", "made of tiles"),
        ("cinepak.avi", "in cinepak, which is not read"),
        ("empty.mp4", "the file is empty"),
        ("moves.webp", "an animated WebP is not read"),
    ):
        with pytest.raises(InvalidArgumentError, match=words):
            await FileSource(name, RecordingSink(), root=tmp_path).start()


async def test_raw_video_with_a_header_is_played(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "raw.y4m"), "w") as output:
        stream = output.add_stream("wrapped_avframe", rate=25)
        stream.width, stream.height, stream.pix_fmt = 160, 120, "yuv420p"
        for number in range(5):
            image = av.VideoFrame.from_ndarray(picture_array(number, 160, 120), "rgb24")
            output.mux(stream.encode(image.reformat(format="yuv420p")))
        output.mux(stream.encode(None))
    sink = RecordingSink()
    await play(FileSource("raw.y4m", sink, root=tmp_path), sink)
    assert len(sink.pictures) == 5


async def test_a_damaged_file_loses_only_what_is_damaged(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mkv", seconds=4, gop=5)
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 300] = b"\xaa" * 300
    path.write_bytes(data)
    sink = RecordingSink()
    await play(FileSource("clip.mkv", sink, paced=False, root=tmp_path), sink)
    assert 30 <= len(sink.pictures) <= 60
    assert sink.reasons == ["end"]


async def test_timestamps_that_leap(tmp_path: Path) -> None:
    """Two hours forward in the middle of a recording: nobody waits for two hours."""
    clip = encode_clip(num_pictures=30, gop=5)
    with av.open(str(tmp_path / "leap.mkv"), "w") as file:
        stream = file.add_stream("libx264", rate=15)
        stream.width, stream.height, stream.pix_fmt = 160, 120, "yuv420p"
        for number, (data, index, keyframe) in enumerate(clip.packets):
            packet = av.Packet(data)
            packet.stream = stream
            packet.time_base = Fraction(1, 15)
            leap = 7200 * 15 if number >= 20 else 0
            packet.pts = packet.dts = index + leap
            packet.is_keyframe = keyframe
            file.mux(packet)
    sink = RecordingSink()
    began_s = time.monotonic()
    await play(FileSource("leap.mkv", sink, root=tmp_path), sink)
    assert time.monotonic() - began_s < 30
    assert len(sink.pictures) == 30
    assert sink.notes["timeline_leap"] == 1
    assert max(gaps_ms(sink)) < 1000


# --- URLs -----------------------------------------------------------------------------------------


@pytest.fixture
def clip_bytes(clip: Path) -> bytes:
    return clip.read_bytes()


@pytest.fixture
async def web(clip_bytes: bytes) -> AsyncIterator[str]:
    """/clip is served, /stall answers nothing, /half breaks off in the middle."""
    data = clip_bytes
    waiting = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        path = (await reader.readuntil(b"\r\n\r\n")).split()[1]
        head = f"HTTP/1.0 200 OK\r\nContent-Length: {len(data)}\r\n\r\n".encode()
        if path == b"/clip":
            writer.write(head + data)
        elif path == b"/half":
            writer.write(head + data[: len(data) // 2])
            await writer.drain()
            await waiting.wait()
        else:
            await waiting.wait()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    waiting.set()
    server.close()
    await server.wait_closed()


async def test_a_file_over_http(web: str) -> None:
    sink = RecordingSink()
    await play(FileSource(f"{web}/clip", sink, paced=False, egress=LOOPBACK), sink)
    assert len(sink.pictures) == 30
    assert sink.reasons == ["end"]


@pytest.mark.parametrize("path", ["/stall", "/half"])
async def test_a_server_that_does_not_answer_is_given_up(web: str, path: str) -> None:
    """And the event loop goes on meanwhile."""
    sink = RecordingSink()
    opening = asyncio.create_task(
        FileSource(f"{web}{path}", sink, limits=SHORT, egress=LOOPBACK).start()
    )
    beats = 0
    while not opening.done():
        await asyncio.sleep(0.02)
        beats += 1
    with pytest.raises(InvalidArgumentError, match=r"cannot (open|read) the source"):
        await opening
    assert beats > 10


async def test_a_live_url_is_opened_again_until_it_stays_away(tmp_path: Path) -> None:
    """A stream without an end in sight that breaks off twice, and then for good."""
    data = await asyncio.to_thread(write_clip(tmp_path / "live.ts", seconds=2).read_bytes)
    served = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal served
        await reader.readuntil(b"\r\n\r\n")
        served += 1
        if served <= 3:
            writer.write(b"HTTP/1.0 200 OK\r\nContent-Type: video/mp2t\r\n\r\n" + data)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    sink = RecordingSink()
    url = f"http://127.0.0.1:{port}/live.ts"
    await play(FileSource(url, sink, limits=SHORT, egress=LOOPBACK), sink)
    server.close()
    await server.wait_closed()
    assert sink.reasons == ["error"]
    assert len(sink.pictures) == 90
    assert sink.notes["reconnect"] > 2
    times = [picture.capture_ns for picture in sink.pictures]
    assert times == sorted(times)


async def test_a_source_that_opens_and_dies_is_not_hammered(tmp_path: Path) -> None:
    """Pauses grow although each try is answered, until it has shown pictures for a while."""
    data = await asyncio.to_thread(write_clip(tmp_path / "live.ts", seconds=2).read_bytes)
    ended, pauses = 0.0, list[float]()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal ended
        await reader.readuntil(b"\r\n\r\n")
        if ended:
            pauses.append(time.monotonic() - ended)
        writer.write(b"HTTP/1.0 200 OK\r\nContent-Type: video/mp2t\r\n\r\n")
        for number in range(2):
            writer.write(data[number * len(data) // 2 : (number + 1) * len(data) // 2])
            await writer.drain()
            await asyncio.sleep(1.0 if len(pauses) == 6 else 0.0)
        writer.close()
        ended = time.monotonic()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    sink = RecordingSink()
    limits = FileLimits(backoff_s=0.05, steady_s=0.7)
    url = f"http://127.0.0.1:{port}/live.ts"
    source = FileSource(url, sink, limits=limits, egress=LOOPBACK)
    await source.start()
    await eventually(lambda: len(pauses) >= 7)
    await source.aclose()
    server.close()
    assert pauses[5] > 0.05 * 2**5 / 2
    assert pauses[6] < 0.05 * 2**6 / 2


@pytest.mark.parametrize("scheme", ["http", "https", "rtsp", "rtmp"])
async def test_nobody_there(scheme: str) -> None:
    url = f"{scheme}://127.0.0.1:{free_port()}/x"
    source = FileSource(url, RecordingSink(), limits=SHORT, egress=LOOPBACK)
    with pytest.raises(InvalidArgumentError, match="cannot open") as caught:
        await source.start()
    assert "127.0.0.1" not in str(caught.value)


# --- pushes ---------------------------------------------------------------------------------------


async def test_pushed_jpeg_and_raw_pictures() -> None:
    sink = RecordingSink()
    source = PushSource(sink)
    await source.start()
    jpeg = encode_clip("mjpeg", num_pictures=1, width=200, height=100).packets[0][0]
    await source.jpeg(jpeg, START_NS)
    image = picture_array(3, 48, 36)
    await source.rgb(48, 36, image.tobytes(), START_NS + 1)
    before_ns = time.time_ns()
    await source.rgb(48, 36, image.tobytes())
    assert sink.newest is not None
    assert np.array_equal(sink.newest.frame.to_ndarray(), image)
    await source.end()
    await source.aclose()
    assert [(seen.width, seen.capture_ns) for seen in sink.pictures[:2]] == [
        (200, START_NS),
        (48, START_NS + 1),
    ]
    assert sink.pictures[2].clock_source == "arrival"
    assert before_ns <= sink.pictures[2].capture_ns <= time.time_ns()
    assert sink.reasons == ["end"]


async def test_bad_pushed_pictures_are_named() -> None:
    sink = RecordingSink()
    source = PushSource(sink)
    jpeg = encode_clip("mjpeg", num_pictures=1).packets[0][0]
    size_at = jpeg.index(b"\xff\xc0") + 5
    huge = jpeg[:size_at] + (16384).to_bytes(2) + (16384).to_bytes(2) + jpeg[size_at + 4 :]
    for data, complaint in (
        (b"", "JPEG"),
        (b"garbage", "JPEG"),
        (jpeg[:40], "JPEG"),
        (huge, "16384x16384 pixels is too large"),
    ):
        with pytest.raises(InvalidArgumentError, match=complaint):
            await source.jpeg(data, START_NS)
    for width, height, size, complaint in (
        (0, 4, 0, "empty"),
        (4, 4, 47, "has 48 bytes, not 47"),
        (4, 4, 0, "has 48 bytes, not 0"),
        (15360, 8640, 10, "too large"),
    ):
        with pytest.raises(InvalidArgumentError, match=complaint):
            await source.rgb(width, height, bytes(size), START_NS)
    with pytest.raises(InvalidArgumentError, match="need a codec"):
        await source.packet(b"data", START_NS)
    with pytest.raises(InvalidArgumentError, match="negative"):
        await source.jpeg(jpeg, -1)
    await source.jpeg(jpeg, START_NS)
    await source.aclose()
    assert len(sink.pictures) == 1
    assert sink.reasons == ["publisher_left"]
    with pytest.raises(FailedPreconditionError):
        await source.jpeg(jpeg, START_NS)


@pytest.mark.parametrize("lossless", [True, False])
@pytest.mark.parametrize("global_header", [True, False], ids=["avcC", "Annex B"])
async def test_pushed_packets(lossless: bool, global_header: bool, tmp_path: Path) -> None:
    """Length-prefixed as a file has them, or Annex B as an encoder makes them; with B-frames."""
    units: list[tuple[bytes, int, bool]] = []
    extradata = b""
    if global_header:
        with av.open(str(write_clip(tmp_path / "clip.mp4", b_frames=2))) as file:
            video = file.streams.video[0]
            extradata = video.codec_context.extradata or b""
            assert extradata[:1] == b"\x01"
            for packet in file.demux(video):
                if packet.pts is not None:
                    index = round(packet.pts * video.time_base * 15)
                    units.append((bytes(packet), index, packet.is_keyframe))
    else:
        units = encode_clip(num_pictures=30, b_frames=2).packets
    sink = RecordingSink()
    source = PushSource(sink, codec="h264", extradata=extradata, lossless=lossless)
    await source.start()
    for data, index, keyframe in units:
        await source.packet(data, START_NS + index * SECOND_NS // 15, keyframe)
    await source.end()
    assert [picture.capture_ns for picture in sink.pictures] == [
        START_NS + index * SECOND_NS // 15 for index in range(30)
    ]
    assert not sink.drops
    with pytest.raises(InvalidArgumentError, match="unknown codec"):
        PushSource(sink, codec="cinepak")


async def test_a_lossless_push_is_held_back_by_a_slow_session() -> None:
    clip = encode_clip(num_pictures=30)
    ring = Ring(
        fps=15,
        size=FrameSize(width=32, height=24),
        loop=asyncio.get_running_loop(),
        capacity=4,
        lossless=True,
    )
    source = PushSource(ring, codec="h264", lossless=True)
    await source.start()
    pushed = 0

    async def push() -> None:
        nonlocal pushed
        for data, index, keyframe in clip.packets:
            await source.packet(data, START_NS + index * SECOND_NS // 15, keyframe)
            pushed += 1
        await source.end()

    pushing = asyncio.create_task(push())
    await asyncio.sleep(0.3)
    assert pushed <= 8, "the pusher was not held back"
    taken = [await asyncio.wait_for(ring.get(), 10) for _ in range(30)]
    await pushing
    assert len({frame.capture_ns for frame in taken}) == 30
    assert not ring.counts().dropped
    ring.close()


# --- the shared clips -----------------------------------------------------------------------------


@needs_media
@pytest.mark.parametrize("name", ["bottle-detection.mp4", "car-detection.mp4"])
async def test_real_clips_lose_no_frame(name: str) -> None:
    with av.open(str(MEDIA / name)) as file:
        expected = file.streams.video[0].frames
    ring = Ring(
        fps=8,
        size=FrameSize(width=128, height=128),
        loop=asyncio.get_running_loop(),
        lossless=True,
    )
    source = FileSource(name, ring, paced=False, root=MEDIA)
    await source.start()
    times = []
    while not (ring.over.is_set() and len(ring) == 0):
        try:
            frame = await asyncio.wait_for(ring.get(), 0.5)
        except TimeoutError:
            continue
        times.append(frame.capture_ns)
    counts = ring.counts()
    ring.close()
    await source.aclose()
    assert counts.received == expected
    assert counts.sampled == len(times)
    assert not counts.dropped
    assert np.diff(times).min() > 0
    with pytest.raises(QueueClosed):
        await ring.get()


async def test_fifty_loops_do_not_grow(clip: Path) -> None:
    """Memory after ten loops and after fifty."""
    loop = asyncio.get_running_loop()
    ring = Ring(fps=15, size=FrameSize(width=128, height=128), loop=loop, capacity=4, lossless=True)
    source = FileSource("clip.mp4", ring, loop=True, paced=False, root=clip.parent)
    process = psutil.Process()
    await source.start()
    sizes = []
    for _ in range(50):
        for _ in range(30):
            await asyncio.wait_for(ring.get(), 30)
        sizes.append(process.memory_info().rss)
    ring.close()
    await source.aclose()
    assert sizes[-1] - sizes[10] < 8 * 1024 * 1024
