"""Diary of one session: its moments, described by its worker and written down as they end."""

import asyncio
import logging
import time
from dataclasses import dataclass, field
from typing import Any

import grpc

from services.common.tasks import cancel_and_wait, spawn
from services.gateway import metrics
from services.gateway.frames.sampler import SampledFrame
from services.gateway.memory.journal import Journal
from services.gateway.memory.moments import Moment, Moments, Step
from services.gateway.sessions.session import Session
from sightline.errors import SightlineError
from sightline.v1 import dialogue_pb2, gateway_pb2, inference_pb2

log = logging.getLogger(__name__)

PICTURES = gateway_pb2.MEMORY_KIND_PICTURES
NOTE_S = 30.0  # that a worker gets to describe a moment, behind all that is asked of it
PICTURE_WIDTHS = (320, 160)  # pixels, of the first that is small enough
MOST_PICTURE_BYTES = 48 * 1024
MOST_PICTURES = 3
MOVED_S = 3.0  # after which another worker's line would be about something else
GOODBYE_S = 2.0  # for what goes on when the gateway ends or gives its session away
MOST_BUSY = 0.7  # share of a worker's time that leaves none for lines
MOST_ENDING = 32  # moments that are over and not written yet
MOST_HEARD_CHARACTERS = 2000


@dataclass(slots=True)
class _Page:
    """What is known of the moment that goes on. `like`: the moment that showed the same."""

    describing: asyncio.Task[None] | None = None
    line: str = ""
    embedding: bytes = b""
    pictures: list[bytes] = field(default_factory=list)
    like: "_Page | None" = None

    async def described(self) -> None:
        """Wait until nothing more will be known of it."""
        if self.describing is not None:
            await asyncio.wait({self.describing})
        if self.like is not None and self.like.describing is not None:
            await asyncio.wait({self.like.describing})
            self.line, self.embedding = self.like.line, self.like.embedding


