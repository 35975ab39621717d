"""Schemathesis against a gateway and its own OpenAPI document: `make wires-test`."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.eventually import wait_until
from tests.suite import Annex, Suite, write_clip
from tests.wires import program

pytestmark = pytest.mark.slow
CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,"
    "response_schema_conformance,unsupported_method"
)
# What this suite is without, such as somebody who hears, it refuses as the document says.
SETTINGS = """
[checks.not_a_server_error]
expected-statuses = ["2xx", "3xx", "4xx", "503"]
"""
ENDLESS = r"/events$"  # streams that end with their client


def test_replies_are_what_the_document_says(
    suite: Suite, annex: Callable[..., Annex], tmp_path: Path
) -> None:
    schemathesis = program("schemathesis")
    own = annex(
        GATEWAY_URL_SOURCES="false",
        GATEWAY_RULES_REDIS_URL=suite.redis.url,
        GATEWAY_CLUSTER_SECRET="a secret of thirty-two characters",
    )
    clip = write_clip(own.media_root, seed=5, seconds=12)
    own.open(clip.path.name, name="kitchen")
    wait_until(lambda: own.api("GET", "api/sessions/kitchen")["stats"].get("frames_processed"))
    own.api("POST", "api/sessions/kitchen/ask", {"question": "what", "conversation": "tour-1"})
    (tmp_path / "schemathesis.toml").write_text(SETTINGS)
    command = [schemathesis, "run", f"{own.url}openapi.json", "--checks", CHECKS]
    command += ["--exclude-path-regex", ENDLESS, "--max-examples", "15", "--seed", "1"]
    command += ["--request-timeout", "30", "--phases", "examples,coverage,fuzzing"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=280)
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-2000:]
    assert own.gateway.serving()
    own.delete_sessions()
