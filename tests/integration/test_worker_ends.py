"""How a worker's process ends: after its answers when it is told to, at once when its device fails.

Real processes; the one that fails has a runner of the test's (`tests.failing_worker`).
"""

import asyncio
import contextlib
import itertools
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from sightline.v1 import gateway_pb2, inference_pb2
from sightline.v1.inference_pb2_grpc import InferenceServiceStub
from tests.eventually import PATIENCE_S
from tests.processes import SHAPES, ServiceProcess

FEWEST = 20  # answers under way; a busy machine ends the first before the last are asked for
ENVIRONMENT = {
    "WORKER_MODEL": str(SHAPES),
    "WORKER_THREADS": "1",
    "WORKER_KV_MEMORY_BYTES": str(160 << 20),
    "WORKER_DRAIN_S": "30",
}


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[ServiceProcess]:
    process = ServiceProcess("inference_worker", ENVIRONMENT, tmp_path)
    process.start(120)
    yield process
    process.kill()


async def feed(stub: Any, session: str, fps: float, size: int) -> None:
    """Frames on a clock, until the call ends; opened again when it broke, as a gateway would."""
    while True:
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            await stream(stub, session, fps, size)
        await asyncio.sleep(0.02)


async def stream(stub: Any, session: str, fps: float, size: int) -> None:
    call = stub.StreamFrames()
    opening = inference_pb2.OpenStream(session_id=session)
    await call.write(inference_pb2.StreamFramesRequest(open=opening))
    credit = (await call.read()).opened.credit
    pixels = np.random.default_rng(0).integers(0, 255, (size, size, 3), np.uint8).tobytes()
    in_flight = 0
    for number in itertools.count(1):
        frame = inference_pb2.Frame(sequence=number, capture_ns=number, pixels=pixels)
        await call.write(inference_pb2.StreamFramesRequest(frame=frame))
        in_flight += 1
        while in_flight >= credit:
            if await call.read() is grpc.aio.EOF:
                return
            in_flight -= 1
        await asyncio.sleep(1 / fps)


def request(session: str) -> inference_pb2.AnswerRequest:
    question = gateway_pb2.Question(turn="t", text="what do you see?", max_tokens=40)
    return inference_pb2.AnswerRequest(session_id=session, question=question)


def under_way(worker: ServiceProcess) -> float:
    """Questions that run or wait, as its metrics say."""
    time.sleep(0.02)  # more connections a second are refused
    url = f"http://127.0.0.1:{worker.metrics_port}/metrics"
    with urllib.request.urlopen(url, timeout=PATIENCE_S) as reply:
        lines = reply.read().decode().splitlines()
    return sum(
        float(line.rpartition(" ")[2])
        for line in lines
        if line.startswith("sightline_worker_questions{")
    )


async def test_a_drain_cuts_no_answer_off_also_after_others_have_ended(
    worker: ServiceProcess,
) -> None:
    async with grpc.aio.insecure_channel(worker.address) as channel:
        stub: Any = InferenceServiceStub(channel)
        size = (await stub.Describe(inference_pb2.DescribeRequest())).frame_width
        feeding = asyncio.create_task(feed(stub, "s", 10, size), name="feed")
        until_s = time.monotonic() + PATIENCE_S
        while True:  # until a frame is understood; and an answer ends before the drain begins
            assert time.monotonic() < until_s
            try:
                async for event in stub.Answer(request("s"), timeout=PATIENCE_S):
                    assert event.WhichOneof("event")
                break
            except grpc.aio.AioRpcError:
                await asyncio.sleep(0.05)

        async def ask() -> str:
            last = ""
            async for event in stub.Answer(request("s"), timeout=PATIENCE_S):
                last = event.WhichOneof("event")
            return last

        async with asyncio.timeout(PATIENCE_S):
            asking: list[asyncio.Task[str]] = []
            while await asyncio.to_thread(under_way, worker) < FEWEST:
                if all(task.done() for task in asking):  # all were answered between two looks
                    asking = [asyncio.create_task(ask(), name=f"ask:{n}") for n in range(120)]
            stopping = asyncio.create_task(asyncio.to_thread(worker.stop))  # exit 0
            ends = await asyncio.gather(*asking, return_exceptions=True)
            await stopping
        feeding.cancel()
        await asyncio.gather(feeding, return_exceptions=True)
    said = [end for end in ends if isinstance(end, str)]
    late = [end for end in ends if isinstance(end, grpc.aio.AioRpcError)]
    assert len(said) >= FEWEST
    assert said == ["done"] * len(said)
    assert all(error.code() == grpc.StatusCode.UNAVAILABLE for error in late)
    assert all("draining" in (error.details() or "") for error in late)
    assert len(said) + len(late) == 120
    assert "drain timed out" not in worker.log()


@pytest.fixture
def failing(tmp_path: Path) -> Iterator[ServiceProcess]:
    """A worker whose device fails once the file "broken" is there."""
    environment = {"BROKEN": str(tmp_path / "broken")}
    process = ServiceProcess("inference_worker", environment, tmp_path, "tests.failing_worker")
    process.start(120)
    yield process
    process.kill()


async def test_a_device_whose_every_step_fails_ends_the_process(
    failing: ServiceProcess, tmp_path: Path
) -> None:
    process, broken = failing, tmp_path / "broken"
    running = process.process
    assert running is not None
    async with grpc.aio.insecure_channel(process.address) as channel:
        stub: Any = InferenceServiceStub(channel)
        size = (await stub.Describe(inference_pb2.DescribeRequest())).frame_width
        feeding = asyncio.create_task(feed(stub, "s", 10, size), name="feed")
        codes = set[grpc.StatusCode]()
        until_s = time.monotonic() + 2 * PATIENCE_S
        answered = 0
        while running.poll() is None and time.monotonic() < until_s:
            try:
                call = stub.Answer(request("s"), timeout=PATIENCE_S)
                async for _ in call:
                    pass
                answered += 1
                broken.touch()
            except grpc.aio.AioRpcError as error:
                codes.add(error.code())
                await asyncio.sleep(0.02)
        feeding.cancel()
        await asyncio.gather(feeding, return_exceptions=True)
    assert running.poll() == 3
    assert answered >= 1
    assert codes <= {
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.CANCELLED,  # of what is under way when its server ends
    }
    messages = [entry["message"] for entry in process.log_entries()]
    # Health is NOT_SERVING from "draining" on, before the servers stop.
    order = [messages.index(each) for each in ("the device thread ends", "draining", "stopped")]
    assert order == sorted(order)
    assert "5 steps in a row" in process.log()
