"""An ear for what is said in a session's own video: by hosts, speakers and machines."""

import asyncio
import contextlib
import logging
from collections.abc import Callable

from services.common.resampling import HEARD_RATE
from services.common.tasks import NewestQueue, cancel_and_wait, spawn
from services.common.threads import Lane
from services.gateway import metrics
from services.gateway.playback.opus import OpusPacket
from services.gateway.playback.soundtrack import Listener
from services.gateway.sessions.session import Session
from services.gateway.viewers.host_sound import HostSound
from services.gateway.voice.ears import Ears
from services.gateway.voice.passages import Passage
from services.gateway.voice.phrases import has_words
from sightline.errors import SightlineError
from sightline.v1 import gateway_pb2

log = logging.getLogger(__name__)

BATCH = 25  # packets that are looked at together: half a second
PAUSE_S = 1.5  # without a packet, after which what was said is over
MAX_WAITING = 4  # passages that wait for their words; older ones are not heard
SECOND_NS = 1_000_000_000


class HostEar:
    """Listens to a session's soundtrack as a viewer does, from `start` to `aclose`. Where nobody
    speaks, nothing is looked for. All methods belong to the event loop.

    tell: gets what was said, in order.
    """

    def __init__(
        self, session: Session, ears: Ears, tell: Callable[[gateway_pb2.Said], None]
    ) -> None:
        self._session = session
        self._ears = ears
        self._tell = tell
        self._lane = Lane(f"{session.id}:host")
        self._waiting: NewestQueue[tuple[int, Passage]] = NewestQueue(MAX_WAITING, _dropped)
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        name = self._session.id
        self._tasks = [
            spawn(self._listen(), name=f"{name}:host:listen"),
            spawn(self._understand(), name=f"{name}:host:understand"),
        ]

    async def aclose(self) -> None:
        await cancel_and_wait(*self._tasks)
        self._lane.close()

    async def _listen(self) -> None:
        soundtrack = self._session.broadcast.sound
        sound = HostSound(self._ears.activity())
        listener = soundtrack.join()
        try:
            with contextlib.suppress(EOFError):
                while True:
                    packets = [await listener.next()]
                    pause = await _gather(listener, packets)
                    cut = lambda packets=packets, pause=pause: sound.cut(packets, pause=pause)  # noqa: E731
                    for found in await self._lane.run(cut):
                        self._waiting.put_nowait(found)
        finally:
            soundtrack.leave(listener)

    async def _understand(self) -> None:
        while True:
            start_ns, passage = await self._waiting.get()
            try:
                said = await self._words(start_ns, passage)
            except SightlineError as error:
                metrics.HOST_SPEECH.labels("failed").inc()
                log.warning(
                    "what is said in a video is not heard",
                    extra={"session": self._session.id, "error": error.message},
                )
                self._session.deaf = True
                continue
            self._session.deaf = False
            metrics.HOST_SPEECH.labels("heard" if said else "wordless").inc()
            for each in said:
                self._tell(each)

    async def _words(self, start_ns: int, passage: Passage) -> list[gateway_pb2.Said]:
        replies = self._ears.hearing().transcribe(passage.pieces(), HEARD_RATE, background=True)
        said: list[gateway_pb2.Said] = []
        async with contextlib.aclosing(replies):
            async for reply in replies:
                said = [
                    gateway_pb2.Said(
                        text=each.text,
                        start_ns=start_ns + round(each.start_s * SECOND_NS),
                        end_ns=start_ns + round(each.end_s * SECOND_NS),
                        language=reply.language,
                    )
                    for each in reply.segments
                    if has_words(each.text)
                ]
        return said


async def _gather(listener: Listener, packets: list[OpusPacket]) -> bool:
    """Add what comes, up to a batch. Whether there is a pause."""
    try:
        async with asyncio.timeout(PAUSE_S):
            while len(packets) < BATCH:
                packets.append(await listener.next())
    except TimeoutError:
        return True
    return False


def _dropped(waiting: tuple[int, Passage]) -> None:
    metrics.HOST_SPEECH.labels("dropped").inc()
