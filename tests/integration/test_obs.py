"""OBS as a publisher, on a screen that nobody sees: by RTMP and by SRT."""

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from services.gateway.sources.rtmp.server import RtmpServer
from tests.eventually import eventually
from tests.integration.test_srt import listening
from tests.sources import KEY, OneKeyGate

pytestmark = [pytest.mark.option, pytest.mark.needs("obs")]
GLOBAL = """
[General]
FirstRun=true
InfoIncrement=1
LastVersion=4294967295
EnableAutoUpdates=false
[Basic]
Profile=Test
ProfileDir=Test
SceneCollection=Test
SceneCollectionFile=Test
ConfigOnNewProfile=false
"""
PROFILE = """
[General]
Name=Test
[Output]
Mode=Simple
[SimpleOutput]
VBitrate=500
ABitrate=64
StreamEncoder=x264
Preset=ultrafast
[Video]
BaseCX=320
BaseCY=240
OutputCX=320
OutputCY=240
FPSType=1
FPSInt=15
"""
SCENES: dict[str, Any] = {
    "name": "Test",
    "current_scene": "Scene",
    "current_program_scene": "Scene",
    "scene_order": [{"name": "Scene"}],
    "sources": [{"id": "scene", "versioned_id": "scene", "name": "Scene", "settings": {}}],
}


@contextlib.asynccontextmanager
async def obs(home: Path, server: str, key: str) -> AsyncIterator[None]:
    """OBS publishes its empty scene to a server of one's own for as long as the context lasts."""
    settings = home / ".config/obs-studio"
    profile, scenes = settings / "basic/profiles/Test", settings / "basic/scenes"
    profile.mkdir(parents=True)
    scenes.mkdir(parents=True)
    (settings / "global.ini").write_text(GLOBAL)
    (profile / "basic.ini").write_text(PROFILE)
    service = {"type": "rtmp_custom", "settings": {"server": server, "key": key}}
    (profile / "service.json").write_text(json.dumps(service))
    (scenes / "Test.json").write_text(json.dumps(SCENES))
    process = await asyncio.create_subprocess_exec(
        *("xvfb-run", "-a", "-s", "-screen 0 640x480x24", "obs", "--startstreaming", "--multi"),
        *("--minimize-to-tray", "--profile", "Test", "--collection", "Test"),
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "XDG_RUNTIME_DIR": str(home),
            "LIBGL_ALWAYS_SOFTWARE": "1",
        },
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


def check(gate: OneKeyGate) -> None:
    sink = gate.sinks[0]
    assert {(seen.width, seen.height) for seen in sink.pictures} == {(320, 240)}
    assert {sound.codec for sound in sink.sounds} == {"aac"}
    times = [seen.capture_ns for seen in sink.pictures]
    assert times == sorted(times)
    assert not sink.drops


async def test_obs_publishes_by_rtmp(tmp_path: Path) -> None:
    gate = OneKeyGate()
    server = RtmpServer(gate, port=0)
    await server.start()
    async with obs(tmp_path, f"rtmp://127.0.0.1:{server.port}/live", KEY):
        await eventually(lambda: gate.sinks and len(gate.sinks[0].pictures) > 30)
        await eventually(lambda: len(gate.sinks[0].sounds) > 20)
    await eventually(lambda: gate.released_keys)
    await server.aclose()
    check(gate)
    assert gate.sinks[0].reasons == ["publisher_left"]


@pytest.mark.needs("srt")
async def test_obs_publishes_by_srt(tmp_path: Path) -> None:
    async with listening() as (server, gate):
        url = f"srt://127.0.0.1:{server.port}?streamid=publish:{KEY}"
        async with obs(tmp_path, url, ""):
            await eventually(lambda: gate.sinks and len(gate.sinks[0].pictures) > 30)
            await eventually(lambda: len(gate.sinks[0].sounds) > 20)
    check(gate)
