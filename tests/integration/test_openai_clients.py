"""The official `openai` package as a client of a running suite: `make wires-test`."""

import json
import subprocess
import urllib.request
from pathlib import Path

import pytest

from services.local.clip import Clip
from tests.eventually import wait_until
from tests.processes import REPOSITORY
from tests.suite import Suite
from tests.wires import program

pytestmark = pytest.mark.slow


def test_openai_s_own_client_asks_a_session_and_about_a_picture(
    suite: Suite, clip: Clip, tmp_path: Path
) -> None:
    python = program("python")
    suite.open(clip.path.name, name="kitchen")
    seen = lambda: suite.api("GET", "api/sessions/kitchen")["stats"].get("frames_processed")  # noqa: E731
    wait_until(seen)
    picture = tmp_path / "picture.jpg"
    urllib.request.urlretrieve(f"{suite.url}api/sessions/kitchen/preview.jpg", picture)
    script = REPOSITORY / "tests" / "wires" / "openai_chat.py"
    command = [python, str(script), suite.url.rstrip("/"), "kitchen", str(picture)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    suite.delete_sessions()
    assert found["models"] == ["shapes", "sightline://kitchen"]
    assert found["whole"]
    assert (found["finish"], found["tokens"] > 0) == ("stop", True)
    assert (found["stream_finish"], found["stream_tokens"]) == ("length", 1)
    assert found["streamed"]
    assert found["picture"]
    assert found["decisions"] == 400
    assert 0 <= found["probability"] <= 1
    assert 0 <= found["score"] <= 1
    assert found["refusal"] == ["tool_choice", "invalid_request_error"]
    assert found["code"] == "session_not_found"
