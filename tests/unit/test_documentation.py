"""Pages that are generated are the ones that are committed, and tables are whole."""

import ast
import importlib.util
import re
import shlex
import subprocess
from pathlib import Path
from types import ModuleType

from sightline import cli
from sightline.reasons import Reason
from tests.processes import REPOSITORY


def test_the_configuration_page_is_current() -> None:
    module = _module("configuration.py")
    assert module.PATH.read_text() == module.page(), "run `make docs`"


def test_the_table_of_reasons_is_whole_and_every_reason_is_given_somewhere() -> None:
    page = (REPOSITORY / "docs" / "sdk.md").read_text()
    assert re.findall(r"^\| `([A-Z_]+)` \|", page, re.MULTILINE) == [each.value for each in Reason]
    code = "".join(path.read_text() for path in (REPOSITORY / "services").rglob("*.py"))
    assert {each for each in Reason if f"Reason.{each.name}" not in code} == set()


def test_no_link_of_any_page_leads_nowhere() -> None:
    """The same that `make docs-site` refuses, without mkdocs."""
    site = _module("site.py")
    assert {str(page): wrong for page in _pages() if (wrong := site.broken(page))} == {}


def test_a_link_that_leads_nowhere_is_found(tmp_path: Path) -> None:
    site = _module("site.py")
    page = REPOSITORY / "docs" / "http.md"
    wrong = tmp_path / "page.md"
    wrong.write_text("# A head\n[a](none.md) [b](#a-head) [c](#none) `[d](e.md)`\n")
    site.ROOT = tmp_path
    assert site.broken(wrong) == ["none.md", "#none", "e.md"]
    assert "questions" in site.anchors(page)


def test_the_site_has_every_page_and_all_that_they_link_to(tmp_path: Path) -> None:
    site = _module("site.py")
    pages = set((REPOSITORY / "docs").glob("*.md"))
    assert pages - set(site.listed()) == set(), "they go into docs/mkdocs.yml"
    site.PAGES = tmp_path
    site.lay_out(site.listed())
    site.ROOT = tmp_path
    laid = list(tmp_path.rglob("*.md"))
    assert len(laid) >= len(site.listed())  # and pages that only others lead to
    assert {str(page): wrong for page in laid if (wrong := site.broken(page))} == {}
    assert (tmp_path / "docs" / "images" / "page.png").is_file()


def test_every_command_and_program_that_a_page_shows_can_be_read() -> None:
    """Commands by the command line's own parser, targets by the Makefile, programs by Python."""
    targets = set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
    read, wrong = 0, []
    for page in _pages():
        for language, block in _BLOCK.findall(page.read_text()):
            if language == "python":
                wrong += [f"{page.name}: {text}" for text in _not_python(block)]
            if language not in ("", "sh", "console"):
                continue
            for line in block.replace("\\\n", " ").splitlines():
                command = re.sub(r"^\$ ", "", line.strip())
                if target := re.match(r"make ([a-z][a-z-]*)(?![\w=-])", command):
                    wrong += [] if target[1] in targets else [f"{page.name}: {line}"]
                if words := re.match(r"(?:\.venv/bin/)?sightline (.*)", command):
                    read += 1
                    wrong += [] if _is_command(words[1]) else [f"{page.name}: {line}"]
    assert wrong == []
    assert read > 30


_BLOCK = re.compile(r"^ *```(\w*)[^\n]*\n(.*?)^ *```", re.MULTILINE | re.DOTALL)


def _not_python(block: str) -> list[str]:
    try:
        compile(block, "block", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    except SyntaxError as error:
        return [str(error)]
    return []


def _is_command(words: str) -> bool:
    try:
        cli._parser().parse_args(shlex.split(words, comments=True))
    except SystemExit as error:
        return not error.code  # --help
    return True


def test_what_troubleshooting_quotes_is_what_is_said() -> None:
    """Each piece of a quoted message, between what differs, is in the code as it is there."""
    page = (REPOSITORY / "docs" / "troubleshooting.md").read_text()
    seen = [row.split("|")[1:3] for row in page.splitlines() if row.startswith("| ")]
    quoted = [said for cells in seen for cell in cells for said in re.findall(r'"([^"]+)"', cell)]
    assert len(quoted) > 25
    files = [REPOSITORY / "Makefile"]
    for folder in ("services", "sightline", "clients/js/src"):
        files += [*(REPOSITORY / folder).rglob("*.py"), *(REPOSITORY / folder).rglob("*.js")]
    # Messages go over several lines of code, and hold fields in braces.
    code = "".join(re.sub(r'"\s*(?:rf?|fr?)?"', "", path.read_text()) for path in files)
    pieces = [piece.strip() for said in quoted for piece in said.split("…") if len(piece) > 3]
    assert [piece for piece in pieces if piece not in code] == []
    named = {word for cells in seen for word in re.findall(r"`([A-Z]+_[A-Z_]+)`", cells[0])}
    assert named - {*Reason} - {word for word in named if word in code} == set()


def test_the_page_has_words_for_all_that_ails_a_session() -> None:
    gateway = REPOSITORY / "services" / "gateway"
    code = "".join(path.read_text() for path in (gateway / "sessions").glob("*.py"))
    flags = set(re.findall(r'flags\.append\("(\w+)"\)', code))
    assert len(flags) >= 4
    page = (gateway / "api" / "page" / "app.js").read_text()
    [worded] = re.findall(r"^const FLAGS = {\n(.*?)^};", page, re.DOTALL | re.MULTILINE)
    assert flags - set(re.findall(r"^  (\w+):", worded, re.MULTILINE)) == set()


def _pages() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "*.md"], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    pages = [REPOSITORY / name for name in listed.stdout.split()]
    assert REPOSITORY / "README.md" in pages
    return pages


def _module(name: str) -> ModuleType:
    """A program of docs/, which is no package."""
    path = REPOSITORY / "docs" / name
    spec = importlib.util.spec_from_file_location(f"docs_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
