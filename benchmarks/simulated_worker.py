"""A simulated worker: what a gateway sees of one, behind the contract's own stub, in virtual time.

It admits by KV pages, reports as often as it is asked to, and takes engine time for every frame of
a window that is replayed to it, beside the live frames of the sessions that it has.
"""

import asyncio
import random
from dataclasses import dataclass
from typing import Any

import grpc

from services.common.protocol import PROTOCOL
from sightline.v1 import inference_pb2 as pb

TRIP_S = 0.001  # of a message within a cluster, there and back


@dataclass(frozen=True, slots=True)
class Machine:
    """Machine of every simulated worker: `sessions` fit; `frame_s` of the engine a frame takes in
    shared steps; `fps` and `window` (frames) of every session."""

    sessions: int
    frame_s: float
    fps: float
    window: int

    @property
    def live_share(self) -> float:
        """Share of the engine's time that one live session takes."""
        return self.frame_s * self.fps


class SimulatedWorker:
    """One worker. `kill` and `hang` are faults; `drain` is what SIGTERM begins."""

    def __init__(self, address: str, zone: int, machine: Machine, rng: random.Random) -> None:
        self.address = address
        self.zone = zone
        self.draining = False
        self.alive = True
        self.hung_s: float | None = None  # since when it says nothing
        self.answers = asyncio.Event()  # clear while it hangs
        self.answers.set()
        self.sessions: set[str] = set()
        self.refused = 0
        self.calls: dict[_Call, None] = {}  # in their order
        self.machine = machine
        self._rng = rng
        self._free_s = 0.0  # when the engine will have understood all that was replayed

    def kill(self) -> None:
        self.alive = False
        self.sessions.clear()
        for call in list(self.calls):
            call.end(grpc.StatusCode.UNAVAILABLE)

    def hang(self) -> None:
        self.answers.clear()
        self.hung_s = asyncio.get_running_loop().time()

    def drain(self) -> None:
        self.draining = True

    @property
    def share(self) -> float:
        """Share of its KV pages that is promised."""
        return len(self.sessions) / self.machine.sessions

    def understood_s(self, replays: int) -> float:
        """Queue so many frames of a window; when they are understood. Live frames go first."""
        now_s = asyncio.get_running_loop().time()
        live = min(0.95, len(self.sessions) * self.machine.live_share)
        self._free_s = max(self._free_s, now_s) + replays * self.machine.frame_s / (1 - live)
        return self._free_s

    # --- the calls ------------------------------------------------------------------------------

    async def describe(self, request: Any, timeout: float | None = None) -> pb.ModelDescription:
        await self._trip()
        return pb.ModelDescription(
            model="simulated",
            frame_width=64,
            frame_height=64,
            tubelet=1,
            tokens_per_segment=1,
            window_segments=self.machine.window,
            max_window_segments=self.machine.window,
            preferred_fps=self.machine.fps,
            max_sessions=self.machine.sessions,
            protocol_major=PROTOCOL[0],
            protocol_minor=PROTOCOL[1],
        )

    async def release_session(self, request: Any, timeout: float | None = None) -> Any:
        await self._trip()
        self.sessions.discard(request.session_id)
        return pb.ReleaseSessionResponse()

    def load(self, request: Any) -> "_Call":
        interval_s = request.interval_s or 1.0
        return _LoadCall(self, interval_s, first_s=interval_s * self._rng.random())

    def stream_frames(self) -> "_Call":
        return _StreamCall(self)

    def report(self) -> pb.LoadReport:
        machine, held = self.machine, len(self.sessions)
        now_s = asyncio.get_running_loop().time()
        return pb.LoadReport(
            sessions=held,
            max_sessions=machine.sessions,
            kv_pages_promised=held * machine.window,
            kv_pages_total=machine.sessions * machine.window,
            kv_session_pages=machine.window,
            queue_delay_ms=1000 * max(0.0, self._free_s - now_s),
            device_busy=min(1.0, held * machine.live_share),
            draining=self.draining,
        )

    def admit(self, session_id: str) -> bool:
        """Whether it was there. Raises AioRpcError where there is no room."""
        if session_id in self.sessions:
            return True
        if self.draining:
            raise refusal(grpc.StatusCode.UNAVAILABLE)
        if len(self.sessions) >= self.machine.sessions:
            self.refused += 1
            raise refusal(grpc.StatusCode.RESOURCE_EXHAUSTED)
        self.sessions.add(session_id)
        return False

    async def _trip(self) -> None:
        await asyncio.sleep(TRIP_S)
        await self.answers.wait()
        if not self.alive:
            raise refusal(grpc.StatusCode.UNAVAILABLE)


