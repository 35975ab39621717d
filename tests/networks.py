"""Networks of a test's own: namespaces that a script lays out, without rights from anybody."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import forking
from tests.processes import REPOSITORY


def run_within(script: str, module: str, *arguments: str, home: Path, timeout_s: float) -> str:
    """Run a module in such networks; the last line that it prints. Skips the test where they cannot
    be made."""
    if not _can_make(script):
        pytest.skip("needs unshare, ip and nft, and may make networks")
    done = subprocess.run(
        _within(script, sys.executable, "-m", module, *arguments),
        cwd=REPOSITORY,
        # A copy would be in its template's network.
        env={**os.environ, "HOME": str(home), forking.IMPORTS: "anew"},
        capture_output=True,
        text=True,
        timeout=timeout_s,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout.splitlines()[-1]


def _can_make(script: str) -> bool:
    """Whether this machine lets us, and has what the script calls."""
    try:
        made = subprocess.run(_within(script, "true"), capture_output=True, timeout=20)
    except OSError:
        return False
    return made.returncode == 0


def _within(script: str, *command: str) -> list[str]:
    return ["unshare", "-rnm", "sh", "-c", f'set -e\n{script}\nexec "$@"', "network", *command]
