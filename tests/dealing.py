"""How tests are dealt out to processes: a file stays in one, so that what its tests share is made
once, and so do all files that use the shared browser, and all others that use the same suite.
"""

import ast
import functools
from pathlib import Path

import pytest
from xdist.scheduler import LoadFileScheduling

REPOSITORY = Path(__file__).resolve().parent.parent
# By fixture; a file that uses several of them goes with the first.
GROUPS = {"open_page": "browser", "mended": "mended", "suite": "suite"}


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> LoadFileScheduling | None:
    return _ByWhatIsShared(config, log) if config.getoption("dist") == "loadfile" else None


class _ByWhatIsShared(LoadFileScheduling):
    def _split_scope(self, nodeid: str) -> str:
        """Name of the group, or the file."""
        file: str = super()._split_scope(nodeid)
        return _group(file) or file


@functools.cache
def _group(file: str) -> str:
    """Group of a file; "" for one that shares nothing with others, or has a fixture of its own by
    that name. It is read off the source, because the process that deals imports no test."""
    functions = [
        node
        for node in ast.parse((REPOSITORY / file).read_text()).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        if node.name.startswith("test_") or "fixture" in map(_name, node.decorator_list)
    ]
    asked = {argument.arg for function in functions for argument in function.args.args}
    asked -= {function.name for function in functions}
    return next((group for fixture, group in GROUPS.items() if fixture in asked), "")


def _name(decorator: ast.expr) -> str:
    """`fixture` of `@pytest.fixture` and of `@pytest.fixture(…)`."""
    called = decorator.func if isinstance(decorator, ast.Call) else decorator
    return called.attr if isinstance(called, ast.Attribute) else ""
