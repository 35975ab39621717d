"""Users' own video as training data: a JSONL of conversations about clips, and their frames.

One line is one clip of a video and one conversation about it. Times are seconds of the video;
`start` and `end` may be left out, and a relative path begins where the JSONL is:

    {"video": "kitchen.mp4", "start": 3.0, "end": 21.5, "conversation": [
        {"at": 8.0, "question": "Who is there?", "answer": "A cook."},
        {"at": 14.5, "question": "What is she doing?", "answer": "Cutting an onion."}]}

Frames become what the gateway makes of them: the same timestamps, choice by rate, and resizing.
"""

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from services.gateway.frames.display import Display, displayed_size
from services.gateway.frames.frame_size import FrameSize
from services.gateway.frames.sampler import FrameRate
from services.gateway.sources.container import ContainerReader, open_file
from services.gateway.sources.sound import EncodedSound
from services.gateway.sources.source import DecodeBudget, DecodedFrame, EncodedPacket
from services.inference_worker.model.family import StreamSpec
from sightline.errors import InvalidArgumentError

SECOND_NS = 1_000_000_000
TOLERANCE_S = 1e-6
OVER_S = 1.0  # how much later than the last picture a time may lie: lengths are often rounded


class DataError(ValueError):
    """The data cannot be trained on; the message names file, line and field."""


@dataclass(frozen=True, slots=True)
class Turn:
    """A question asked at a moment of the video, and the answer to learn. `where`: its place in
    the file, for messages."""

    where: str
    at_s: float
    question: str
    answer: str


@dataclass(frozen=True, slots=True)
class Recording:
    """A line of a JSONL: a clip from `start_s` to `end_s` (None: the end of the video) and its
    turns, in order of time."""

    where: str
    video: Path
    start_s: float
    end_s: float | None
    turns: tuple[Turn, ...]


@dataclass(frozen=True, slots=True)
class Footage:
    """A clip's frames: pixels [frames, height, width, 3] uint8, on disk until they are read, and
    times [frames] in seconds of the video."""

    pixels: NDArray[np.uint8]
    times_s: NDArray[np.float64]


def read_recordings(path: Path) -> list[Recording]:
    """Every line of a JSONL; empty ones are passed over. Raises DataError."""
    return [_recording(where, value, path.parent) for where, value in read_lines(path)]


def read_lines(path: Path) -> list[tuple[str, Any]]:
    """(place for messages, JSON value) of every line that is not empty. Raises DataError."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    lines = [
        _parsed(f"{path}:{number}", line)
        for number, line in enumerate(text.split("\n"), 1)
        if line.strip()
    ]
    if not lines:
        raise DataError(f"{path}: has no clips")
    return lines


def _parsed(where: str, line: str) -> tuple[str, Any]:
    try:
        return where, json.loads(line)
    except ValueError as error:
        raise DataError(f"{where}: not JSON: {error}") from error


def _recording(where: str, value: Any, folder: Path) -> Recording:
    fields = Fields(f"{where}: ", value, ("video", "start", "end", "conversation"))
    video = fields.file("video", folder)
    span = fields.span()
    turns: list[Turn] = []
    for index, each in enumerate(fields.objects("conversation", "question")):
        place = f"{where}: conversation[{index}]"
        turn = Fields(f"{place}.", each, ("at", "question", "answer"))
        at_s = turn.seconds_within("at", span)
        if turns and at_s < turns[-1].at_s:
            raise turn.error("at", f"{at_s:g} is before the question above, {turns[-1].at_s:g}")
        turns.append(Turn(place, at_s, turn.text("question"), turn.text("answer")))
    return Recording(where, video, *span, tuple(turns))


class Fields:
    """Reads one JSON object; `prefix` is what a message says before a field's name."""

    def __init__(self, prefix: str, value: Any, known: Sequence[str]) -> None:
        self._prefix = prefix
        if not isinstance(value, dict):
            raise DataError(f"{prefix.rstrip(': .')}: must be an object with {', '.join(known)}")
        self._value: dict[str, Any] = value
        if unknown := sorted(value.keys() - set(known)):
            raise self.error(unknown[0], f"no such field; there are {', '.join(known)}")

    def __contains__(self, name: str) -> bool:
        return name in self._value

    def __getitem__(self, name: str) -> Any:
        return self._value.get(name)

    def error(self, name: str, what: str) -> DataError:
        return DataError(f"{self._prefix}{name}: {what}")

    def text(self, name: str) -> str:
        found = self._value.get(name)
        if not isinstance(found, str) or not found.strip():
            raise self.error(name, "must be text, and is missing or empty")
        return found.strip()

    def file(self, name: str, folder: Path) -> Path:
        """A file that is there; a relative path begins in `folder`."""
        path = folder / self.text(name)
        if not path.is_file():
            raise self.error(name, f"there is no file {path}")
        return path.resolve()

    def objects(self, name: str, what: str) -> list[Any]:
        """A list that is not empty."""
        found = self._value.get(name)
        if not isinstance(found, list) or not found:
            raise self.error(name, f"must be a list of at least one {what}")
        return found

    def span(self) -> tuple[float, float | None]:
        """`start` and `end`, which may be left out."""
        start_s = self.seconds("start", 0.0)
        end_s = self.seconds("end") if "end" in self else None
        if end_s is not None and end_s <= start_s:
            raise self.error("end", f"{end_s:g} is not after the start, {start_s:g}")
        return start_s, end_s

    def seconds_within(self, name: str, span: tuple[float, float | None]) -> float:
        found = self.seconds(name)
        start_s, end_s = span
        if found < start_s or (end_s is not None and found > end_s):
            until = "the video's end" if end_s is None else f"{end_s:g}"
            raise self.error(name, f"{found:g} is outside the clip, {start_s:g} to {until}")
        return found

    def seconds(self, name: str, default: float | None = None) -> float:
        found = self._value.get(name, default)
        if isinstance(found, bool) or not isinstance(found, int | float):
            raise self.error(name, "must be a number of seconds, and is missing or something else")
        if not math.isfinite(found) or found < 0:
            raise self.error(name, f"must be a number of seconds from 0 on, not {found}")
        return float(found)


