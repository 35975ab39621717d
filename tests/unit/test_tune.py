"""Tuning on users' own video: the data, what one forward trains on, and the tuned folder."""

import asyncio
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from services.gateway.frames.frame_size import FrameSize
from services.gateway.sources.file import FileSource
from services.inference_worker.config import WorkerConfig
from services.inference_worker.model.errors import ModelError
from services.inference_worker.model.family import Round
from services.inference_worker.model.registry import load_model
from tests import tools
from tests.checkpoints import write_checkpoint
from tests.published import Pair, Transcript
from tests.sources import Ring, write_clip
from tests.unit.tiny import Bench, tiny_model
from training.__main__ import main
from training.batches import with_words
from training.pieces import Piece, cut, trunk_of
from training.recordings import DataError, Footage, Recording, Turn, read_footage, read_recordings
from training.train import replace_folder
from training.tune import Tuner, Tuning

pytestmark = pytest.mark.option

CPU = torch.device("cpu")
SMALL_PIXELS = 12_544
SECOND_NS = 1_000_000_000
ANYONE = ("builtin", "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "internvl", "smolvlm")
FPS = {"builtin": 8.0, "internvl": 2.0, "smolvlm": 2.0}  # of the others: 4
needs_peft = pytest.mark.needs("peft")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video of 6 s, with a JSONL about it."""
    folder = tmp_path_factory.mktemp("data")
    write_clip(folder / "square.mp4", seconds=6, fps=16)
    turns = [
        {"at": 1.5, "question": "What is red?", "answer": "The blue circle."},
        {"at": 2.4, "question": "Who?", "answer": "You and it"},
        {"at": 5.5, "question": "What is red?", "answer": "No video"},
    ]
    line = {"video": "square.mp4", "start": 0.5, "end": 5.5, "conversation": turns}
    (folder / "clips.jsonl").write_text(json.dumps(line) + "\n\n")
    return folder


@pytest.fixture(scope="module", params=ANYONE)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny random model; its name is its kind."""
    if request.param != "builtin":
        tools.require("peft")
    return write_model(request.param, tmp_path_factory.mktemp("models"))


def write_model(kind: str, folder: Path) -> Path:
    path = folder / kind
    if kind == "builtin":
        tiny_model().save(path)
    else:
        write_checkpoint(kind, path, shards=2)
    return path


def tuner_of(model: Path, data: Path, tmp_path: Path, **options: Any) -> Tuner:
    tuning = Tuning(
        model=str(model),
        data=data / "clips.jsonl",
        folder=tmp_path / "run",
        fps=FPS.get(model.name, 4.0),
        frame_pixels=SMALL_PIXELS,
        device="cpu",
        **{"output": tmp_path / "tuned", "batch": 1, "rank": 8, **options},
    )
    return Tuner(tuning, Console(quiet=True))


def loaded(folder: Path) -> Any:
    return load_model(str(folder), torch.float32, CPU, SMALL_PIXELS)


class Session:
    """A clip shown to the engine segment by segment."""

    def __init__(self, model: Any, footage: Footage) -> None:
        self.model, self.footage = model, footage
        self._now_s, self._shown = 0.0, 0
        self.bench = Bench(model, num_pages=2048, branch_tokens=400, clock=lambda: self._now_s)
        _, height, width, _ = footage.pixels.shape
        self.bench.open("s", max_pixels=width * height)

    def show(self, segment: int) -> None:
        """Everything up to this segment."""
        end = min((segment + 1) * self.model.spec.tubelet, len(self.footage.pixels))
        for number in range(self._shown, end):
            captured_ns = round(self.footage.times_s[number] * SECOND_NS)
            self.bench.push("s", self.footage.pixels[number], captured_ns)
        self._shown = end
        self._now_s += 10.0  # a tubelet that lacks frames is given up waiting for
        self.bench.run()

    def ask(self, prompt: list[int], max_tokens: int, before: int = 0) -> str:
        recorder = self.bench.ask("s", prompt, max_tokens=max_tokens, before=before)
        self.bench.run()
        assert recorder.error is None
        return str(self.model.text(recorder.tokens))


@pytest.fixture(autouse=True)
def full_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.tune.fast_dtype", lambda device: torch.float32)


# The data


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("{", "clips.jsonl:1: not JSON"),
        ("[]", "clips.jsonl:1: must be an object with video, start, end, conversation"),
        ({"video": 5}, "1: video: must be text"),
        ({"video": "gone.mp4"}, "1: video: there is no file"),
        ({"start": "soon"}, "1: start: must be a number of seconds"),
        ({"start": -1}, "1: start: must be a number of seconds from 0 on"),
        ({"start": 5, "end": 4}, "1: end: 4 is not after the start, 5"),
        ({"ende": 4}, "1: ende: no such field; there are video, start, end, conversation"),
        ({"conversation": []}, "1: conversation: must be a list of at least one question"),
        ({"conversation": ["hello"]}, r"1: conversation\[0\]: must be an object"),
        ({"at": None}, r"1: conversation\[0\]\.at: must be a number"),
        ({"at": float("nan")}, r"1: conversation\[0\]\.at: must be a number of seconds from 0"),
        ({"at": 9, "end": 8}, r"1: conversation\[0\]\.at: 9 is outside the clip, 0 to 8"),
        ({"question": " "}, r"1: conversation\[0\]\.question: must be text"),
        ({"answer": 7}, r"1: conversation\[0\]\.answer: must be text"),
        ({"said": "x"}, r"1: conversation\[0\]\.said: no such field"),
    ],
)
def test_bad_lines_are_named(tmp_path: Path, line: Any, complaint: str) -> None:
    (tmp_path / "square.mp4").touch()
    if isinstance(line, dict):
        clip = {"video": "square.mp4", "conversation": [{"at": 1, "question": "a", "answer": "b"}]}
        if line.keys() & {"at", "question", "answer", "said"}:
            clip["conversation"] = [{**clip["conversation"][0], **line}]  # type: ignore[dict-item]
            clip |= {name: clip["conversation"][0].pop(name) for name in ("end",) if name in line}  # type: ignore[attr-defined]
        else:
            clip |= line
        line = json.dumps(clip)
    (tmp_path / "clips.jsonl").write_text(line)
    with pytest.raises(DataError, match=complaint):
        read_recordings(tmp_path / "clips.jsonl")


