"""The page of a server that asks who calls."""

from collections.abc import Callable
from pathlib import Path

from services.gateway.auth.keys import new_key
from services.local.clip import Clip
from sightline import connect
from tests.e2e.browser import Driver
from tests.suite import Annex

OPEN = "return document.querySelector('#token-dialog').open"


def test_the_page_asks_for_a_token_once(
    driver: Driver, annex: Callable[..., Annex], clip: Clip, tmp_path: Path
) -> None:
    admin, admin_line = new_key("admin", ["admin"])
    key, line = new_key("alice", ["view", "ask"])
    (tmp_path / "keys").write_text(f"{admin_line}\n{line}\n")
    guarded = annex(
        GATEWAY_AUTH="keys",
        GATEWAY_AUTH_KEYS=str(tmp_path / "keys"),
        GATEWAY_PUBLIC_HTTP_URL="https://192.0.2.7:8443",
    )
    with connect(guarded.address, token=admin) as client:
        session = client.open(clip.path.name, on_server=True, loop=True, name="lobby")
        _sign_in(driver, guarded, key)
        session.delete()


def _sign_in(driver: Driver, guarded: Annex, key: str) -> None:
    page = driver.page()
    page.goto(guarded.url)
    page.wait(OPEN)
    page.type("#token-input", "sl_wrong")
    page.click("#token-send")
    page.wait_text("#token-error", "wrong")
    page.type("#token-input", key)
    page.click("#token-send")
    page.wait_text("#session-list", "lobby")
    page.wait_text("#line-state", "connected")  # the WebSocket
    page.wait("return document.querySelector('#preview-video').videoWidth > 0")
    assert not page.run(OPEN)
    page.click("#phone")
    page.wait("return document.querySelector('#phone-code img')?.naturalWidth > 100")
    assert page.text("#phone-address").startswith("https://192.0.2.7:8443/#")
    assert "asks for the key" in page.text("#phone-about")
    page.click("#phone-dialog button")
    page.goto(guarded.url)  # the tab has kept it
    page.wait_text("#session-list", "lobby")
    page.wait_text("#line-state", "connected")
    assert not page.run(OPEN)
    assert key not in page.run("return location.href + document.cookie + document.body.outerHTML")
    complaints = [entry for entry in page.console() if "401" not in entry]
    page.close()
    assert not complaints, "\n".join(complaints)
    assert key not in guarded.gateway.log()
