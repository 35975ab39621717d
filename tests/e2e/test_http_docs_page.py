"""The page that shows the HTTP interface, in a real browser."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.browser import Page
from tests.suite import Suite

pytestmark = pytest.mark.needs("chromium", "chromedriver")


def test_every_operation_is_shown_with_its_line_of_curl(
    suite: Suite, open_page: Callable[..., Page], tmp_path: Path
) -> None:
    page = open_page(f"{suite.url}docs")
    page.wait("return document.querySelectorAll('details').length > 20")
    described = suite.api("GET", "openapi.json")
    operations = sum(len(methods) for methods in described["paths"].values())
    assert page.run("return document.querySelectorAll('details').length") == operations
    page.run("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    calls = page.run("return [...document.querySelectorAll('pre')].map((each) => each.textContent)")
    assert any(f"{suite.url}api/sessions/{{session}}/ask" in call for call in calls)
    for width in (320, 1280):
        page.look(width=width, height=800, dark=width == 320)
        wider = "document.documentElement.scrollWidth > document.documentElement.clientWidth"
        assert not page.run(f"return {wider}"), width
        page.screenshot(tmp_path / f"docs-{width}.png")
