"""Clips to be shown: a generated clip with its truth beside it, or a video of the user's."""

import asyncio
import json
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from services.common.config import ConfigError
from services.local.process import Process

SEED = 1
MAKE_S = 600.0
QUIET = ("-hide_banner", "-nostdin", "-nostats", "-loglevel", "warning")


@dataclass(frozen=True, slots=True)
class Story:
    """Story that the built-in model is shown, and any other that has no video of its own. `about`:
    all that it knows. `condition`: worth a watch."""

    name: str
    seconds: int
    about: str
    condition: str


STORY = Story("builtin", 90, "a live shop", "something prohibited is shown")


@dataclass(frozen=True, slots=True)
class Fact:
    """A question whose right answer is `answer` from `time_s` until `until_s` of the clip."""

    time_s: float
    until_s: float
    question: str
    answer: str
    kind: str


@dataclass(frozen=True, slots=True)
class Clip:
    path: Path
    seconds: float
    facts: tuple[Fact, ...]

    def truth(self, question: str, time_s: float) -> str | None:
        """The right answer at a moment of the looped clip; None where nobody can say."""
        time_s %= self.seconds
        for fact in self.facts:
            if fact.question == question and fact.time_s <= time_s < fact.until_s:
                return fact.answer
        return None


def sample_path(cache: Path, story: Story) -> Path:
    """File that a generated clip is kept in."""
    return cache / f"{story.name}-{SEED}-{story.seconds}.mp4"


async def sample_clip(cache: Path, story: Story) -> Clip:
    """The generated clip, made once and kept in `cache`. Raises ConfigError when that fails."""
    path = sample_path(cache, story)
    if not await asyncio.to_thread(_is_there, path):
        made = path.with_name(f"making-{os.getpid()}-{path.name}")
        log = path.with_suffix(".log")
        what = ("--recipe", story.name, "--seed", str(SEED), "--seconds", str(story.seconds))
        size = ("--scale", "3")  # 384 pixels a side: larger ones are painted for a minute
        command = (sys.executable, "-m", "training", "clip", str(made), *what, *size)
        maker = Process("clip", command, log)
        await maker.start()
        try:
            code = await asyncio.wait_for(maker.wait(), MAKE_S)
        finally:
            await maker.kill()
        if code != 0:
            lines = "\n  ".join(maker.last_lines())
            raise ConfigError(f"the sample clip could not be made:\n  {lines}")
        made.with_suffix(".json").replace(path.with_suffix(".json"))
        made.replace(path)
    return await asyncio.to_thread(read_clip, path)


def _is_there(path: Path) -> bool:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.exists() and path.with_suffix(".json").exists()


def read_clip(path: Path) -> Clip:
    """A generated clip, with the truth that was written beside it."""
    told = json.loads(path.with_suffix(".json").read_text())
    facts = (
        Fact(fact["time_s"], fact["until_s"], fact["question"], fact["answer"], fact["kind"])
        for fact in told["facts"]
    )
    return Clip(path, float(told["seconds"]), tuple(facts))


def publisher_command(path: Path, url: str) -> Sequence[str]:
    """Command that publishes a file as a live, looping stream: ffmpeg, or PyAV where that is
    absent."""
    program = shutil.which("ffmpeg")
    if program is None:
        return (sys.executable, "-m", "services.local.publish", str(path), url)
    loop = ("-re", "-stream_loop", "-1", "-i", str(path))
    return (program, *QUIET, *loop, *_codec(path), "-an", "-f", "flv", url)


def _codec(path: Path) -> Iterator[str]:
    import av

    with av.open(str(path)) as container:
        h264 = container.streams.video[0].codec_context.name == "h264"
    if h264:
        yield from ("-c:v", "copy")
    else:
        yield from ("-c:v", "libx264", "-preset", "veryfast", "-tune", "zerolatency")
        yield from ("-pix_fmt", "yuv420p", "-g", "50")
