"""Examinations as files: what any renderer may write, and any other system may be examined with.

One line of a JSONL is one clip. All times are seconds of the video; a relative path begins where
the JSONL is:

    {"video": "shop-0.mp4",
     "questions": [
       {"at": 3.5, "class": "realtime", "kind": "colour", "question": "what color is the car",
        "answer": "red"},
       {"at": 3.5, "class": "backward", "kind": "story", "question": "what has happened",
        "facts": ["a dog came in from the left", "a red car disappeared"]},
       {"at": 3.5, "class": "realtime", "kind": "followup", "question": "where is it",
        "answer": "in the middle", "history": [["is there a dog", "yes"]]}],
     "watches": [
       {"at": 1.0, "until": 6.0, "kind": "when there", "condition": "a dog is there",
        "events": [{"earliest": 2.0, "at": 2.25}]}]}

- `video`, or `frames`: a folder of PNG or JPEG files in the order of their names, with `fps`.
  `start` and `end` cut a video and may be left out.
- `class`: `realtime`, `backward`, or `other`, which is reported but counts to none. `kind`: any
  word; kinds are the rows of the report.
- A question has an `answer`, or `facts` when it asks for a description. `history`: earlier rounds.
  `temporal` (false): no single picture tells the answer. `condition` in the place of `question`
  asks as a watch does whether it holds now; the answer is yes or no.
- A watch is checked at every frame from `at` to `until` (the clip's end) and should say when its
  condition comes true: at each of `events`, none if it never does. `earliest`: before it saying so
  is too early; left out, it is `at`. A condition that holds already at the first look is an event.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

import av
import numpy as np

from services.gateway.frames.display import Display, displayed_size
from services.gateway.frames.frame_size import FrameSize
from training.clips import encode
from training.examination.cases import Case, Class, Event, Item, Standing
from training.recordings import (
    DataError,
    Fields,
    Footage,
    Recording,
    Turn,
    read_footage,
    read_lines,
)
from training.world.question import Question

_CLIP = ("video", "frames", "fps", "start", "end", "questions", "watches")
_QUESTION = (
    *("at", "class", "kind", "question", "condition", "answer", "facts", "history", "temporal"),
)
_WATCH = ("at", "until", "kind", "condition", "events")
_PICTURES = (".png", ".jpg", ".jpeg")
_FORWARD: Class = "forward"
Span = tuple[float, float | None]


def write(path: Path, cases: Iterable[Case], on_case: Callable[[], None] = lambda: None) -> int:
    """Write cases as a JSONL, their videos in a folder of its name; how many there were."""
    folder = path.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    number = 0
    with path.open("w", encoding="utf-8") as lines:
        for case in cases:
            times_s = case.footage.times_s
            fps = round(1 / float(np.median(np.diff(times_s)))) if len(times_s) > 1 else 1
            video = folder / f"{case.name.replace(' ', '-')}.mp4"
            encode(video, case.footage.pixels, fps)
            line = {
                "video": f"{folder.name}/{video.name}",
                "questions": [_item_line(item) for item in case.items],
                "watches": [_standing_line(standing) for standing in case.standings],
            }
            lines.write(json.dumps(line, ensure_ascii=False) + "\n")
            number += 1
            on_case()
    return number


def _item_line(item: Item) -> dict[str, Any]:
    question = item.question
    line: dict[str, Any] = {"at": item.at_s, "class": item.of, "kind": question.kind}
    line["condition" if question.is_watch else "question"] = question.text
    if item.by_facts:
        line["facts"] = question.answer.split(" and ")
    else:
        line["answer"] = question.answer
    if question.history:
        line["history"] = [list(past) for past in question.history]
    if item.temporal:
        line["temporal"] = True
    return line


def _standing_line(standing: Standing) -> dict[str, Any]:
    return {
        "at": standing.asked_s,
        "until": standing.until_s,
        "kind": standing.kind,
        "condition": standing.condition,
        "events": [{"earliest": e.earliest_s, "at": e.at_s} for e in standing.events],
    }


def read(path: Path, fps: float, size: FrameSize, folder: Path) -> list[Case]:
    """Every line as a case, sampled at `fps` and resized as the gateway does; frames of videos wait
    in `folder`. Raises DataError with file, line and field."""
    plans = [_Plan(where, value, path.parent) for where, value in read_lines(path)]
    videos = [plan.recording for plan in plans if plan.recording is not None]
    footage = iter(read_footage(videos, fps, size, folder))
    return [
        Case(
            plan.where,
            next(footage) if plan.recording is not None else plan.pictures(size),
            plan.items,
            plan.standings,
        )
        for plan in plans
    ]


class _Plan:
    """A line, checked, before its frames are read."""

    def __init__(self, where: str, value: Any, folder: Path) -> None:
        self.where = where
        self._fields = fields = Fields(f"{where}: ", value, _CLIP)
        self._span: Span = fields.span()
        self._turns: list[Turn] = []
        self.recording: Recording | None = None
        self._files: list[Path] = []
        self._fps = 1.0
        if "frames" in fields:
            self._frames(fields, folder)
        else:
            video = fields.file("video", folder)
        self.items = tuple(self._item(*each) for each in self._each("questions", _QUESTION))
        self.standings = tuple(self._standing(*each) for each in self._each("watches", _WATCH))
        if not self.items and not self.standings:
            raise fields.error("questions", "nothing is asked: no questions and no watches")
        if "frames" not in fields:
            self.recording = Recording(where, video, *self._span, tuple(self._turns))

    def _frames(self, fields: Fields, folder: Path) -> None:
        for name in ("video", "start", "end"):
            if name in fields:
                raise fields.error(name, "does not go with frames")
        files = sorted(p for p in (folder / fields.text("frames")).glob("*"))
        self._files = [p for p in files if p.suffix.lower() in _PICTURES]
        if not self._files:
            raise fields.error("frames", f"there is no picture in {folder / fields.text('frames')}")
        self._fps = fields.seconds("fps")
        if not self._fps:
            raise fields.error("fps", "must be above zero")
        self._span = (0.0, (len(self._files) - 1) / self._fps)

    def _each(self, name: str, known: Sequence[str]) -> Iterator[tuple[str, Fields]]:
        found = self._fields.objects(name, name) if self._fields[name] else []
        for index, value in enumerate(found):
            place = f"{self.where}: {name}[{index}]"
            yield place, Fields(f"{place}.", value, known)

    def _item(self, place: str, fields: Fields) -> Item:
        at_s = fields.seconds_within("at", self._span)
        of = fields.text("class")
        if of not in get_args(Class) or of == _FORWARD:
            raise fields.error("class", f"{of!r} is not realtime, backward or other")
        is_watch = "condition" in fields
        if is_watch and "question" in fields:
            raise fields.error("condition", "does not go with a question")
        by_facts = "facts" in fields
        if by_facts and "answer" in fields:
            raise fields.error("facts", "do not go with an answer")
        answer = " and ".join(_texts(fields, "facts")) if by_facts else fields.text("answer")
        if is_watch and answer not in ("yes", "no"):
            raise fields.error("answer", "to a condition it is yes or no")
        text = fields.text("condition" if is_watch else "question")
        temporal = fields["temporal"] or False
        if not isinstance(temporal, bool):
            raise fields.error("temporal", "must be true or false")
        question = Question(fields.text("kind"), text, answer, _history(fields), is_watch)
        self._turns.append(Turn(place, at_s, text, answer))
        return Item(
            at_s=at_s,
            of=of,  # type: ignore[arg-type]
            question=question,
            temporal=temporal,
            by_facts=by_facts,
        )

    def _standing(self, place: str, fields: Fields) -> Standing:
        asked_s = fields.seconds_within("at", self._span)
        until_s = float("inf")
        if "until" in fields:
            until_s = fields.seconds_within("until", (asked_s, self._span[1]))
        if not isinstance(fields["events"], list):
            raise fields.error("events", "must be a list, empty where nothing happens")
        events: list[Event] = []
        for index, value in enumerate(fields["events"]):
            event = Fields(f"{place}.events[{index}].", value, ("earliest", "at"))
            at_s = event.seconds_within("at", (asked_s, min(until_s, self._span[1] or until_s)))
            earliest_s = event.seconds("earliest", at_s)
            if earliest_s > at_s or (events and earliest_s < events[-1].at_s):
                raise event.error("earliest", f"{earliest_s:g} is after `at` or before the last")
            events.append(Event(earliest_s, at_s))
        condition = fields.text("condition")
        self._turns.append(Turn(place, asked_s, condition, ""))
        return Standing(
            kind=fields.text("kind"),
            condition=condition,
            asked_s=asked_s,
            until_s=until_s,
            events=tuple(events),
        )

    def pictures(self, size: FrameSize) -> Footage:
        """A folder's pictures, all in the size that fits the first."""
        display, fitted, frames = Display(), (0, 0), list[bytes]()
        for file in self._files:
            try:
                with av.open(str(file)) as container:
                    picture = next(container.decode(video=0))
            except (av.FFmpegError, OSError, StopIteration) as error:
                raise DataError(
                    f"{self.where}: frames: {file} is no readable picture: {error}"
                ) from error
            fitted = fitted if frames else size.fit(*displayed_size(picture))
            frames.append(display.rgb(picture, *fitted))
        pixels = np.frombuffer(b"".join(frames), np.uint8)
        return Footage(
            pixels.reshape(len(frames), fitted[1], fitted[0], 3),
            np.arange(len(frames)) / self._fps,
        )


def _texts(fields: Fields, name: str) -> list[str]:
    found = fields.objects(name, "fact")
    if not all(isinstance(text, str) and text.strip() for text in found):
        raise fields.error(name, "must be texts, none of them empty")
    if any(" and " in text for text in found):
        raise fields.error(name, 'none may hold " and ": that is two facts')
    return [text.strip() for text in found]


def _history(fields: Fields) -> tuple[tuple[str, str], ...]:
    rounds = fields["history"] or []
    if not isinstance(rounds, list) or not all(
        isinstance(past, list) and len(past) == 2 and all(isinstance(text, str) for text in past)
        for past in rounds
    ):
        raise fields.error("history", "must be a list of [question, answer]")
    return tuple((past[0], past[1]) for past in rounds)
