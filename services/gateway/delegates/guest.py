"""A guest: the last pictures of a session at a worker of another model, for one question.

A delegate is a worker like any other, so that its pictures, history, speech, limits and faults are
the same code; a relay of another server is one, too.
"""

import asyncio
import secrets
from collections.abc import Sequence

from services.common.jpeg import decode_jpeg
from services.common.tasks import cancel_and_wait, spawn
from services.common.threads import on_thread
from services.gateway.frames.display import Display
from services.gateway.frames.frame_size import FrameSize
from services.gateway.frames.sampler import Glimpse
from services.gateway.workers.placement import Placement
from services.gateway.workers.worker import Worker
from services.gateway.workers.worker_stream import WorkerStream
from services.gateway.workers.workers import Workers
from sightline.errors import UnavailableError
from sightline.v1 import inference_pb2


class Guest:
    """A session of a delegate's from `open` to `aclose`. One event loop. It is what an answer needs
    of a session (`Placed`): it never moves, and ends with its question."""

    def __init__(self, workers: Workers, model: str, open_timeout_s: float) -> None:
        """model: the delegate, by its model or pool."""
        self.id = f"guest-{secrets.token_hex(8)}"
        self.alive = True
        self.moving = False
        self.moved_on = asyncio.Event()
        self._placement = Placement(
            workers,
            self.id,
            window_segments=0,
            max_pixels=0,
            grace_s=0.0,
            open_timeout_s=open_timeout_s,
            model=model,
        )
        self._stream: WorkerStream | None = None
        self._reading: asyncio.Task[None] | None = None

    @property
    def worker(self) -> Worker:
        return self._placement.worker

    @property
    def model(self) -> str:
        """Name of the model that answers."""
        return self._placement.description.model

    async def open(self, glimpses: Sequence[Glimpse]) -> None:
        """Show a worker these pictures. Raises the SightlineError of whoever refused, ValueError
        for pictures that are none."""
        stream = self._stream = await self._placement.open()
        description = self._placement.description
        frames = await on_thread(_frames_of, glimpses, description, name=self.id)
        understood: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        reading = _read(stream, len(frames), understood)
        self._reading = spawn(reading, name=f"{self.id}:read")
        for frame in frames:
            await stream.writable()
            if not await stream.send(frame):
                break  # the reader hears why
        await understood

    async def aclose(self) -> None:
        """Free what it holds. Takes not long, raises nothing."""
        self.alive = False
        if self._stream is not None:
            self._stream.cancel()
            await cancel_and_wait(self._reading)
            await self._placement.release()

    async def wait_placed(self, timeout_s: float) -> bool:
        return True

    def frame_age_s(self, capture_ns: int) -> float | None:
        """Nothing: its pictures are none of those whose age is kept."""
        return None

    @property
    def shown_again(self) -> bool:
        return False  # it is shown what there is before it is asked

    def note_degraded(self, flags: list[str]) -> None:
        """Its session hears of that with the answer."""


async def _read(stream: WorkerStream, last: int, understood: asyncio.Future[None]) -> None:
    """Read acknowledgements, and tell of the last frame's, or that there will be none."""
    while (ack := await stream.read()) is not None:
        if ack.sequence >= last and not understood.done():
            understood.set_result(None)
    if not understood.done():
        understood.set_exception(UnavailableError(f"the delegate took no frames: {stream.reason}"))


def _frames_of(
    glimpses: Sequence[Glimpse], description: inference_pb2.ModelDescription
) -> list[inference_pb2.Frame]:
    """Frames as a model wants them, all of the newest one's shape; as many as it reads together, or
    a multiple of that."""
    tubelet = max(1, description.tubelet)
    odd = len(glimpses) % tubelet
    chosen = [*([glimpses[0]] * ((tubelet - odd) % tubelet)), *glimpses]
    pictures = [decode_jpeg(each.jpeg) for each in chosen]
    size = FrameSize.of(description, 0)
    width, height = size.fit(pictures[-1].width, pictures[-1].height)
    display = Display()
    return [
        inference_pb2.Frame(
            sequence=number,
            capture_ns=each.capture_ns,
            pixels=display.rgb(picture, width, height),
            width=width,
            height=height,
            layout=inference_pb2.PIXEL_LAYOUT_RGB24,
            replayed=True,
        )
        for number, (each, picture) in enumerate(zip(chosen, pictures, strict=True), start=1)
    ]
