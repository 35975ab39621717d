"""One worker as the gateway knows it: its channel, its model, how full it is, who needs it."""

import asyncio
import time

import grpc

from services.common.channels import channel_to
from services.common.identity import Identity
from services.gateway.workers.pulse import Pulse
from sightline.v1 import inference_pb2, inference_pb2_grpc

DESCRIBE_TIMEOUT_S = 3.0
AWAY_S = 1.0  # a worker's reports may end for so long before its sessions look for another
RELEASE_TIMEOUT_S = 3.0


def shape_of(description: inference_pb2.ModelDescription) -> tuple[object, ...]:
    """Shape that two models have in common where frames made for one, and windows of it, are right
    for the other."""
    return (
        description.model,
        description.frame_width,
        description.frame_height,
        description.tubelet,
        description.tokens_per_segment,
        description.size_factor,
        description.min_pixels,
        description.max_pixels,
        description.window_segments,
    )


class Worker:
    """One inference worker: its channel, its model and its newest load report.

    `name` is what viewers hear of it; its address is for operators. `description` is None and
    `load` stale while `answering` is False. `incompatible`: it speaks another protocol, and is left
    alone until it is replaced. `leaving`: discovery says that it ends, or names it no more; it is
    `closed` once no session holds it.
    """

    def __init__(
        self,
        address: str,
        name: str,
        channel: grpc.aio.Channel | None = None,
        identity: Identity | None = None,
    ) -> None:
        """`channel`: to be used instead of one to the address."""
        self.address = address
        self.name = name
        self.channel, _ = channel_to(channel or address, identity)
        self.stub = inference_pb2_grpc.InferenceServiceStub(self.channel)
        self.description: inference_pb2.ModelDescription | None = None
        self.load = inference_pb2.LoadReport()
        self.pulse = Pulse()
        self.answering = False
        self.incompatible = False
        self.leaving = False
        self.closed_s: float | None = None
        self.unfit = asyncio.Event()  # set while it drains, leaves, hangs or is away
        self.hung = asyncio.Event()  # set while its reports are overdue, though nothing broke
        self.unheld = asyncio.Event()  # set while no session holds it
        self.unheld.set()
        self.rank = 0  # its place among those that discovery names
        self.names: tuple[str, ...] = ()  # of its pool and its model, as it last told
        self.shape: tuple[object, ...] = ()  # of its model, as it last told
        self._holders: set[str] = set()
        self._away_since_s = time.monotonic()
        # Pages promised to sessions that the newest report does not show: those that it is asked
        # to admit now, and those that it has admitted since.
        self._admitting: dict[str, int] = {}
        self._admitted: dict[str, int] = {}

    @property
    def closed(self) -> bool:
        return self.closed_s is not None

    @property
    def is_ready(self) -> bool:
        """Whether it answers and takes sessions."""
        return self.answering and not self.load.draining and not self.leaving

    @property
    def is_loading(self) -> bool:
        """Whether it is there and its model is not ready."""
        return (
            self.description is not None
            and self.description.HasField("loading")
            and not self.leaving
        )

    @property
    def has_room(self) -> bool:
        """Whether it would probably take another session."""
        return self.is_ready and self.free_sessions > 0

    @property
    def is_ending(self) -> bool:
        """Whether its sessions should go elsewhere: it drains, leaves, hangs, or has been away for
        a while."""
        if self.leaving or self.hung.is_set():
            return True
        if self.answering:
            return self.load.draining
        return time.monotonic() - self._away_since_s > AWAY_S

    @property
    def free_sessions(self) -> int:
        """Sessions that probably fit; the worker itself has the last word."""
        if not self.answering or self.leaving or self.description is None:
            return 0
        most = self.load.max_sessions or self.description.max_sessions
        return max(0, most - self.load.sessions - len(self._admitting) - len(self._admitted))

    @property
    def fullness(self) -> tuple[float, float, float]:
        """Sorts workers: share of KV pages promised, or of sessions taken where a worker does not
        tell, then queue delay, then device time."""
        load = self.load
        if load.kv_session_pages and load.kv_pages_total:
            promised = sum(self._admitting.values()) + sum(self._admitted.values())
            share = (load.kv_pages_promised + promised) / load.kv_pages_total
        else:
            most = load.max_sessions or (self.description and self.description.max_sessions) or 1
            share = (load.sessions + len(self._admitting) + len(self._admitted)) / most
        return (share, load.queue_delay_ms, load.device_busy)

    def serves(self, name: str) -> bool:
        """Whether this is the name of its model or its pool."""
        return name in self.names

    def admit(self, session_id: str, window_segments: int) -> None:
        """Count a session that it is asked to admit, with a window of so many segments; 0: its
        default."""
        usual = (self.description and self.description.window_segments) or 1
        pages = self.load.kv_session_pages * (window_segments or usual) / usual
        self._admitting[session_id] = round(pages)

    def admitted(self, session_id: str, *, taken: bool) -> None:
        """It has answered: a session that it has taken counts until the next report shows it."""
        pages = self._admitting.pop(session_id, None)
        if taken and pages is not None:
            self._admitted[session_id] = pages

    async def describe(self) -> inference_pb2.ModelDescription:
        description: inference_pb2.ModelDescription = await self.stub.Describe(
            inference_pb2.DescribeRequest(), timeout=DESCRIBE_TIMEOUT_S
        )
        self.description = description
        self.names = tuple(name for name in (description.pool, description.model) if name)
        self.shape = shape_of(description)
        return description

    async def replies(self, timeout_s: float) -> bool:
        """Whether it says anything at all within that time."""
        try:
            await self.stub.Describe(inference_pb2.DescribeRequest(), timeout=timeout_s)
        except grpc.aio.AioRpcError as error:
            return error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED
        return True

    def report(self, load: inference_pb2.LoadReport) -> None:
        self.load = load
        self.pulse.reported()
        self.answering = True
        self.hung.clear()
        self._admitted.clear()
        self._judge()

    def silent(self) -> None:
        """Note that it answers no more."""
        if self.answering:
            self._away_since_s = time.monotonic()
        self.answering = False
        self.pulse.broken()
        self._judge()

    def hang(self) -> None:
        """Note that its reports are overdue."""
        self.hung.set()
        self._judge()

    def leave(self, leaving: bool) -> None:
        """Let its sessions go elsewhere, or have it back."""
        self.leaving = leaving
        self._judge()

    def hold(self, session_id: str) -> None:
        """Keep it open for a session, also when it is gone."""
        self._holders.add(session_id)
        self.unheld.clear()

    def let_go(self, session_id: str) -> None:
        """The session needs it no more."""
        self._holders.discard(session_id)
        if not self._holders:
            self.unheld.set()

    def _judge(self) -> None:
        if self.is_ready and not self.hung.is_set():
            self.unfit.clear()
        else:
            self.unfit.set()

    async def release(self, session_id: str, fence: int) -> None:
        """Free a session's memory. Raises AioRpcError; the worker then forgets it in time."""
        request = inference_pb2.ReleaseSessionRequest(session_id=session_id, fence=fence)
        await self.stub.ReleaseSession(request, timeout=RELEASE_TIMEOUT_S)
