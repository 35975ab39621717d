"""The RTMP server against real publishers, and against peers that mean no good."""

import asyncio
import contextlib
import os
import random
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import av
import pytest

from services.common.listener import DoorLimits
from services.gateway.sources.rtmp import amf0
from services.gateway.sources.rtmp.chunks import ChunkLimits, ChunkWriter, Message
from services.gateway.sources.rtmp.connection import RtmpLimits
from services.gateway.sources.rtmp.server import RtmpServer
from tests.eventually import PATIENCE_S, eventually, until_threads_end
from tests.rtmp_peer import RtmpPeer
from tests.sources import KEY, Clip, OneKeyGate, encode_clip, write_clip

needs_ffmpeg = pytest.mark.needs("ffmpeg")
FRAME_MS = 40


class Harness:
    def __init__(self, limits: RtmpLimits) -> None:
        self.gate = OneKeyGate()
        doors = DoorLimits(waiting=8, waiting_per_place=8)
        self.server = RtmpServer(self.gate, port=0, limits=limits, doors=doors)

    def url(self, key: str = KEY) -> str:
        return f"rtmp://127.0.0.1:{self.server.port}/live/{key}"


PATIENT = RtmpLimits(
    handshake_s=PATIENCE_S,
    setup_s=PATIENCE_S,
    first_picture_s=PATIENCE_S,
    idle_s=PATIENCE_S,
    chunks=ChunkLimits(message_bytes=1_000_000),
)


@pytest.fixture
async def rtmp(request: pytest.FixtureRequest) -> AsyncIterator[Harness]:
    """A running server that a busy machine does not put out of patience, but for what a test's
    parameter says; at the end nothing may be left of it."""
    threads = set(threading.enumerate())
    harness = Harness(replace(PATIENT, **getattr(request, "param", {})))
    await harness.server.start()
    yield harness
    await harness.server.aclose()
    assert harness.server.num_connections == 0
    assert len(harness.gate.released_keys) == len(harness.gate.sinks)
    for sink in harness.gate.sinks:
        assert len(sink.reasons) == 1
    await until_threads_end(threads)


@pytest.fixture(scope="module")
def clip() -> Clip:
    return encode_clip(num_pictures=50, fps=25, gop=10, global_header=True)


def ffmpeg(*arguments: str, source: str, url: str) -> list[str]:
    return [
        *("ffmpeg", "-hide_banner", "-loglevel", "error", "-nostdin", "-re"),
        *("-f", "lavfi", "-i", source, "-f", "lavfi", "-i", "sine"),
        *arguments,
        *("-pix_fmt", "yuv420p", "-c:a", "aac", "-f", "flv", url),
    ]


async def start(command: list[str]) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
    )


LIVE = ("-c:v", "libx264", "-preset", "ultrafast", "-tune", "zerolatency", "-g", "15")
SOURCE = "testsrc2=size=320x240:rate=15"


# --- real publishers ------------------------------------------------------------------------------


@needs_ffmpeg
@pytest.mark.parametrize("b_frames", [0, 2])
async def test_ffmpeg_publishes_h264_and_aac(rtmp: Harness, b_frames: int) -> None:
    codec = LIVE if not b_frames else ("-c:v", "libx264", "-preset", "veryfast", "-bf", "2")
    process = await start(ffmpeg(*codec, "-t", "2", source=SOURCE, url=rtmp.url()))
    _, errors = await process.communicate()
    assert process.returncode == 0, errors
    await eventually(lambda: rtmp.gate.released_keys)
    (sink,) = rtmp.gate.sinks
    assert len(sink.pictures) == 30
    assert sink.reasons == ["publisher_left"]
    assert not sink.drops
    assert sink.notes["metadata"] == 1
    assert len(sink.sounds) > 50
    assert {(sound.codec, len(sound.extradata) >= 2) for sound in sink.sounds} == {("aac", True)}
    times = [picture.capture_ns for picture in sink.pictures]
    assert times == sorted(times)
    assert {picture.clock_source for picture in sink.pictures} == {"stream"}
    assert all(picture.capture_ns <= picture.at_ns for picture in sink.pictures)
    assert {(picture.width, picture.height) for picture in sink.pictures} == {(320, 240)}


