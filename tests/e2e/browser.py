"""Debian's headless Chromium, driven by its chromedriver through the W3C WebDriver protocol.

The protocol is a handful of JSON requests, so no library stands between tests and browser.
"""

import base64
import contextlib
import json
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.processes import free_port

CHROMIUM, CHROMEDRIVER = "chromium", "chromedriver"
ENTER = "\ue007"
ESCAPE = "\ue00c"
TAB = "\ue004"
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the protocol's name for a reference to one
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
    "--autoplay-policy=no-user-gesture-required",
)
# A request that is refused is what some tests are about; the page answers it in words.
IGNORED_CONSOLE = ("favicon",)


class WebDriverError(Exception):
    """The browser refused a command; the message is its own."""


class Driver:
    """One chromedriver process with one browser, whose profile is new and empty. flags: of the
    browser, besides `FLAGS`."""

    def __init__(self, folder: Path, flags: Sequence[str] = ()) -> None:
        self._folder = folder
        self._flags = flags
        self._port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._session = ""
        self._first_tab = ""

    def start(self) -> None:
        with (self._folder / "chromedriver.log").open("wb") as output:
            self._process = subprocess.Popen(
                [str(shutil.which(CHROMEDRIVER)), f"--port={self._port}"],
                stdout=output,
                stderr=output,
            )
        deadline = time.monotonic() + 60
        while not self._ready():
            if time.monotonic() > deadline:
                raise RuntimeError((self._folder / "chromedriver.log").read_text())
            time.sleep(0.05)
        profile = self._folder / "profile"
        profile.mkdir()
        flags = [*FLAGS, *self._flags, f"--user-data-dir={profile}", "--window-size=1280,800"]
        capabilities = {
            "goog:chromeOptions": {"binary": shutil.which(CHROMIUM), "args": flags},
            "goog:loggingPrefs": {"browser": "ALL"},
            "timeouts": {"script": 60_000, "pageLoad": 60_000},
        }
        reply = self.call("POST", "/session", {"capabilities": {"alwaysMatch": capabilities}})
        self._session = f"/session/{reply['sessionId']}"
        self._first_tab = self.call("GET", f"{self._session}/window")

    def stop(self) -> None:
        if self._process is not None:
            if self._session:
                self.call("DELETE", self._session)
            self._process.terminate()
            self._process.wait(20)
            self._process = None

    def page(self) -> "Page":
        """A new, empty tab, which becomes the one that commands go to."""
        tab = self.call("POST", f"{self._session}/window/new", {"type": "tab"})["handle"]
        self.call("POST", f"{self._session}/window", {"handle": tab})
        return Page(self, self._session, tab)

    def leave(self) -> None:
        """Close the tab that commands go to."""
        self.call("DELETE", f"{self._session}/window")
        self.call("POST", f"{self._session}/window", {"handle": self._first_tab})

    def _ready(self) -> bool:
        try:
            return bool(self.call("GET", "/status")["ready"])
        except OSError:
            return False

    def call(self, method: str, path: str, body: object = None) -> Any:
        """One WebDriver command; its `value`. Raises WebDriverError."""
        data = None if method != "POST" else json.dumps(body or {}).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self._port}{path}",
            data=data,
            method=method,
            headers={"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=90) as reply:
                return json.load(reply)["value"]
        except urllib.error.HTTPError as error:
            value = json.load(error)["value"]
            raise WebDriverError(f"{value['error']}: {value['message'][:600]}") from None


class Page:
    """What a person does with a page: look, click, type. Selectors are CSS."""

    def __init__(self, driver: Driver, session: str, tab: str) -> None:
        self._driver = driver
        self._path = session
        self._tab = tab
        self._console: list[dict[str, Any]] = []

    def close(self) -> None:
        self.console()  # is read once: what nobody asked for is not the next page's
        self._driver.leave()

    def goto(self, url: str) -> None:
        self._post("/url", {"url": url})

    def run(self, script: str, *arguments: object) -> Any:
        """Run a function body in the page; promises are awaited."""
        return self._post("/execute/sync", {"script": script, "args": list(arguments)})

    def cdp(self, command: str, **parameters: object) -> Any:
        """A DevTools command, for what WebDriver does not have."""
        return self._post("/goog/cdp/execute", {"cmd": command, "params": parameters})

    def look(self, *, width: int, height: int, dark: bool = False, scale: float = 1) -> None:
        """Show the page as on a screen of this size (CSS pixels)."""
        self.cdp(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=scale,
            mobile=width < 600,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.cdp("Emulation.setEmulatedMedia", features=[scheme])

    @contextlib.contextmanager
    def hidden(self) -> Iterator[None]:
        """Within it, another tab covers the page. `run` still runs in the page."""
        other = self.cdp("Target.createTarget", url="about:blank")["targetId"]
        self.cdp("Target.activateTarget", targetId=other)
        yield
        self.cdp("Target.closeTarget", targetId=other)
        self.cdp("Target.activateTarget", targetId=self._tab)

    def click(self, selector: str) -> None:
        """A real click; refused where something covers the element."""
        self._post(f"/element/{self._find(selector)}/click")

    def type(self, selector: str, text: str) -> None:
        self._post(f"/element/{self._find(selector)}/value", {"text": text})

    def press(self, key: str) -> None:
        """Press a key, wherever the keyboard is."""
        stroke = [{"type": kind, "value": key} for kind in ("keyDown", "keyUp")]
        self._post("/actions", {"actions": [{"type": "key", "id": "keys", "actions": stroke}]})

    def text(self, selector: str) -> str:
        """What is to be read there; "" where there is no such element."""
        return str(
            self.run("return document.querySelector(arguments[0])?.innerText ?? ''", selector)
        )

    def texts(self, selector: str) -> list[str]:
        script = "return [...document.querySelectorAll(arguments[0])].map(n => n.innerText)"
        return list(self.run(script, selector))

    def wait(self, script: str, *arguments: object, timeout_s: float = 40) -> Any:
        """Wait until a function body returns something true; that. Raises TimeoutError."""
        deadline = time.monotonic() + timeout_s
        while True:
            value = self.run(script, *arguments)
            if value:
                return value
            if time.monotonic() > deadline:
                raise TimeoutError(f"{script} {arguments}\n{self.text('body')}\n{self.console()}")
            time.sleep(0.05)

    def wait_text(self, selector: str, part: str, *, timeout_s: float = 40) -> str:
        """Wait until an element that matches shows `part`; its whole text."""
        script = (
            "return [...document.querySelectorAll(arguments[0])]"
            ".map(n => n.innerText).find(t => t.includes(arguments[1]))"
        )
        return str(self.wait(script, selector, part, timeout_s=timeout_s))

    def console(self) -> list[str]:
        """Warnings and errors of the page's console since it was opened."""
        self._console += self._post("/se/log", {"type": "browser"})
        return [
            f"{entry['level']}: {entry['message']}"
            for entry in self._console
            if entry["level"] in ("SEVERE", "WARNING")
            and not any(part in entry["message"] for part in IGNORED_CONSOLE)
        ]

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self._driver.call("GET", f"{self._path}/screenshot")))

    def _find(self, selector: str) -> str:
        body = {"using": "css selector", "value": selector}
        return str(self._post("/element", body)[ELEMENT])

    def _post(self, path: str, body: object = None) -> Any:
        return self._driver.call("POST", self._path + path, body)
