"""The page when it is loaded anew: what was said and what is watched is there again."""

from collections.abc import Callable
from typing import Any

from services.local.clip import Clip
from sightline import connect
from tests.e2e.browser import ENTER, Page
from tests.e2e.test_page import ask, shapes
from tests.suite import Suite, passing_condition

__all__ = ["shapes"]  # a fixture

OpenPage = Callable[..., Page]
ASK_AND_RELOAD = """
document.querySelector('#question').value = arguments[0];
document.querySelector('.ask').requestSubmit();
location.reload();
"""
# As another tab begins, which has not the line of this one.
LEAVE_NO_LINE = "addEventListener('pagehide', () => sessionStorage.clear()); location.reload()"
DONE = "return document.querySelectorAll('.answer[data-state=done]').length === arguments[0]"


def reload(page: Page, script: str, *arguments: object) -> None:
    """Run what loads the page anew, and wait until it is another."""
    before = page.run("return performance.timeOrigin")
    page.run(script, *arguments)
    page.wait("return performance.timeOrigin !== arguments[0]", before)


def test_what_was_said_and_watched_comes_back(
    open_page: OpenPage, suite: Suite, shapes: dict[str, Any], clip: Clip
) -> None:
    page = open_page()
    page.wait_text("#line-state", "connected")
    condition = passing_condition(clip)
    page.type("[name=condition]", condition + ENTER)
    ask(page, "What is in the scene?")
    said = page.text(".answer .words")
    page.wait_text(".events", "it became true")

    page.click(".instructions summary")
    page.type("[name=instructions]", "Answer briefly.")
    ask(page, "Is there a red circle?")
    assert "reads none" in page.text(".answer:last-of-type .degraded")

    reload(page, ASK_AND_RELOAD, "How many objects are there?")
    page.wait(DONE, 3)
    asked = ["What is in the scene?", "Is there a red circle?", "How many objects are there?"]
    assert page.texts(".question") == asked
    assert page.texts(".answer .words")[0] == said
    assert page.texts(".answer .words")[2]
    assert page.run("return document.querySelector('[name=instructions]').value")
    page.click(".answer .down")
    page.wait("return document.querySelector('.answer [name=better]').checkVisibility()")
    page.type(".answer [name=better]", "a blue square" + ENTER)
    page.wait_text(".answer [role=status]", "Thank you")
    with connect(suite.address) as client:
        (rated,) = [each for each in client.rated() if each.session == shapes["id"]]
    assert rated.round.rating == "down"
    assert rated.round.better == "a blue square"
    assert page.texts(".watch-list .condition") == [condition]
    page.wait_text(".events", "true")

    reload(page, LEAVE_NO_LINE)
    page.wait(DONE, 3)
    assert page.run("return document.querySelector('.answer .down').ariaPressed") == "true"
    assert "knew 3 earlier rounds" in ask(page, "What is in the scene?")
    page.click(".answer .again")
    page.wait(DONE, 5)
    assert page.texts(".question")[-1] == "What is in the scene?"

    page.click("#start-over")
    page.click("#confirm-yes")
    page.wait(DONE, 0)
    assert "knew" not in ask(page, "How many objects are there?")
    reload(page, "location.reload()")
    page.wait(DONE, 1)
    assert page.texts(".question") == ["How many objects are there?"]