def test_questions_come_in_order_and_files_have_clips(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.jsonl: cannot be read"):
        read_recordings(tmp_path / "none.jsonl")
    (tmp_path / "clips.jsonl").write_text("\n")
    with pytest.raises(DataError, match=r"clips\.jsonl: has no clips"):
        read_recordings(tmp_path / "clips.jsonl")
    (tmp_path / "a.mp4").touch()
    turns = [{"at": at, "question": "a", "answer": "b"} for at in (3, 2)]
    line = json.dumps({"video": "a.mp4", "conversation": turns})
    (tmp_path / "clips.jsonl").write_text(f"\n{line}")
    with pytest.raises(DataError, match=r"2: conversation\[1\]\.at: 2 is before .* above, 3"):
        read_recordings(tmp_path / "clips.jsonl")


def test_bad_videos_are_named(folder: Path, tmp_path: Path) -> None:
    size = FrameSize(width=32, height=32)

    def read(video: Path, start_s: float, end_s: float | None, at_s: float) -> None:
        turn = Turn("c.jsonl:7: conversation[0]", at_s, "a", "b")
        recording = Recording("c.jsonl:7", video, start_s, end_s, (turn,))
        read_footage([recording], 4.0, size, tmp_path)

    (tmp_path / "noise.mp4").write_bytes(b"no video" * 100)
    with pytest.raises(DataError, match=r"c\.jsonl:7: video: .*noise\.mp4: cannot open"):
        read(tmp_path / "noise.mp4", 0.0, None, 1.0)
    with pytest.raises(DataError, match=r"c\.jsonl:7: start: there is no picture after 60 s"):
        read(folder / "square.mp4", 60.0, None, 61.0)
    with pytest.raises(DataError, match=r"c\.jsonl:7: end: 60, but the video ends at 5\.94 s"):
        read(folder / "square.mp4", 0.0, 60.0, 1.0)
    with pytest.raises(DataError, match=r"conversation\[0\]\.at: 60, but the video ends at"):
        read(folder / "square.mp4", 0.0, None, 60.0)


async def test_frames_are_those_the_gateway_makes(folder: Path, tmp_path: Path) -> None:
    size = FrameSize(width=0, height=0, factor=28, min_pixels=784, max_pixels=12_544)
    sampler = Ring(fps=5.0, size=size, loop=asyncio.get_running_loop(), lossless=True)
    source = FileSource("square.mp4", sampler, paced=False, root=folder)
    recording = Recording("", folder / "square.mp4", 0.0, None, ())
    part = replace(recording, start_s=2.0, end_s=4.0)
    whole, some = read_footage([recording, part], 5.0, size, tmp_path)
    assert len(whole.pixels) == 30
    await source.start()
    first_ns = 0
    for pixels, time_s in zip(whole.pixels, whole.times_s, strict=True):
        frame = await sampler.get()
        first_ns = first_ns or frame.capture_ns
        assert (frame.height, frame.width) == pixels.shape[:2]
        assert frame.pixels == pixels.tobytes()
        assert (frame.capture_ns - first_ns) / SECOND_NS == pytest.approx(time_s, abs=1e-6)
    sampler.close()
    await source.aclose()
    assert (some.times_s[0], len(some.times_s)) == (2.0, 11)
    assert some.times_s[-1] == pytest.approx(4.0)


# What one forward trains on


def test_scores_are_those_of_the_engine(model: Path, folder: Path, tmp_path: Path) -> None:
    """Shown the same frames and asked at the same moments, the engine's next token after every
    prompt has the scores that training has: the window, partial tubelets and history included."""
    tuner = tuner_of(model, folder, tmp_path)
    window = 3
    tuner.model.spec = replace(tuner.model.spec, window_segments=window)
    recording = read_recordings(folder / "clips.jsonl")[0]
    footage = tuner.pieces[0].footage
    pieces = cut(tuner.model, WorkerConfig(), recording, footage)
    assert len(footage.pixels) % 2 or model.name == "builtin"  # the last has no partner
    # Nothing is left out of a trunk here, so that evicted segments are still felt.
    spans, _ = trunk_of(tuner.model, footage)
    branches = [replace(b, frame=b.frame + p.first) for p in pieces for b in p.branches]
    whole = Piece(footage, 0, tuple(spans), tuple(branches))
    with torch.no_grad():
        scores = tuner.scores(whole, 0)
    starts = np.cumsum([0, *(len(branch.answer) for branch in branches)])[:-1]

    # peft's layers compute the same before the first step: the engine runs the tuner's own model.
    session = Session(tuner.model, footage)
    for branch in branches:
        session.show(branch.frame)
        session.ask(branch.prompt, 1, branch.before)
    for start, logits in zip(starts, session.bench.runner.logits, strict=True):
        assert float((scores[start] - logits).abs().max()) < 2e-4


def test_prompts_and_answers_are_the_workers(model: Path, folder: Path, tmp_path: Path) -> None:
    tuner = tuner_of(model, folder, tmp_path)
    recording = read_recordings(folder / "clips.jsonl")[0]
    branches = [branch for piece in tuner.pieces for branch in piece.branches]
    rounds = [Round(turn.question, turn.answer) for turn in recording.turns]
    for number, (branch, turn) in enumerate(zip(branches, recording.turns, strict=True)):
        expected = tuner.model.question_tokens(rounds[:number], turn.question)
        assert branch.prompt == expected
        *said, stop = branch.answer
        assert stop in tuner.model.stop_tokens
        assert not set(said) & tuner.model.stop_tokens
        words = turn.answer if model.name != "builtin" else turn.answer.lower().replace(".", "")
        assert tuner.model.text(said).lower().replace(" .", "") == words.lower()


def test_long_clips_are_cut_into_pieces(tmp_path: Path) -> None:
    model = tiny_model(window=4)
    pixels = np.zeros((40, 64, 64, 3), np.uint8)
    footage = Footage(pixels, np.arange(40) / 2)
    turns = tuple(Turn("x", at, "what is", "red") for at in (0.0, 2.0, 2.5, 9.0, 12.0))
    recording = Recording("x", tmp_path, 0.0, None, turns)
    pieces = cut(model, WorkerConfig(), recording, footage)
    moments = [[piece.first + branch.frame for branch in piece.branches] for piece in pieces]
    assert moments == [[0, 4], [5], [18], [24]]
    assert [(piece.first, len(piece.spans)) for piece in pieces] == [
        (0, 5),
        (0, 6),
        (11, 8),
        (17, 8),
    ]
    sink = len(model.sink_tokens())
    assert pieces[2].spans[0].positions[0].tolist() == [sink + 11] * 3
    assert pieces[2].frames(1).shape == (8, 1, 64, 64, 3)


def test_questions_that_cannot_be_trained_on_are_named(folder: Path, tmp_path: Path) -> None:
    model = tiny_model()
    footage = Footage(np.zeros((4, 64, 64, 3), np.uint8), np.arange(4) / 2 + 1.0)

    def check(turn: Turn) -> None:
        cut(model, WorkerConfig(), Recording("x", tmp_path, 0.0, None, (turn,)), footage)

    with pytest.raises(DataError, match=r"c\[0\]\.at: at 0\.5 s the model has seen nothing"):
        check(Turn("c[0]", 0.5, "what", "red"))
    with pytest.raises(DataError, match=r"c\[0\]\.answer: has 10 tokens; .* at most 8"):
        check(Turn("c[0]", 2.0, "what", "red " * 9))
    with pytest.raises(DataError, match=r"c\[0\]\.answer: has no word"):
        check(Turn("c[0]", 2.0, "what", "  "))
    with pytest.raises(DataError, match=r"c\[0\]\.question: has 602 tokens; .* takes 512"):
        check(Turn("c[0]", 2.0, "red " * 600, "blue"))


def test_the_built_in_model_learns_words_and_forgets_none() -> None:
    model = tiny_model()
    same, none = with_words(model, ["red blue"], 1)
    assert same is model
    assert none == []
    larger, new = with_words(model, ["red kitchen", "a kitchen sink"], 1)
    assert new == ["kitchen", "a", "sink"]
    tokens = larger.question_tokens([], "red kitchen sink")
    assert larger.text(tokens) == "red kitchen sink"
    old = len(model.decoder.embedding.weight)
    assert len(larger.decoder.embedding.weight) == old + 3
    for name, tensor in model.state_dict().items():
        kept = larger.state_dict()[name]
        assert torch.equal(kept[: len(tensor)] if tensor.ndim else kept, tensor), name


# What comes out


# Of Qwen's three the one with DeepStack and timestamps: each takes seconds.
@pytest.mark.parametrize(
    "model",
    ["builtin", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("qwen3_vl", "smolvlm"))],
    indirect=True,
)
def test_a_tuned_folder_answers_through_the_engine(
    model: Path, folder: Path, tmp_path: Path
) -> None:
    """Overfit on one clip, written, loaded by the worker, shown the clip and asked: the labels."""
    steps, rate = (400, 5e-3) if model.name == "builtin" else (100, 1e-2)
    tuner = tuner_of(model, folder, tmp_path, steps=steps, learning_rate=rate)
    adapted = all(name.startswith("decoder.layers.") for name in tuner.trained)
    assert adapted is (model.name != "builtin")
    tuner.run()
    tuner.publish()
    tuner.draw_curve()
    assert tuner.curve[-1]["loss"] < 0.05 * tuner.curve[0]["loss"]
    assert (tmp_path / "run" / "curve.csv").read_text().count("\n") == steps + 1
    assert (tmp_path / "run" / "curve.png").exists()

    tuned = loaded(tmp_path / "tuned")
    session = Session(tuned, tuner.pieces[0].footage)
    recording = read_recordings(folder / "clips.jsonl")[0]
    branches = [(p.first + b.frame, b) for p in tuner.pieces for b in p.branches]
    rounds: list[Round] = []
    for turn, (segment, branch) in zip(recording.turns, branches, strict=True):
        session.show(segment)
        said = session.ask(tuned.question_tokens(rounds, turn.question), 40)
        assert said == tuned.text(branch.answer[:-1])
        rounds.append(Round(turn.question, turn.answer))


