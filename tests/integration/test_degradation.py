"""A model that degenerates: its sessions' questions go to the fallback, and come back.

In one process with two tiny engines, whose sampling the tests choose, and with real processes: a
worker on a checkpoint that was made to degenerate, and the fallback that it starts.
"""

import asyncio
import contextlib
import dataclasses
import os
import shutil
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from services.common.errors import ErrorInterceptor
from services.inference_worker import metrics
from services.inference_worker.config import WorkerConfig
from services.inference_worker.model.builtin import BuiltinModel
from services.inference_worker.runner.batch import Run, RunOutput
from services.inference_worker.serving.answering import Answerer
from services.inference_worker.serving.servicer import InferenceServicer
from sightline.v1 import gateway_pb2, inference_pb2
from sightline.v1.inference_pb2_grpc import (
    InferenceServiceStub,
    add_InferenceServiceServicer_to_server,
)
from tests.eventually import eventually, wait_until
from tests.processes import SHAPES, ServiceProcess
from tests.unit.tiny import Bench, random_picture, tiny_model

pytestmark = pytest.mark.option

STOP = 15  # a token that ends answers
SOUND = [1, 2, 3, 4, 5, STOP]
Say = Callable[[int], RunOutput]


def said(tokens: list[int], log_probability: float = -0.5) -> Say:
    return lambda number: RunOutput(tokens[number], 0.5, True, log_probability)


def scored(say: Say, score: float) -> Say:
    """The same, with this probability of yes where that is asked for."""
    return lambda number: dataclasses.replace(say(number), score=score)


sound = said(SOUND)
SICK: dict[str, Say] = {
    "answer_repeats": lambda number: RunOutput(6, 0.5, True, -0.5),
    "answer_empty": said([STOP]),
    "answer_unsure": said(SOUND, -6.0),
    "answer_not_finite": lambda number: RunOutput(1, 0.5, False, -0.5),
    "answer_endless": lambda number: RunOutput(1 + number % 13, 0.5, True, -0.5),
}


class Scripted:
    """A tiny worker that says what `say` says. `stub` and `description`: as a fallback's."""

    def __init__(self) -> None:
        model: BuiltinModel = tiny_model()
        model.stop_tokens = frozenset({STOP})
        model.spec = dataclasses.replace(model.spec, max_answer_tokens=40)
        self.say: Say = sound
        self.num_scored = 0
        self.newest_scored = 0  # time of the newest frame that was looked at for it
        self.bench = Bench(model, num_pages=1024, clock=time.monotonic)
        self.bench.runner._sample = self._sample  # type: ignore[method-assign]
        self.description: inference_pb2.ModelDescription | None = None
        self.stub: InferenceServiceStub

    def _sample(self, logits: torch.Tensor, runs: list[Run]) -> list[RunOutput]:
        asked = [run for run in runs if not run.answered]  # for a score, or the first word
        told = [self.say(len(run.answered)) for run in runs]
        # After it: who has seen these numbers may change what is said, from the next look on.
        self.num_scored += len(asked)
        seen = [run.seen[-1].captured_ns[1] for run in asked if run.seen]
        self.newest_scored = max([self.newest_scored, *seen])
        return told

    @contextlib.asynccontextmanager
    async def serving(self, folder: Path, fallback: Any = None) -> AsyncIterator["Scripted"]:
        config = WorkerConfig(
            guard_answers=3 if fallback else 0, guard_healthy_s=0.3, fallback_model="tiny"
        )
        answerer = Answerer(self.bench.engine, self.bench.model, None, None, 64, 0)
        server = grpc.aio.server(interceptors=[ErrorInterceptor()])
        servicer = InferenceServicer(self.bench.engine, answerer, config, fallback)
        add_InferenceServiceServicer_to_server(servicer, server)
        address = f"unix:{folder / str(id(self))}"
        server.add_insecure_port(address)
        await server.start()
        await asyncio.wrap_future(self.bench.engine.start())
        try:
            async with grpc.aio.insecure_channel(address) as channel:
                self.stub = InferenceServiceStub(channel)
                self.description = await self.stub.Describe(inference_pb2.DescribeRequest())
                yield self
        finally:
            await servicer.drain()
            await server.stop(0)
            self.bench.engine.stop()

    def newest_shown(self, session: str) -> int:
        """Time of the newest frame that the session holds; 0 if none."""
        known = self.bench.core.sessions.get(session)
        return known.trunk.segments[-1].captured_ns[1] if known and known.trunk.segments else 0

    async def show(self, session: str, number: int, call: Any = None) -> Any:
        """One more frame, on a stream that is opened for the first."""
        if call is None:
            call = self.stub.StreamFrames()
            opening = inference_pb2.OpenStream(session_id=session)
            await call.write(inference_pb2.StreamFramesRequest(open=opening))
            await call.read()
        pixels = random_picture(np.random.default_rng(number)).tobytes()
        frame = inference_pb2.Frame(sequence=number, capture_ns=number, pixels=pixels)
        await call.write(inference_pb2.StreamFramesRequest(frame=frame))
        await call.read()
        return call

    async def ask(self, session: str) -> gateway_pb2.AnswerDone:
        question = gateway_pb2.Question(turn="t", text="what is red")
        request = inference_pb2.AnswerRequest(session_id=session, question=question)
        events = [event async for event in self.stub.Answer(request, timeout=20)]
        kinds = [event.WhichOneof("event") for event in events]
        assert kinds.count("started") == 1
        assert kinds[-1] == "done"
        return events[-1].done


