"""Programs of examples/ for tests: where they are, and how they are run."""

import os
import sys

from tests.processes import REPOSITORY

EXAMPLES = REPOSITORY / "examples"


def command(name: str, *arguments: str, python: str = sys.executable) -> list[str]:
    return [python, str(EXAMPLES / name), *arguments]


def environment(**variables: str) -> dict[str, str]:
    """This process's, with the client of this checkout."""
    return {**os.environ, "PYTHONPATH": str(REPOSITORY), **variables}