def test_transformers_reads_the_tuned_folder_alike(
    model: Path, folder: Path, tmp_path: Path
) -> None:
    """Of what was trained, the vision tower included, nothing is lost or misplaced."""
    if model.name == "builtin":
        pytest.skip("is not of transformers")
    import transformers

    tuner = tuner_of(model, folder, tmp_path, steps=8, learning_rate=1e-2, tower=True)
    assert {name.split(".")[0] for name in tuner.trained} == {"decoder", "tower"}
    before = tuner.scores(tuner.pieces[0], 0).detach()
    tuner.run()
    tuner.publish()
    [piece] = tuner.pieces
    with torch.no_grad():
        expected = tuner.scores(piece, 0)
    assert float((expected - before).abs().max()) > 0.5
    files = {path.name for path in model.iterdir()}
    assert {path.name for path in (tmp_path / "tuned").iterdir()} == files
    theirs = transformers.AutoModelForImageTextToText.from_pretrained(tmp_path / "tuned").eval()
    transcript = Transcript(Pair(loaded(tmp_path / "tuned"), theirs, tmp_path / "tuned"))
    times_s, tubelet = piece.footage.times_s, tuner.spec.tubelet
    start, shown = 0, 0
    for branch in piece.branches:
        for frames in piece.frames(tubelet)[shown : branch.frame + 1]:
            mine = times_s[shown * tubelet : (shown + 1) * tubelet] - times_s[0]
            transcript.show(list(frames), float((mine[0] + mine[-1]) / 2))
            shown += 1
        words = [*branch.prompt, *branch.answer[:-1]]
        logits = transcript.asked(words).logits()[-len(branch.answer) :]
        part = expected[start : start + len(branch.answer)]
        assert float((part - logits).abs().max()) < 2e-3
        start += len(branch.answer)


