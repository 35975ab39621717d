"""The page for everybody: axe in every state and on every screen, and the keyboard alone."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from services.local.clip import Clip
from tests.e2e.browser import ENTER, ESCAPE, TAB, Page
from tests.e2e.test_page import ask, shapes
from tests.e2e.wire import Wire
from tests.suite import Suite, passing_condition
from tests.tools import NODE_MODULES

__all__ = ["shapes"]  # a fixture

OpenPage = Callable[..., Page]
Looks = tuple[tuple[int, bool], ...]
SOME = ((320, True), (1920, False))  # of widths, and dark or light
ALL = ((320, False), (320, True), (768, False), (768, True), (1920, True), (1920, False))
AUDIT = """
const {violations} = await axe.run(document, {
  runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"],
  resultTypes: ["violations"],
});
return violations.flatMap(({id, nodes}) => nodes.map(({html, failureSummary}) =>
  `${id}: ${html.slice(0, 200)} ${failureSummary}`));
"""
# What Tab reaches, from the top of the page around to it again.
REACHED = """
const node = document.activeElement;
return [node.id || node.className || node.tagName, node.matches(":focus-visible"),
  getComputedStyle(node).outlineStyle !== "none"];
"""
REACHABLE = """
return [...document.querySelectorAll("button, input, select, textarea, summary, a[href]")]
  .filter((node) => node.checkVisibility() && !node.disabled)
  .map((node) => node.id || node.className || node.tagName);
"""


def audit(page: Page, state: str, looks: Looks, found: dict[str, str]) -> None:
    """Add what axe finds in a state, on each screen, and where it was found first; and that it is
    wider than the screen."""
    if not page.run("return typeof axe !== 'undefined'"):
        source = (NODE_MODULES / "axe-core" / "axe.min.js").read_text()
        page.run(f"{source}\nwindow.axe = axe")
    for width, dark in looks:
        page.look(width=width, height=900, dark=dark)
        findings = page.run(AUDIT)
        if page.run("return document.documentElement.scrollWidth") > width:
            findings.append(f"wider than the screen: {state}")
        for each in findings:
            found.setdefault(each, f"{state}, {width}, {'dark' if dark else 'light'}")
    page.look(width=1280, height=800)


def states(page: Page, suite: Suite, clip: Clip, wire: Wire) -> Iterator[str]:
    """Bring the page into each of its states, one after the other."""
    page.wait_text("#session-hint", "Nothing is being watched")
    yield "start"
    page.click("#new-session")
    page.type("#new-source", "../../etc/passwd" + ENTER)
    page.wait("return document.querySelector('#new-error').innerText.length > 10")
    yield "an error in the dialog"
    page.click("[name=kind][value=push]")
    page.type("#new-name", "door" + ENTER)
    page.wait_text("#new-addresses", "Publish to door")
    yield "addresses"
    page.click("#new-addresses .primary")
    suite.open(clip.path.name, name="shapes")
    page.wait_text("#session-list", "shapes")
    page.click("#session-list li:has(.remove[aria-label$=shapes]) .choose")
    page.wait_text("#picture-state", "live")
    page.wait_text("#line-state", "connected")
    page.type("[name=condition]", passing_condition(clip) + ENTER)
    page.type("[name=condition]", "a zeppelin is there" + ENTER)
    page.click(".instructions summary")
    page.click(".watch-form summary")
    ask(page, "What is in the scene?")
    page.wait_text(".events", "it became true")
    page.wait_text(".watch-list", "does not know “zeppelin”")
    page.click(".answer .down")
    page.wait("return document.querySelector('.moment.pictured')")
    yield "live"
    page.click(".moment.pictured")
    page.wait("return document.querySelector('#moment img').naturalWidth > 100")
    yield "a moment"
    page.press(ESCAPE)
    page.click("#grid-open")
    page.wait("return document.querySelector('#grid .shot img').naturalWidth > 100")
    yield "all at once"
    page.press(ESCAPE)
    page.click("#phone")
    page.wait_text("#phone-about", "this machine only")
    yield "phone"
    page.press(ESCAPE)
    page.click("#session-list .remove")
    yield "a question"
    page.press(ESCAPE)
    page.run("document.querySelector('#token-dialog').showModal()")
    yield "sign-in"
    page.press(ESCAPE)
    page.run(
        "document.querySelector('.talk').hidden = false;"
        "document.querySelector('#hands-free').parentElement.hidden = false"
    )
    page.click("#hands-free")
    page.wait("return document.querySelector('#hands-free').checked")
    yield "voice"
    page.click("#hands-free")
    wire.cut()
    page.wait_text("#line-state", "connection lost")
    page.type("#question", "How many objects are there?" + ENTER)
    page.wait_text(".answer .about", "The connection broke")
    page.wait_text("#notices", "cannot be reached")
    yield "reconnecting"
    wire.mend()
    page.wait_text("#line-state", "connected")


@pytest.mark.needs("axe")
@pytest.mark.parametrize("looks", [SOME, pytest.param(ALL, marks=pytest.mark.slow)])
def test_axe_finds_nothing_in_any_state(
    open_page: OpenPage, suite: Suite, clip: Clip, wire: Wire, looks: Looks
) -> None:
    page = open_page(wire.url, expected=("400", "404", "WebSocket", "ERR_", "Failed to load"))
    found: dict[str, str] = {}
    for state in states(page, suite, clip, wire):
        audit(page, state, looks, found)
    assert found == {}, "\n".join(f"{where}: {what}" for what, where in found.items())


def test_all_of_it_is_done_by_keyboard(
    open_page: OpenPage, shapes: dict[str, Any], clip: Clip
) -> None:
    page = open_page()
    page.wait_text("#line-state", "connected")
    page.type("[name=condition]", passing_condition(clip) + ENTER)
    ask(page, "What is in the scene?")
    page.wait("return document.querySelector('.moment.pictured')")
    reachable = set(page.run(REACHABLE))  # more may come meanwhile, behind where the keyboard is
    reached, unseen = set(), set()
    page.run("document.activeElement.blur()")
    for _ in range(80):
        page.press(TAB)
        name, visible, outlined = page.run(REACHED)
        if name == "skip" and name in reached:
            break
        reached.add(name)
        if not (visible and outlined):
            unseen.add(name)
    assert reachable <= reached
    assert unseen <= {"BODY"}
    page.run("document.querySelector('#skip').focus()")
    page.press(ENTER)
    assert page.run("return document.activeElement.id") == "question"
    page.run("document.querySelector('#new-session').focus()")
    page.press(ENTER)
    assert page.run("return document.querySelector('#new-dialog').open")
    page.press(ESCAPE)
    assert page.run("return document.activeElement.id") == "new-session"
