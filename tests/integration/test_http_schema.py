"""Schemathesis against a gateway and its own OpenAPI document: `make wires-test`."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.eventually import wait_until
from tests.suite import Suite, write_clip
from tests.wires import program

pytestmark = pytest.mark.slow
CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,"
    "response_schema_conformance,unsupported_method"
)
ENDLESS = r"/events$"  # streams that end with their client


def test_replies_are_what_the_document_says(
    fresh_suite: Callable[..., Suite], tmp_path: Path
) -> None:
    schemathesis = program("schemathesis")
    suite = fresh_suite(speech=False, environment={"gateway": {"GATEWAY_URL_SOURCES": "false"}})
    clip = write_clip(suite.media_root, seed=5, seconds=12)
    suite.open(clip.path.name, name="kitchen")
    wait_until(lambda: suite.api("GET", "api/sessions/kitchen")["stats"].get("frames_processed"))
    suite.api("POST", "api/sessions/kitchen/ask", {"question": "what", "conversation": "tour-1"})
    command = [schemathesis, "run", f"{suite.url}openapi.json", "--checks", CHECKS]
    command += ["--exclude-path-regex", ENDLESS, "--max-examples", "15", "--seed", "1"]
    command += ["--request-timeout", "30", "--phases", "examples,coverage,fuzzing"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=280)
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-2000:]
    assert suite.gateway.serving()