@pytest.mark.parametrize("kind", ["builtin", pytest.param("smolvlm", marks=needs_peft)])
def test_a_resumed_run_ends_where_an_unbroken_one_does(
    kind: str, folder: Path, tmp_path: Path
) -> None:
    model = write_model(kind, tmp_path)
    whole = tuner_of(model, folder, tmp_path / "whole", steps=6, batch=2)
    whole.run()
    first = tuner_of(model, folder, tmp_path / "broken", steps=6, batch=2)
    assert not first.resume()
    first.run(until=3)
    second = tuner_of(model, folder, tmp_path / "broken", steps=6, batch=2)
    assert second.resume()
    assert second.step == 3
    second.run()
    assert second.curve == whole.curve
    for name, tensor in whole.trained.items():
        assert torch.equal(tensor, second.trained[name]), name
    other = tuner_of(model, folder, tmp_path / "broken", steps=7, batch=2)
    assert not other.resume()


@pytest.mark.parametrize(
    "kind", ["builtin", pytest.param("qwen3_vl", marks=[needs_peft, pytest.mark.slow])]
)
def test_bfloat16_learns_too(
    kind: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.tune.fast_dtype", lambda device: torch.bfloat16)
    model = write_model(kind, tmp_path)
    tuner = tuner_of(model, folder, tmp_path, steps=40, batch=2, learning_rate=1e-2)
    assert {parameter.dtype for parameter in tuner.trained.values()} == {torch.float32}
    tuner.run()
    assert tuner.curve[-1]["loss"] < 0.6 * tuner.curve[0]["loss"]


def test_sessions_of_any_age_are_trained_on(folder: Path, tmp_path: Path) -> None:
    tuner = tuner_of(write_model("builtin", tmp_path), folder, tmp_path)
    [sink] = {len(tuner.model.sink_tokens())}
    ages = []
    for step in range(200):
        [(piece, age)] = tuner.draw(step)
        ages.append(age)
        assert piece.spans[0].positions.min() + age >= sink
        assert piece.spans[-1].after + age <= tuner.spec.position_horizon
    assert 60 < ages.count(0) < 140
    assert max(ages) > 0.8 * tuner.spec.position_horizon
    assert tuner.draw(7) == tuner.draw(7)


def test_without_peft_the_message_says_what_to_install(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    model = write_model("smolvlm", tmp_path)
    with pytest.raises(ModelError, match=r"needs peft: pip install -r training/requirements.txt"):
        tuner_of(model, folder, tmp_path)


@needs_peft
def test_mixtures_of_experts_are_not_tuned(folder: Path, tmp_path: Path) -> None:
    model = write_model("qwen3_vl_moe", tmp_path)
    with pytest.raises(ModelError, match="take a dense model"):
        tuner_of(model, folder, tmp_path)


def test_weights_of_before_do_not_stay_beside_new_ones(tmp_path: Path) -> None:
    output = tmp_path / "tuned"
    output.mkdir()
    for name in ("model-00001-of-00002.safetensors", "model.safetensors.index.json", "README.md"):
        (output / name).touch()
    replace_folder(output, tiny_model().save)
    names = {"config.json", "model.safetensors", "tokenizer.json", "README.md"}
    assert {path.name for path in output.iterdir()} == names
    assert {path.name for path in tmp_path.iterdir()} == {"tuned"}


def test_the_model_itself_is_not_written_over(folder: Path, tmp_path: Path) -> None:
    model = write_model("builtin", tmp_path)
    with pytest.raises(ModelError, match="choose another --output"):
        tuner_of(model, folder, tmp_path, output=model)


def test_the_command_says_what_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data, output = tmp_path / "clips.jsonl", tmp_path / "tuned"
    data.write_text("{}")
    command = ["training", "tune", "--data", str(data), "--output", str(output)]
    monkeypatch.setattr(sys, "argv", [*command, "--folder", str(tmp_path / "run")])
    assert main() == 2
    assert f"cannot tune: {data}:1: video: must be text" in capsys.readouterr().err
    line = {"video": "a.mp4", "conversation": [{"at": 1, "question": "a", "answer": "b"}]}
    data.write_text(json.dumps(line))
    (tmp_path / "a.mp4").touch()
    monkeypatch.setattr(sys, "argv", [*command, "--device", "quantum"])
    assert main() == 2
    assert "--device quantum is not a device" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", [*command, "--steps", "0"])
    with pytest.raises(SystemExit):
        main()
    assert "0 is not above zero" in capsys.readouterr().err