@pytest.mark.needs("gstreamer")
async def test_gstreamer_publishes_slices_and_hears_why_not(rtmp: Harness) -> None:
    """Its encoder gives each picture in several slices when it shall not wait."""

    def pipeline(key: str) -> str:
        return (
            "gst-launch-1.0 videotestsrc is-live=true num-buffers=30 ! "
            "video/x-raw,width=320,height=240,framerate=15/1 ! "
            "x264enc tune=zerolatency speed-preset=ultrafast threads=4 sliced-threads=true "
            "key-int-max=15 ! flvmux streamable=true ! "
            f"rtmp2sink location={rtmp.url(key)}"
        )

    process = await start(pipeline(KEY).split())
    _, errors = await process.communicate()
    assert process.returncode == 0, errors
    await eventually(lambda: rtmp.gate.released_keys)
    (sink,) = rtmp.gate.sinks
    assert len(sink.pictures) == 30
    assert not sink.drops
    refused = await start(pipeline("wrong").split())
    _, errors = await asyncio.wait_for(refused.communicate(), PATIENCE_S)
    assert refused.returncode != 0
    assert rtmp.server.counts["refused_key"] == 1


@needs_ffmpeg
async def test_a_wrong_key_and_a_second_publisher_are_told_apart(rtmp: Harness) -> None:
    first = await start(ffmpeg(*LIVE, source=SOURCE, url=rtmp.url()))
    await eventually(lambda: rtmp.gate.sinks and rtmp.gate.sinks[0].pictures)
    for key, complaint in ((KEY, "somebody else is publishing"), ("wrong", "no session has")):
        other = await start(ffmpeg(*LIVE, "-t", "2", source=SOURCE, url=rtmp.url(key)))
        _, errors = await asyncio.wait_for(other.communicate(), PATIENCE_S)
        assert other.returncode != 0
        assert complaint in errors.decode()
    before = len(rtmp.gate.sinks[0].pictures)
    await eventually(lambda: len(rtmp.gate.sinks[0].pictures) > before)
    assert rtmp.server.counts["refused_key"] == rtmp.server.counts["refused_busy"] == 1
    assert len(rtmp.gate.sinks) == 1
    first.terminate()
    await first.wait()


@needs_ffmpeg
async def test_a_killed_publisher_may_come_back(rtmp: Harness) -> None:
    for number in range(2):
        process = await start(ffmpeg(*LIVE, source=SOURCE, url=rtmp.url()))
        await eventually(
            lambda number=number: (
                len(rtmp.gate.sinks) > number and len(rtmp.gate.sinks[number].pictures) >= 5
            )
        )
        process.send_signal(signal.SIGKILL)
        await process.wait()
        await eventually(lambda number=number: len(rtmp.gate.released_keys) == number + 1)
    assert [sink.reasons for sink in rtmp.gate.sinks] == [["publisher_left"]] * 2


def pyav(path: Path, url: str, seconds: float) -> list[str]:
    """A publisher in a process of its own: PyAV keeps the interpreter's lock while it connects."""
    script = (
        "import pathlib, sys, time\n"
        "from tests.publish import RtmpPublisher\n"
        "with RtmpPublisher(pathlib.Path(sys.argv[1]), sys.argv[2]) as publisher:\n"
        "    end = time.monotonic() + float(sys.argv[3])\n"
        "    while publisher.error is None and time.monotonic() < end:\n"
        "        time.sleep(0.05)\n"
        "sys.exit(f'refused: {publisher.error}' if publisher.error else 0)\n"
    )
    return [sys.executable, "-c", script, str(path), url, str(seconds)]


@pytest.mark.parametrize("codec", ["libx264", "libx265", "libvpx-vp9"])
async def test_pyav_publishes_and_leaves(rtmp: Harness, tmp_path: Path, codec: str) -> None:
    """All but H.264 as Enhanced RTMP."""
    path = write_clip(tmp_path / "clip.mp4", codec, seconds=1)
    process = await start(pyav(path, rtmp.url(), 3))
    _, errors = await asyncio.wait_for(process.communicate(), PATIENCE_S)
    assert process.returncode == 0, errors
    await eventually(lambda: rtmp.gate.released_keys)
    (sink,) = rtmp.gate.sinks
    assert len(sink.pictures) >= 25
    assert not sink.drops
    times = [picture.capture_ns for picture in sink.pictures]
    assert times == sorted(times)