@contextlib.asynccontextmanager
async def pair(folder: Path) -> AsyncIterator[tuple[Scripted, Scripted]]:
    fallback, worker = Scripted(), Scripted()
    async with fallback.serving(folder), worker.serving(folder, fallback):
        yield worker, fallback


@pytest.mark.parametrize("symptom", ["answer_repeats", "answer_unsure", "answer_endless"])
async def test_questions_go_to_the_fallback_and_come_back(symptom: str, tmp_path: Path) -> None:
    async with pair(tmp_path) as (worker, fallback):
        call = await worker.show("s", 1)
        for number in range(2, 8):  # more than a window of 4
            await worker.show("s", number, call)
        assert not (await worker.ask("s")).degraded
        worker.say = SICK[symptom]
        for _ in range(3):
            assert list((await worker.ask("s")).degraded) == [symptom]
        assert metrics.DEGRADED_SESSIONS._value.get() == 1
        # Until the fallback has been shown the window, the model itself answers.
        await eventually(lambda: fallback.newest_shown("s") == 7)

        done = await worker.ask("s")
        assert list(done.degraded) == ["fallback_model"]
        assert done.answer_tokens == 5, "the fallback's answer"
        assert (done.first_capture_ns, done.last_capture_ns) == (4, 7), "primed from the window"
        await worker.show("s", 8, call)
        await eventually(lambda: fallback.newest_shown("s") == 8)
        assert (await worker.ask("s")).last_capture_ns == 8, "and shown what is new"

        worker.say = sound
        await eventually(lambda: metrics.DEGRADED_SESSIONS._value.get() == 0)
        assert not (await worker.ask("s")).degraded
        await eventually(lambda: not fallback.bench.core.sessions)
        call.cancel()


