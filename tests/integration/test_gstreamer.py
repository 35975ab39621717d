"""GStreamer as a camera that is read by RTSP, and as an encoder that publishes by SRT."""

import asyncio
from pathlib import Path

import pytest

from services.gateway.sources.file import FileLimits, FileSource
from services.gateway.sources.remote.egress_policy import EgressPolicy
from tests.eventually import eventually
from tests.integration.test_srt import listening
from tests.processes import free_port
from tests.sources import KEY, RecordingSink

pytestmark = pytest.mark.option

SECOND_NS = 1_000_000_000
CAMERA = Path(__file__).parents[1] / "gstreamer_camera.py"


@pytest.mark.needs("gst-rtsp-server")
@pytest.mark.parametrize(("way", "user"), [("tcp", ()), ("udp", ()), ("tcp", ("admin", "p@ss:1"))])
async def test_its_camera_is_read_and_heard(way: str, user: tuple[str, ...]) -> None:
    port = free_port()
    camera = await asyncio.create_subprocess_exec(
        *("/usr/bin/python3", str(CAMERA), str(port), way, *user), stdout=asyncio.subprocess.PIPE
    )
    assert camera.stdout is not None
    sink = RecordingSink()
    source = FileSource(
        f"rtsp://{':'.join(user)}{'@' * bool(user)}127.0.0.1:{port}/live",
        sink,
        egress=EgressPolicy(["127.0.0.1"]),
        limits=FileLimits(open_timeout_s=20.0),
    )
    try:
        await camera.stdout.readline()
        await source.start()
        await asyncio.to_thread(sink.wait_for_pictures, 30, 60)
        await eventually(lambda: len(sink.sounds) > 50)
        await source.aclose()
    finally:
        camera.kill()
        await camera.wait()
    assert {(seen.width, seen.height) for seen in sink.pictures} == {(320, 240)}
    assert {(each.codec, each.rate) for each in sink.sounds} == {("pcm_mulaw", 8000)}
    # By the reports of its clock pictures and sound lie on one time.
    last = sink.pictures[-1].capture_ns
    assert abs(sink.sounds[-1].capture_ns - last) < SECOND_NS
    assert not sink.drops


@pytest.mark.needs("srt", "gstreamer")
async def test_it_publishes_by_srt() -> None:
    async with listening() as (server, gate):
        sender = await asyncio.create_subprocess_shell(
            "gst-launch-1.0 -q videotestsrc is-live=true num-buffers=45 ! "
            "video/x-raw,width=320,height=240,framerate=15/1 ! "
            "x264enc tune=zerolatency speed-preset=ultrafast key-int-max=15 ! mpegtsmux ! "
            f"srtsink uri=srt://127.0.0.1:{server.port} streamid=publish:{KEY} "
            "wait-for-connection=true"
        )
        await sender.wait()
        await eventually(lambda: gate.released_keys)
        (sink,) = gate.sinks
    assert len(sink.pictures) > 20
    assert sink.reasons == ["publisher_left"]
