"""Programs of examples/ that use other people's packages: `make wires-test` installs those.

What is spoken is heard where `make voice-test` has installed what hears.
"""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import tools
from tests.eventually import wait_until
from tests.examples import EXAMPLES, command, environment
from tests.processes import ServiceProcess
from tests.spoken import recorded
from tests.suite import Suite, write_clip
from tests.wires import program

pytestmark = pytest.mark.slow
QUESTION = "Is there a circle?"


@pytest.fixture(scope="module")
def asr(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess | None]:
    """The service that hears, where there is somebody to hear and something to say."""
    if recorded(QUESTION) is None:
        yield None
        return
    process = ServiceProcess("asr", {}, tmp_path_factory.mktemp("asr"))
    process.start(120)
    yield process
    process.stop()


@pytest.fixture(scope="module")
def shop(asr: ServiceProcess | None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Suite]:
    """A suite that watches `demo`."""
    program("python")
    tools.require("redis")
    hears = {"GATEWAY_ASR": asr.address} if asr else {}
    suite = Suite(tmp_path_factory.mktemp("examples"), environment={"gateway": hears})
    suite.start()
    clip = write_clip(suite.media_root, seed=5, seconds=16)
    suite.open(clip.path.name, name="demo")
    wait_until(lambda: suite.api("GET", "api/sessions/demo")["stats"].get("frames_processed"))
    yield suite
    complaints = suite.stop()
    assert not complaints


def _run(
    *arguments: str, sound: bytes | None = None, **variables: str
) -> subprocess.CompletedProcess[bytes]:
    """A program of the clients' environment, which must end by itself, and well."""
    done = subprocess.run(
        [program("python"), *arguments],
        env=environment(**variables),
        input=sound,
        capture_output=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stderr.decode()[-4000:]
    return done


def _example(name: str, *arguments: str, **options: bytes) -> subprocess.CompletedProcess[bytes]:
    return _run(*command(name, *arguments)[1:], **options)


def test_opencv_pushes_a_file_and_is_answered(shop: Suite) -> None:
    [clip] = shop.media_root.glob("*.mp4")
    options = ("--server", shop.address, "--every", "4", "--question", "what is in the scene")
    printed = _example("push_opencv.py", str(clip), *options).stdout.decode().splitlines()
    assert len(printed) > 3
    assert all(printed)
    assert printed[-1].startswith("384 frames pushed, ")
    assert int(printed[-1].split()[3]) > 0


def test_an_mcp_client_asks_every_stream(shop: Suite) -> None:
    camera = {"push": {}, "options": {"name": "camera"}}
    made = shop.api("POST", "api/sessions", camera)["id"]
    done = _example("mcp_client.py", "what is in the scene", "--server", shop.address)
    shop.api("DELETE", f"api/sessions/{made}")
    tools_line, answer, other = done.stdout.decode().splitlines()
    assert "decide" in tools_line
    assert other == "camera: nothing to see yet"
    assert answer.startswith("demo: ")
    assert len(answer) > len("demo: ")


def test_the_shop_assistant_hears_a_question_and_answers_aloud(shop: Suite) -> None:
    spoken = recorded(QUESTION)
    if spoken is None:
        pytest.skip("`make voice-test` installs what hears")
    silence = bytes(2 * 24_000)
    arguments = ("demo", "--url", f"{shop.url}v1", "--answers", "1")
    done = _example("shop_assistant.py", *arguments, sound=silence + spoken + 3 * silence)
    heard, answer = done.stderr.decode().splitlines()
    assert QUESTION in heard
    assert answer in {"yes", "no"}
    assert len(done.stdout) > 5_000


def test_the_shop_assistant_says_where_nobody_hears(
    shop: Suite, asr: ServiceProcess | None
) -> None:
    if asr is not None:
        pytest.skip("somebody hears")
    arguments = command("shop_assistant.py", "demo", "--url", f"{shop.url}v1")[1:]
    done = subprocess.run(
        [program("python"), *arguments],
        env=environment(),
        input=bytes(48_000),
        capture_output=True,
        timeout=180,
    )
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr == b"nobody hears there: `make voice`, then `make run`\n"


def test_livekits_agent_sees(shop: Suite) -> None:
    """The example's own session, driven as LiveKit's tests drive an agent, without a room."""
    script = f"""
import asyncio, sys
sys.path.insert(0, {str(EXAMPLES)!r})
import livekit_agent
from livekit.agents import Agent

async def main():
    async with livekit_agent.agent_session() as session:
        await session.start(Agent(instructions=livekit_agent.INSTRUCTIONS))
        result = await session.run(user_input={QUESTION!r})
        result.expect.next_event().is_message(role="assistant")
        print(session.history.items[-1].text_content)

asyncio.run(main())
"""
    done = _run("-c", script, SIGHTLINE_URL=shop.url.rstrip("/"), SIGHTLINE_SESSION="demo")
    assert done.stdout.decode().splitlines()[-1] in {"yes", "no"}


def test_the_notebook_runs_from_its_first_cell_to_its_last(shop: Suite, tmp_path: Path) -> None:
    made = tmp_path / "made.ipynb"
    script = f"""
import nbformat
from nbclient import NotebookClient

notebook = nbformat.read({str(EXAMPLES / "notebook.ipynb")!r}, as_version=4)
nbformat.validate(notebook)
NotebookClient(notebook, timeout=60).execute()
nbformat.write(notebook, {str(made)!r})
"""
    _run("-c", script, SIGHTLINE_SERVER=shop.address, SIGHTLINE_SESSION="demo")
    cells = json.loads(made.read_text())["cells"]
    printed = ["".join(map(str, cell.get("outputs", []))) for cell in cells]
    assert any("image/jpeg" in each or "image/png" in each for each in printed)
    assert any("frames seen" in each for each in printed)
    assert not any("Error" in each for each in printed)
