"""`sightline mcp` with the official SDK's own client, by stdio and by HTTP: `make wires-test`."""

import contextlib
import json
import os
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator

import pytest

from services.local.clip import Clip
from tests.eventually import wait_until
from tests.processes import REPOSITORY, free_port
from tests.suite import Annex, Suite, passing_condition
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
    suite: Suite, annex: Callable[..., Annex], clip: Clip, transport: str
) -> None:
    own = annex(
        GATEWAY_RULES_REDIS_URL=suite.redis.url,
        GATEWAY_CLUSTER_SECRET="a secret of thirty-two characters",
    )
    own.open(clip.path.name, name="kitchen")
    condition = passing_condition(clip)
    script = str(REPOSITORY / "tests" / "wires" / "mcp_tools.py")
    with contextlib.ExitStack() as stack:
        url = stack.enter_context(_by_http(own.address)) if transport == "http" else ""
        command = [program("python"), script, own.address, "kitchen", condition, url]
        environment = {**ENVIRONMENT, "SIGHTLINE_SERVER": own.address}
        run = subprocess.run(
            command, capture_output=True, text=True, timeout=120, env=environment, cwd=REPOSITORY
        )
    own.delete_sessions()
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    assert all(found["tools"].values())
    for tool in ("list_sessions", "ask", "watch", "decide", "snapshot", "events", "update_rule"):
        assert tool in found["tools"]
    assert [each["name"] for each in found["sessions"]] == ["kitchen"]
    assert found["models"][0]["name"] == "shapes"
    assert found["answer"]["answer"]
    assert len(found["decisions"]) == 2
    [event] = found["events"]
    assert event["condition"] == condition
    assert found["picture"] == "ffd8"
    made, changed, listed = found["rules"]
    assert (made["name"], made["predicate"]) == ("standing", {"condition": condition})
    told = {"threshold": 0.6, "severity": "SEVERITY_CRITICAL", "labels": {"a": "b"}}
    assert {name: changed[name] for name in told} == told
    assert [each["name"] for each in listed] == ["standing"]
    assert found["rules left"] == []
    assert found["refusal"][0] is True
    assert "SESSION_NOT_FOUND" in found["refusal"][1]
