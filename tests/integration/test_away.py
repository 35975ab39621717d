"""Steps on a device that is not the CPU: see `away`."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.device
@pytest.mark.needs("triton")
def test_steps_run_on_their_device_alone_and_wait_for_it_once() -> None:
    cases = Path(__file__).with_name("away.py")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(cases)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout
    assert " skipped" not in done.stdout
