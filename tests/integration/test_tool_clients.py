"""Functions and JSON by the clients that people have, of a model whose weights are random: what it
says means nothing, and has its form all the same. `make wires-test` installs the clients."""

import json
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import sightline
from tests.checkpoints import write_checkpoint
from tests.processes import REPOSITORY, ServiceProcess
from tests.wires import program

pytestmark = pytest.mark.slow
Told = Callable[[str], dict[str, Any]]


@pytest.fixture(scope="module")
def told(
    tmp_path_factory: pytest.TempPathFactory, shared_process: Callable[..., ServiceProcess]
) -> Iterator[Told]:
    """`told("openai")`: what that client's program says came of it."""
    python = program("python")
    worker = shared_process(
        "inference_worker",
        WORKER_MODEL=write_checkpoint("qwen2_5_vl", tmp_path_factory.mktemp("model")),
        WORKER_THREADS=1,
        WORKER_DTYPE="float32",
        WORKER_FRAME_PIXELS=12_544,
        WORKER_MAX_SESSIONS=2,
        WORKER_KV_MEMORY_BYTES=256 << 20,
    )
    gateway = shared_process("gateway", GATEWAY_WORKERS=worker.address)

    def run(name: str) -> dict[str, Any]:
        script = REPOSITORY / "tests" / "wires" / f"tools_{name}.py"
        address = f"http://127.0.0.1:{gateway.http_port}/"
        command = [python, str(script), address, "kitchen"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stdout + done.stderr[-4000:]
        said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return said

    rng = np.random.default_rng(0)
    with sightline.connect(gateway.address) as client:
        session = client.open(push=True, lossless=True, fps=4, name="kitchen")
        session.push((rng.integers(0, 256, (90, 160, 3), np.uint8) for _ in range(4)), fps=4)
        yield run


def test_openais_own_client(told: Told) -> None:
    said = told("openai")
    assert said.pop("pieces") > 1
    assert said == {
        "parsed": True,
        "stream parsed": True,
        "finish": "tool_calls",
        "called": ["set_lamp", ["colour", "level"]],
        "streamed": ["tool_calls", 1],
        "answer": ["length", True],
        "expires": True,
        "tools": ["ring", "set_lamp"],
        "call": ["completed", "function_call", "ring"],
        "same call": True,
        "after": ["message", "assistant"],
    }


def test_livekits_agents(told: Told) -> None:
    said = told("livekit")
    assert said["calls"] == [["ring", {}]] * len(said["calls"]) != []
    assert (said["answered"], said["errors"]) == (True, [])


def test_pipecats_pipeline(told: Told) -> None:
    said = told("pipecat")
    assert said["calls"] == [["ring", {}]] * len(said["calls"]) != []
    first, *_, last = said["responses"]
    assert (set(first), set(last)) == ({"function_call"}, {"message"})
