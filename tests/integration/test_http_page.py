"""The commands of docs/http.md, run as they stand against a running suite."""

import contextlib
import os
import re
import select
import signal
import subprocess
import time
from pathlib import Path

import pytest

from services.local.clip import Clip
from tests.eventually import PATIENCE_S, wait_until
from tests.processes import REPOSITORY
from tests.suite import Suite

PAGE = REPOSITORY / "docs" / "http.md"


def _blocks() -> list[str]:
    return re.findall(r"^```sh\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)


def _run(block: str, folder: Path, *, first: str = "") -> str:
    """What a block prints: all of it, or until its first piece of such text."""
    shell = ["bash", "-euo", "pipefail", "-c", block]
    process = subprocess.Popen(
        shell, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )
    assert process.stdout is not None
    printed, deadline = b"", time.monotonic() + PATIENCE_S
    try:
        while not (first and first.encode() in printed):
            left_s = deadline - time.monotonic()
            assert left_s > 0, printed.decode()
            if select.select([process.stdout], [], [], left_s)[0]:
                if not (more := os.read(process.stdout.fileno(), 65536)):
                    break
                printed += more
        if not first:
            assert process.wait(PATIENCE_S) == 0, printed.decode()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
    return printed.decode()


@pytest.mark.needs("redis")
def test_the_commands_of_the_page_do_what_it_says(suite: Suite, clip: Clip, tmp_path: Path) -> None:
    address = suite.url.rstrip("/")
    said = {}
    for block in _blocks():
        block = block.replace("clip.mp4", clip.path.name)
        if block.startswith("URL=") or "/transcriptions" in block:  # this suite does not hear
            continue
        first = "event: session_state" if "/events" in block else ""
        said[block] = _run(f"URL={address}\n{block}", tmp_path, first=first)
        assert '"reason"' not in said[block], said[block]
        if '"loop"' in block:
            wait_until(lambda: _frames(suite) > 4)
    answers = next(text for block, text in said.items() if 't-7", "text' in block)
    assert answers.count("FINISH_REASON") == 2
    streamed = next(text for block, text in said.items() if "Accept:" in block)
    assert re.findall(r"^event: (\w+)", streamed, re.MULTILINE)[-1] == "answer_done"
    exported = next(text for block, text in said.items() if "export" in block)
    assert "> what is in the scene" in exported
    assert (tmp_path / "picture.jpg").read_bytes()[:2] == b"\xff\xd8"
    assert (tmp_path / "said.wav").read_bytes()[:4] == b"RIFF"
    left = suite.api("GET", "api/sessions").get("sessions", [])
    assert "kitchen" not in [each["name"] for each in left]


def _frames(suite: Suite) -> int:
    stats = suite.api("GET", "api/sessions/kitchen")["stats"]
    return int(stats.get("frames_processed", 0))
