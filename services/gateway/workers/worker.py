"""One worker as the gateway knows it: its channel, its model, how full it is, who needs it."""

import asyncio
import time

from services.common.channels import channel_to
from services.common.identity import Identity
from sightline.v1 import inference_pb2, inference_pb2_grpc

DESCRIBE_TIMEOUT_S = 3.0
AWAY_S = 1.0  # a worker's reports may pause for so long before its sessions look for another
RELEASE_TIMEOUT_S = 3.0


class Worker:
    """One inference worker: its channel, its model and its newest load report.

    `name` is what viewers hear of it; its address is for operators. `description` is None and
    `load` stale while `answering` is False. `incompatible`: it speaks another protocol, and is left
    alone until it is replaced. `leaving`: discovery says that it ends, or names it no more; it is
    `closed` once no session holds it.
    """

    def __init__(self, address: str, name: str, identity: Identity | None = None) -> None:
        self.address = address
        self.name = name
        self.channel, _ = channel_to(address, identity)
        self.stub = inference_pb2_grpc.InferenceServiceStub(self.channel)
        self.description: inference_pb2.ModelDescription | None = None
        self.load = inference_pb2.LoadReport()
        self.answering = False
        self.incompatible = False
        self.leaving = False
        self.closed_s: float | None = None
        self.unfit = asyncio.Event()  # set while it drains, leaves or is away
        self.unheld = asyncio.Event()  # set while no session holds it
        self.unheld.set()
        self._holders: set[str] = set()
        self._away_since_s = time.monotonic()
        self._placed_since_report = 0

    @property
    def closed(self) -> bool:
        return self.closed_s is not None

    @property
    def is_ready(self) -> bool:
        """Whether it answers and takes sessions."""
        return self.answering and not self.load.draining and not self.leaving

    @property
    def is_ending(self) -> bool:
        """Whether its sessions should go elsewhere: it drains, leaves, or has been away for a
        while."""
        if self.leaving:
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
        return max(0, most - self.load.sessions - self._placed_since_report)

    @property
    def fullness(self) -> tuple[float, float, float]:
        """Sorts workers: share of sessions taken, then queue delay, then device time."""
        most = self.load.max_sessions or (self.description and self.description.max_sessions) or 1
        taken = (self.load.sessions + self._placed_since_report) / most
        return (taken, self.load.queue_delay_ms, self.load.device_busy)

    def placed(self) -> None:
        """Count a session that the next load report will show."""
        self._placed_since_report += 1

    async def describe(self) -> inference_pb2.ModelDescription:
        self.description = await self.stub.Describe(
            inference_pb2.DescribeRequest(), timeout=DESCRIBE_TIMEOUT_S
        )
        return self.description

    def report(self, load: inference_pb2.LoadReport) -> None:
        self.load = load
        self.answering = True
        self._placed_since_report = 0
        self._judge()

    def silent(self) -> None:
        """Note that it answers no more."""
        if self.answering:
            self._away_since_s = time.monotonic()
        self.answering = False
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
        if self.is_ready:
            self.unfit.clear()
        else:
            self.unfit.set()

    async def release(self, session_id: str) -> None:
        """Free a session's memory. Raises AioRpcError; the worker then forgets it in time."""
        request = inference_pb2.ReleaseSessionRequest(session_id=session_id)
        await self.stub.ReleaseSession(request, timeout=RELEASE_TIMEOUT_S)
