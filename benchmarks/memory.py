"""Memory beyond the window: questions about a moment 15 s, 1, 10 and 60 minutes ago.

A story of one live shop, a new scene every 15 s of its own clock, shown to the whole suite faster
than life; after each scene from the sixtieth minute on it is asked what was there so long ago, and
when something showed that is gone. What was right is known. Beside it: the same questions asked
while it was there, and of the window alone, which holds more than the last four frames. Then a day
and a quarter of moments in the store.
"""

import asyncio
import os
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import grpc
import numpy as np
import redis.asyncio

from benchmarks.processes import Running, running
from benchmarks.report import Report, Result, Table, Target
from benchmarks.samples import Latency, percentile
from services.gateway.memory.past_question import past_question
from services.local.process import Process
from sightline import aio
from sightline.v1 import dialogue_pb2, dialogue_pb2_grpc
from training.recipe import load_recipe
from training.world import asking
from training.world.question import Question
from training.world.wide import film

NS = 1_000_000_000
FPS, SCENE_S, MID_S = 2, 15, 9
FRAMES = 8  # of a scene's clip, of which the last one stands still
AGES = {"15 s": 1, "1 min": 4, "10 min": 40, "60 min": 240}  # in scenes
KINDS = ("what", "held", "count", "presence", "price", "colour", "where", "sign")
SEED = 9_000_000
NOTED_S = 3.0  # that a line may take, for which the story waits
NOTES = "sightline_memory_note_seconds"
LEAST_RIGHT, MOST_LOST, MOST_FRAMES = 0.85, 0.005, 4.0
STORE_HOURS, MOMENTS_PER_HOUR = 30, 240
PICTURE_BYTES = 9000


@dataclass(slots=True)
class Scene:
    """Scene of the story: the picture that it shows, what is asked of it, then and later, and the
    names of what is there."""

    picture: Any
    question: Question
    past: str
    things: frozenset[str]


@dataclass(slots=True)
class Found:
    """Answers, by age: whether each was right; and what else was measured."""

    right: dict[str, list[bool]] = field(default_factory=lambda: {age: [] for age in AGES})
    window: dict[str, list[bool]] = field(default_factory=lambda: {age: [] for age in AGES})
    then: list[bool] = field(default_factory=list)
    when: list[bool] = field(default_factory=list)
    live: dict[str, list[bool]] = field(default_factory=dict)
    same: list[bool] = field(default_factory=list)
    unsure: list[bool] = field(default_factory=list)  # of what is gone: then, as it was then
    own: list[bool] = field(default_factory=list)  # and its words of now, as without memory
    first_ms: dict[str, list[float]] = field(default_factory=lambda: {"live": [], "memory": []})
    store_bytes: list[int] = field(default_factory=list)
    worker_mib: list[float] = field(default_factory=list)
    moments: int = 0
    note_ms: float = 0.0
    step_ms: float = 1.0


def run(report: Report, *, quick: bool) -> Result:
    num_asked = 24 if quick else 120
    at_once = {"WORKER_NOTE_WAIT_S": "0"}  # the story waits for every line
    with tempfile.TemporaryDirectory() as name, patch.dict(os.environ, at_once):
        return asyncio.run(_measure(Path(name), num_asked, report))


async def _measure(folder: Path, num_asked: int, report: Report) -> Result:
    found = Found()
    scenes = story(AGES["60 min"] + num_asked)
    async with running(folder) as suite:
        async with aio.connect(suite.gateway) as client:
            await _tell(client, scenes, num_asked, suite, found, report)
        found.step_ms = 1000 * suite.worker_histogram("sightline_step_seconds").quantile(0.5)
        found.note_ms = 1000 * suite.gateway_histogram(NOTES).quantile(0.5)
        report("a day of moments", 0.9)
        await _day(suite, found)
    return _result(found)


