"""Which model gave an answer, on the page: a session whose questions a relay answers, before the
`/v1/chat/completions` of a gateway of our own."""

from collections.abc import Callable

import pytest

from services.local.clip import Clip
from tests.e2e.browser import ENTER, Page
from tests.eventually import wait_until
from tests.processes import ServiceProcess, free_port
from tests.suite import Annex, Suite

pytestmark = pytest.mark.needs("redis", "chromium", "chromedriver")

SIDE = 224


def ask(page: Page, number: int) -> tuple[str, str, str]:
    """Of the page's answer of this number, the words, the badge and all that is to be read."""
    page.type("#question", "What is in the scene?" + ENTER)
    page.wait("return document.querySelectorAll('.answer').length === arguments[0]", number)
    page.wait("return !document.querySelector('.answer[aria-busy]')")
    answer = f".answer:nth-of-type({number})"
    return page.text(f"{answer} .words"), page.text(f"{answer} .badge"), page.text(answer)


def test_a_badge_says_who_answered(
    suite: Suite,
    annex: Callable[..., Annex],
    clip: Clip,
    service_process: Callable[..., ServiceProcess],
    open_page: Callable[..., Page],  # is closed first
) -> None:
    port = free_port()
    workers = f"{suite.workers[0].address},127.0.0.1:{port}"
    own = annex(GATEWAY_WORKERS=workers)
    session = own.open(clip.path.name, delegate="DELEGATE_MODE_ALWAYS", delegate_to="hard")["id"]
    page = open_page(own.url)
    page.wait_text("#line-state", "connected")
    words, badge, about = ask(page, 1)  # the relay is not there yet
    assert words
    assert not badge
    assert "% sure of its words" in about
    assert "the one that hard questions go to did not answer" in about

    service_process(
        "inference_worker",
        WORKER_MODEL=f"openai:{suite.url}v1#shapes",
        WORKER_POOL="hard",
        WORKER_FRAME_PIXELS=SIDE * SIDE,
        WORKER_GRPC_PORT=port,
    )
    wait_until(lambda: "hard" in str(own.api("GET", "api/info")))
    words, badge, about = ask(page, 2)
    assert (bool(words), badge) == (True, "answered by shapes")
    assert "% sure" not in about  # which a relay does not tell
    own.api("PATCH", f"api/sessions/{session}", {"delegate": "DELEGATE_MODE_NEVER"})
    assert not ask(page, 3)[1]
    page.goto("about:blank")  # what is deleted it would ask for in vain
    own.delete_sessions()
