"""That the benchmarks of kernels and of reuse run, at tiny shapes; their figures mean nothing
here."""

import pytest
import torch
from prometheus_client import REGISTRY

from benchmarks import kernels as benchmark
from benchmarks import reuse, variants
from services.inference_worker.device import ops as kernels

pytestmark = pytest.mark.option


@pytest.fixture
def one_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(variants, "MODELS", ("smolvlm",))
    monkeypatch.setenv("WORKER_DEVICE", "cpu")
    monkeypatch.setenv("WORKER_DTYPE", "float32")


@pytest.mark.slow
@pytest.mark.usefixtures("one_model")
def test_steps_run_with_kernels_and_without(monkeypatch: pytest.MonkeyPatch) -> None:
    built = kernels.built(torch.float32)
    if built is None:
        pytest.skip("no kernels were built")
    asked = list[torch.dtype]()

    def noted(dtype: torch.dtype) -> kernels.Kernels | None:
        asked.append(dtype)
        return built

    monkeypatch.setattr(kernels, "built", noted)
    result = benchmark.run(lambda doing, done: None, quick=True)
    assert len(asked) > 1  # by the model, not only by the benchmark
    for steps in (result.figures["one"]["smolvlm"], result.figures["many"]["smolvlm"]):
        assert len(steps.with_s) == len(steps.without_s) == 2
        assert min(steps.with_s + steps.without_s) > 0


@pytest.mark.usefixtures("one_model")
def test_still_footage_is_encoded_or_not() -> None:
    def pictures(how: str) -> float:
        return REGISTRY.get_sample_value("sightline_worker_pictures_total", {"outcome": how}) or 0.0

    before = {how: pictures(how) for how in ("reused", "encoded")}
    result = reuse.run(lambda doing, done: None, quick=True)
    steps = result.figures["many"]["smolvlm"]
    assert len(steps.with_s) == len(steps.without_s) == 2
    assert all(pictures(how) - before[how] >= 2 * variants.SESSIONS for how in before)


@pytest.mark.usefixtures("one_model")
def test_where_nothing_is_built_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "built", lambda dtype: None)
    with pytest.raises(RuntimeError, match="no kernels were built"):
        benchmark.run(lambda doing, done: None, quick=True)
