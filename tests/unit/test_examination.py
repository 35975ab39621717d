"""Examinations: their files, their marks, and every setup on tiny random models."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from services.gateway.frames.frame_size import FrameSize
from services.inference_worker.config import WorkerConfig
from tests.checkpoints import write_checkpoint
from tests.unit.tiny import tiny_model
from training.__main__ import main
from training.answerers import EngineAnswerer
from training.examination import exchange, worlds
from training.examination.cases import Case, Event, Item, Standing
from training.examination.report import Identity, Report, spread
from training.examination.run import Options, examine
from training.examination.scoring import (
    Column,
    Figure,
    Hits,
    column,
    contains,
    hits,
    majority,
    mark,
    mistakes,
    repeats,
)
from training.examination.setups import SETUPS, Answer, Answerer, Firing, Setup, shown, sit
from training.examination.worker import WorkerAnswerer
from training.examination.worlds import Scope
from training.recipe import EVALUATION_SEEDS, HELD_OUT_SEEDS, load_recipe
from training.recordings import DataError, Footage
from training.rendering import Pixels
from training.world.question import Question

pytestmark = pytest.mark.option

SMALL = FrameSize(width=64, height=64)


def item(answer: str, kind: str = "colour", at_s: float = 0.0, **fields: Any) -> Item:
    question = Question(kind, f"what {kind}", answer, fields.pop("history", ()))
    return Item(**{"at_s": at_s, "of": "realtime", "question": question, **fields})


def standing(*events: tuple[float, float], until_s: float = 9.0) -> Standing:
    return Standing(
        kind="when there",
        condition="red circle",
        asked_s=0.5,
        until_s=until_s,
        events=tuple(Event(*event) for event in events),
    )


def footage(length: int = 8, fps: float = 4.0) -> Footage:
    pixels = np.random.default_rng(0).integers(0, 255, (length, 64, 64, 3), np.uint8)
    return Footage(pixels, np.arange(length) / fps)


# Marks


@pytest.mark.parametrize(
    ("times_s", "expected"),
    [
        ((2.0,), Hits(1, 0, 0)),
        ((1.5,), Hits(1, 0, 0)),  # when it can first be told
        ((2.5,), Hits(1, 0, 0)),
        ((2.51,), Hits(0, 1, 1)),  # too late
        ((1.49,), Hits(0, 1, 1)),  # too early
        ((), Hits(0, 0, 1)),
        ((2.0, 2.25), Hits(1, 1, 0)),  # said twice
        ((0.5, 2.0), Hits(1, 1, 0)),
    ],
)
def test_events_are_seen_in_time_or_not(times_s: tuple[float, ...], expected: Hits) -> None:
    assert hits((Event(1.5, 2.0),), times_s) == expected


def test_one_saying_is_not_two_events() -> None:
    events = (Event(1.0, 1.0), Event(1.25, 1.25))
    assert hits(events, (1.25,)) == Hits(1, 0, 1)
    assert hits(events, (1.0, 1.5)) == Hits(2, 0, 0)
    assert hits((), ()).mark.score == 1
    assert hits((), (1.0,)).mark.score == 0


def test_forward_is_the_f1_of_all_watches_together() -> None:
    case = Case("a", footage(), (), (standing((2.0, 2.0)), standing((3.0, 3.0)), standing()))
    said = ((2.0, 4.0), (3.5,), ())
    firings = [Firing(s, times) for s, times in zip(case.standings, said, strict=True)]
    figure = column([(case, [], firings)], free=False).classes["forward"]
    assert figure.asked == 3
    assert (figure.precision, figure.recall) == (pytest.approx(2 / 3), 1.0)
    assert figure.score == pytest.approx(0.8)
    assert majority([case], free=False).classes["forward"].score == 0


def test_closed_answers_are_exact_and_free_ones_contain_the_right_one() -> None:
    assert mark(item("red"), "red", free=False).score == 1
    assert mark(item("red"), "It is red.", free=False).score == 0
    assert mark(item("red"), "It is Red.", free=True).score == 1
    assert mark(item("red"), "It is reddish.", free=True).score == 0
    assert contains("There are 2 cars.", "two")
    assert contains("The car is at the top-left", "at the top left")
    assert not contains("The top of the left car", "top left")
    assert contains("Yes, there is.", "yes")
    assert not contains("There is no dog, yes.", "no")
    assert not contains("", "no")


def test_descriptions_are_marked_by_facts_in_any_order() -> None:
    right = item("a red car is at the left and a dog is moving up", "scene", by_facts=True)
    said = "a dog is moving up and a cat is in the middle"
    found = mark(right, said, free=False)
    assert (found.precision, found.recall, found.score) == (0.5, 0.5, 0.5)
    told = "I see that the dog is moving up, and a red car is at the left. It is sunny."
    found = mark(right, told, free=True)
    assert (found.precision, found.recall) == (pytest.approx(2 / 3), 1.0)


def test_what_repeats_itself_is_noticed() -> None:
    assert repeats("no no no")
    assert repeats("it is red it is red it is red")
    assert repeats("a red cross and a red cross and a red cross")
    assert not repeats("a red cross and a red cross and a blue circle")
    assert not repeats("two")
    case = Case("a", footage(), (item("red"),), ())
    answers = [Answer(case.items[0], said, 0) for said in ("", "red", "red red red", "red")]
    shares = column([(case, answers, [])], free=False)
    assert (shares.empty, shares.repetitive) == (0.25, 0.25)
    assert shares.kinds["colour"].score == 0.5


def test_the_majority_is_the_commonest_answer_of_each_kind() -> None:
    items = (item("red"), item("red"), item("blue"), item("one", "count"))
    extra = (item("yes", "absent", of="other"), item("up", "change", of="backward", temporal=True))
    found = majority([Case("a", footage(), items + extra, ())], free=False)
    assert found.kinds["colour"].score == pytest.approx(2 / 3)
    assert found.classes["realtime"].score == 0.75
    assert found.classes["all"].asked == 5
    assert found.classes["temporal"].asked == 1


# Setups


class Notes:
    """An answerer that remembers what it was shown, says so, and scores as it is told."""

    def __init__(self, scores: dict[float, float]) -> None:
        self.by_time = scores
        self.sessions: list[list[tuple[float, int]]] = []
        self.asked: list[Question] = []
        self.settled = self.changed = 0

    def open(self, window_segments: int = 0) -> None:
        self.sessions.append([])

    def push(self, frame: Pixels, capture_time_ns: int, missing: int = 0) -> None:
        self.sessions[-1].append((capture_time_ns / 1e9, missing))

    def settle(self) -> None:
        self.settled += 1

    def ask(self, questions: list[Question]) -> list[str]:
        self.asked += questions
        return [f"{len(self.sessions[-1])}" for _ in questions]

    def scores(self, conditions: list[str]) -> list[float]:
        return [self.by_time.get(self.sessions[-1][-1][0], 0.0) for _ in conditions]

    def change_worker(self) -> None:
        self.changed += 1

    def close(self) -> None: ...


def sat(setup: Setup, scores: dict[float, float] | None = None) -> tuple[Notes, Any, Any]:
    past = (("is it there", "yes"),)
    items = (item("a", at_s=0.6), item("b", at_s=1.75, history=past), item("c", at_s=0.0))
    case = Case("a", footage(), items, (standing((1.0, 1.25), until_s=1.5),))
    notes = Notes(scores or {})
    return notes, *sit(notes, case, setup, np.random.default_rng(0))


def test_questions_see_what_was_shown_by_then() -> None:
    notes, answers, _ = sat(SETUPS["full"])
    assert [(answer.item.question.answer, answer.said) for answer in answers] == [
        ("c", "1"),
        ("a", "3"),
        ("b", "8"),
    ]
    assert notes.sessions == [[(n / 4, False) for n in range(8)]]
    assert notes.asked[2].history
    notes, _, _ = sat(SETUPS["no_dialogue"])
    assert not notes.asked[2].history


def test_a_conversation_goes_on_beside_and_fills_its_rounds_before_each_question() -> None:
    for name, texts in (
        ("history_short", {"what colour"}),
        ("history_descriptions", {"What do you see?"}),
    ):
        notes, answers, _ = sat(SETUPS[name])
        talk = [question for question in notes.asked if question.kind == "talk"]
        asked = [question for question in notes.asked if question.kind != "talk"]
        assert [answer.said for answer in answers] == ["1", "3", "8"]
        assert {question.text for question in talk} == texts
        assert [len(question.history) for question in asked] == [10, 10, 10]
        assert asked[2].history[-1] == ("is it there", "yes")  # its own rounds come last
        # What the model said at each moment, oldest first: to the first ten before any frame more.
        assert [said for _, said in asked[2].history[:-1]] == ["1", "1", *"2345678"]
        assert [len(question.history) for question in talk[:11]] == [*range(10), 10]
    notes, _, _ = sat(SETUPS["history_unknown"])
    assert all(len(text) > 20 for question in notes.asked for text, _ in question.history[:-1])


def test_what_refers_back_to_nothing_is_asked_alone() -> None:
    items = (item("red", "followup"), item("blue"))
    notes = Notes({})
    sit(
        notes,
        Case("a", footage(1), items, ()),
        SETUPS["history_short"],
        np.random.default_rng(0),
    )
    assert [len(q.history) for q in notes.asked if q.kind != "talk"] == [0, 10]


def test_what_a_conversation_costs_is_missed() -> None:
    def scored(realtime: float, followup: float) -> Column:
        figure = {"asked": 9, "precision": 1.0, "recall": 1.0}
        return Column(
            kinds={"followup": Figure(score=followup, **figure)},
            classes={"realtime": Figure(score=realtime, **figure)},
        )

    report = Report(Identity(**dict.fromkeys(Identity.__dataclass_fields__)), {})  # type: ignore[arg-type]
    report.columns["full"] = scored(0.99, 0.97)
    report.columns["history_short"] = scored(0.975, 0.95)
    told = [miss for miss in report.missed if "history" in miss]
    assert told == []
    report.columns["history_unknown"] = scored(0.96, 0.94)
    told = [miss for miss in report.missed if "history" in miss]
    assert told == [
        "history_unknown: realtime 0.960 < 0.970",
        "history_unknown: followup 0.940 < 0.95",
    ]


def test_a_watch_says_when_its_answer_turns_to_yes() -> None:
    scores = {0.25: 0.9, 0.75: 0.9, 1.0: 0.2, 1.25: 0.6, 1.5: 0.8, 1.75: 0.1}
    _, _, (firing,) = sat(SETUPS["full"], scores)
    assert firing.times_s == (0.75, 1.25)  # neither before it was set nor after it ended
    _, _, (firing,) = sat(SETUPS["last_frame"], scores)
    assert firing.times_s == (0.75, 1.25)
    _, _, (firing,) = sat(SETUPS["debounce"], scores)
    assert firing.times_s == (1.5,)


def test_few_frames_alone_are_new_sessions() -> None:
    notes, answers, _ = sat(SETUPS["last_4"])
    assert [answer.said for answer in answers] == ["1", "3", "4"]
    assert notes.sessions[-1] == [(n / 4, 0) for n in range(4, 8)]
    assert len(notes.sessions) == notes.settled == 7  # asked at 0, watched from 0.5 to 1.5, at 1.75
    notes, answers, _ = sat(SETUPS["last_frame"])
    assert {answer.said for answer in answers} == {"1"}


def test_half_the_rate_shows_every_other_frame() -> None:
    notes, answers, _ = sat(SETUPS["half_rate"])
    assert [time_s for time_s, _ in notes.sessions[0]] == [0.0, 0.5, 1.0, 1.5]
    assert [answer.said for answer in answers] == ["1", "2", "4"]


def test_lost_frames_are_the_same_ones_whatever_stands_for_them() -> None:
    bare, held, repeated = (
        shown(footage(400), SETUPS[f"lost_20{fill}"], np.random.default_rng(0))
        for fill in ("", "_held", "_repeated")
    )
    assert len(repeated) == 375  # of the 400 that 7.5 of 8 choose
    assert [frame.missing for frame in (*bare, *repeated)] == [0] * (len(bare) + len(repeated))
    assert [frame._replace(missing=0) for frame in held] == bare
    lost = [n for n, frame in enumerate(repeated) if n and frame.picture == repeated[n - 1].picture]
    assert 50 < len(lost) < 100
    assert sum(frame.missing for frame in held) == len(repeated) - len(bare) == len(lost)
    fresh = [frame for n, frame in enumerate(repeated) if n not in lost]
    assert [frame.time_s for frame in fresh] == [frame.time_s for frame in bare]
    assert all(frame.until_s > frame.time_s for frame in (*bare, *held, *repeated))


def test_a_loaded_worker_is_shown_a_share_and_told_what_is_missing() -> None:
    held = shown(footage(400), SETUPS["load_2_held"], np.random.default_rng(0))
    assert len(held) == pytest.approx(400 / 4, abs=2)
    assert {frame.missing for frame in held[1:]} <= {2, 3, 4}


def test_a_new_worker_comes_before_every_moment() -> None:
    notes, _, _ = sat(SETUPS["new_worker"])
    assert notes.changed == 3


# Worlds


# The world of real goods needs photographs.
@pytest.mark.parametrize("world", sorted({*worlds.WORLDS} - {"goods"}))
def test_a_world_is_examined_in_all_classes_on_seeds_of_its_own(world: str) -> None:
    cases = list(worlds.cases(Scope.of(world), 10, FrameSize(width=128, height=128)))
    assert [int(case.name.split()[1]) - EVALUATION_SEEDS for case in cases] == list(range(10))
    assert EVALUATION_SEEDS + 10_000 < HELD_OUT_SEEDS
    items = [each for case in cases for each in case.items]
    assert {each.of for each in items} == {"realtime", "backward", "other"}
    assert {each.question.kind for each in items if each.by_facts} >= {"scene"}
    standings = [each for case in cases for each in case.standings]
    happen = sum(len(each.events) for each in standings)
    assert 0.5 < happen / len(standings) < 1
    for case in cases:
        end_s = case.footage.times_s[-1]
        assert all(each.at_s <= end_s for each in case.items)
        for each in case.standings:
            assert each.asked_s <= each.until_s <= end_s
            for event in each.events:
                assert each.asked_s < event.earliest_s <= event.at_s <= each.until_s


def test_a_recipe_narrows_its_world_to_what_it_teaches() -> None:
    scope = Scope.of_recipe("builtin")
    cases = list(worlds.cases(scope, 6, FrameSize(width=128, height=128)))
    items = [each for case in cases for each in case.items]
    assert {each.question.kind for each in items} <= set(load_recipe("builtin").kinds)
    prices = {each.question.answer for each in items if each.question.kind == "price"}
    assert prices <= {f"{price} dollars" for price in scope.trade.prices}  # type: ignore[union-attr]
    assert any(each.question.history for each in items if each.question.kind != "followup")


def test_a_model_gets_frames_of_its_size_painted_large_enough() -> None:
    rule = FrameSize(width=448, height=448, factor=28, min_pixels=784, max_pixels=112 * 112)
    (case,) = worlds.cases(worlds.SHAPES, 1, rule)
    assert case.footage.pixels.shape[1:] == (112, 112, 3)
    (small,) = worlds.cases(worlds.SHAPES, 1, SMALL)
    (large,) = worlds.cases(worlds.SHAPES, 1, FrameSize(width=256, height=256))
    assert large.items == small.items == case.items
    assert large.footage.pixels.shape[1:] == (256, 256, 3)


# Files


def test_an_examination_survives_its_file(tmp_path: Path) -> None:
    made = list(worlds.cases(Scope.of("street"), 2, FrameSize(width=128, height=128)))
    assert exchange.write(tmp_path / "street.jsonl", made) == 2
    read = exchange.read(
        tmp_path / "street.jsonl", 8.0, FrameSize(width=128, height=128), tmp_path / "frames"
    )
    for before, after in zip(made, read, strict=True):
        assert after.items == before.items
        assert after.standings == before.standings
        assert np.allclose(after.footage.times_s, before.footage.times_s)
        difference = np.abs(after.footage.pixels.astype(int) - before.footage.pixels)
        assert difference.mean() < 8  # what H.264 takes


def test_a_part_of_a_video_is_a_clip(tmp_path: Path) -> None:
    case = Case("clip", footage(24, fps=8.0), (item("red", at_s=2.0),), ())
    exchange.write(tmp_path / "e.jsonl", [case])
    line = json.loads((tmp_path / "e.jsonl").read_text())
    (tmp_path / "e.jsonl").write_text(json.dumps({**line, "start": 1.0, "end": 2.5}))
    (part,) = exchange.read(tmp_path / "e.jsonl", 4.0, SMALL, tmp_path / "frames")
    assert part.footage.times_s.tolist() == [1 + n / 4 for n in range(7)]
    for change, complaint in (({"end": 1.5}, "at: 2 is outside"), ({"start": 3}, "at: 2 is out")):
        (tmp_path / "e.jsonl").write_text(json.dumps({**line, **change}))
        with pytest.raises(DataError, match=complaint):
            exchange.read(tmp_path / "e.jsonl", 4.0, SMALL, tmp_path / "frames")
    late = {**line, "questions": [{**line["questions"][0], "at": 9.0}]}
    (tmp_path / "e.jsonl").write_text(json.dumps(late))
    with pytest.raises(DataError, match=r"1: questions\[0\]\.at: 9, but the video ends at 2\.88 s"):
        exchange.read(tmp_path / "e.jsonl", 4.0, SMALL, tmp_path / "frames")


def test_a_folder_of_pictures_is_a_clip(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for n in range(3):
        Image.new("RGB", (90, 60), (0, 100 * n, 0)).save(tmp_path / "a" / f"{n}.png")
    watch = {"at": 0, "kind": "k", "condition": "green", "events": [{"at": 0.5}]}
    line = {"frames": "a", "fps": 2, "watches": [watch]}
    (tmp_path / "e.jsonl").write_text(json.dumps(line))
    (case,) = exchange.read(tmp_path / "e.jsonl", 8.0, SMALL, tmp_path / "frames")
    assert case.footage.pixels.shape == (3, 64, 64, 3)
    assert case.footage.pixels[:, 9, 9, 1].tolist() == pytest.approx([0, 100, 200], abs=3)
    assert case.footage.times_s.tolist() == [0, 0.5, 1.0]
    assert case.standings[0].events == (Event(0.5, 0.5),)


QUESTION = {"at": 0, "class": "realtime", "kind": "k", "question": "q", "answer": "a"}
WATCH = {"at": 0.5, "kind": "k", "condition": "c", "events": []}


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"frames": "none"}, r"e\.jsonl:2: frames: there is no picture in"),
        ({"fps": 0}, r"fps: must be above zero"),
        ({"fps": None}, r"fps: must be a number"),
        ({"start": 1}, r"start: does not go with frames"),
        ({"colour": 1}, r"colour: no such field"),
        ({"questions": []}, r"questions: nothing is asked"),
        ({"questions": 3}, r"questions: must be a list"),
        ({"questions": [{**QUESTION, "at": 9}]}, r"questions\[0\]\.at: 9 is outside the clip"),
        ({"questions": [{**QUESTION, "class": "forward"}]}, r"questions\[0\]\.class: 'forward'"),
        ({"questions": [{**QUESTION, "answer": ""}]}, r"questions\[0\]\.answer: must be text"),
        ({"questions": [{**QUESTION, "facts": ["x"]}]}, r"questions\[0\]\.facts: do not go"),
        ({"questions": [{**QUESTION, "condition": "c"}]}, r"questions\[0\]\.condition: does not"),
        ({"questions": [{**QUESTION, "history": [["a"]]}]}, r"questions\[0\]\.history: must be"),
        ({"questions": [{**QUESTION, "temporal": 1}]}, r"questions\[0\]\.temporal: must be true"),
        ({"questions": [QUESTION, 7]}, r"questions\[1\]: must be an object"),
        ({"watches": [{**WATCH, "until": 0.2}]}, r"watches\[0\]\.until: 0\.2 is outside"),
        ({"watches": [{**WATCH, "events": 1}]}, r"watches\[0\]\.events: must be a list"),
        ({"watches": [{**WATCH, "events": [{"at": 0.2}]}]}, r"watches\[0\]\.events\[0\]\.at: 0\.2"),
        (
            {"watches": [{**WATCH, "events": [{"at": 1, "earliest": 1.5}]}]},
            r"events\[0\]\.earliest: 1\.5 is after",
        ),
    ],
)
def test_bad_lines_are_named_with_their_field(
    tmp_path: Path, change: dict[str, Any], complaint: str
) -> None:
    (tmp_path / "a").mkdir()
    for n in range(4):
        Image.new("RGB", (64, 64)).save(tmp_path / "a" / f"{n}.png")
    line = {"frames": "a", "fps": 2, "questions": [QUESTION], **change}
    (tmp_path / "e.jsonl").write_text("\n" + json.dumps(line))
    with pytest.raises(DataError, match=complaint):
        exchange.read(tmp_path / "e.jsonl", 8.0, SMALL, tmp_path / "frames")


def test_facts_are_single_and_conditions_are_yes_or_no(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").touch()
    facts = {k: v for k, v in QUESTION.items() if k != "answer"} | {"facts": ["a and b"]}
    check = {k: v for k, v in QUESTION.items() if k != "question"} | {"condition": "c"}
    for question, complaint in ((facts, r"facts: none may hold"), (check, r"answer: to a cond")):
        line = {"video": "a.mp4", "questions": [question]}
        (tmp_path / "e.jsonl").write_text(json.dumps(line))
        with pytest.raises(DataError, match=complaint):
            exchange.read(tmp_path / "e.jsonl", 8.0, SMALL, tmp_path / "frames")


# Whole examinations


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two clips of pictures, asked in every class."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(3)
    lines = []
    for clip in range(2):
        (folder / f"{clip}").mkdir()
        for n in range(9):
            picture = rng.integers(0, 255, (64, 64, 3), np.uint8)
            Image.fromarray(picture).save(folder / f"{clip}" / f"{n}.png")
        questions = [
            {**QUESTION, "at": 0.5, "question": "what is red", "answer": "blue"},
            {**QUESTION, "at": 2, "class": "backward", "temporal": True, "history": [["a", "b"]]},
        ]
        events = [{"earliest": 1, "at": 1.25}]
        watches = [{"at": 0.75, "until": 1.5, "kind": "w", "condition": "red", "events": events}]
        line = {"frames": f"{clip}", "fps": 4, "questions": questions, "watches": watches}
        lines.append(json.dumps(line))
    (folder / "exam.jsonl").write_text("\n".join(lines))
    return folder / "exam.jsonl"


def examined(model: Path, data: Path, tmp_path: Path, *setups: str) -> Report:
    options = Options(
        model=str(model), data=data, setups=setups, max_tokens=4, report=tmp_path / "r.json"
    )
    return examine(options, Console(quiet=True))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny_model().save(folder)
    return folder


@pytest.mark.slow
@pytest.mark.needs("torchao")
def test_every_setup_is_sat_and_reported(tiny: Path, data: Path, tmp_path: Path) -> None:
    report = examined(tiny, data, tmp_path, *SETUPS)
    assert list(report.columns) == ["majority", *SETUPS]
    for found in report.columns.values():
        assert found.kinds["k"].asked == 4
        assert found.classes["forward"].asked == 2
    written = json.loads((tmp_path / "r.json").read_text())
    assert list(written["columns"]) == list(report.columns)
    assert written["missed"] == report.missed
    assert any(miss.startswith("realtime") for miss in report.missed)
    assert written["some_mistakes"]
    assert Image.open(tmp_path / "r.png").size[0] > 500
    assert Image.open(tmp_path / "r-mistakes.png").size == (1280, written_height(written))
    assert not report.identity.free


def written_height(written: dict[str, Any]) -> int:
    return len(written["some_mistakes"]) * (128 + 4 * 15 + 6)


def test_a_new_worker_knows_the_window_and_nothing_before(tiny: Path) -> None:
    """Served over gRPC and fed by the gateway's link. The window is 4 frames: while no more were
    shown the replay rebuilds all, later what evicted frames left in the others is lost."""
    config = WorkerConfig(model=str(tiny), dtype="float32")
    engine = EngineAnswerer.start(config, 4)
    worker = WorkerAnswerer(engine.engine, config, 4)
    pixels = footage(12).pixels

    def show(answerer: Answerer, number: int) -> float:
        answerer.open()
        for n in range(number):
            answerer.push(pixels[n], n * 250_000_000)
        return answerer.scores(["red circle"])[0]

    try:
        for number, is_same in ((4, True), (12, False)):
            alone = show(engine, number)
            assert show(worker, number) == pytest.approx(alone, abs=1e-6)
            question = Question("k", "what is red", "", (("is it live", "yes"),))
            assert worker.ask([question, question]) == engine.ask([question]) * 2
            engine.close()
            worker.change_worker()
            (after,) = worker.scores(["red circle"])
            assert (after == pytest.approx(alone, abs=1e-5)) is is_same
            worker.close()
        assert not engine.engine.snapshot().sessions
    finally:
        worker.stop()
        engine.stop()


@pytest.mark.slow
def test_published_models_stand_in_the_same_table(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two frames make a tubelet, frames have another size, and answers are free."""
    monkeypatch.setenv("WORKER_FRAME_PIXELS", "12544")
    model = write_checkpoint("qwen2_5_vl", tmp_path / "qwen")
    names = ("full", "last_frame", "last_4", "new_worker", "lost_5", "half_rate")
    report = examined(model, data, tmp_path, *names)
    assert report.identity.free
    assert list(report.columns) == ["majority", *names]
    assert {found.kinds["k"].asked for found in report.columns.values()} == {4}


