"""A frame's four stages, as gateway and worker have them, one after the other or all at once."""

import queue
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av

from benchmarks.feed import FRAME_NS, TIMEOUT_S
from services.gateway.frames.display import Display
from services.inference_worker.engine.jobs import FrameJob, FrameReceipt
from services.inference_worker.engine.thread import Engine
from sightline.v1 import inference_pb2

STAGES = ("decode", "preprocess", "send", "understand")
WAITING = 4  # frames between two stages
_END = object()


class Stages:
    """`decode` gives pictures of an H.264 clip; each other stage makes of one thing the next."""

    def __init__(self, clip: Path, engine: Engine, num_frames: int) -> None:
        self._clip = clip
        self._engine = engine
        self._num_frames = num_frames
        self._layout = engine.model.spec.layout
        self._display = Display()
        self._runs = 0
        self._sequence = 0

    def open(self) -> None:
        """A new session for one run."""
        self._runs += 1
        self._sequence = 0
        self._engine.open_session(self._session).result(TIMEOUT_S)

    def close(self) -> None:
        self._engine.close_session(self._session).result(TIMEOUT_S)

    @property
    def _session(self) -> str:
        return f"run-{self._runs}"

    def decode(self) -> Iterator[av.VideoFrame]:
        with av.open(str(self._clip)) as container:
            container.streams.video[0].thread_count = 1
            for number, frame in enumerate(container.decode(video=0)):
                if number == self._num_frames:
                    return
                yield frame

    def preprocess(self, frame: av.VideoFrame) -> bytes:
        return self._display.rgb(frame, self._layout.width, self._layout.height)

    def send(self, pixels: bytes) -> bytes:
        """Send a frame as gateway and worker do: written and read."""
        frame = inference_pb2.Frame(pixels=pixels, capture_ns=1)
        wire = inference_pb2.StreamFramesRequest(frame=frame).SerializeToString()
        return inference_pb2.StreamFramesRequest.FromString(wire).frame.pixels

    def understand(self, pixels: bytes) -> None:
        """Waits for the frame that completes a tubelet, which is every one for most models."""
        self._sequence += 1
        understood: queue.Queue[FrameReceipt | Exception] = queue.Queue()
        job = FrameJob(
            pixels,
            self._layout,
            self._sequence * FRAME_NS,
            self._sequence,
            time.monotonic(),
            understood.put,
        )
        self._engine.submit_frame(self._session, job)
        if self._sequence % self._engine.model.spec.tubelet == 0:
            receipt = understood.get(timeout=TIMEOUT_S)
            if isinstance(receipt, Exception):
                raise receipt

    @property
    def rest(self) -> tuple[Callable[[Any], Any], ...]:
        """The stages after the first."""
        return (self.preprocess, self.send, self.understand)

    def seconds(self) -> dict[str, float]:
        """Seconds that each takes of one frame, alone."""
        self.open()
        found = dict.fromkeys(STAGES, 0.0)
        started_s = time.perf_counter()
        things: list[Any] = list(self.decode())
        found["decode"] = (time.perf_counter() - started_s) / len(things)
        for name, stage in zip(STAGES[1:], self.rest, strict=True):
            started_s = time.perf_counter()
            made = [stage(thing) for thing in things]
            found[name] = (time.perf_counter() - started_s) / len(things)
            things = made
        self.close()
        return found


def in_turn_s(stages: Stages) -> float:
    """Seconds with each frame through all stages before the next one is decoded."""
    stages.open()
    started_s = time.perf_counter()
    for thing in stages.decode():
        for stage in stages.rest:
            thing = stage(thing)
    taken_s = time.perf_counter() - started_s
    stages.close()
    return taken_s


def overlapped_s(stages: Stages) -> float:
    """Every stage a thread of its own, with short queues between them. Raises what one raises."""
    stages.open()
    queues: list[queue.Queue[Any]] = [queue.Queue(WAITING) for _ in stages.rest]
    errors: list[BaseException] = []

    def feed() -> None:
        try:
            for frame in stages.decode():
                queues[0].put(frame)
        except BaseException as error:
            errors.append(error)
        queues[0].put(_END)

    def work(number: int, stage: Callable[[Any], Any]) -> None:
        following = queues[number + 1] if number + 1 < len(queues) else None
        while (thing := queues[number].get()) is not _END:
            if errors:
                continue  # until the end, so that nobody waits for room
            try:
                made = stage(thing)
            except BaseException as error:
                errors.append(error)
                continue
            if following is not None:
                following.put(made)
        if following is not None:
            following.put(_END)

    threads = [threading.Thread(target=feed, name="decode")]
    threads += [
        threading.Thread(target=work, args=(number, stage), name=STAGES[number + 1])
        for number, stage in enumerate(stages.rest)
    ]
    started_s = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    taken_s = time.perf_counter() - started_s
    stages.close()
    if errors:
        raise errors[0]
    return taken_s
