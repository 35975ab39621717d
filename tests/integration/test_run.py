"""`python -m services`: what a newcomer starts, uses and ends."""

import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import psutil
import pytest

from services.local.clip import STORY, Story, sample_clip, story_of
from tests import tools
from tests.eventually import wait_until
from tests.processes import REPOSITORY, SHAPES, free_port
from tests.suite import write_clip

pytestmark = pytest.mark.timeout(400)

START_S = 240
STOP_S = 60
UP = "Ctrl-C stops everything."


class Launcher:
    """The launcher as a process of its own group, its output in a file."""

    def __init__(self, folder: Path, *arguments: str, **environment: str) -> None:
        self.output = folder / "output.txt"
        self.output.touch()
        command = [sys.executable, "-m", "services", "--cache", str(folder), *arguments]
        with self.output.open("ab") as output:
            self.process = subprocess.Popen(
                command,
                cwd=REPOSITORY,
                env=os.environ | environment,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def text(self) -> str:
        return self.output.read_text(errors="replace")

    def wait_for(self, condition: Callable[[str], object], timeout_s: float = START_S) -> str:
        """Until its output satisfies `condition`; fails when it ends first."""
        deadline = time.monotonic() + timeout_s
        while not condition(text := self.text()):
            assert self.process.poll() is None, f"ended with {self.process.returncode}:\n{text}"
            assert time.monotonic() < deadline, f"too late:\n{text}"
            time.sleep(0.1)
        return text

    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def interrupt(self) -> int:
        """Ctrl-C; the exit code."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(STOP_S)


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Callable[..., Launcher]]:
    tools.require("redis")
    started: list[Launcher] = []

    def start(*arguments: str, **environment: str) -> Launcher:
        started.append(Launcher(tmp_path, *arguments, **environment))
        return started[-1]

    yield start
    for launcher in started:
        if launcher.process.poll() is None:
            launcher.process.kill()
            launcher.process.wait()


def _told(address: str, *arguments: str) -> Any:
    """What a command that must succeed printed as JSON."""
    done = _sightline(address, *arguments, "--json")
    assert done.returncode == 0, done
    return json.loads(done.stdout)


def _sightline(address: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sightline.cli", "--server", address, *arguments]
    return subprocess.run(
        command, cwd=REPOSITORY, capture_output=True, text=True, timeout=90, check=False
    )


def _gone(processes: list[psutil.Process], timeout_s: float = 10) -> list[psutil.Process]:
    """Those that are still there after a while."""
    _, alive = psutil.wait_procs(processes, timeout_s)
    return [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]


async def test_a_story_is_painted_once(tmp_path: Path) -> None:
    story = Story("builtin", 2, "a live shop", "something prohibited is shown")
    clip = await sample_clip(tmp_path, story)
    assert clip.seconds == 2
    assert clip.facts
    with av.open(str(clip.path)) as container:
        painted = [frame.width for frame in container.decode(video=0)]
    assert painted == [384] * 48
    when = clip.path.stat().st_mtime_ns
    assert await sample_clip(tmp_path, story) == clip
    assert clip.path.stat().st_mtime_ns == when


async def test_the_usual_story_comes_with_the_suite(tmp_path: Path) -> None:
    story = story_of("goods")
    assert story is STORY
    clip = await sample_clip(tmp_path, story)
    assert clip.path.parent != tmp_path  # nothing was made
    assert clip.seconds == story.seconds
    assert {fact.kind for fact in clip.facts} >= {"held", "price", "before", "prohibited"}
    with av.open(str(clip.path)) as container:
        assert container.duration == pytest.approx(story.seconds * 1e6, rel=0.01)
    assert story_of("openai:http://127.0.0.1/v1#m") is STORY


def test_a_newcomers_first_evening(launch: Callable[..., Launcher], tmp_path: Path) -> None:
    report = tmp_path / "answers.json"
    launcher = launch("--free-ports", "--report", str(report))
    text = launcher.wait_for(lambda text: UP in text)
    for name in ("redis", "dialogue", "tts", "worker", "gateway"):
        assert re.search(rf"^{name}: ready after", text, re.MULTILINE), text
    answers = json.loads(report.read_text())["answers"]
    assert len(answers) == 3
    for answer in answers:
        assert answer["question"] in text
        assert answer["answer"] in text
        assert 0 < answer["first_token_ms"] <= answer["total_ms"]
    # A busy machine may see a question late, when nobody can say what is true.
    known = [answer for answer in answers if answer["truth"] is not None]
    assert len(known) >= 2, answers
    wrong = [answer for answer in known if not answer["right"]]
    assert len(wrong) <= 1, wrong

    address = re.search(r"^gRPC\s+(\S+)", text, re.MULTILINE)
    assert address is not None
    sessions = _told(address[1], "sessions")["sessions"]
    assert {info["name"]: info["state"] for info in sessions} == {
        "demo": "live",
        "camera": "waiting",
    }
    first = _told(address[1], "ask", "demo", "What came last?")
    assert first["frames_seen"] > 0

    # Redis and dialogue are killed and come back, and the conversation with them.
    for process in launcher.children():
        command = " ".join(process.cmdline())
        if "redis-server" in command or "services.dialogue" in command:
            process.kill()
    launcher.wait_for(lambda text: len(re.findall("redis: ready|dialogue: ready", text)) == 4)
    conversation = ("--conversation", first["conversation"])
    again = _told(address[1], "ask", "demo", "And now?", *conversation)
    assert again["history_rounds"] == 1, again

    # So does the gateway, with the sessions that it was shown.
    next(p for p in launcher.children() if "services.gateway" in " ".join(p.cmdline())).kill()
    launcher.wait_for(lambda text: text.count("gateway: ready") == 2)
    question = ("ask", "demo", "What is in the scene?")
    wait_until(lambda: _sightline(address[1], *question).returncode == 0)

    children = launcher.children()
    assert len(children) >= 6  # with the publisher
    assert launcher.interrupt() == 0, launcher.text()
    assert not _gone(children)
    assert "Traceback" not in launcher.text()


@pytest.fixture
def shown(tmp_path: Path) -> dict[str, str]:
    """A small model and a short clip of its own: nothing has to be painted."""
    clip = write_clip(tmp_path, seed=5, seconds=16)
    return {"WORKER_MODEL": str(SHAPES), "SOURCE": str(clip.path)}


def test_a_killed_launcher_leaves_no_process(launch: Callable[..., Launcher]) -> None:
    launcher = launch("--free-ports")
    launcher.wait_for(lambda text: "redis: ready" in text)
    children = launcher.children()
    assert len(children) >= 5
    launcher.process.kill()
    launcher.process.wait()
    assert not _gone(children)


def test_a_second_interrupt_does_not_wait(
    launch: Callable[..., Launcher], shown: dict[str, str]
) -> None:
    launcher = launch("--free-ports", **shown)
    launcher.wait_for(lambda text: "redis: ready" in text)
    children = launcher.children()
    launcher.process.send_signal(signal.SIGINT)
    launcher.wait_for(lambda text: "stopping" in text)
    launcher.process.send_signal(signal.SIGINT)
    launcher.process.wait(STOP_S)
    assert not _gone(children)


def test_a_service_that_does_not_start_tells_why(
    launch: Callable[..., Launcher], shown: dict[str, str]
) -> None:
    launcher = launch("--free-ports", **shown | {"WORKER_MODEL": "/no/such/model"})
    assert launcher.process.wait(START_S) == 1
    text = launcher.text()
    assert "worker ended with exit code 2" in text
    assert "/no/such/model" in text


def test_a_busy_port_is_named_with_its_variable(launch: Callable[..., Launcher]) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        others = ("GRPC", "RTMP")
        environment = {f"GATEWAY_{name}_PORT": str(free_port()) for name in others}
        launcher = launch(GATEWAY_HTTP_PORT=port, **environment)
        assert launcher.process.wait(STOP_S) == 2
    assert f"port {port} is in use: choose another with GATEWAY_HTTP_PORT" in launcher.text()


@pytest.mark.option
def test_phones_use_the_page_over_https_with_a_token(
    launch: Callable[..., Launcher], shown: dict[str, str], tmp_path: Path
) -> None:
    launcher = launch("--free-ports", "--https", **shown)
    text = launcher.wait_for(lambda text: UP in text)
    page = re.search(r"page\s+(https://([0-9.]+):(\d+)/)", text)
    token = re.search(r"token\s+(sl_\S+)", text)
    assert page is not None, text
    assert token is not None, text
    believing = ssl.create_default_context(cafile=str(tmp_path / "https" / "self-signed.crt"))

    def status(path: str, **headers: str) -> int:
        request = urllib.request.Request(page[1] + path, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=10, context=believing) as reply:
                return int(reply.status)
        except urllib.error.HTTPError as error:
            return error.code

    assert status("") == 200
    assert status("api/sessions") == 401
    assert status("api/sessions", Authorization=f"Bearer {token[1]}") == 200
    assert (tmp_path / "https" / "self-signed.key").stat().st_mode & 0o77 == 0
    figures = re.search(r"\"metrics\": (\d+)", (tmp_path / "run/logs/gateway.log").read_text())
    assert figures is not None
    if page[2] != "127.0.0.1":
        with pytest.raises((ConnectionRefusedError, TimeoutError)):
            socket.create_connection((page[2], int(figures[1])), 3).close()
    assert launcher.interrupt() == 0
