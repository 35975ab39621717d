"""The documentation as a site: `make docs-site` writes it into .cache/site/html.

Pages lie where they lie in the repository, so that their links hold there and here alike. What they
link to comes along: other pages as pages, other files as they are. A folder of code is no page; its
link becomes its text.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

ROOT = Path(__file__).resolve().parent.parent
CONFIGURATION = ROOT / "docs" / "mkdocs.yml"
PAGES = ROOT / ".cache" / "site" / "pages"
_FENCE = re.compile(r"^(```|~~~).*?^\1[^\n]*$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(
    r"(?P<image>!?)\[(?P<text>(?:[^\[\]]|\[[^\]]*\]\([^)]*\))*)\]\((?P<to>[^)\s]+)\)"
)
_HEADING = re.compile(r"^#{1,6} +(.+?) *#*$", re.MULTILINE)


def links(page: Path) -> Iterator[tuple[str, str]]:
    """Path and anchor of every link of a page that leads into the repository, each "" or as it is
    written."""
    for match in _LINK.finditer(_FENCE.sub("", page.read_text())):
        inner = _LINK.search(match["text"])  # a picture that is a link
        for target in (match["to"], *([inner["to"]] if inner else [])):
            if "://" not in target and not target.startswith("mailto:"):
                path, _, anchor = target.partition("#")
                yield unquote(path), anchor


def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, as browsers of repositories and mkdocs make them."""
    found: set[str] = set()
    for heading in _HEADING.findall(_FENCE.sub("", page.read_text())):
        words = re.sub(r"[^\w\- ]", "", _LINK.sub(lambda link: link["text"], heading).lower())
        found.add(words.strip().replace(" ", "-"))
    return found


def broken(page: Path) -> list[str]:
    """Links of a page that lead nowhere."""
    wrong = []
    for path, anchor in links(page):
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or not target.is_relative_to(ROOT):
            wrong.append(path)
        elif anchor and target.suffix == ".md" and anchor not in anchors(target):
            wrong.append(f"{path}#{anchor}")
    return wrong


def lay_out(pages: list[Path]) -> None:
    """Copy pages and whatever they link to into a folder of their own, made anew."""
    shutil.rmtree(PAGES, ignore_errors=True)
    todo, done = list(pages), set[Path]()
    while todo:
        path = todo.pop()
        if path in done:
            continue
        done.add(path)
        copy = PAGES / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix != ".md":
            shutil.copyfile(path, copy)
            continue
        copy.write_text(_without_folders(path))
        linked = [(path.parent / target).resolve() for target, _ in links(path) if target]
        todo += [target for target in linked if target.is_file()]


def _without_folders(page: Path) -> str:
    """A page's text, whose links to folders are text."""

    def kept(match: re.Match[str]) -> str:
        path = match["to"].partition("#")[0]
        local = "://" not in match["to"] and path
        return match["text"] if local and (page.parent / path).is_dir() else match[0]

    text, parts, end = page.read_text(), [], 0
    for fence in _FENCE.finditer(text):
        parts += [_LINK.sub(kept, text[end : fence.start()]), fence[0]]
        end = fence.end()
    return "".join([*parts, _LINK.sub(kept, text[end:])])


def listed() -> list[Path]:
    """Pages of the navigation."""
    names = re.findall(r"^ +- (?:[^:\n]+: )?(\S+\.md)$", CONFIGURATION.read_text(), re.MULTILINE)
    return [ROOT / name for name in names]


def main() -> int:
    lay_out(listed())
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--config-file", CONFIGURATION]
    quiet = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}  # of what will follow mkdocs one day
    return subprocess.run(build, check=False, env=quiet).returncode


if __name__ == "__main__":
    sys.exit(main())
