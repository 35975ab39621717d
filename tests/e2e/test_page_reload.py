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
RELOADED = "return performance.getEntriesByType('navigation')[0].type === 'reload'"
DONE = "return document.querySelectorAll('.answer[data-state=done]').length === arguments[0]"


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

    page.run(ASK_AND_RELOAD, "How many objects are there?")
    page.wait(RELOADED)
    page.wait(DONE, 3)
    asked = ["What is in the scene?", "Is there a red circle?", "How many objects are there?"]
    assert page.texts(".question") == asked
    assert page.texts(".answer .words")[0] == said
    assert page.texts(".answer .words")[2]
    assert page.run("return document.querySelector('[name=instructions]').value")
    page.click(".answer .down")
    page.type(".answer [name=better]", "a blue square" + ENTER)
    page.wait_text(".answer [role=status]", "Thank you")
    with connect(suite.address) as client:
        (rated,) = client.rated()
    assert (rated.session, rated.round.rating) == (shapes["id"], "down")
    assert rated.round.better == "a blue square"
    assert page.texts(".watch-list .condition") == [condition]
    page.wait_text(".events", "true")

    other = open_page(f"{suite.url}#{shapes['id']}")  # which has not the first one's line
    other.wait(DONE, 3)
    assert other.run("return document.querySelector('.answer .down').ariaPressed") == "true"
    assert "knew 3 earlier rounds" in ask(other, "What is in the scene?")
    other.click(".answer .again")
    other.wait(DONE, 5)
    assert other.texts(".question")[-1] == "What is in the scene?"

    other.click("#start-over")
    other.click("#confirm-yes")
    other.wait(DONE, 0)
    assert "knew" not in ask(other, "How many objects are there?")
    other.run("location.reload()")
    other.wait(RELOADED)
    other.wait(DONE, 1)
    assert other.texts(".question") == ["How many objects are there?"]
