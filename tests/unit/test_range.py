"""Positions stay within those a model was trained for; weights without numbers start nothing."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from services.inference_worker.assembly import assemble
from services.inference_worker.config import WorkerConfig
from services.inference_worker.model.errors import ModelError
from services.inference_worker.model.family import most_segments
from services.inference_worker.model.registry import load_model
from sightline.errors import InvalidArgumentError
from tests.checkpoints import FAMILIES, write_checkpoint
from tests.unit.tiny import Bench, tiny_model

CPU = torch.device("cpu")
CONFIG = WorkerConfig(kv_memory_bytes=2**26)


def test_a_default_window_beyond_the_positions_is_refused_at_the_start() -> None:
    sink = len(tiny_model().sink_tokens())
    fitting = tiny_model(window=12, horizon=sink + 12)
    assert most_segments(fitting, fitting.spec.layout) == 12
    engine = assemble(fitting, CONFIG, torch.float32, CPU)
    assert engine.limits.max_window_segments == 12
    with pytest.raises(
        ModelError, match=r"a window of 12 segments leaves the positions .*; 11 fit"
    ):
        assemble(tiny_model(window=12, horizon=sink + 11), CONFIG, torch.float32, CPU)


def test_a_session_with_a_longer_window_is_refused() -> None:
    model = tiny_model(window=4, horizon=40)
    most = most_segments(model, model.spec.layout)
    assert 4 < most < CONFIG.max_window
    core = assemble(model, CONFIG, torch.float32, CPU).core
    core.open_session("fits", window_segments=most)
    with pytest.raises(InvalidArgumentError, match=f"window of {most + 1} segments; 1 to {most}"):
        core.open_session("too long", window_segments=most + 1)


def test_frames_that_take_more_positions_than_the_window_has_are_refused(tmp_path: Path) -> None:
    """A long picture takes one for each of its columns."""
    write_checkpoint("qwen2_vl", tmp_path)
    model = load_model(str(tmp_path), torch.float32, CPU, 12_544)
    model.spec = replace(model.spec, position_horizon=len(model.sink_tokens()) + 20 * 6)
    bench = Bench(model, num_pages=4096)
    bench.open("s", window=20, max_pixels=28 * 28 * 16)
    for number, (columns, rows) in enumerate([(4, 4), (4, 4), (16, 1), (16, 1)]):
        bench.push("s", np.zeros((28 * rows, 28 * columns, 3), np.uint8), number)
    bench.run()
    refused = [result for result in bench.results if isinstance(result, InvalidArgumentError)]
    assert len(bench.results) == 4
    assert len(refused) == 2
    assert "with frames of 448×28, 6 fit into the positions" in refused[0].message


def test_a_question_does_not_reach_beyond_the_positions(tmp_path: Path) -> None:
    """SmolVLM2 has 8,192 of them: half are for frames. A smaller model keeps half for either."""
    for positions, kept in ((8192, 4096), (2048, 1024), (128000, 4096)):
        write_checkpoint("smolvlm", tmp_path, max_position_embeddings=positions)
        model = load_model(str(tmp_path), torch.float32, CPU, 0)
        assert model.spec.position_horizon + model.spec.branch_positions == positions
        bench = Bench(model, num_pages=8192, branch_tokens=6000)
        bench.open("s", window=2)
        recorder = bench.ask("s", [1] * 10, max_tokens=kept - 9)
        bench.run()
        assert isinstance(recorder.error, InvalidArgumentError)
        assert f"{kept} fit" in recorder.error.message


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("part", ["decoder.layers.0.down.weight", "tower."])
def test_weights_that_give_no_numbers_start_nothing(family: str, part: str, tmp_path: Path) -> None:
    """Of the decoder, and of the tower alone."""
    write_checkpoint(family, tmp_path)
    model = load_model(str(tmp_path), torch.float32, CPU, 12_544)
    assert isinstance(model, torch.nn.Module)
    name = next(name for name, _ in model.named_parameters() if name.startswith(part))
    model.get_parameter(name).data.fill_(float("nan"))
    engine = assemble(model, CONFIG, torch.float32, CPU)
    with pytest.raises(ModelError, match=r"no valid scores.*do not fit into float32"):
        engine.start().result(timeout=60)
    engine.stop()


def test_weights_beyond_half_precision_start_nothing_in_it(tmp_path: Path) -> None:
    write_checkpoint("qwen2_5_vl", tmp_path)
    model = load_model(str(tmp_path), torch.float32, CPU, 12_544)
    assert isinstance(model, torch.nn.Module)
    model.get_parameter("decoder.layers.1.down.weight").data.mul_(1e6)
    omega = model.decoder.omega.data.clone()
    model.half()
    model.decoder.omega.data = omega
    engine = assemble(model, CONFIG, torch.float16, CPU)
    with pytest.raises(ModelError, match=r"do not fit into float16: WORKER_DTYPE"):
        engine.start().result(timeout=60)
    engine.stop()
