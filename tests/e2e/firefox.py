"""Debian's headless Firefox, driven through the WebDriver BiDi protocol, which it speaks itself."""

import asyncio
import itertools
import json
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp import ClientConnectionError, ClientSession, ClientWebSocketResponse

from tests.processes import free_port

FIREFOX = "firefox-esr"
START_S, ANSWER_S = 90, 60
PREFERENCES = {
    "media.navigator.streams.fake": True,
    "media.navigator.permission.disabled": True,
    "media.autoplay.default": 0,
    "media.gmp-manager.updateEnabled": False,  # of codecs that it would fetch
    "app.update.enabled": False,
    "datareporting.policy.dataSubmissionEnabled": False,
    "toolkit.telemetry.reportingpolicy.firstRun": False,
    "network.captive-portal-service.enabled": False,
    "browser.shell.checkDefaultBrowser": False,
}


class FirefoxError(Exception):
    """The browser refused a command, or a script threw; the message is its own."""


class Firefox:
    """One Firefox with one tab, whose profile is new and empty."""

    def __init__(self, socket: ClientWebSocketResponse) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        self._tab = ""

    async def begin(self) -> None:
        await self._call("session.new", {"capabilities": {}})
        tree = await self._call("browsingContext.getTree", {})
        self._tab = tree["contexts"][0]["context"]

    async def goto(self, url: str) -> None:
        place = {"context": self._tab, "url": url, "wait": "complete"}
        await self._call("browsingContext.navigate", place)

    async def run(self, script: str) -> Any:
        """Value that the body of an async function returns, as JSON has it."""
        wrapped = f"(async () => JSON.stringify((await (async () => {{ {script} }})()) ?? null))()"
        told = await self._call(
            "script.evaluate",
            {"expression": wrapped, "target": {"context": self._tab}, "awaitPromise": True},
        )
        if told["type"] == "exception":
            raise FirefoxError(told["exceptionDetails"]["text"])
        return json.loads(told["result"]["value"])

    async def wait(self, condition: str, timeout_s: float = 30) -> Any:
        """Wait for an expression to be true; returns it."""
        deadline = time.monotonic() + timeout_s
        while not (value := await self.run(f"return {condition}")):
            assert time.monotonic() < deadline, f"never true: {condition}"
            await asyncio.sleep(0.1)
        return value

    async def _call(self, method: str, parameters: dict[str, Any]) -> Any:
        number = next(self._numbers)
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        async with asyncio.timeout(ANSWER_S):
            while (said := await self._socket.receive_json()).get("id") != number:
                pass  # an event
        if said["type"] == "error":
            raise FirefoxError(f"{said['error']}: {said['message'][:600]}")
        return said["result"]


@asynccontextmanager
async def firefox(folder: Path) -> AsyncIterator[Firefox]:
    """A running Firefox, ended at the end."""
    profile, port = folder / "profile", free_port()
    profile.mkdir(parents=True)
    lines = [
        f"user_pref({json.dumps(name)}, {json.dumps(value)});"
        for name, value in PREFERENCES.items()
    ]
    (profile / "user.js").write_text("\n".join(lines))
    with (folder / "firefox.log").open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            str(shutil.which(FIREFOX)),
            *("--headless", "--no-remote", "--profile", str(profile)),
            f"--remote-debugging-port={port}",
            stdout=output,
            stderr=output,
        )
    try:
        async with ClientSession() as http:
            deadline = time.monotonic() + START_S
            while True:
                try:
                    socket = await http.ws_connect(f"ws://127.0.0.1:{port}/session")
                    break
                except ClientConnectionError:
                    assert process.returncode is None, (folder / "firefox.log").read_text()
                    assert time.monotonic() < deadline, "Firefox did not start"
                    await asyncio.sleep(0.2)
            browser = Firefox(socket)
            await browser.begin()
            yield browser
            await socket.close()
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