def story(count: int) -> list[Scene]:
    """The scenes of a story; each holds still at a moment of which something can be asked."""
    trade, found, seed = load_recipe("builtin").trade, list[Scene](), SEED
    while len(found) < count:
        seed += 1
        rng = np.random.default_rng(seed)
        clip = film(seed, FRAMES, "shop", "held_out", trade=trade)
        things = frozenset(clip.full_name(each.ident) for each in clip.present(FRAMES - 1))
        for kind in rng.permutation(list(KINDS)):
            question = asking.ask(clip, FRAMES - 1, str(kind), rng)
            past = None if question is None else in_the_past(question.text)
            if question is not None and past is not None:
                found.append(Scene(clip.pixels[-1], question, past, things))
                break
    return found


def in_the_past(text: str) -> str | None:
    """A question of the present as somebody asks it later; None where that is another one."""
    for now, past in ((" is ", " was "), (" are ", " were "), ("do you see", "did you see")):
        padded = f" {text} ".replace(now, past, 1).strip()
        asked = past_question(f"{padded} 5 minutes ago", 2**62)
        if padded != text and asked is not None and asked.present == text:
            return padded
    return None


async def _tell(
    client: aio.Client,
    scenes: list[Scene],
    num_asked: int,
    suite: Running,
    found: Found,
    report: Report,
) -> None:
    """Show the story with memory, and its last part without, and ask."""
    (worker,) = [each for each in suite.processes if "worker" in each.name]
    options: dict[str, Any] = {"push": True, "fps": FPS, "lossless": True}
    async with (
        await client.open(memory="pictures", **options) as remembering,
        await client.open(memory="off", **options) as forgetful,
    ):
        began_ns = time.time_ns() - (len(scenes) + 1) * SCENE_S * NS
        async with remembering.pusher() as one, forgetful.pusher() as other:
            for number, scene in enumerate(scenes):
                report(f"scene {number}", 0.9 * number / len(scenes))
                asks = number >= len(scenes) - num_asked
                start_ns = began_ns + number * SCENE_S * NS
                for frame in range(FPS * SCENE_S):
                    capture_ns = start_ns + frame * NS // FPS
                    await one.send((scene.picture, capture_ns))
                    if number >= len(scenes) - num_asked - 2:
                        await other.send((scene.picture, capture_ns))
                    if frame == 2 * FPS:
                        await _noted(suite, number + 1)
                newest_ns = start_ns + (FPS * SCENE_S - 1) * NS // FPS
                await _understood(remembering, newest_ns)
                if number % 8 == 0:
                    found.worker_mib.append(_rss_mib(worker))
                if asks:
                    await _understood(forgetful, newest_ns)
                    await _ask(remembering, forgetful, scenes, number, found)
                    await _ask_when(remembering, scenes, number, began_ns, found)
                    await _ask_of_the_gone(remembering, forgetful, scenes, number, found)
        found.moments = len(await remembering.memory(limit=5000))


async def _ask(
    remembering: aio.Session, forgetful: aio.Session, scenes: list[Scene], number: int, found: Found
) -> None:
    """Ask about now, with memory and without, and about every age."""
    now = scenes[number].question
    answers = [await _alone(each, now.text) for each in (remembering, forgetful)]
    for name, answer in zip(("with memory", "without"), answers, strict=True):
        found.live.setdefault(name, []).append(answer.text == now.answer)
    found.same.append(answers[0].text == answers[1].text)
    found.first_ms["live"].append(answers[0].first_token_ms)
    found.then.append(answers[0].text == now.answer)
    for age, back in AGES.items():
        scene = scenes[number - back]
        age_s = back * SCENE_S + (SCENE_S - MID_S) - 1 / FPS
        answer = await remembering.ask(f"{scene.past} {age_s:.1f} seconds ago").result()
        said = answer.text.rpartition("): ")[2]
        found.right[age].append(bool(answer.memory) and said == scene.question.answer)
        if answer.memory:
            found.first_ms["memory"].append(answer.first_token_ms)
        alone = await forgetful.ask(scene.question.text).result()
        found.window[age].append(alone.text == scene.question.answer)


