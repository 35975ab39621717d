"""The kernels as compiled, graphs, streams, and a host that does not wait: on a real device."""

from typing import Any

import numpy as np
import pytest
import torch

from services.inference_worker import metrics
from services.inference_worker.engine.admission import EngineLimits
from services.inference_worker.engine.core import EngineCore
from services.inference_worker.engine.jobs import FrameJob, Generation
from services.inference_worker.engine.scheduler import StepLimits
from services.inference_worker.kv.trunk import SessionPages
from services.inference_worker.model.family import StreamingModel
from services.inference_worker.model.registry import load_model
from services.inference_worker.model.sampling import GREEDY, Sampling
from services.inference_worker.runner.runner import Runner
from tests.unit.tiny import Recorder, random_picture, tiny_model

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
pytest.importorskip("triton", reason="the kernels are written in Triton")

QUESTION = [1, 10, 11, 12, 7]


def core_of(model: StreamingModel, **options: Any) -> EngineCore:
    runner = Runner(
        model,
        num_pages=1024,
        page_size=16,
        dtype=model.decoder.embedding.weight.dtype,
        device=torch.device("cuda"),
        **options,
    )
    step = StepLimits(
        tokens=1024, question_tokens=64, question_sessions=8, burst_segments=1, batch_wait_s=0.0
    )
    limits = EngineLimits(
        max_sessions=8,
        frame_queue=64,
        branch_tokens=256,
        waiting_branches=32,
        max_window_segments=64,
    )
    return EngineCore(model, runner, SessionPages(1024, 16), step, limits, clock=lambda: 0.0)


def show(core: EngineCore, session: str, rng: np.random.Generator, number: int) -> None:
    layout = core.model.spec.layout
    pixels = random_picture(rng, layout.width).tobytes()
    core.submit_frame(session, FrameJob(pixels, layout, number, number, 0.0, lambda receipt: None))


def play(core: EngineCore, sampling: Sampling = GREEDY) -> list[list[int]]:
    """Two sessions, more frames than their windows hold, three questions; the answers' tokens."""
    rng = np.random.default_rng(1)
    for name in ("a", "b"):
        core.open_session(name)
    for number in range(6):
        for name in ("a", "b"):
            show(core, name, rng, number)
        core.run_step()
    recorders = []
    for name in ("a", "a", "b"):
        recorders.append(Recorder())
        core.submit_branch(name, Generation(list(QUESTION), 6, recorders[-1], sampling=sampling))
    while not all(recorder.ended for recorder in recorders):
        core.prepare()
        core.run_step()
    core.cache.check_integrity()
    return [recorder.tokens for recorder in recorders]


@pytest.mark.parametrize("kind", ["auto", "int8"])
def test_block_attention_answers_as_gathering_does(kind: str) -> None:
    device = torch.device("cuda")
    answers = []
    for attention in ("gather", "block"):
        model = tiny_model(window=3).prepare(torch.float32, device)
        core = core_of(model, attention=attention, kv_dtype=kind)
        assert core.runner.attention == attention
        answers.append(play(core))
    assert answers[0] == answers[1]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_hidden_states_in_half_precision_are_near(dtype: torch.dtype) -> None:
    """The built-in model, whose heads are 64 wide; the last hidden states of the same steps."""
    found: dict[str, list[torch.Tensor]] = {"gather": [], "block": []}
    for attention, hidden in found.items():
        model = load_model("builtin", dtype, torch.device("cuda"), 0)
        core = core_of(model, attention=attention)
        inner = core.runner._sample

        def sample(logits: torch.Tensor, runs: Any, inner: Any = inner, kept: Any = hidden) -> Any:
            kept.append(logits[0].clone())
            return inner(logits, runs)

        core.runner._sample = sample  # type: ignore[method-assign]
        play(core)
    for plain, ours in zip(*found.values(), strict=False):
        bound = 0.05 if dtype == torch.bfloat16 else 0.01
        assert float((plain - ours).abs().max()) < bound * float(plain.abs().max())
        break  # later ones may have other words before them


def test_recurring_steps_are_replayed_and_answer_as_launched_ones() -> None:
    device = torch.device("cuda")
    answers = []
    before = metrics.DEVICE_STEPS.labels("replayed")._value.get()
    for graphs in (True, False):
        core = core_of(tiny_model(window=3).prepare(torch.float32, device), attention="block")
        assert core.runner.blocks is not None
        if not graphs:
            core.runner.blocks.graphs = None
        answers.append(play(core))
    assert answers[0] == answers[1]
    assert metrics.DEVICE_STEPS.labels("replayed")._value.get() > before


def test_a_step_waits_for_the_device_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Anything else that waited would raise, sampling with dice and penalties included."""
    core = core_of(tiny_model(window=3).prepare(torch.float32, torch.device("cuda")))
    play(core)  # compiles
    assert core.runner.blocks is not None
    forward = core.runner.blocks.forward

    def watched(*args: Any) -> torch.Tensor:
        torch.cuda.set_sync_debug_mode("error")
        try:
            return forward(*args)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(core.runner.blocks, "forward", watched)
    for name in ("a", "b"):
        core.close_session(name)
    play(core, Sampling(temperature=0.8, top_p=0.9, repetition_penalty=1.2, seed=3))


def test_pictures_encoded_ahead_are_those_of_their_steps() -> None:
    """More frames wait than a step takes; the encoder's stream runs beside the decoder's."""
    answers = []
    for ahead in (True, False):
        model = tiny_model(window=3).prepare(torch.float32, torch.device("cuda"))
        core = core_of(model, attention="block")
        if not ahead:
            core._builder.waiting_tubelets = lambda sessions: []  # type: ignore[method-assign]
        core.open_session("s")
        rng = np.random.default_rng(2)
        for number in range(8):
            show(core, "s", rng, number)
        while core.sessions["s"].frames:
            core.run_step()
        recorder = Recorder()
        core.submit_branch("s", Generation(list(QUESTION), 6, recorder))
        while not recorder.ended:
            core.prepare()
            core.run_step()
        answers.append(recorder.tokens)
    assert answers[0] == answers[1]