class Diary:
    """The keeper of one session's memory while this gateway has the session. One event loop."""

    def __init__(self, session: Session, journal: Journal, longest_s: float) -> None:
        self._session = session
        self._journal = journal
        self._moments = Moments(longest_s)
        self._page = self._noted = _Page()
        self._ending: set[asyncio.Task[None]] = set()
        self._newest: asyncio.Task[None] | None = None  # of those
        self._leaving = asyncio.Event()
        self._heard_ns = 0  # end of the newest sentence that is written down
        self._closed = False
        session.feed.witness = self.see

    def see(self, frame: SampledFrame) -> None:
        """A frame that the model has understood."""
        if self._closed or not self._moments.wants(frame.capture_ns):
            return
        step = self._moments.see(frame.pixels, frame.width, frame.height, frame.capture_ns)
        page, known = self._page, self._noted
        if step is Step.SAME and known.describing and (known.line or not known.describing.done()):
            page.like = known
            page.describing = self._spawn(self._picture(page, frame.capture_ns), "picture")
            metrics.NOTES.labels("same").inc()
        elif step in (Step.NOTE, Step.SAME):
            self._noted = page
            page.describing = self._spawn(self._describe(page, frame.capture_ns), "describe")
        elif step is Step.END and self._moments.ended is not None:
            self._page = _Page()
            if len(self._ending) >= MOST_ENDING:
                metrics.MOMENTS.labels("too_many").inc()
                return
            self._end(self._moments.ended, page)

    async def settle(self) -> None:
        """Wait until all moments that are over are written."""
        while self._ending:
            await asyncio.wait(set(self._ending))

    async def aclose(self) -> None:
        """Write nothing more."""
        self._closed = True
        await cancel_and_wait(self._page.describing, *self._ending)

    async def leave(self) -> None:
        """Write down what goes on, as far as it is known, and nothing more."""
        self._closed = True
        self._leaving.set()
        now, page = self._moments.now, self._page
        await cancel_and_wait(page.describing)
        if now is not None and now.end_ns > now.start_ns and len(self._ending) < MOST_ENDING:
            self._end(now, page)
        if self._ending:
            await asyncio.wait(set(self._ending), timeout=GOODBYE_S)
        await self.aclose()

    def _end(self, moment: Moment, page: _Page) -> None:
        ending = self._spawn(self._write(moment, page, self._newest), "write")
        self._newest = ending
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)

    def _spawn(self, work: Any, name: str) -> asyncio.Task[None]:
        return spawn(work, name=f"{self._session.id}:memory:{name}")

    async def _describe(self, page: _Page, capture_ns: int) -> None:
        """A line about what is there now, and a picture of it."""
        await self._picture(page, capture_ns)
        busy = self._session.worker.load.device_busy > MOST_BUSY
        if busy and not self._session.spec.lossless:  # one that is read as fast as may be waits
            metrics.NOTES.labels("busy").inc()
            return
        moved_on = self._session.moved_on
        if not await self._note(page) and await self._moved(moved_on) and page is self._page:
            await self._note(page)

    async def _note(self, page: _Page) -> bool:
        """Have a line written. False where the worker did not say anything."""
        started_s = time.monotonic()
        outcome = "failed"
        try:
            reply = await self._session.worker.stub.Note(
                inference_pb2.NoteRequest(session_id=self._session.id), timeout=NOTE_S
            )
            page.line, page.embedding = reply.line[:2000], reply.embedding
            outcome = "written" if reply.line else "empty"
            metrics.NOTE_SECONDS.observe(time.monotonic() - started_s)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                outcome = "late"
        finally:
            metrics.NOTES.labels(outcome).inc()
        return outcome != "failed"

    async def _moved(self, moved_on: asyncio.Event) -> bool:
        """Whether another worker has the session soon: the one that had it ended in mid-line."""
        try:
            async with asyncio.timeout(MOVED_S):
                await moved_on.wait()
                return await self._session.wait_placed(MOVED_S)
        except TimeoutError:
            return False

    async def _picture(self, page: _Page, capture_ns: int) -> None:
        if self._session.spec.memory != PICTURES or len(page.pictures) >= MOST_PICTURES:
            return
        for width in PICTURE_WIDTHS:
            jpeg = await self._session.picture_of(capture_ns, width)
            if jpeg is not None and len(jpeg) <= MOST_PICTURE_BYTES:
                if jpeg not in page.pictures:
                    page.pictures.append(jpeg)
                return

    def _heard(self, moment: Moment) -> str:
        """What was said until its end and stands in no moment yet: words are known some seconds
        after they were said, so that they may stand in the next one."""
        if self._session.transcript is None:
            return ""
        said = self._session.transcript.between(self._heard_ns, moment.end_ns)
        self._heard_ns = max((each.end_ns for each in said), default=self._heard_ns)
        return " ".join(each.text for each in said)[:MOST_HEARD_CHARACTERS]

    async def _turn(self, before: asyncio.Task[None] | None) -> None:
        """Wait until the moment before is written: they are read in the order in which they were
        written, and each has what was said since the one before. When all have to go, the first
        that is known goes first."""
        if before is None or before.done():
            return
        leaving = self._spawn(self._leaving.wait(), "leaving")
        try:
            await asyncio.wait({before, leaving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            leaving.cancel()

    async def _write(self, moment: Moment, page: _Page, before: asyncio.Task[None] | None) -> None:
        await page.described()
        await self._turn(before)
        outcome = "store_away"
        try:
            reply = await self._journal.keep(
                self._session.id,
                dialogue_pb2.Moment(
                    start_ns=moment.start_ns,
                    end_ns=moment.end_ns,
                    changed=moment.changed,
                    line=page.line,
                    heard=self._heard(moment),
                    pictures=page.pictures,
                    embedding=page.embedding,
                ),
            )
            outcome = "left_out" if reply.left_out else "kept"
            if reply.pictures_left_out:
                outcome = "pictures_left_out"
        except SightlineError as error:
            log.warning(
                "a moment was not kept", extra={"session": self._session.id, "reason": str(error)}
            )
        finally:
            metrics.MOMENTS.labels(outcome).inc()
