"""Standing rules on the page: made, watched, acknowledged, exported and ended there."""

from collections.abc import Callable
from typing import Any

import pytest

from services.local.clip import Clip
from tests.e2e.browser import ENTER, ESCAPE, Driver, Page
from tests.e2e.test_page_access import SOME, audit
from tests.processes import free_port
from tests.suite import Annex, Suite, passing_condition
from tests.tools import look_for

pytestmark = pytest.mark.needs("redis", "chromium", "chromedriver")

CATALOGUE = """\
sku,names,price,link
C-1,"a red circle|a red disc",9 €,https://shop.example/1
C-2,a blue square,,"""
# Of each kind what is typed, and what the server is to be sent of it.
KINDS: dict[str, tuple[dict[str, str], dict[str, Any]]] = {
    "choice": (
        {"choice": "the largest is {}", "options": "red\nblue"},
        {"statement": "the largest is {}", "options": ["red", "blue"]},
    ),
    "score": (
        {"score": "there are {} shapes", "levels": "no\nfew\nmany"},
        {"statement": "there are {} shapes", "levels": ["no", "few", "many"]},
    ),
    "product": (
        {"products": CATALOGUE},
        {
            "products": [
                {
                    "sku": "C-1",
                    "names": ["a red circle", "a red disc"],
                    "price": "9 €",
                    "link": "https://shop.example/1",
                },
                {"sku": "C-2", "names": ["a blue square"]},
            ]
        },
    ),
    "health": ({}, {"conditions": ["dark"]}),
    "commentary": ({"commentary": "What is in the scene?"}, {"question": "What is in the scene?"}),
}
SAVED = """
window.saved = [];
const {createObjectURL} = URL;
URL.createObjectURL = (blob) => (blob.type.startsWith('image') || blob.text().then(
  (text) => saved.push(text)), createObjectURL(blob));
"""
ROW = "[...document.querySelectorAll('.rules [data-rule]')].find(n => n.innerText.includes('{}'))"
# The kind, and whatever is typed into the form, as a person would choose and type it.
CHOOSE = """
const kind = document.querySelector('.rule-form [name=kind]');
kind.value = arguments[0];
kind.dispatchEvent(new Event('change'));
"""


def make(page: Page, kind: str, **typed: str) -> None:
    page.run(CHOOSE, kind)
    for name, text in typed.items():
        page.type(f".rule-form [name={name}]", text)
    page.click(".rule-form .primary")


def test_rules_are_made_seen_and_ended_on_the_page(
    driver: Driver, suite: Suite, annex: Callable[..., Annex], clip: Clip
) -> None:
    own = annex(
        GATEWAY_RULES_REDIS_URL=suite.redis.url,
        GATEWAY_CLUSTER_SECRET="a secret of thirty-two characters",
        GATEWAY_WEBHOOK_ALLOW="127.0.0.1",
    )
    session = own.open(clip.path.name, name="shapes")["id"]
    page = driver.page()
    page.cdp("Page.addScriptToEvaluateOnNewDocument", source=SAVED)
    page.goto(own.url)
    page.wait_text("#rules-room", "None is set yet")
    page.click(".rule-make summary")
    page.click(".rule-form .primary")
    page.wait_text(".rule-form .error", "Say what to tell you of")
    page.type(".rule-form [name=condition]", passing_condition(clip))
    page.click(".rule-form details summary")
    page.run(CHOOSE.replace("kind", "severity"), "SEVERITY_WARNING")
    page.type(".rule-form [name=labels]", "no label")
    make(page, "predicate", name="standing", debounce_s="0.2")
    page.wait_text(".rule-form .error", "“no label” is no label")
    page.run("document.querySelector('.rule-form [name=labels]').value = ''")
    make(page, "predicate", labels="room=hall = 2\nshift=night")
    page.wait_text(".rules [role=status]", "“standing” is watched for from now on")
    page.wait_text(".rules .stands", "% yes")
    _look_at_an_event(page)

    findings: dict[str, str] = {}
    _make_every_kind(page, own, session, findings)
    _send_elsewhere(page)
    if look_for("axe").works:
        audit(page, "rules", SOME, findings)
    assert findings == {}
    for width in (320, 390, 1920):
        page.look(width=width, height=844)
        assert page.run("return document.documentElement.scrollWidth") <= width
    page.look(width=1280, height=800)

    page.click("[aria-label='Export all events as CSV']")
    table = str(page.wait("return saved.find(text => text.startsWith('event,'))"))
    assert ",standing,predicate," in table
    page.click("[aria-label='Export all events as JSON']")
    assert page.wait("return saved.find(text => text.startsWith('['))")

    # It is paused, resumed and changed; what was told stays.
    standing = own.api("GET", "api/rules/standing")["rule"]
    page.click("[aria-label='Pause the rule: standing']")
    page.wait_text(".rules [role=status]", "“standing” is paused")
    page.wait_text(f"[data-rule='{standing}'] .badge", "paused")
    page.click("[aria-label='Resume the rule: standing']")
    page.wait_text(".rules [role=status]", "“standing” is watched for again")
    row = f"[data-rule='{standing}']"
    page.wait_text(f"{row} .labels", "room=hall = 2, shift=night")
    page.wait(f"return document.querySelectorAll(`{row} .badge`)[1].innerText === 'warning'")
    _change(page, standing, cooldown_s="30")
    changed = own.api("GET", "api/rules/standing")
    assert (changed["cooldown_s"], "threshold" in changed) == (30, False), changed
    assert changed["severity"] == "SEVERITY_WARNING"
    assert changed["labels"] == {"room": "hall = 2", "shift": "night"}
    _change(page, standing, severity="SEVERITY_CRITICAL", labels="")
    page.wait(f"return document.querySelectorAll(`{row} .badge`)[1].innerText === 'critical'")
    page.wait(f"return document.querySelector(`{row} .labels`).hidden")
    changed = own.api("GET", "api/rules/standing")
    assert (changed["severity"], "labels" in changed) == ("SEVERITY_CRITICAL", False)

    # The server keeps all of it.
    page.goto("about:blank")
    page.goto(own.url)
    page.wait_text(".rules .told", "acknowledged at")
    page.wait(f"return {ROW.format('standing')}")
    page.run(f"{ROW.format('standing')}.querySelector('[aria-label^=End]').click()")
    page.wait_text("#confirm-text", "End the rule “standing”?")
    page.click("#confirm-yes")
    page.wait(f"return !{ROW.format('standing')}")
    left = own.api("GET", f"api/sessions/{session}/rules")["rules"]
    assert {kind for rule in left for kind in KINDS if kind in rule} == set(KINDS)
    # One webhook was refused; a machine that is busy may be refused a look, too, and looks again.
    complaints = [line for line in page.console() if "Failed to load resource" not in line]
    page.close()
    own.delete_sessions()
    assert not complaints, "\n".join(complaints)


