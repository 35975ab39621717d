"""Unfamiliar pictures: of what the built-in model says wrongly about real video and photographs,
how much is withheld, and how much of what it says rightly about its own world.

Clips are read from the folders of `SIGHTLINE_TEST_MEDIA` and `SIGHTLINE_PHOTOS`, beside this
repository without them; where neither is there, generated test pictures stand for them alone. The
worker's own engine answers; nothing is withheld here, but told beside every answer.
"""

import csv
import os
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import av
import numpy as np

from benchmarks import REPOSITORY
from benchmarks.report import Report, Result
from benchmarks.samples import Ratio
from benchmarks.unfamiliar_result import Group, Statement, result_of
from services.gateway.frames.display import Display
from services.inference_worker.config import WorkerConfig
from services.inference_worker.engine.jobs import Seen
from services.inference_worker.model.builtin import BuiltinModel
from training.answerers import EngineAnswerer
from training.examination import worlds
from training.examination.scoring import mark
from training.examination.setups import FULL, SETUPS, sit
from training.familiarity import as_video
from training.recipe import EVALUATION_SEEDS, load_recipe
from training.recordings import Recording, frame_size, read_footage
from training.rendering import Pixels
from training.strangers import FOLDERS, patterns, photographs
from training.world.question import Question

SHARED = REPOSITORY.parent / "shared"
MEDIA = Path(os.environ.get("SIGHTLINE_TEST_MEDIA", SHARED / "media"))
PHOTOS = Path(os.environ.get("SIGHTLINE_PHOTOS", SHARED / "photos"))
FPS = 8.0
EVERY = 16  # frames between two rounds of questions about a clip
STILL = 6  # frames for which a photograph is held up
RIGHT = ("nothing", "i do not know", "no", "zero", "0")  # to say so of real things is not wrong
VIDEO_S = 6.0
PRODUCTS = {"T-Shirt": "shirt", "Polo": "shirt", "Shirt": "shirt", "Dress": "dress", "Hat": "cap"}
"""What the shop calls goods of the photographs."""


@dataclass(slots=True)
class Found:
    """Everything that was said, by where; of step times the ratio that the score costs."""

    groups: dict[str, Group] = field(default_factory=dict)
    cost: Ratio = field(default_factory=lambda: Ratio(1.0, 1.0, 1.0))

    def add(self, group: str, kind: str, right: bool, seen: Seen) -> None:
        statement = Statement(kind, right, seen.strangeness)
        self.groups.setdefault(group, Group()).statements.append(statement)


class _Noting(EngineAnswerer):
    """Keeps the video that each question was put to, in the order of asking."""

    asked: list[Seen]

    def ask(self, questions: Sequence[Question]) -> list[str]:
        said = super().ask(questions)
        self.asked += self.seen
        return said


def run(report: Report, *, quick: bool) -> Result:
    config = WorkerConfig(model="builtin")
    answerer = _Noting.start(config)
    answerer.asked = []
    found = Found()
    try:
        report("its own world", 0.0)
        _own_world(answerer, found, 4 if quick else 18)
        report("its own world as video", 0.3)
        _own_video(answerer, found, 2 if quick else 10)
        report("generated pictures", 0.4)
        for pixels in patterns():
            _show(answerer, found, "generated", "", pixels)
        report("real clips", 0.45)
        for folder, group in ((MEDIA, "real clips"), (PHOTOS / "clips", "previews")):
            for pixels in _clips(folder, answerer):
                _show(answerer, found, group, "", pixels[: 64 if quick else None])
        report("photographs", 0.7)
        for name, pixels in _photographs(PHOTOS, 6 if quick else 24):
            _show(answerer, found, "photographs", name, pixels)
        report("cost", 0.9)
        found.cost = _cost(answerer, 8 if quick else 40)
        dtype, device = answerer.engine.dtype_name, answerer.engine.device_name
    finally:
        answerer.stop()
    return result_of(found.groups, found.cost, dtype, device)


def _own_world(answerer: _Noting, found: Found, num_clips: int) -> None:
    """The examination's own questions, and marks."""
    scope = worlds.Scope.of_recipe("builtin")
    size = frame_size(answerer.engine.model.spec)
    for index, case in enumerate(worlds.cases(scope, num_clips, size)):
        answerer.asked.clear()
        items = tuple(item for item in case.items if not item.question.is_watch)
        plain = replace(case, items=items, standings=())
        answers, _ = sit(answerer, plain, SETUPS[FULL], np.random.default_rng((index, 6)))
        for answer, seen in zip(answers, answerer.asked, strict=True):
            right = mark(answer.item, answer.said, free=False).score >= 0.5
            found.add("its own world", answer.item.question.kind, right, seen)


