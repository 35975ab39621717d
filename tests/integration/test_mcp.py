"""`sightline mcp` with the official SDK's own client, by stdio and by HTTP: `make wires-test`."""

import contextlib
import json
import os
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest

from services.local.clip import Clip
from tests.eventually import wait_until
from tests.processes import REPOSITORY, free_port
from tests.suite import Suite, passing_condition
from tests.wires import program

pytestmark = pytest.mark.slow
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(REPOSITORY)}


@contextlib.contextmanager
def _by_http(address: str) -> Iterator[str]:
    """A server on a port of its own; its URL."""
    port = free_port()
    command = [program("python"), "-m", "sightline.cli", "--server", address]
    server = subprocess.Popen([*command, "mcp", "--http", str(port)], env=ENVIRONMENT)
    url = f"http://127.0.0.1:{port}/mcp"
    try:
        wait_until(lambda: _listens(url))
        yield url
    finally:
        server.terminate()
        server.wait(20)


def _listens(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=2)
    except urllib.error.HTTPError:
        return True  # it wants another method
    except OSError:
        return False
    return True


@pytest.mark.parametrize("transport", ["stdio", "http"])
def test_an_assistant_lists_asks_decides_watches_and_looks(
    suite: Suite, clip: Clip, transport: str
) -> None:
    suite.open(clip.path.name, name="kitchen")
    condition = passing_condition(clip)
    script = str(REPOSITORY / "tests" / "wires" / "mcp_tools.py")
    with contextlib.ExitStack() as stack:
        url = stack.enter_context(_by_http(suite.address)) if transport == "http" else ""
        command = [program("python"), script, suite.address, "kitchen", condition, url]
        environment = {**ENVIRONMENT, "SIGHTLINE_SERVER": suite.address}
        run = subprocess.run(
            command, capture_output=True, text=True, timeout=120, env=environment, cwd=REPOSITORY
        )
    suite.delete_sessions()
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    assert all(found["tools"].values())
    assert {"list_sessions", "ask", "watch", "decide", "snapshot", "events"} <= set(found["tools"])
    assert [each["name"] for each in found["sessions"]] == ["kitchen"]
    assert found["models"][0]["name"] == "shapes"
    assert found["answer"]["answer"]
    assert len(found["decisions"]) == 2
    [event] = found["events"]
    assert event["condition"] == condition
    assert found["picture"] == "ffd8"
    assert found["refusal"][0] is True
    assert "SESSION_NOT_FOUND" in found["refusal"][1]