async def _ask_when(
    session: aio.Session, scenes: list[Scene], number: int, began_ns: int, found: Found
) -> None:
    """Ask when something showed that is not there now; the latest time that it came is right."""
    names = sorted(scenes[number - AGES["1 min"]].things - scenes[number].things)
    if not names:
        return
    came = max(
        each
        for each in range(number)
        if names[0] in scenes[each].things and (not each or names[0] not in scenes[each - 1].things)
    )
    answer = await session.ask(f"When did the {names[0]} show?").result()
    told_ns = answer.memory[0].start_ns if answer.memory else 0
    found.when.append(abs(told_ns - began_ns - came * SCENE_S * NS) < SCENE_S * NS / 2)


async def _ask_of_the_gone(
    remembering: aio.Session, forgetful: aio.Session, scenes: list[Scene], number: int, found: Found
) -> None:
    """Ask in the present where something is that is not there now, nor in the window: what the
    model says of now must be as it says it without memory, and what follows be of when it was
    there."""
    seen = scenes[number].things | scenes[number - 1].things
    names = sorted(scenes[number - AGES["1 min"]].things - seen)
    if not names:
        return
    text = f"where is the {names[0]}"
    told, plain = [await _alone(each, text) for each in (remembering, forgetful)]
    now, _, then = told.text.partition(". From memory, ")
    found.own.append(now == plain.text)
    if plain.unsure:
        found.unsure.append(bool(then) and f"the {names[0]}".split()[-1] in told.memory[0].line)


async def _alone(session: aio.Session, text: str) -> Any:
    """An answer in no conversation: the two sessions have been asked different things."""
    async with session.conversation() as talk:
        return await talk.ask(text).result()


async def _understood(session: aio.Session, capture_ns: int) -> None:
    for _ in range(3000):
        if (await session.refresh()).stats.last_capture_ns >= capture_ns:
            return
        await asyncio.sleep(0.01)
    raise TimeoutError("the model did not keep up")


async def _noted(suite: Running, count: int) -> None:
    """Wait until so many lines were written, but not for ever: a line that is not is a scene that
    is remembered by its picture alone."""
    end_s = time.monotonic() + NOTED_S
    while time.monotonic() < end_s:
        histogram = await asyncio.to_thread(suite.gateway_histogram, NOTES)
        if histogram.total >= count:
            return
        await asyncio.sleep(0.03)


async def _day(suite: Running, found: Found) -> None:
    """Moments of more hours than are kept, straight into the store; its bytes after each."""
    picture = np.random.default_rng(1).bytes(PICTURE_BYTES)
    url = (
        suite.suite.config.dialogue_redis_url
        or suite.suite.dialogue.environment["DIALOGUE_REDIS_URL"]
    )
    session, client = "a-day", redis.asyncio.Redis.from_url(url)
    async with client, grpc.aio.insecure_channel(suite.suite.dialogue.address) as channel:
        stub = dialogue_pb2_grpc.DialogueServiceStub(channel)
        step_ns = 3600 * NS // MOMENTS_PER_HOUR
        for hour in range(STORE_HOURS):
            for number in range(MOMENTS_PER_HOUR):
                start_ns = SEED * NS + (hour * MOMENTS_PER_HOUR + number) * step_ns
                moment = dialogue_pb2.Moment(
                    start_ns=start_ns,
                    end_ns=start_ns + step_ns,
                    line="a red shirt is at the left and a phone is at the right",
                    pictures=[picture],
                    embedding=bytes(512),
                )
                request = dialogue_pb2.KeepMomentRequest(session=session, moment=moment)
                await stub.KeepMoment(request, timeout=10)
            sizes = [
                await client.memory_usage(key, samples=0) or 0
                for key in (f"sightline:memory:{session}", f"sightline:memory-pictures:{session}")
            ]
            found.store_bytes.append(sum(sizes))


def _rss_mib(process: Process) -> float:
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


def _share(right: list[bool]) -> float:
    return sum(right) / len(right) if right else 0.0