def test_columns_of_the_same_examination_come_together(
    tiny: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = examined(tiny, data, tmp_path, "full")
    both = examined(tiny, data, tmp_path, "last_frame")
    assert list(both.columns) == ["majority", "full", "last_frame"]
    assert both.columns["full"].kinds["k"].asked == first.columns["full"].kinds["k"].asked
    assert both.some_mistakes == first.some_mistakes
    monkeypatch.setenv("WORKER_REUSE_BELOW", "3")
    assert "full" not in examined(tiny, data, tmp_path, "last_frame").columns
    line, *_ = data.read_text().splitlines()
    (data.parent / "other.jsonl").write_text(line)
    other = examined(tiny, data.parent / "other.jsonl", tmp_path, "last_frame")
    assert list(other.columns) == ["majority", "last_frame"]
    assert other.missed == ["full: not examined"]


def test_targets_are_met_or_named() -> None:
    items = (item("red"), item("up", "change", of="backward", temporal=True))
    case = Case("a", footage(), items, (standing((1.0, 1.0)),))
    right = [Answer(each, each.question.answer, 0) for each in items]
    seen = [Firing(case.standings[0], (1.0,))]
    report = Report(identity=None)  # type: ignore[arg-type]
    report.add("full", column([(case, right, seen)], free=False))
    assert report.missed == []
    report.add("last_frame", column([(case, right, seen)], free=False))
    assert report.missed == ["temporal kinds: 1.000 from the last frame alone > 0.750"]
    wrong = [right[0], replace(right[1], said="")]
    report.add("full", column([(case, wrong, [Firing(case.standings[0], (0.5,))])], free=False))
    assert report.missed == [
        "backward: 0.000 < 0.85",
        "forward: 0.000 < 0.85",
        "temporal kinds: 1.000 from the last frame alone > -0.250",
        "empty answers: 50.00% ≥ 0.1%",
    ]
    found = mistakes([(case, wrong, [Firing(case.standings[0], (0.5,))])], free=False)
    assert len(found) == 2
    assert len(spread(found * 9, 3)) == 3


def test_the_command_writes_and_takes_an_examination(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*arguments: str) -> int:
        monkeypatch.setattr("sys.argv", ["training", *arguments])
        return main()

    path = str(tmp_path / "shop.jsonl")
    assert run("examination", path, "--world", "shop", "--clips", "1") == 0
    report = str(tmp_path / "r.json")
    ask = ("eval", "--model", str(tiny), "--data", path, "--conditions", "full,last_frame")
    assert run(*ask, "--max-tokens", "2", "--report", report) == 1
    assert "missed" in capsys.readouterr().out
    assert run(*ask[:3], "--data", str(tmp_path / "none"), "--report", report) == 2
    assert "none: cannot be read" in capsys.readouterr().err
    assert run("eval", "--recipe", "none") == 2
    assert "no recipe 'none'" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        run("eval", "--conditions", "full,window_9")
