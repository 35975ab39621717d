"""The Realtime wire with the clients that people have: OpenAI's, LiveKit's and Pipecat's own code,
each in a process of its own. `make wires-test` installs them."""

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.eventually import wait_until
from tests.suite import Suite, passing_condition, write_clip
from tests.wires import program

pytestmark = pytest.mark.slow
PROGRAMS = Path(__file__).resolve().parents[1] / "wires"
ANSWERS = {"yes", "no"}


@pytest.fixture
def told(suite: Suite) -> Iterator[Callable[[str], dict[str, Any]]]:
    """`told("openai")`: what that client's program says came of its conversation."""
    python = program("python")
    clip = write_clip(suite.media_root, seed=5, seconds=12)
    suite.open(clip.path.name, name="kitchen")
    wait_until(lambda: suite.api("GET", "api/sessions/kitchen")["stats"].get("frames_processed"))

    def run(name: str) -> dict[str, Any]:
        command = [python, str(PROGRAMS / f"realtime_{name}.py")]
        command += [suite.url, "kitchen", passing_condition(clip)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stdout + done.stderr[-4000:]
        said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return said

    yield run
    suite.delete_sessions()


def test_openais_own_client(told: Callable[[str], dict[str, Any]]) -> None:
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


def test_livekits_agents(told: Callable[[str], dict[str, Any]]) -> None:
    said = told("livekit")
    assert said["answer"] in ANSWERS
    assert said["heard_s"] > 0.2
    assert said["history"] == ["user", "assistant"]
    assert said["watch"] == {"id": "w1", "active": True}
    assert said["cancelled"] == "cancelled"
    assert said["again"] in ANSWERS
    assert not said["errors"]


def test_pipecats_pipeline(told: Callable[[str], dict[str, Any]]) -> None:
    said = told("pipecat")
    assert said["answer"] in ANSWERS
    assert said["audio"] > 10_000
    assert said["watch"] == {"id": "w1", "active": True}
    assert said["next answer"]
    assert not said["errors"]
