"""Published checkpoints load as they are published, stream, and equal transformers."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from services.inference_worker.model.errors import ModelError
from services.inference_worker.model.published.model import PublishedModel
from services.inference_worker.model.registry import load_model
from services.inference_worker.model.sampling import Sampling
from tests.published import Pair, Transcript
from tests.releases import ANSWERING, EXPERTS, INTERNVL, THINKING, Release, resave, write_release
from tests.unit.tiny import Bench

TOLERANCE = 2e-4
SECOND_NS = 1_000_000_000
WINDOW = 2

USUAL = {
    "qwen2_vl": Sampling(temperature=0.01, top_k=1, top_p=0.001),
    "qwen2_5_vl": Sampling(temperature=1e-6, top_k=50, repetition_penalty=1.05),
    "qwen3_vl": Sampling(temperature=0.7, top_k=20, top_p=0.8),
    "qwen3_vl_moe": Sampling(temperature=0.7, top_k=20, top_p=0.8),
    "internvl": Sampling(top_k=50),
    "smolvlm": Sampling(top_k=50),
}


@pytest.fixture(params=["published", "resaved"])
def layout(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.mark.parametrize("release", [*ANSWERING, *EXPERTS, *INTERNVL], ids=str)
def test_a_release_streams_and_equals_transformers(
    release: Release, layout: str, tmp_path: Path
) -> None:
    """Three tubelets in a window of two, then a question: the logits of its every token."""
    folder = write_release(release, tmp_path / "published")
    if layout == "resaved":
        folder = resave(release, folder, tmp_path / "resaved")
        assert not list(folder.glob("*preprocessor_config.json"))
    pair = Pair.read(folder)
    model = pair.ours
    assert model.sampling == USUAL[release.family]
    bench = Bench(model, num_pages=2048, branch_tokens=200)
    factor = model.size_factor
    side = model.spec.layout.width
    width, height = (3 * factor, 2 * factor) if factor else (side, side)
    bench.open("s", window=WINDOW, max_pixels=width * height)
    transcript = Transcript(pair)
    rng = np.random.default_rng(1)
    for tubelet in range(3):
        start = tubelet * model.tubelet
        shape = (model.tubelet, height, width, 3)
        frames = list(rng.integers(0, 256, shape, dtype=np.uint8))
        for n, frame in enumerate(frames):
            bench.push("s", frame, (start + n) * SECOND_NS)
        bench.run()
        transcript.show(frames, start + (model.tubelet - 1) / 2)
    question = model.question_tokens([], "What changed in the picture?")
    bench.ask("s", question)
    bench.run()
    expected = transcript.asked(question).logits(WINDOW)[-1]
    assert float((bench.runner.logits[-1] - expected).abs().max()) < TOLERANCE


@pytest.mark.parametrize("release", THINKING, ids=str)
def test_a_model_that_thinks_aloud_is_named_with_what_to_take(
    release: Release, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_release(release, tmp_path / release.name)
    monkeypatch.chdir(tmp_path)
    instead = release.name.replace("Thinking", "Instruct")
    with pytest.raises(ModelError, match=f"begins every answer with <think>.*take {instead}"):
        load_model(release.name, torch.float32, torch.device("cpu"), 12_544)


@pytest.mark.parametrize(
    "release", [ANSWERING[0], ANSWERING[5], ANSWERING[-2], *INTERNVL[::3]], ids=str
)
def test_an_answer_is_that_of_generate(release: Release, tmp_path: Path) -> None:
    """By what generation_config.json says and nothing else: nearly no temperature, a penalty on
    whatever stands in the prompt, and several ends."""
    pair = Pair.read(write_release(release, tmp_path))
    model = pair.ours
    bench = Bench(model, num_pages=2048, branch_tokens=200)
    side = model.size_factor * 2 or model.spec.layout.width
    bench.open("s", window=4, max_pixels=side**2)
    transcript = Transcript(pair)
    rng = np.random.default_rng(2)
    for tubelet in range(3):
        frames = list(rng.integers(0, 256, (model.tubelet, side, side, 3), dtype=np.uint8))
        for n, frame in enumerate(frames):
            bench.push("s", frame, (tubelet * model.tubelet + n) * SECOND_NS)
        bench.run()
        transcript.show(frames, tubelet * model.tubelet + (model.tubelet - 1) / 2)
    question = model.question_tokens([], "What changed?")
    recorder = bench.ask("s", question, max_tokens=12, sampling=model.sampling)
    bench.run()
    inputs = transcript.asked(question).inputs()
    with torch.inference_mode():
        whole = pair.theirs.generate(**inputs, max_new_tokens=12)
    theirs = whole[0, inputs["input_ids"].shape[1] :].tolist()
    ended = recorder.tokens if len(recorder.tokens) == 12 else [*recorder.tokens, theirs[-1]]
    assert ended == theirs


@pytest.mark.needs("torchvision", "num2words")
@pytest.mark.parametrize("number", [0, 5, 10, 15], ids=lambda number: str(ANSWERING[number]))
def test_what_the_processor_itself_saves_is_read(number: int, tmp_path: Path) -> None:
    """`save_pretrained` of transformers' own processor, where there is what it needs, against what
    `resave` writes in its place everywhere."""
    published = write_release(ANSWERING[number], tmp_path / "published")
    ours = resave(ANSWERING[number], published, tmp_path / "resaved")
    theirs = shutil.copytree(ours, tmp_path / "saved")
    for file in ("processor_config.json", "chat_template.jinja"):
        (theirs / file).unlink()
    transformers.AutoProcessor.from_pretrained(published).save_pretrained(theirs)
    saved, written = (json.loads((f / "processor_config.json").read_text()) for f in (theirs, ours))
    assert saved["video_processor"].keys() >= written["video_processor"].keys()
    one, other = (
        load_model(str(folder), torch.float32, torch.device("cpu"), 12_544)
        for folder in (theirs, ours)
    )
    assert one.sink_tokens() == other.sink_tokens()
    assert one.question_tokens([], "Who?") == other.question_tokens([], "Who?")
    assert isinstance(one, PublishedModel)
    assert isinstance(other, PublishedModel)
    assert one.preprocessor == other.preprocessor
