"""Tuned on real footage by the command, served by the real worker, asked through gateway and SDK.

Minutes on a small machine, so `make tune-test` runs it and `make test` does not.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import sightline
from tests import tools
from tests.checkpoints import write_checkpoint
from tests.processes import REPOSITORY, ServiceProcess

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2700)]

MEDIA = Path(os.environ.get("SIGHTLINE_TEST_MEDIA", REPOSITORY.parent / "shared" / "media"))
VIDEO = MEDIA / "bottle-detection.mp4"
PIXELS = 12_544
QUESTION = "What is happening?"
# Made up, and different answers to one question: only the video tells which. Both moments follow
# an even number of frames, so that no tubelet waits for its partner.
LABELS = {3.7: "A hand walks into the kitchen.", 7.7: "Two bottles are sitting on the table."}
STEPS = {"builtin": ("60", "3e-4"), "qwen2_5_vl": ("120", "1e-2"), "smolvlm": ("120", "1e-2")}


@pytest.mark.skipif(not VIDEO.is_file(), reason=f"{VIDEO} is absent; see SIGHTLINE_TEST_MEDIA")
@pytest.mark.parametrize("family", STEPS)
def test_a_tuned_model_answers_as_labelled(
    family: str, tmp_path: Path, service_process: Callable[..., ServiceProcess]
) -> None:
    if family != "builtin":
        tools.require("peft")
    model = family if family == "builtin" else write_checkpoint(family, tmp_path / family)
    with (tmp_path / "clips.jsonl").open("w") as file:
        for at, answer in LABELS.items():
            turn = {"at": at, "question": QUESTION, "answer": answer}
            file.write(json.dumps({"video": str(VIDEO), "conversation": [turn]}) + "\n")
    steps, rate = STEPS[family]
    command = [sys.executable, "-m", "training", "tune", f"--model={model}", f"--steps={steps}"]
    command += [f"--learning-rate={rate}", f"--frame-pixels={PIXELS}", "--batch=2", "--device=cpu"]
    command += [f"--data={tmp_path / 'clips.jsonl'}", f"--output={tmp_path / 'tuned'}"]
    command += [f"--folder={tmp_path / 'run'}"]
    tuned = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert tuned.returncode == 0, tuned.stdout + tuned.stderr

    worker = service_process(
        "inference_worker",
        timeout_s=120,
        WORKER_MODEL=tmp_path / "tuned",
        WORKER_FRAME_PIXELS=PIXELS,
        WORKER_MAX_SESSIONS=2,
        WORKER_KV_MEMORY_BYTES=256 << 20,
    )
    gateway = service_process("gateway", GATEWAY_WORKERS=worker.address)
    with sightline.connect(gateway.address) as client:
        for at, label in LABELS.items():
            session = client.open(VIDEO, realtime=False, until_s=at)
            session.wait()
            said = session.ask(QUESTION).result().text
            session.delete()
            if family == "builtin":  # knows neither case nor full stops
                label = label.lower().rstrip(".")
            assert said == label
