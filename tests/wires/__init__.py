"""Other people's clients: programs of theirs, and small ones of ours written with them."""

import os
from pathlib import Path

import pytest

from tests.processes import REPOSITORY

ENVIRONMENT = Path(os.environ.get("WIRES_VENV", REPOSITORY / ".cache" / "wires-venv"))


def program(name: str) -> str:
    """Path of a program in the clients' virtual environment. Skips the test where there is none."""
    path = ENVIRONMENT / "bin" / name
    if not path.exists():
        pytest.skip("`make wires-test` installs the clients")
    return str(path)
