"""Video files of the world, with the truth beside them: samples, demonstrations, benchmarks."""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from training.phrasings import PLAIN_SCENE
from training.questions import (
    change_answer,
    last_change,
    motion_answer,
    motion_of,
    scene_answer,
    unique_names,
)
from training.rendering import Pixels, Scene
from training.vocabulary import NUMBERS
from training.world.question import WINDOW
from training.world.shapes import FRAMES_PER_SECOND, Change, Clip, Pace, Thing, film

STORY_PACE = Pace(
    start_things=(1.0,),
    change_rate=0.07,
    speed=(2.0, 4.5),
    move=(8, 24),
    rest=(6, 16),
    thing_size=(32.0, 44.0),
)


@dataclass(frozen=True, slots=True)
class Fact:
    """A question whose right answer is `answer` from `time_s` until `until_s` of a clip."""

    time_s: float
    question: str
    answer: str
    kind: str
    until_s: float


def at_time(clip: Clip, frame: float) -> tuple[Thing, ...]:
    """Scene between two frames: changes happen on frames, motion is continuous."""
    whole = min(int(frame), len(clip) - 1)
    share = frame - whole
    coming = {thing.ident: thing for thing in clip.frames[min(whole + 1, len(clip) - 1)]}
    moved: list[Thing] = []
    for thing in clip.frames[whole]:
        after = coming.get(thing.ident, thing)
        x = thing.x + (after.x - thing.x) * share
        y = thing.y + (after.y - thing.y) * share
        moved.append(replace(thing, x=x, y=y))
    return tuple(moved)


def pictures(clip: Clip, scale: int, fps: float) -> Iterator[Pixels]:
    """[128 × scale, 128 × scale, 3] pictures of the clip at `fps`, smooth and clean."""
    scene = Scene(clip.seed, scale, clean=True)
    for index in range(int(len(clip) * fps / FRAMES_PER_SECOND)):
        out = np.empty((scene.side, scene.side, 3), np.uint8)
        scene.draw(at_time(clip, index * FRAMES_PER_SECOND / fps), out)
        yield out


def write_clip(path: Path, clip: Clip, scale: int = 4, fps: int = 24) -> list[Fact]:
    """Write the clip as a video. Returns the truth."""
    encode(path, pictures(clip, scale, fps), fps)
    return facts(clip)


def encode(path: Path, pictures: Iterable[Pixels], fps: int) -> None:
    """H.264 as a camera sends it: no B-frames, a keyframe every second. Square RGB pictures."""
    options = {"preset": "veryfast", "crf": "20", "bf": "0", "g": str(fps), "sc_threshold": "0"}
    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=Fraction(fps), options=options)
        for picture in pictures:
            if not stream.width or stream.width != picture.shape[1]:
                stream.width, stream.height = picture.shape[1], picture.shape[0]
                stream.pix_fmt = "yuv420p"
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def story(seed: int, seconds: float) -> Clip:
    """A lively clip of about this length that begins and ends empty, so that it loops."""
    wanted = int(seconds * FRAMES_PER_SECOND)
    for attempt in range(1000):
        clip = film(seed + 7919 * attempt, wanted + 24, STORY_PACE)
        for length in range(wanted, wanted + 24):
            quiet = all(not clip.frames[frame] for frame in range(length - 6, length))
            changes = tuple(change for change in clip.changes if change.frame < length)
            if quiet and _is_lively(changes, seconds):
                return Clip(clip.seed, clip.frames[:length], changes)
    raise ValueError(f"no story of {seconds} s begins and ends empty near seed {seed}")


def _is_lively(changes: tuple[Change, ...], seconds: float) -> bool:
    kinds = {change.kind for change in changes}
    shapes = {change.shape for change in changes}
    return len(changes) > seconds / 3 and len(kinds) == 3 and len(shapes) >= 3


def _true_at(clip: Clip, frame: int) -> Iterator[tuple[str, str, str]]:
    """(question, answer, kind) of everything a newcomer would ask at this moment."""
    if not clip.settled(frame):
        return
    present = clip.present(frame)
    yield PLAIN_SCENE, scene_answer(present), "scene"
    yield "How many objects are there?", NUMBERS[len(present)], "count"
    change = last_change(clip, frame) if frame >= WINDOW + 6 else None
    if change is not None:
        yield "What changed?", change_answer(change), "change"
    for thing in present:
        names = unique_names(thing, present)
        yield f"Is there a {names[0]}?", "yes", "presence"
        if thing.shape in names:
            yield f"What colour is the {thing.shape}?", thing.colour, "colour"
        if f"{thing.colour} object" in names:
            yield f"What shape is the {thing.colour} object?", f"a {thing.shape}", "shape"
        motion = motion_of(clip, frame, thing)
        if motion is not None:
            yield f"Which way is the {names[0]} moving?", motion_answer(motion), "direction"


def facts(clip: Clip) -> list[Fact]:
    """Everything a newcomer may ask about the clip, as spans of time, in order of their start.

    What changed is told only after the window has filled, so that it also holds when looped.
    """
    return spans(len(clip), lambda frame: _true_at(clip, frame))


def spans(num_frames: int, true_at: Callable[[int], Iterable[tuple[str, str, str]]]) -> list[Fact]:
    """Answers that `true_at` gives of single frames, (question, answer, kind), as spans of time."""
    open_facts: dict[tuple[str, str, str], int] = {}
    found: list[Fact] = []

    def close(key: tuple[str, str, str], end: int) -> None:
        start = open_facts.pop(key) / FRAMES_PER_SECOND
        found.append(Fact(start, *key, end / FRAMES_PER_SECOND))

    for frame in range(num_frames):
        now = set(true_at(frame))
        for key in [key for key in open_facts if key not in now]:
            close(key, frame)
        for key in now:
            open_facts.setdefault(key, frame)
    for key in list(open_facts):
        close(key, num_frames)
    return sorted(found, key=lambda fact: (fact.time_s, fact.question))


def write_sample(path: Path, seed: int, seconds: float, scale: int = 4, fps: int = 24) -> None:
    """Write a story to `path` and its truth to the same name with .json."""
    clip = story(seed, seconds)
    told = write_clip(path, clip, scale, fps)
    write_truth(path, len(clip) / FRAMES_PER_SECOND, fps, told)


def write_truth(path: Path, seconds: float, fps: int, told: list[Fact]) -> None:
    """The facts beside a video, as JSON of the same name."""
    sidecar = {"seconds": seconds, "fps": fps, "facts": [asdict(fact) for fact in told]}
    path.with_suffix(".json").write_text(json.dumps(sidecar, indent=1) + "\n")