class _Call:
    """A call under way: what grpc.aio gives, as far as gateways use it."""

    def __init__(self, worker: SimulatedWorker) -> None:
        self.worker = worker
        self._over = asyncio.Event()
        self._code = grpc.StatusCode.OK
        worker.calls[self] = None

    def end(self, code: grpc.StatusCode) -> None:
        self._code = code
        self._over.set()
        self.worker.calls.pop(self, None)

    def cancel(self) -> None:
        self.end(grpc.StatusCode.CANCELLED)

    async def code(self) -> grpc.StatusCode:
        return self._code

    async def details(self) -> str:
        return ""


class _LoadCall(_Call):
    def __init__(self, worker: SimulatedWorker, interval_s: float, first_s: float) -> None:
        super().__init__(worker)
        self._interval_s = interval_s
        self._wait_s = first_s  # reports of many workers do not come at the same moment
        self._next: asyncio.Future[None] | None = None

    def end(self, code: grpc.StatusCode) -> None:
        super().end(code)
        self._due()  # of a process that dies one hears at once

    def _due(self) -> None:
        if self._next is not None and not self._next.done():
            self._next.set_result(None)

    async def read(self) -> pb.LoadReport:
        loop = asyncio.get_running_loop()
        self._next = loop.create_future()
        timer = loop.call_later(self._wait_s, self._due)
        self._wait_s = self._interval_s
        try:
            await self._next
        finally:
            timer.cancel()
        if not self.worker.answers.is_set():
            await self.worker.answers.wait()
        if self._over.is_set() or not self.worker.alive:
            raise refusal(grpc.StatusCode.UNAVAILABLE)
        return self.worker.report()


class _StreamCall(_Call):
    """A session's frames. Its first reply is the admission; then it lasts until it ends."""

    def __init__(self, worker: SimulatedWorker) -> None:
        super().__init__(worker)
        self._opening: pb.OpenStream | None = None

    async def write(self, request: pb.StreamFramesRequest) -> None:
        self._opening = request.open

    async def read(self) -> Any:
        if self._opening is not None:
            opening, self._opening = self._opening, None
            await self.worker._trip()
            resumed = self.worker.admit(opening.session_id)
            return pb.StreamFramesResponse(opened=pb.Opened(credit=4, resumed=resumed))
        await self._over.wait()
        return grpc.aio.EOF


class SimulatedChannel:
    """A channel on which the contract's stub speaks with one simulated worker."""

    def __init__(self, worker: SimulatedWorker) -> None:
        self._worker = worker

    def unary_unary(self, path: str, **_: Any) -> Any:
        return self._call(path)

    unary_stream = stream_unary = stream_stream = unary_unary

    def _call(self, path: str) -> Any:
        calls = {
            "Describe": self._worker.describe,
            "Load": self._worker.load,
            "ReleaseSession": self._worker.release_session,
            "StreamFrames": self._worker.stream_frames,
        }
        return calls.get(path.rpartition("/")[2])

    async def close(self, grace: float | None = None) -> None:
        pass


def refusal(code: grpc.StatusCode) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), "simulated")