async def test_watches_go_to_the_fallback_and_come_back_without_a_false_event(
    tmp_path: Path,
) -> None:
    async with pair(tmp_path) as (worker, fallback):
        call = await worker.show("s", 1)
        watch = gateway_pb2.Watch(watch="w", condition="red", interval_s=0.05)
        watching = worker.stub.WatchSession(
            inference_pb2.WatchRequest(session_id="s", watch=watch), timeout=60
        )
        events: list[tuple[bool, list[str], int]] = []

        async def listen() -> None:
            while (event := await watching.read()) is not grpc.aio.EOF:
                events.append((event.active, list(event.degraded), event.capture_ns))

        listening = asyncio.create_task(listen())
        worker.say = scored(sound, 0.9)
        await worker.show("s", 2, call)
        await eventually(lambda: len(events) == 1)
        worker.say, fallback.say = scored(SICK["answer_repeats"], 0.9), scored(sound, 0.9)
        warmed_up = fallback.num_scored
        for _ in range(3):
            await worker.ask("s")
        await eventually(lambda: fallback.num_scored > warmed_up)
        worker.say = scored(SICK["answer_repeats"], 0.1)
        await worker.show("s", 3, call)
        await eventually(lambda: fallback.num_scored > warmed_up + 1)
        assert len(events) == 1, "the fallback sees what was told last: that is no event"

        fallback.say = scored(sound, 0.1)
        await worker.show("s", 4, call)
        await eventually(lambda: len(events) == 2)
        worker.say = scored(sound, 0.1)
        await eventually(lambda: metrics.DEGRADED_SESSIONS._value.get() == 0)
        await worker.show("s", 5, call)
        await eventually(lambda: worker.newest_scored == 5)
        assert len(events) == 2
        worker.say = scored(sound, 0.9)
        await worker.show("s", 6, call)
        await eventually(lambda: len(events) == 3)
        assert events[1:] == [(False, ["fallback_model"], 4), (True, [], 6)]
        await eventually(lambda: not fallback.bench.core.sessions)
        listening.cancel()
        watching.cancel()
        call.cancel()


async def test_a_watch_whose_scores_are_no_numbers_is_stood_in_for(tmp_path: Path) -> None:
    async with pair(tmp_path) as (worker, fallback):
        call = await worker.show("s", 1)
        worker.say, fallback.say = SICK["answer_not_finite"], scored(sound, 0.9)
        watch = gateway_pb2.Watch(watch="w", condition="red", interval_s=0.05)
        watching = worker.stub.WatchSession(
            inference_pb2.WatchRequest(session_id="s", watch=watch), timeout=60
        )
        reading = asyncio.ensure_future(watching.read())
        for number in range(2, 6):  # each is looked at once
            before = worker.num_scored
            await worker.show("s", number, call)
            await eventually(lambda n=before: worker.num_scored > n or reading.done())
            if metrics.DEGRADED_SESSIONS._value.get():
                break
        event = await reading
        assert (event.active, list(event.degraded)) == (True, ["fallback_model"])
        watching.cancel()
        call.cancel()


@pytest.mark.parametrize("symptom", ["answer_empty", "answer_not_finite"])
async def test_who_was_shown_nothing_is_answered_by_the_fallback_at_once(
    symptom: str, tmp_path: Path
) -> None:
    async with pair(tmp_path) as (worker, _):
        call = await worker.show("s", 1)
        worker.say = SICK[symptom]
        for _ in range(2):
            if symptom == "answer_empty":
                assert list((await worker.ask("s")).degraded) == [symptom]
            else:
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await worker.ask("s")
                assert refused.value.code() is grpc.StatusCode.INTERNAL
        done = await worker.ask("s")  # the third in a row
        assert list(done.degraded) == ["fallback_model"]
        assert done.answer_tokens == 5
        call.cancel()


async def test_a_fallback_that_is_away_leaves_the_questions_to_the_model(tmp_path: Path) -> None:
    async with pair(tmp_path) as (worker, fallback):
        call = await worker.show("s", 1)
        fallback.description = None
        worker.say = SICK["answer_repeats"]
        for _ in range(5):
            assert list((await worker.ask("s")).degraded) == ["answer_repeats"]
        call.cancel()