def _change(page: Page, rule: str, **values: str) -> None:
    """What a person changes of a rule, whose form closes when that is done."""
    page.click(f"[data-rule='{rule}'] details > summary")
    for name, value in values.items():
        page.run(
            "document.querySelector(arguments[0]).value = arguments[1]",
            f"[data-rule='{rule}'] [name={name}]",
            value,
        )
    page.click(f"[data-rule='{rule}'] .rule-change .primary")
    page.wait(f"return !document.querySelector(`[data-rule='{rule}'] details`).open")


def _look_at_an_event(page: Page) -> None:
    """Its picture, on the timeline, too; acknowledged by keyboard, it is said to be."""
    page.wait_text(".rules .told", "standing: it holds now")
    page.wait_text(".timeline .moment", "standing: it holds now")
    page.click(".rules .told [aria-label^='Show the moment: standing']")
    page.wait("return document.querySelector('#moment img')?.naturalWidth > 100")
    page.press(ESCAPE)
    page.run("document.querySelector('.rules .told [aria-label^=Acknowledge]').focus()")
    page.press(ENTER)
    page.wait_text(".rules .told", "acknowledged at")
    page.wait("return document.activeElement.matches('.told')")  # the keyboard stays there


def _make_every_kind(page: Page, own: Annex, session: str, findings: dict[str, str]) -> None:
    make(page, "choice", choice="it is {}", options="red")
    page.wait_text(".rule-form .error", "at least two options")
    page.run("document.querySelector('.rule-form').reset()")
    for kind, (typed, _) in KINDS.items():
        if kind == "health":
            page.run(CHOOSE, kind)
            page.click(".rule-form [value=dark]")
        make(page, kind, **typed, name=kind)
        page.wait_text(".rules [role=status]", f"“{kind}” is watched for")
        if kind == "product" and look_for("axe").works:
            audit(page, kind, ((320, True),), findings)
    made = {each["name"]: each for each in own.api("GET", f"api/sessions/{session}/rules")["rules"]}
    assert made["standing"]["debounce_s"] == 0.2
    for kind, (_, sent) in KINDS.items():
        assert made[kind][kind] == sent
    page.wait_text(".rules .stands", "of 2")  # the score was looked at
    # Without a name it is called what it tells; a second one is called something.
    for called in ("“a fox is there” is watched for", "“rule-"):
        make(page, "predicate", condition="a fox is there")
        page.wait_text(".rules [role=status]", called)
        page.wait("return document.body.innerText.includes('“a fox is there” begins')")


def _send_elsewhere(page: Page) -> None:
    page.click(".webhooks summary")
    page.type(".webhook-form [name=url]", "http://10.0.0.1/hook" + ENTER)
    page.wait("return document.querySelector('.webhooks .error').innerText.length > 10")
    page.run("document.querySelector('.webhook-form').reset()")
    page.type(".webhook-form [name=url]", f"http://127.0.0.1:{free_port()}/hook" + ENTER)
    page.wait_text(".webhooks [role=status]", "shown only now")
    assert page.run("return document.querySelector('.webhooks [readonly]').value.slice(0, 6)") == (
        "whsec_"
    )
    page.wait_text(".webhooks .condition", "127.0.0.1")
