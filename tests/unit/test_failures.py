"""The page about failures: every row names tests, and there is each of them."""

import ast
import re
from functools import cache

from tests.processes import REPOSITORY

PAGE = REPOSITORY / "docs" / "failures.md"
SKIPS = ("skip", "skipif", "xfail")


@cache
def _tests() -> dict[str, list[str]]:
    """Decorators of every test, by its name."""
    found: dict[str, list[str]] = {}
    for path in sorted((REPOSITORY / "tests").glob("*/test_*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                found[node.name] = [ast.unparse(each) for each in node.decorator_list]
    return found


def _rows() -> dict[str, list[str]]:
    """Names of tests by the event that they are of."""
    lines = [line.split("|") for line in PAGE.read_text().splitlines() if line.startswith("|")]
    return {cells[1].strip(): re.findall(r"`(\w+)`", cells[3]) for cells in lines[2:]}


def test_every_row_has_a_test_that_runs() -> None:
    rows = _rows()
    assert len(rows) > 15
    for event, names in rows.items():
        assert names, event
        for name in names:
            assert name in _tests(), f"{event}: {name}"
            assert not any(skip in each for each in _tests()[name] for skip in SKIPS), name