def _result(found: Found) -> Result:
    rows = [
        (age, f"{_share(found.right[age]):.2f}", f"{_share(found.window[age]):.2f}") for age in AGES
    ]
    rows.append(("when it showed", f"{_share(found.when):.2f}", "-"))
    rows.append(("where it is, that is gone", f"{_share(found.unsure):.2f}", "-"))
    live, memory = (Latency.of_ms(found.first_ms[name]) for name in ("live", "memory"))
    lost = _share(found.live["without"]) - _share(found.live["with memory"])
    kept = found.store_bytes
    later = (memory.p50_ms - live.p50_ms) / found.step_ms
    growth = max(kept[25:]) / kept[23]
    worker = found.worker_mib
    return Result(
        name="memory",
        tables=[
            Table("Right about the past", ("age", "with memory", "window alone"), rows),
            Table(
                "Right about the present",
                ("", "share"),
                [(name, f"{_share(right):.3f}") for name, right in found.live.items()],
            ),
            Table(
                "First token",
                ("", "p50 ms", "p95 ms"),
                [
                    (name, f"{each.p50_ms:.1f}", f"{each.p95_ms:.1f}")
                    for name, each in (("about now", live), ("from memory", memory))
                ],
            ),
            Table(
                "Kept",
                ("", ""),
                [
                    ("moments of the story", str(found.moments)),
                    ("a line, p50 ms", f"{found.note_ms:.0f}"),
                    ("MiB of a day of moments", f"{kept[23] / 2**20:.1f}"),
                    ("… of a day and a quarter", f"{kept[-1] / 2**20:.1f}"),
                    ("worker MiB, early and late", f"{worker[1]:.0f}, {worker[-1]:.0f}"),
                ],
            ),
        ],
        targets=[
            Target("right at 60 min", _share(found.right["60 min"]), LEAST_RIGHT, at_least=True),
            Target("answers about now lost", lost, MOST_LOST),
            Target("answers about now that memory changed", 1 - _share(found.same), 0.0),
            Target("unsure answers whose first words memory changed", 1 - _share(found.own), 0.0),
            Target("the store's growth after a day", growth, 1.05, "×"),
            Target("first token from memory later by", max(0.0, later), MOST_FRAMES, "frames"),
        ],
        figures={
            "right": {age: _share(right) for age, right in found.right.items()},
            "window_alone": {age: _share(right) for age, right in found.window.items()},
            "when": _share(found.when),
            "of_the_gone": {"asked": len(found.unsure), "right": _share(found.unsure)},
            "asked_at_the_time": _share(found.then),
            "live": {name: _share(right) for name, right in found.live.items()},
            "first_token_ms": found.first_ms,
            "store_bytes": kept,
            "worker_mib": worker,
            "note_p50_ms": found.note_ms,
            "step_p50_ms": found.step_ms,
            "asked": len(found.then),
        },
        draw=lambda figure: _draw(figure, found),
        dtype="",
        device="cpu",
        notes=[
            f"{len(found.then)} scenes were asked about at every age; asked at the time, "
            f"{_share(found.then):.2f} are right",
            f"p95 of a first token from memory {percentile(found.first_ms['memory'], 0.95):.0f} ms",
        ],
    )


def _draw(figure: Any, found: Found) -> None:
    left, right = figure.subplots(1, 2)
    places = np.arange(len(AGES))
    left.bar(places - 0.2, [_share(found.right[age]) for age in AGES], 0.4, label="with memory")
    left.bar(places + 0.2, [_share(found.window[age]) for age in AGES], 0.4, label="window alone")
    left.axhline(_share(found.then), linestyle=":", label="asked at the time")
    left.set_xticks(places, list(AGES))
    left.set_ylim(0, 1)
    left.set_ylabel("right")
    left.legend()
    right.plot(np.arange(1, len(found.store_bytes) + 1), np.array(found.store_bytes) / 2**20)
    right.set_ylim(bottom=0)
    right.set_xlabel("hours of video")
    right.set_ylabel("MiB of one session's memory")