async def test_a_session_that_ends_takes_its_understudy_with_it(tmp_path: Path) -> None:
    async with pair(tmp_path) as (worker, fallback):
        call = await worker.show("s", 1)
        worker.say = SICK["answer_repeats"]
        for _ in range(3):
            await worker.ask("s")
        await eventually(lambda: "s" in fallback.bench.core.sessions)
        await worker.stub.ReleaseSession(inference_pb2.ReleaseSessionRequest(session_id="s"))
        await eventually(lambda: not fallback.bench.core.sessions)
        await eventually(lambda: metrics.DEGRADED_SESSIONS._value.get() == 0)
        call.cancel()


# --- real processes ---------------------------------------------------------------------------


@pytest.fixture
def degenerate(tmp_path: Path) -> Path:
    """A checkpoint that says one word for ever: its last layer tells no token from another."""
    folder = tmp_path / "degenerate"
    shutil.copytree(SHAPES, folder)
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if name.endswith("decoder.norm.weight"))
    weights[name].zero_()
    save_file(weights, folder / "model.safetensors")
    return folder


@pytest.fixture
def worker(degenerate: Path, tmp_path: Path) -> Iterator[ServiceProcess]:
    environment = {
        "WORKER_MODEL": str(degenerate),
        "WORKER_FALLBACK_MODEL": str(SHAPES),
        "WORKER_THREADS": "1",
        "WORKER_MAX_SESSIONS": "2",
        "WORKER_GUARD_HEALTHY_S": "3",
        "WORKER_DRAIN_S": "5",
    }
    process = ServiceProcess("inference_worker", environment, tmp_path)
    process.start(120)
    yield process
    process.kill()


async def test_a_checkpoint_that_degenerates_is_stood_in_for(worker: ServiceProcess) -> None:
    await eventually(lambda: _says(worker, "fallback ready"), timeout_s=120)
    async with grpc.aio.insecure_channel(worker.address) as channel:
        stub = InferenceServiceStub(channel)
        described = await stub.Describe(inference_pb2.DescribeRequest())
        size = described.frame_width
        call: Any = stub.StreamFrames()
        opening = inference_pb2.OpenStream(session_id="s")
        await call.write(inference_pb2.StreamFramesRequest(open=opening))
        await call.read()
        frame = inference_pb2.Frame(sequence=1, capture_ns=1, pixels=bytes(3 * size * size))
        await call.write(inference_pb2.StreamFramesRequest(frame=frame))
        await call.read()

        async def ask() -> gateway_pb2.AnswerDone:
            question = gateway_pb2.Question(turn="t", text="what do you see?")
            request = inference_pb2.AnswerRequest(session_id="s", question=question)
            return [event async for event in stub.Answer(request, timeout=60)][-1].done

        for _ in range(3):
            assert list((await ask()).degraded) == ["answer_repeats"]
        deadline = time.monotonic() + 60
        while list((done := await ask()).degraded) != ["fallback_model"]:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.2)
        assert done.text.strip()
        assert _says(worker, "answers degenerate")
        await asyncio.sleep(4)  # longer than a healthy period
        assert list((await ask()).degraded) == ["fallback_model"], "probes do not bring it back"
        call.cancel()


def test_the_fallback_ends_with_its_worker_and_is_started_again(worker: ServiceProcess) -> None:
    wait_until(lambda: _says(worker, "fallback ready"), timeout_s=120)
    assert worker.process is not None
    (first,) = _children(worker.process.pid)
    os.kill(first, 9)
    wait_until(lambda: _says(worker, "the fallback's worker ended"))
    (second,) = wait_until(lambda: _children(worker.process.pid))  # type: ignore[union-attr]
    assert second != first
    worker.kill()  # kill -9
    wait_until(lambda: not Path(f"/proc/{second}").exists() or _is_dead(second))


def _says(worker: ServiceProcess, message: str) -> bool:
    return any(entry.get("message") == message for entry in worker.log_entries())


def _children(pid: int) -> list[int]:
    return [
        int(child)
        for task in Path(f"/proc/{pid}/task").iterdir()
        for child in (task / "children").read_text().split()
    ]


def _is_dead(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True
