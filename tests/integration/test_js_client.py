"""The JavaScript client: in Node, against a running suite; its types; what npm would publish."""

import json
import shutil
import subprocess
from pathlib import Path
from threading import Timer

import pytest

from clients.js import contract
from services.local.clip import Clip
from sightline.version import __version__
from tests.e2e.wire import Wire
from tests.eventually import PATIENCE_S
from tests.processes import REPOSITORY
from tests.suite import Suite, passing_condition

CLIENT = REPOSITORY / "clients" / "js"
PROGRAM = REPOSITORY / "tests" / "integration" / "js_client.mjs"
VOICE = PROGRAM.with_name("js_voice.mjs")
NODE = ("node", "--experimental-websocket", "--no-warnings")  # which Node 22 has anyway


def test_its_types_are_those_of_the_contract() -> None:
    assert contract.FILE.read_text() == contract.text(), "python -m clients.js.contract"
    assert json.loads((CLIENT / "package.json").read_text())["version"] == __version__


@pytest.mark.needs("tsc")
def test_its_types_hold_for_a_program(tmp_path: Path) -> None:
    (tmp_path / "node_modules").mkdir()
    (tmp_path / "node_modules" / "sightline-live").symlink_to(CLIENT)
    shutil.copy(PROGRAM.with_suffix(".ts"), tmp_path / "consumer.ts")
    options = "--noEmit --strict --skipDefaultLibCheck --module nodenext --target es2023"
    libraries = "es2023,dom,dom.asynciterable"
    command = [str(CLIENT / "node_modules" / ".bin" / "tsc"), *options.split(), "--lib", libraries]
    done = subprocess.run([*command, "consumer.ts"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.needs("npm")
def test_npm_would_publish_the_files_of_the_page_and_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "clients" / "js"
    shutil.copytree(CLIENT, folder, ignore=shutil.ignore_patterns("node_modules", "__pycache__"))
    shutil.copy(REPOSITORY / "LICENSE", tmp_path)
    command = ["npm", "pack", "--dry-run", "--json", "--silent", "--offline"]
    packed = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    (package,) = json.loads(packed.stdout[packed.stdout.index("[") :])
    sources = {f"src/{file.name}" for file in (CLIENT / "src").iterdir()}
    files = {file["path"] for file in package["files"]}
    assert files == sources | {"LICENSE", "README.md", "package.json"}


@pytest.mark.needs("node")
def test_an_older_node_is_told_what_it_lacks() -> None:
    program = (
        f"import {{ Sightline }} from '{CLIENT / 'src' / 'index.js'}';\n"
        "delete globalThis.WebSocket;\n"
        "const server = new Sightline('http://localhost:9');\n"
        "try { for await (const piece of server.ask('demo', 'hi')) console.log(piece); }\n"
        "catch (error) { console.log(error.name, error.message); }\n"
    )
    command = [*NODE, "--input-type=module", "--eval", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.stdout == (
        "SightlineError There is no WebSocket here: Node.js 22 or later has one.\n"
    ), done.stderr


@pytest.mark.needs("node", "redis")
def test_a_program_of_node_converses(suite: Suite, clip: Clip, tmp_path: Path) -> None:
    condition = passing_condition(clip)
    with Wire(suite.gateway.http_port) as wire:
        process = subprocess.Popen(
            [*NODE, str(PROGRAM), wire.url, clip.path.name, condition],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=(tmp_path / "errors").open("w"),
            text=True,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        said = []
        watchdog = Timer(PATIENCE_S, process.kill)
        watchdog.start()
        for line in process.stdout:
            said.append(json.loads(line))
            if said[-1] in ("cut it", "mend it"):
                wire.cut() if said[-1] == "cut it" else wire.mend()
            if said[-1] in ("lost", "mend it"):
                print(file=process.stdin, flush=True)
        watchdog.cancel()
        assert process.wait(20) == 0, (said[-3:], (tmp_path / "errors").read_text())
    model, pieces, *rest = said
    assert model
    assert all(pieces)
    assert rest == [
        ["done", True, True, True],
        ["What is in the scene?"],
        [condition, True, True],
        "cut it",
        "lost",
        ["asked", "connection"],
        "mend it",
        ["done", "", 1],
        "FINISH_REASON_CANCELLED",
        True,
        ["image/jpeg", True],
        [[True, 0], [True, 2]],
        [2, {"room": "hall"}],
        [],
        "FAILED_PRECONDITION",
        [True, "NOT_FOUND"],
        [True, "NOT_FOUND"],
        ["NOT_FOUND", "gone"],
    ]


@pytest.mark.needs("node")
def test_what_a_break_of_the_connection_cut_off_is_said_again() -> None:
    ran = subprocess.run([*NODE, str(VOICE)], capture_output=True, text=True, check=True)
    assert json.loads(ran.stdout) == {
        "before": ["HANDS_FREE", 1],
        "after": ["HANDS_FREE", 1, 2, 3],
        "settled": ["HANDS_FREE", *range(113, 121)],
        "most": 480,  # of twenty a second
        "newest": 999,
        "held": ["HOLD", 5, 6, "OFF"],
        "nothing": ["OFF"],
    }
