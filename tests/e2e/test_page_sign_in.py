"""The page of a server that asks who calls."""

from pathlib import Path

import pytest

from services.gateway.auth.keys import new_key
from sightline import connect
from tests.e2e.browser import Driver
from tests.processes import SHAPES, ServiceProcess
from tests.suite import write_clip

pytestmark = pytest.mark.option

OPEN = "return document.querySelector('#token-dialog').open"


def test_the_page_asks_for_a_token_once(driver: Driver, tmp_path: Path) -> None:
    worker = ServiceProcess(
        "inference_worker",
        {"WORKER_MODEL": str(SHAPES), "WORKER_THREADS": "1", "WORKER_KV_MEMORY_BYTES": "536870912"},
        tmp_path,
    )
    worker.start()
    (admin, admin_line), (key, line) = (
        new_key("admin", ["admin"]),
        new_key("alice", ["view", "ask"]),
    )
    (tmp_path / "keys").write_text(f"{admin_line}\n{line}\n")
    gateway = ServiceProcess(
        "gateway",
        {
            "GATEWAY_WORKERS": worker.address,
            "GATEWAY_RTMP_PORT": "",
            "GATEWAY_MEDIA_ROOT": str(tmp_path),
            "GATEWAY_AUTH": "keys",
            "GATEWAY_AUTH_KEYS": str(tmp_path / "keys"),
        },
        tmp_path,
    )
    gateway.start()
    clip = write_clip(tmp_path, seed=5, seconds=12)
    with connect(gateway.address, token=admin) as client:
        client.open(clip.path.name, on_server=True, loop=True, name="lobby")
    page = driver.page()
    page.goto(f"http://127.0.0.1:{gateway.http_port}/")
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
    page.goto(f"http://127.0.0.1:{gateway.http_port}/")  # the tab has kept it
    page.wait_text("#session-list", "lobby")
    page.wait_text("#line-state", "connected")
    assert not page.run(OPEN)
    assert key not in page.run("return location.href + document.cookie + document.body.outerHTML")
    complaints = [entry for entry in page.console() if "401" not in entry]
    page.close()
    assert not complaints, "\n".join(complaints)
    assert key not in gateway.log()
    for service in (gateway, worker):
        service.stop()
