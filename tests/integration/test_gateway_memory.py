"""What hundreds of sessions leave in the gateway's memory: nothing, a minute later."""

import asyncio
import time
from pathlib import Path

import grpc
import psutil
import pytest

from sightline.v1 import gateway_pb2 as pb
from sightline.v1 import gateway_pb2_grpc
from tests.processes import ServiceProcess, free_port
from tests.publish import RtmpPublisher
from tests.sources import encode_clip, write_clip
from tests.unit.fake_worker import FakeWorker

NUM_SESSIONS = 231
AT_ONCE = 21
REST_S = 60.0
MIB = 1024 * 1024


class Visitor:
    """Sessions of three kinds, each with a second and a half of 720p, then deleted."""

    def __init__(self, stub: gateway_pb2_grpc.SightlineServiceStub, clip: Path, rtmp: int) -> None:
        self._stub = stub
        self._clip = clip
        self._rtmp = rtmp
        packets = encode_clip("mjpeg", num_pictures=10, width=1280, height=720).packets
        self._jpegs = [data for data, _, _ in packets]

    async def visit(self, number: int) -> None:
        request = pb.CreateSessionRequest(options=pb.SessionOptions(fps=8))
        if number % 3 == 0:
            request.source = self._clip.name
            request.options.loop = True
        else:
            request.push.SetInParent()
        session = await self._stub.CreateSession(request)
        if number % 3 == 0:
            await asyncio.sleep(1.5)
        elif number % 3 == 1:
            await self._push(session)
        else:
            await asyncio.to_thread(self._publish, session.key)
        await self._stub.DeleteSession(pb.DeleteSessionRequest(session=session.id))

    async def _push(self, session: pb.Session) -> None:
        call = self._stub.PushFrames()
        opening = pb.PushOpen(session=session.id, key=session.key)
        await call.write(pb.PushFramesRequest(open=opening))
        for jpeg in self._jpegs:
            frame = pb.PushFrame(capture_ns=time.time_ns(), jpeg=jpeg)
            await call.write(pb.PushFramesRequest(frame=frame))
            await asyncio.sleep(0.1)
        call.cancel()

    def _publish(self, key: str) -> None:
        with RtmpPublisher(self._clip, f"rtmp://127.0.0.1:{self._rtmp}/live/{key}"):
            time.sleep(1.5)


@pytest.mark.slow
@pytest.mark.timeout(400)
async def test_hundreds_of_sessions_leave_nothing(tmp_path: Path) -> None:
    worker, rtmp = FakeWorker(max_sessions=1000), free_port()
    worker.address = f"127.0.0.1:{free_port()}"
    await worker.start()
    clip = write_clip(tmp_path / "clip.mp4", seconds=2, width=1280, height=720)
    settings = {
        "GATEWAY_WORKERS": worker.address,
        "GATEWAY_RTMP_PORT": str(rtmp),
        "GATEWAY_MEDIA_ROOT": str(tmp_path),
    }
    gateway = ServiceProcess("gateway", settings, tmp_path)
    await asyncio.to_thread(gateway.start)
    assert gateway.process is not None
    process = psutil.Process(gateway.process.pid)

    def used_mib() -> float:
        return float(process.memory_info().rss) / MIB

    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{gateway.grpc_port}") as channel:
            visitor = Visitor(gateway_pb2_grpc.SightlineServiceStub(channel), clip, rtmp)
            for number in range(3):
                await visitor.visit(number)
            started_mib = used_mib()
            for first in range(0, NUM_SESSIONS, AT_ONCE):
                numbers = range(first, first + AT_ONCE)
                await asyncio.gather(*(visitor.visit(number) for number in numbers))
            most_mib, end_s = used_mib(), time.monotonic() + REST_S
            while used_mib() > 1.2 * started_mib and time.monotonic() < end_s:  # noqa: ASYNC110
                await asyncio.sleep(1)
            assert used_mib() <= 1.2 * started_mib, (started_mib, most_mib, used_mib())
    finally:
        await asyncio.to_thread(gateway.stop)
        await worker.stop()
