"""Takes the README's picture of the page: `python docs/screenshot.py [--output FILE]`.

Starts a whole suite on free ports, lets it watch the clip of `make run`, and asks and watches
through a real browser as a person would, at moments whose truth is known. The picture is only taken
when every answer is right. Needs Debian's chromium and chromium-driver.
"""

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

from services.local.clip import STORY, Clip, Fact, read_clip, sample_path  # noqa: E402
from tests import tools  # noqa: E402
from tests.e2e.browser import ENTER, Driver, Page  # noqa: E402
from tests.suite import Suite  # noqa: E402

TRIES = 3
ANSWERED = "return document.querySelectorAll('.answer[data-state=done]').length === arguments[0]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=REPOSITORY / "docs/images/page.png")
    parser.add_argument("--condition", help="of the watch; by default one that comes and goes")
    parser.add_argument("--width", type=int, default=1440)
    parser.add_argument("--height", type=int, default=1000)
    parser.add_argument("--dark", action="store_true")
    arguments = parser.parse_args()
    browser = [tools.look_for(name) for name in ("chromium", "chromedriver")]
    if missing := [tool.words for tool in browser if not tool.works]:
        sys.exit(f"needs {' and '.join(missing)}")
    with tempfile.TemporaryDirectory() as folder:
        shown = {"inference_worker": {"WORKER_MODEL": STORY.name}}
        suite = Suite(Path(folder) / "suite", environment=shown)
        driver = Driver(Path(folder))
        try:
            suite.start()
            driver.start()
            shown_clip = sample_path(Path(folder), STORY)
            shutil.copy(shown_clip, suite.media_root)
            clip = read_clip(shown_clip)
            suite.open(clip.path.name, name="shop", loop=True)
            page = driver.page()
            page.look(width=arguments.width, height=arguments.height, dark=arguments.dark)
            condition = arguments.condition or f"the hand is holding {longest(clip, 'held').answer}"
            if not any(converse(page, suite, clip, condition) for _ in range(TRIES)):
                sys.exit("no try had every answer right")
            arguments.output.parent.mkdir(parents=True, exist_ok=True)
            page.screenshot(arguments.output)
            print(*page.texts(".question, .answer .words, .events li"), sep="\n")
        finally:
            driver.stop()
            suite.stop()


def moments(clip: Clip) -> list[Fact]:
    """A price, what was shown before, and the fullest scene of a clip."""
    return [longest(clip, kind) for kind in ("price", "before", "scene")]


def longest(clip: Clip, kind: str) -> Fact:
    facts = [fact for fact in clip.facts if fact.kind == kind and fact.answer != "nothing"]
    return max(facts, key=lambda fact: (fact.answer.count(" and "), span(fact)))


def span(fact: Fact) -> float:
    return fact.until_s - fact.time_s


def converse(page: Page, suite: Suite, clip: Clip, condition: str) -> bool:
    """Converse on a page just loaded: set a watch, let it fire on and off, and ask; False if
    misled."""
    (session,) = suite.api("GET", "api/sessions")["sessions"]
    started_s = int(session["created_ns"]) / 1e9
    page.goto("about:blank")
    page.goto(suite.url)
    page.wait_text("#line-state", "connected")
    page.type("[name=condition]", condition + ENTER)
    page.wait("return document.querySelectorAll('.events li').length >= 2", timeout_s=60)
    for number, fact in enumerate(moments(clip), start=1):
        middle_s = (fact.time_s + fact.until_s) / 2
        page.type("#question", fact.question)
        time.sleep((started_s + middle_s - time.time()) % clip.seconds)
        page.type("#question", ENTER)
        page.wait(ANSWERED, number)
        answer = page.texts(".answer .words")[-1]
        if answer != fact.answer:
            print(f"{fact.question} {answer!r} is wrong, it is {fact.answer!r}: once more")
            return False
    return True


if __name__ == "__main__":
    main()
