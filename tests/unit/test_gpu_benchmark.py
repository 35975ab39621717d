"""That the GPU's benchmark runs, at tiny shapes on the CPU; its figures mean nothing here."""

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console

from benchmarks import gpu, machine
from benchmarks.report import show, write
from benchmarks.rows_result import ROWS


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU to measure")
def test_without_a_gpu_it_says_so_and_measures_nothing() -> None:
    with pytest.raises(SystemExit, match="no CUDA device") as caught:
        gpu.run(lambda doing, done: None, quick=False)
    assert caught.value.code != 0


@pytest.mark.device
@pytest.mark.needs("triton")
@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
def test_the_whole_of_it_runs(family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKER_DTYPE", "float32")  # the interpreter multiplies no bfloat16
    monkeypatch.setenv("WORKER_KV_MEMORY_BYTES", str(64 * 2**20))
    monkeypatch.setenv("WORKER_MAX_SESSIONS", "2")
    models = {family: gpu.TINY.models[family]}
    tiny = replace(
        gpu.TINY,
        models=models,
        warm_up_s=0.1,
        measure_s=0.6,
        sessions=(1,),
        window_pages=1,
    )
    monkeypatch.setattr(gpu, "TINY", tiny)
    shares: list[float] = []
    result = gpu.run(lambda doing, done: shares.append(done), quick=True)
    assert shares == sorted(shares)

    (measured,) = result.figures["models"]
    assert [load.title for load in measured.rows] == [row.title for row in ROWS]
    for load in measured.rows:
        assert load.failed == 0
        assert load.every_frame.count == load.processed > 0
        assert load.segment.count <= load.every_frame.count
    assert measured.first_token.count == tiny.turns
    ran = {(way.way, way.case): way for way in measured.ways if way.seconds is not None}
    assert len({case for _, case in ran}) == 4
    for (name, _), way in ran.items():  # a candidate that computes something else is no candidate
        assert way.error < 1e-4, name
    assert {"gather", "FlexAttention", "block"} <= {name for name, _ in ran}

    console = Console(file=io.StringIO(), width=200)
    show(result, console)
    path = write(result, machine.describe(0.1), tmp_path)
    assert json.loads(path.read_text())["benchmark"] == "gpu"
    assert path.with_suffix(".png").stat().st_size > 10_000
