"""Functions and JSON by the official `openai` package, of a model with random weights."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import sightline
from tests.checkpoints import write_checkpoint
from tests.processes import REPOSITORY, ServiceProcess
from tests.wires import program

pytestmark = pytest.mark.slow


def test_openai_s_own_client_calls_functions(
    tmp_path: Path, shared_process: Callable[..., ServiceProcess]
) -> None:
    python = program("python")
    worker = shared_process(
        "inference_worker",
        WORKER_MODEL=write_checkpoint("qwen2_5_vl", tmp_path / "model"),
        WORKER_THREADS=1,
        WORKER_DTYPE="float32",
        WORKER_FRAME_PIXELS=12_544,
        WORKER_MAX_SESSIONS=2,
        WORKER_KV_MEMORY_BYTES=256 << 20,
    )
    gateway = shared_process("gateway", GATEWAY_WORKERS=worker.address)
    rng = np.random.default_rng(0)
    with sightline.connect(gateway.address) as client:
        session = client.open(push=True, lossless=True, fps=4, name="kitchen")
        session.push((rng.integers(0, 256, (90, 160, 3), np.uint8) for _ in range(4)), fps=4)
        script = REPOSITORY / "tests" / "wires" / "openai_tools.py"
        address = f"http://127.0.0.1:{gateway.http_port}"
        command = [python, str(script), address, "kitchen"]
        run = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode == 0, run.stderr[-4000:]
    found = json.loads(run.stdout)
    assert found.pop("pieces") > 1
    assert found == {
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