async def test_pyav_hears_of_a_wrong_key(rtmp: Harness, tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", seconds=1)
    process = await start(pyav(path, rtmp.url("wrong"), 10))
    _, errors = await asyncio.wait_for(process.communicate(), PATIENCE_S)
    assert process.returncode == 1
    assert b"refused" in errors
    assert not rtmp.gate.sinks


# --- the protocol, message by message -------------------------------------------------------------


async def send_clip(peer: RtmpPeer, clip: Clip, start_ms: int = 0) -> None:
    """A whole clip as FLV packets, decoding times as far apart as its pictures."""
    await peer.media(9, start_ms, b"\x17\x00\x00\x00\x00" + clip.extradata)
    for number, (data, index, keyframe) in enumerate(clip.packets):
        composition = (index - number) * FRAME_MS
        head = bytes([0x17 if keyframe else 0x27, 1]) + composition.to_bytes(3, signed=True)
        await peer.media(9, start_ms + number * FRAME_MS, head + data)


async def test_what_connect_says(rtmp: Harness) -> None:
    async with await RtmpPeer.open(rtmp.server.port) as peer:
        await peer.connect()
        assert (await peer.message(5)).payload == (2_500_000).to_bytes(4)
        assert (await peer.message(6)).payload[:4] == (2_500_000).to_bytes(4)
        _, transaction, properties, info = await peer.command("_result")
        assert transaction == 1
        assert info["code"] == "NetConnection.Connect.Success"
        assert {"hvc1", "av01", "vp09"} <= set(properties["fourCcList"])


async def test_the_calls_that_publishers_make(rtmp: Harness) -> None:
    async with await RtmpPeer.open(rtmp.server.port) as peer:
        await peer.connect()
        await peer.call("releaseStream", 2, None, KEY)
        await peer.call("FCPublish", 3, None, KEY)
        await peer.call("createStream", 4, None)
        await peer.call("_checkbw", 6, None)
        await peer.call("unheardOf", 7, None)
        assert (await peer.command("_result"))[1] == 1
        assert (await peer.command("_result"))[1] == 2
        assert (await peer.command("onFCPublish"))[3]["code"] == "NetStream.Publish.Start"
        assert (await peer.command("_result"))[1:] == [4, None, 1]
        assert (await peer.command("_result"))[1] == 6
        assert (await peer.command("_error"))[1] == 7
        await peer.call("publish", 5, None, KEY + "?token=1", "live", stream=1)
        assert (await peer.command("onStatus"))[3]["code"] == "NetStream.Publish.Start"
        await peer.call("FCUnpublish", 8, None, KEY)
        await peer.command("onFCUnpublish")
        assert (await peer.command("onStatus"))[3]["code"] == "NetStream.Unpublish.Success"
        assert rtmp.gate.released_keys == [KEY]
        await peer.call("deleteStream", 9, None, 1)
        # The connection goes on, and may publish once more.
        await peer.call("publish", 10, None, KEY, "live", stream=1)
        assert (await peer.command("onStatus"))[3]["code"] == "NetStream.Publish.Start"
    await eventually(lambda: len(rtmp.gate.released_keys) == 2)


async def test_playing_and_other_applications_are_refused(rtmp: Harness) -> None:
    async with await RtmpPeer.open(rtmp.server.port) as peer:
        await peer.connect()
        await peer.call("play", 2, None, KEY, stream=1)
        assert (await peer.command("onStatus"))[3]["code"] == "NetStream.Play.StreamNotFound"
        assert await peer.closed()
    async with await RtmpPeer.open(rtmp.server.port) as peer:
        await peer.connect(app="vod")
        assert (await peer.command("_error"))[3]["code"] == "NetConnection.Connect.InvalidApp"
        assert await peer.closed()
    assert not rtmp.gate.sinks


@pytest.mark.parametrize("start_ms", [0, 0xFFFFFF - 500, 0x100000000 - 500])
async def test_timestamps_of_any_size(rtmp: Harness, clip: Clip, start_ms: int) -> None:
    """From zero, across the 24-bit border (4 h 39 min), across the 32-bit one (49 days)."""
    async with await RtmpPeer.open(rtmp.server.port) as peer:
        assert (await peer.publish(KEY))["code"] == "NetStream.Publish.Start"
        await send_clip(peer, clip, start_ms)
        await peer.call("deleteStream", 9, None, 1)
        await peer.command("onStatus")
    (sink,) = rtmp.gate.sinks
    assert len(sink.pictures) == 50
    assert not sink.drops
    span_ns = sink.pictures[-1].capture_ns - sink.pictures[0].capture_ns
    assert 0 <= span_ns < 20_000_000_000


@pytest.mark.parametrize(
    ("encoder", "four_cc"), [("libx265", b"hvc1"), ("libsvtav1", b"av01"), ("libvpx-vp9", b"vp09")]
)
async def test_enhanced_rtmp(rtmp: Harness, tmp_path: Path, encoder: str, four_cc: bytes) -> None:
    """Sequence headers and packets as an MP4 file holds them: hvcC, av1C, length prefixes."""
    path = write_clip(tmp_path / "clip.mp4", encoder, seconds=1)
    async with await RtmpPeer.open(rtmp.server.port) as peer:
        await peer.publish(KEY)
        with av.open(str(path)) as file:
            video = file.streams.video[0]
            header = video.codec_context.extradata or b""
            assert header or encoder == "libvpx-vp9"
            await peer.media(9, 0, b"\x90" + four_cc + header)
            for packet in file.demux(video):
                if packet.dts is None or packet.pts is None:
                    continue
                tick_ms = 1000 * video.time_base
                kind = 0x90 if packet.is_keyframe else 0xA0
                head = bytes([kind | 3]) + four_cc
                if encoder == "libx265":
                    composition = round((packet.pts - packet.dts) * tick_ms)
                    head = bytes([kind | 1]) + four_cc + composition.to_bytes(3, signed=True)
                await peer.media(9, round(packet.dts * tick_ms), head + bytes(packet))
        await peer.call("deleteStream", 9, None, 1)
        await peer.command("onStatus")
    assert len(rtmp.gate.sinks[0].pictures) == 15
    assert not rtmp.gate.sinks[0].drops


async def test_acknowledgements_and_pings(rtmp: Harness) -> None:
    async with await RtmpPeer.open(rtmp.server.port) as peer:
        await peer.publish(KEY)
        await peer.send(Message(5, 0, 0, (20_000).to_bytes(4)), 2)
        await peer.send(Message(4, 0, 0, b"\x00\x06" + b"time"), 2)
        assert (await peer.message(4)).payload == b"\x00\x07time"
        for number in range(4):
            await peer.media(8, number * 20, b"\xaf\x01" + bytes(6000))
        received = int.from_bytes((await peer.message(3)).payload)
        assert 3073 + 10_000 <= received <= 3073 + 26_000


async def test_a_first_picture_is_decoded_at_once(rtmp: Harness, clip: Clip) -> None:
    """Not after two seconds, as players wait before they believe a stream. The quickest of some
    tries counts, since a machine may be busy."""
    for number in range(10):
        async with await RtmpPeer.open(rtmp.server.port) as peer:
            await peer.publish(KEY)
            await peer.media(9, 0, b"\x17\x00\x00\x00\x00" + clip.extradata)
            sent_ns = time.time_ns()
            await peer.media(9, 0, b"\x17\x01\x00\x00\x00" + clip.packets[0][0])
            await eventually(lambda: rtmp.gate.sinks[-1].pictures)
        if rtmp.gate.sinks[-1].pictures[0].at_ns - sent_ns < 900_000_000:
            return
        await eventually(lambda gone=number + 1: len(rtmp.gate.released_keys) == gone)
    pytest.fail("no first picture came within 900 ms")


async def test_a_key_is_looked_at_before_it_is_announced_as_good(rtmp: Harness) -> None:
    """FMLE asks by FCPublish first, and shows what it is told."""
    async with await RtmpPeer.open(rtmp.server.port) as peer:
        await peer.connect()
        await peer.call("FCPublish", 3, None, KEY)
        assert (await peer.command("onFCPublish"))[3]["code"] == "NetStream.Publish.Start"
        await peer.call("FCPublish", 4, None, "wrong-key")
        assert (await peer.command("onFCPublish"))[3]["code"] == "NetStream.Publish.BadName"
        assert "no session has this key" in (await peer.command("onStatus"))[3]["description"]
        assert await peer.closed()
    assert rtmp.server.counts["refused_key"] == 1


async def test_a_publisher_that_makes_way_is_told(rtmp: Harness, clip: Clip) -> None:
    async with await RtmpPeer.open(rtmp.server.port) as peer:
        await peer.publish(KEY)
        await peer.media(9, 0, b"\x17\x00\x00\x00\x00" + clip.extradata)
        assert rtmp.gate.evict is not None
        rtmp.gate.evict()
        status = (await peer.command("onStatus"))[3]
        assert "another publisher came" in status["description"]
        assert await peer.closed()
    await eventually(lambda: rtmp.gate.released_keys)
    assert rtmp.gate.sinks[0].reasons == ["publisher_left"]


SOUND = (8, b"\xaf\x01" + bytes(100))


@pytest.mark.parametrize(
    ("rtmp", "pictures", "blind", "told"),
    [
        ({"first_picture_s": 3.0}, 0, False, "only sound came"),
        ({"first_picture_s": 3.0}, 0, True, "no picture could be decoded"),
        ({"idle_s": 2.0}, 1, False, "no picture for 2 seconds"),
    ],
    ids=["sound", "no header", "bytes without pictures"],
    indirect=["rtmp"],
)
async def test_who_brings_no_picture_is_told_so(
    rtmp: Harness, clip: Clip, pictures: int, blind: bool, told: str
) -> None:
    async with await RtmpPeer.open(rtmp.server.port) as peer:
        assert (await peer.publish(KEY))["code"] == "NetStream.Publish.Start"
        if pictures:
            await peer.media(9, 0, b"\x17\x00\x00\x00\x00" + clip.extradata)
            await peer.media(9, 0, b"\x17\x01\x00\x00\x00" + clip.packets[0][0])
        kind, payload = (9, b"\x27\x01\x00\x00\x00" + clip.packets[1][0]) if blind else SOUND
        goodbye = asyncio.create_task(peer.command("onStatus"))
        for number in range(100):
            if goodbye.done():
                break
            await peer.media(kind, 40 * number, payload)
            await asyncio.wait({goodbye}, timeout=0.1)
        status = (await goodbye)[3]
        assert status["code"] == "NetStream.Publish.Failed"
        assert told in status["description"]
        assert await peer.closed()
    await eventually(lambda: rtmp.gate.released_keys)
    assert rtmp.gate.sinks[0].reasons == ["idle"]
    assert len(rtmp.gate.sinks[0].pictures) == pictures


# --- bad input ------------------------------------------------------------------------------------


async def test_garbage_closes_only_its_own_connection(rtmp: Harness, clip: Clip) -> None:
    dice = random.Random(3)
    async with await RtmpPeer.open(rtmp.server.port) as good:
        await good.publish(KEY)
        noises = [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00" * 99, dice.randbytes(9000)]
        for noise in noises:
            async with await RtmpPeer.open(rtmp.server.port, handshake=False) as bad:
                bad.writer.write(noise)
                assert await bad.closed()
        for _ in range(5):
            async with await RtmpPeer.open(rtmp.server.port) as bad:
                bad.writer.write(b"\xff" + dice.randbytes(5000))
                assert await bad.closed()
        await send_clip(good, clip)
        await good.call("deleteStream", 9, None, 1)
        await good.command("onStatus")
    assert rtmp.server.counts["bad_handshake"] == 8
    assert len(rtmp.gate.sinks[0].pictures) == 50
    assert not rtmp.gate.sinks[0].drops


@pytest.mark.parametrize(
    "wire",
    [
        pytest.param(
            ChunkWriter().message(6, Message(9, 1, 0, b"\x12\x00\x00\x00\x00")), id="codec"
        ),
        pytest.param(ChunkWriter().message(6, Message(9, 1, 0, b"\x17\x01")), id="short"),
        pytest.param(ChunkWriter().message(3, Message(20, 1, 0, b"\xee" * 9)), id="command"),
        pytest.param(b"\x06\x00\x00\x00\xff\xff\xff\x09\x01\x00\x00\x00", id="16 MB message"),
        pytest.param(ChunkWriter().message(2, Message(1, 0, 0, bytes(4))), id="chunk size 0"),
        pytest.param(b"".join(bytes([n]) + bytes(11) for n in range(3, 64)) * 2, id="streams"),
    ],
)
async def test_a_publisher_that_breaks_the_protocol_is_told_and_cut_off(
    rtmp: Harness, wire: bytes
) -> None:
    if wire[:2] == b"\x03\x00" and len(wire) > 700:  # more chunk streams than one may open
        extra = [bytes([0, n]) + bytes(11) for n in range(10)]
        wire += b"".join(extra)
    async with await RtmpPeer.open(rtmp.server.port) as peer:
        await peer.publish(KEY)
        peer.writer.write(wire)
        assert (await peer.command("onStatus"))[3]["code"] == "NetStream.Publish.Failed"
        assert await peer.closed()
    await eventually(lambda: rtmp.gate.released_keys)
    assert rtmp.gate.sinks[0].reasons == ["protocol_error"]
    assert rtmp.server.counts["protocol_error"] == 1


async def test_bad_metadata_and_broken_video_do_not_end_a_stream(rtmp: Harness, clip: Clip) -> None:
    async with await RtmpPeer.open(rtmp.server.port) as peer:
        await peer.publish(KEY)
        await peer.media(18, 0, amf0.encode("onMetaData") + b"\x03\x00\x01a" * 30)
        await peer.media(9, 0, b"\x17\x01\x00\x00\x00" + b"no header yet")
        await peer.media(9, 0, b"\x17\x00\x00\x00\x00" + clip.extradata)
        await peer.media(9, 0, b"\x17\x01\x00\x00\x00" + os.urandom(500))
        await send_clip(peer, clip)
        await peer.call("deleteStream", 9, None, 1)
        await peer.command("onStatus")
    (sink,) = rtmp.gate.sinks
    assert len(sink.pictures) == 50
    assert sink.notes["bad_metadata"] == 1
    assert sink.drops == {"no_sequence_header": 1, "corrupt": 1}


@pytest.mark.parametrize("rtmp", [{"setup_s": 5.0}], indirect=True)
async def test_those_who_never_publish_are_cut_off(rtmp: Harness) -> None:
    async with (
        await RtmpPeer.open(rtmp.server.port, handshake=False) as mute,
        await RtmpPeer.open(rtmp.server.port) as idle,
    ):
        await idle.connect()
        assert await mute.closed()
        assert await idle.closed()
    assert rtmp.server.counts["setup_timeout"] == 2


@pytest.mark.parametrize("rtmp", [{"first_picture_s": 1.0}], indirect=True)
async def test_those_who_fall_silent_are_cut_off(rtmp: Harness) -> None:
    async with await RtmpPeer.open(rtmp.server.port) as silent:
        await silent.publish(KEY)
        assert await silent.closed()
    assert rtmp.server.counts["idle"] == 1
    assert rtmp.gate.sinks[0].reasons == ["idle"]


async def test_held_connections_shut_no_publisher_out(rtmp: Harness) -> None:
    """Who says nothing leaves for who comes later; a publisher leaves for nobody."""
    held = [await RtmpPeer.open(rtmp.server.port, handshake=False) for _ in range(50)]
    async with await RtmpPeer.open(rtmp.server.port) as publisher:
        assert (await publisher.publish(KEY))["code"] == "NetStream.Publish.Start"
        held += [await RtmpPeer.open(rtmp.server.port, handshake=False) for _ in range(50)]
        await eventually(lambda: rtmp.server.num_connections <= 8 + 1)
        assert rtmp.server.counts["evicted"] >= 100 - 8
        assert await held[0].closed()
        await publisher.call("_checkbw", 7, None)
        assert await publisher.command("_result")
    for peer in held:
        peer.writer.close()


async def test_strangers_may_say_little(rtmp: Harness) -> None:
    """A message as long as a frame, or many short ones, end a connection without the key."""
    long = b"\x03\x00\x00\x00\x00\xff\xff\x14\x00\x00\x00\x00" + bytes(128)
    async with await RtmpPeer.open(rtmp.server.port) as peer:
        peer.writer.write(long)
        assert await peer.closed()
    assert rtmp.server.counts["bad_handshake"] == 1
    async with await RtmpPeer.open(rtmp.server.port) as peer:
        await peer.connect()
        with contextlib.suppress(ConnectionError):
            for number in range(2, 2000):
                await peer.call("createStream", number, None, "x" * 60)
        assert await peer.closed()
    assert rtmp.server.counts["setup_bytes"] == 1


async def test_many_small_pieces_are_read_slowly_and_delay_nobody(rtmp: Harness) -> None:
    longest_s = 0.0

    async def beat() -> None:
        """Measure what the event loop does between two turns, in time of the processor: others of
        this machine do not count."""
        nonlocal longest_s
        while True:
            started_s = time.thread_time()
            await asyncio.sleep(0.005)
            longest_s = max(longest_s, time.thread_time() - started_s)

    pieces = ChunkWriter().message(6, Message(8, 1, 0, b"\xaf")) + b"\xc6\xaf" * 30_000
    async with await RtmpPeer.open(rtmp.server.port) as peer:
        await peer.publish(KEY)
        beating = asyncio.create_task(beat())
        peer.writer.write(pieces)
        await eventually(lambda: rtmp.server.counts["throttled"] > 3)
        beating.cancel()
    assert longest_s < 0.25


async def test_closing_the_server_ends_its_publishers(rtmp: Harness) -> None:
    async with await RtmpPeer.open(rtmp.server.port) as peer:
        await peer.publish(KEY)
        await rtmp.server.aclose()
        assert await peer.closed()
    assert rtmp.gate.sinks[0].reasons == ["closed"]
    assert rtmp.gate.released_keys == [KEY]
