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
    """Story that a model is shown where the user brings no video. `about`: all that it knows.
    `condition`: worth a watch. `shipped`: whether its clip comes with the suite, because what it
    shows cannot be painted here."""

    name: str
    seconds: int
    about: str
    condition: str
    shipped: bool = False


STORY = Story(
    "goods", 60, "a live shop of real goods", "something prohibited is shown", shipped=True
)
STORIES = (
    STORY,
    Story("builtin", 90, "a live shop of drawn goods", "something prohibited is shown"),
)
SHIPPED = Path(__file__).with_name("clips")


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


def story_of(model: str) -> Story:
    """The story that a model knows; the usual one for one that knows none."""
    return next((story for story in STORIES if story.name == model), STORY)


def sample_path(cache: Path, story: Story) -> Path:
    """File of a story's clip; one that is generated is kept in `cache`."""
    if story.shipped:
        return SHIPPED / f"{story.name}.mp4"
    return cache / f"{story.name}-{SEED}-{story.seconds}.mp4"


async def sample_clip(cache: Path, story: Story) -> Clip:
    """The story's clip, which is generated once and kept in `cache` where it does not come with the
    suite. Raises ConfigError when that fails."""
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
            async with asyncio.timeout(MAKE_S):
                code = await maker.wait()
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
