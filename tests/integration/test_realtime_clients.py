"""The Realtime wire with the clients that people have: OpenAI's, LiveKit's and Pipecat's own code,
each in a process of its own.

`make wires-test` installs them; they speak where `make voice-test` has installed what hears them.
"""

import json
import subprocess
import wave
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from services.gateway.api.realtime.settings import PCM_RATE
from tests import tools
from tests.eventually import wait_until
from tests.processes import ServiceProcess
from tests.spoken import recorded
from tests.suite import Suite, passing_condition, write_clip
from tests.wires import program

pytestmark = pytest.mark.slow
PROGRAMS = Path(__file__).resolve().parents[1] / "wires"
QUESTION = "Is there a circle?"
ANSWERS = {"yes", "no"}

Told = Callable[[str], dict[str, Any]]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Told]:
    """`told("openai")`: what that client's program says came of its conversation."""
    python = program("python")
    tools.require("redis")
    folder = tmp_path_factory.mktemp("wires")
    recording = _recording(folder)
    asr = ServiceProcess("asr", {}, folder) if recording else None
    hears = {}
    if asr is not None:
        asr.start(120)
        hears = {"GATEWAY_ASR": asr.address}
    suite = Suite(folder, environment={"gateway": hears})
    suite.start()
    clip = write_clip(suite.media_root, seed=5, seconds=12)
    suite.open(clip.path.name, name="kitchen")
    wait_until(lambda: suite.api("GET", "api/sessions/kitchen")["stats"].get("frames_processed"))

    def run(name: str) -> dict[str, Any]:
        command = [python, str(PROGRAMS / f"realtime_{name}.py")]
        command += [suite.url, "kitchen", passing_condition(clip), *recording]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stdout + done.stderr[-4000:]
        said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        if recording:
            assert QUESTION in said["heard"]
            assert said["answer to it"] in ANSWERS
        return said

    yield run
    complaints = suite.stop()
    if asr is not None:
        asr.stop()
    assert not complaints


def _recording(folder: Path) -> list[str]:
    """File of a spoken question, where there is a voice for it and somebody to hear it."""
    pcm = recorded(QUESTION)
    if pcm is None:
        return []
    path = folder / "question.wav"
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, PCM_RATE, 0, "NONE", ""))
        file.writeframes(pcm)
    return [str(path)]


def test_openais_own_client(told: Told) -> None:
    said = told("openai")
    assert said["status"] == "completed"
    assert said["metadata"] == {"topic": "shapes"}
    assert said["answer"] in ANSWERS
    assert said["tokens"] > 0
    assert said["spoken"]
    assert said["audio"] > 10_000
    assert said["watch"]["active"]
    assert said["cancelled"] == "cancelled"
    assert said["cancelled again"] == "response_cancel_not_active"
    assert said["picture"] in ANSWERS


def test_livekits_agents(told: Told) -> None:
    said = told("livekit")
    assert said["answer"] in ANSWERS
    assert said["heard_s"] > 0.2
    assert said["history"] == ["user", "assistant"]
    assert said["cut"] == 100
    assert said["watch"] == {"id": "w1", "active": True}
    assert said["cancelled"] == "cancelled"
    assert said["again"] in ANSWERS
    assert said["pictures"] == "no"
    assert not said["errors"]


def test_pipecats_pipeline(told: Told) -> None:
    said = told("pipecat")
    assert said["answer"] in ANSWERS
    assert said["audio"] > 10_000
    assert said["watch"] == {"id": "w1", "active": True}
    assert said["next answer"]
    assert not said["errors"]