def frame_size(spec: StreamSpec) -> FrameSize:
    """The gateway's rule for a model's frames, without a budget of the session's own."""
    layout = spec.layout
    return FrameSize(
        width=layout.width,
        height=layout.height,
        factor=spec.size_factor,
        min_pixels=spec.min_pixels,
        max_pixels=min(layout.width * layout.height, spec.max_pixels),
    )


def read_footage(
    recordings: Sequence[Recording],
    fps: float,
    size: FrameSize,
    folder: Path,
    done: Callable[[], None] = lambda: None,
) -> list[Footage]:
    """The frames of every clip, in order, as a session of `fps` that begins with it samples them.

    Every video is read once, from its beginning, for all of its clips. Frames wait in `folder`, so
    that memory holds one video's unfinished clips only. `done` is called after each clip. Raises
    DataError for what cannot be read, and for times when the video is already over.
    """
    folder.mkdir(parents=True, exist_ok=True)
    takers: dict[Path, list[_Taker]] = {}
    for number, recording in enumerate(recordings):
        taker = _Taker(recording, fps, size, folder / f"{number}.npy", done)
        takers.setdefault(recording.video, []).append(taker)
    for video, members in takers.items():
        _play(video, members)
    return [
        Footage(np.load(taker.path, mmap_mode="r"), np.array(taker.times_s))
        for taker in sorted(
            (taker for members in takers.values() for taker in members),
            key=lambda taker: int(taker.path.stem),
        )
    ]


def _play(video: Path, takers: "list[_Taker]") -> None:
    """Show a video's pictures to those who want some of them."""
    try:
        reading = open_file(video, _Unbothered())
    except InvalidArgumentError as error:
        raise takers[0].error("video", f"{video}: {error.message}") from error
    try:
        last_s, waiting = _show(reading, takers)
    except (av.FFmpegError, OSError) as error:
        raise takers[0].error("video", f"{video} cannot be read to its end: {error}") from error
    finally:
        reading.close()
    for taker in waiting:
        taker.finish(last_s)


def _show(reading: ContainerReader, takers: "Iterable[_Taker]") -> tuple[float, "list[_Taker]"]:
    """Returns when the last picture was shown, and who was still waiting for more."""
    waiting, time_s = list(takers), 0.0
    for frame, time_ns in reading.pictures:
        time_s = time_ns / SECOND_NS
        for taker in [taker for taker in waiting if taker.is_over(time_s)]:
            taker.finish(time_s)
            waiting.remove(taker)
        if not waiting:
            break
        for taker in waiting:
            taker.take(frame, time_ns, reading.aspect)
    return time_s, waiting


class _Taker:
    """Takes one clip's frames out of a video that passes by."""

    def __init__(
        self,
        recording: Recording,
        fps: float,
        size: FrameSize,
        path: Path,
        done: Callable[[], None],
    ) -> None:
        self.recording = recording
        self.path = path
        self.times_s: list[float] = []
        self._rate = FrameRate(fps)
        self._rule = size
        self._size: tuple[int, int] | None = None
        self._pixels: list[bytes] = []
        self._display = Display()
        self._done = done

    def error(self, name: str, what: str) -> DataError:
        return DataError(f"{self.recording.where}: {name}: {what}")

    def is_over(self, time_s: float) -> bool:
        end_s = self.recording.end_s
        return end_s is not None and time_s > end_s + TOLERANCE_S

    def take(self, frame: av.VideoFrame, time_ns: int, aspect: float) -> None:
        time_s = time_ns / SECOND_NS
        if time_s < self.recording.start_s - TOLERANCE_S:
            return
        if self._size is None:  # the first picture's shape settles it
            self._size = self._rule.fit(*displayed_size(frame, aspect))
        if self._rate.chooses(time_ns):
            self._pixels.append(self._display.rgb(frame, *self._size))
            self.times_s.append(time_s)

    def finish(self, last_s: float) -> None:
        """The clip is over, or the video, whose newest picture is at `last_s`."""
        recording = self.recording
        if not self._pixels:
            raise self.error("start", f"there is no picture after {recording.start_s:g} s")
        if recording.end_s is not None and recording.end_s > last_s + OVER_S:
            raise self.error("end", f"{recording.end_s:g}, but the video ends at {last_s:.2f} s")
        for turn in recording.turns:
            if turn.at_s > last_s + OVER_S:
                raise DataError(
                    f"{turn.where}.at: {turn.at_s:g}, but the video ends at {last_s:.2f} s"
                )
        assert self._size is not None
        width, height = self._size
        frames = np.frombuffer(b"".join(self._pixels), np.uint8)
        np.save(self.path, frames.reshape(len(self._pixels), height, width, 3))
        self._pixels.clear()
        self._done()


class _Unbothered:
    """Receiver of a reading's remarks: a broken packet is passed over, as it is when it is
    served."""

    budget = DecodeBudget()

    def take(self, picture: DecodedFrame) -> None: ...
    def encoded(self, codec: str, extradata: bytes, packet: EncodedPacket) -> bool:
        return False

    def sound(self, sound: EncodedSound) -> None: ...
    def ended(self, reason: str) -> None: ...
    def dropped(self, reason: str, count: int = 1) -> None: ...
    def noted(self, what: str, count: int = 1) -> None: ...