def _own_video(answerer: _Noting, found: Found, num_clips: int) -> None:
    """Stories as cameras send them; what is true of a moment is not known here, so that every
    statement counts as right."""
    for seed in range(num_clips):
        pixels = as_video(load_recipe("builtin"), EVALUATION_SEEDS + seed, VIDEO_S)
        _show(answerer, found, "its own world as video", "", pixels, own=True)


def _show(
    answerer: _Noting, found: Found, group: str, shows: str, pixels: Pixels, own: bool = False
) -> None:
    """Show pictures, ask what the model's card says it can be asked, and check its conditions.
    shows: the product that they show."""
    card = answerer.engine.model.card
    questions = [Question("", text, "") for text in card.questions]
    answerer.open()
    for number, frame in enumerate(pixels):
        answerer.push(frame, round(number / FPS * 1e9))
        if (number + 1) % min(EVERY, len(pixels)):
            continue
        said = answerer.ask(questions)
        for question, text, seen in zip(questions, said, answerer.seen, strict=True):
            right = own or text in RIGHT or text.startswith("there is no ")
            found.add(group, question.text, right or shows in text.split(), seen)
        scores = answerer.scores(card.conditions)
        for score, seen in zip(scores, answerer.seen, strict=True):
            if own or score > 0.5:
                found.add(group, "watch", own, seen)
    answerer.close()


def _clips(folder: Path, answerer: EngineAnswerer) -> Iterator[Pixels]:
    size = frame_size(answerer.engine.model.spec)
    for video in sorted(folder.glob("*.mp4")) if folder.is_dir() else []:
        with tempfile.TemporaryDirectory() as place:
            recording = Recording(video.name, video, 0.0, None, ())
            (footage,) = read_footage([recording], FPS, size, Path(place))
            yield np.array(footage.pixels)


def _photographs(folder: Path, most: int) -> Iterator[tuple[str, Pixels]]:
    """Some of every folder that the judge never saw, each held still, with what it shows where a
    product is called so."""
    rng, display = np.random.default_rng(1), Display()
    table = folder / "clothing" / "labels.csv"
    rows = csv.DictReader(table.read_text().splitlines()) if table.is_file() else []
    labels = {Path(row["file"]).name: PRODUCTS.get(row["label"], "") for row in rows}
    _, others = photographs(folder)
    others += sorted((folder / "coco-permissive").rglob("*.jpg"))
    for kind in (*FOLDERS, "coco-permissive"):
        files = [path for path in others if path.is_relative_to(folder / kind)]
        for index in rng.permutation(len(files))[:most]:
            with av.open(str(files[index])) as container:
                picture = next(container.decode(video=0))
            still = np.frombuffer(display.rgb(picture, 128, 128), np.uint8).reshape(128, 128, 3)
            yield labels.get(files[index].name, ""), np.broadcast_to(still, (STILL, *still.shape))


def _cost(answerer: EngineAnswerer, turns: int) -> Ratio:
    """Seconds of a processor for frames understood with the score against without, in turns."""
    model = answerer.engine.model
    assert isinstance(model, BuiltinModel)
    judge = model.familiarity
    frames = np.random.default_rng(2).integers(0, 256, (16, 128, 128, 3), dtype=np.uint8)
    times_s: dict[bool, list[float]] = {True: [], False: []}
    for turn in range(2 * turns):
        judged = bool(turn % 2)
        model.familiarity = judge if judged else None
        answerer.open()
        answerer.push(frames[0], 0)
        answerer.settle()
        began_s = time.process_time()  # others of this machine are not in it
        for number, frame in enumerate(frames[1:], 1):
            answerer.push(frame, number)
            answerer.settle()
        times_s[judged].append(time.process_time() - began_s)
        answerer.close()
    model.familiarity = judge
    middle = {each: statistics.median(times) for each, times in times_s.items()}
    ratio = Ratio.of(times_s[True], times_s[False])
    return replace(ratio, median=middle[True] / middle[False])
