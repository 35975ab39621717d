"""Examples stay short, listed and tested."""

import json

import pytest

from tests.examples import EXAMPLES
from tests.processes import REPOSITORY

MOST_LINES = 80
SUFFIXES = {".py", ".ipynb", ".yaml"}
FILES = sorted(
    path.relative_to(EXAMPLES).as_posix()
    for path in (*EXAMPLES.glob("*"), *EXAMPLES.glob("*/*"))
    if path.suffix in SUFFIXES
    # A folder with a page of its own is a whole application.
    and (path.parent == EXAMPLES or not (path.parent / "README.md").exists())
)


def test_there_are_ten_and_an_application() -> None:
    assert len(FILES) >= 10
    assert "](live_shop/README.md)" in (EXAMPLES / "README.md").read_text()


@pytest.mark.parametrize("name", FILES)
def test_an_example_is_short_listed_and_run(name: str) -> None:
    text = (EXAMPLES / name).read_text()
    if name.endswith(".ipynb"):
        cells = json.loads(text)["cells"]
        text = "\n".join("".join(cell["source"]) for cell in cells)
        assert not any(cell.get("outputs") for cell in cells), "strip its outputs"
    assert len(text.splitlines()) <= MOST_LINES
    assert f"]({name})" in (EXAMPLES / "README.md").read_text()
    tests = (REPOSITORY / "tests" / "integration").glob("test_example*.py")
    assert name.split("/")[0].split(".")[0] in "".join(path.read_text() for path in tests)
