"""What goes wrong in a worker costs its caller, through the real calls on a real engine thread.

The model is tiny and random, so that everything is fast and faults can be put where they belong.
After every test each page is back and the accounts are right.
"""

import asyncio
import contextlib
import json
import math
import random
import re
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import torch
from google.protobuf.message import Message
from safetensors.torch import load_file, save_file

from services.common.errors import ErrorInterceptor
from services.common.server import GRPC_OPTIONS, MAX_MESSAGE_BYTES
from services.inference_worker import __main__ as worker_main
from services.inference_worker.config import WorkerConfig
from services.inference_worker.runner.batch import Run
from services.inference_worker.serving.answering import Answerer
from services.inference_worker.serving.servicer import InferenceServicer
from sightline.v1 import gateway_pb2, inference_pb2
from sightline.v1.inference_pb2_grpc import (
    InferenceServiceStub,
    add_InferenceServiceServicer_to_server,
)
from tests.checkpoints import write_checkpoint
from tests.eventually import PATIENCE_S, eventually
from tests.processes import ServiceProcess
from tests.unit.tiny import Bench, random_picture, tiny_model

FAULT = 14  # "blue": the token that faults are tied to
METHODS = inference_pb2.DESCRIPTOR.services_by_name["InferenceService"].methods_by_name


class Worker:
    """A servicer on an engine of its own, in this process. `bench` is for faults and accounts."""

    def __init__(self, bench: Bench, stub: InferenceServiceStub, address: str) -> None:
        self.bench = bench
        self.stub = stub
        self.address = address

    def feeder(self, session: str, **options: Any) -> "Feeder":
        return Feeder(self, session, **options)

    async def fed(self, session: str) -> "Feeder":
        """A session that is open and has seen a frame."""
        feeder = self.feeder(session)
        await feeder.open()
        await feeder.show()
        return feeder

    def answer(self, session: str, text: str = "what is red", **options: Any) -> Any:
        question = gateway_pb2.Question(turn="t", text=text, **options)
        request = inference_pb2.AnswerRequest(session_id=session, question=question)
        return self.stub.Answer(request, timeout=PATIENCE_S)

    async def said(self, session: str, text: str = "what is red", **options: Any) -> Any:
        """A whole answer. Raises what the call does."""
        events = [event async for event in self.answer(session, text, **options)]
        assert events[-1].WhichOneof("event") == "done"
        return events[-1].done

    async def release(self, session: str) -> None:
        await self.stub.ReleaseSession(inference_pb2.ReleaseSessionRequest(session_id=session))

    @property
    def pages_used(self) -> int:
        return self.bench.cache.pool.num_used

    async def settle(self, pages: int) -> None:
        """Wait until so many pages are used, and every account is right."""
        await eventually(lambda: self.pages_used == pages)
        await asyncio.wrap_future(self.bench.engine.check_integrity())

    async def serves(self, session: str) -> None:
        """Somebody else is none the worse."""
        feeder = self.feeder(session)
        await feeder.open()
        await feeder.show()
        assert (await self.said(session)).frames_seen == 1
        await self.release(session)


class Feeder:
    """One StreamFrames call."""

    def __init__(self, worker: Worker, session: str, **options: Any) -> None:
        self.call: Any = worker.stub.StreamFrames(timeout=PATIENCE_S)
        self.opening = inference_pb2.OpenStream(session_id=session, **options)
        self.rng = np.random.default_rng(0)
        self.shown = 0

    async def open(self) -> None:
        await self.call.write(inference_pb2.StreamFramesRequest(open=self.opening))
        await self._read()

    async def show(self, **fields: Any) -> None:
        """A frame, and its acknowledgement. Raises what ended the call."""
        await self.send(**fields)
        await self._read()

    async def send(self, **fields: Any) -> None:
        self.shown += 1
        pixels = random_picture(self.rng).tobytes()
        frame = {"sequence": self.shown, "capture_ns": self.shown, "pixels": pixels, **fields}
        request = inference_pb2.StreamFramesRequest(frame=inference_pb2.Frame(**frame))
        await self.call.write(request)

    async def _read(self) -> None:
        if await self.call.read() is grpc.aio.EOF:
            raise RefusedError(await self.call.code(), await self.call.details())


class RefusedError(Exception):
    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        super().__init__(code, details)
        self.code, self.details = code, details


async def refused(call: Awaitable[Any]) -> tuple[grpc.StatusCode, str]:
    with pytest.raises((grpc.aio.AioRpcError, RefusedError)) as caught:
        await call
    return status(caught.value)


def status(error: grpc.aio.AioRpcError | RefusedError) -> tuple[grpc.StatusCode, str]:
    if isinstance(error, RefusedError):
        return error.code, error.details
    return error.code(), error.details() or ""


@contextlib.asynccontextmanager
async def serving(folder: Path, *, room: int = 8, **options: Any) -> AsyncIterator[Worker]:
    """A worker with room for so many sessions. Leaves with all pages back."""
    model = tiny_model()
    model.stop_tokens = frozenset()  # every answer is as long as it may be
    cost = Bench(model, **options).core.admission.shape().cost(4)
    pages = room * cost + 1
    bench = Bench(model, num_pages=pages, max_sessions=1000, clock=time.monotonic, **options)
    config = WorkerConfig()
    answerer = Answerer(bench.engine, model, None, None, config.question_tokens, 0)
    limits = (("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),)
    server = grpc.aio.server(interceptors=[ErrorInterceptor()], options=(*GRPC_OPTIONS, *limits))
    servicer = InferenceServicer(bench.engine, answerer, config)
    add_InferenceServiceServicer_to_server(servicer, server)
    address = f"unix:{folder / 'worker'}"
    server.add_insecure_port(address)
    await server.start()
    await asyncio.wrap_future(bench.engine.start())
    try:
        async with grpc.aio.insecure_channel(address) as channel:
            worker = Worker(bench, InferenceServiceStub(channel), address)
            yield worker
            for session in list(bench.core.sessions):
                await worker.release(session)
            await worker.settle(0)
    finally:
        await server.stop(0)
        bench.engine.stop()


async def test_a_full_pool_refuses_the_next_session_alone(tmp_path: Path) -> None:
    async with serving(tmp_path, room=2) as worker:
        for name in "ab":
            await worker.fed(name)
        code, details = await refused(worker.feeder("c").open())
        assert code == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "KV memory" in details
        assert (await worker.said("a")).answer_tokens == 8
        await worker.release("b")
        await worker.serves("c")


async def test_time_passes_for_frames_that_got_lost_on_the_way(tmp_path: Path) -> None:
    async with serving(tmp_path) as worker:
        feeder = Feeder(worker, "s")
        await feeder.open()
        await feeder.show()
        await feeder.show(missing=3)
        first, second = worker.bench.core.sessions["s"].trunk.segments
        assert second.cursor - first.cursor == 4 * worker.bench.model.spec.layout.segment_advance
        feeder.call.cancel()
        await worker.release("s")


async def test_pages_that_are_missing_cost_the_session_that_needs_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Admission rules it out; should its accounts ever be wrong, the worker goes on."""
    async with serving(tmp_path) as worker:
        feeder = worker.feeder("s")
        await feeder.open()
        await feeder.show()
        allocate = worker.bench.cache.pool.allocate
        with monkeypatch.context() as broken:  # as if it had a thousand pages more to find
            broken.setattr(
                worker.bench.cache.pool,
                "allocate",
                lambda reservation, count: allocate(reservation, count + 1000),
            )
            assert (await refused(feeder.show()))[0] == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert (await refused(worker.said("s")))[0] == grpc.StatusCode.NOT_FOUND
        await worker.release("s")
        await worker.serves("t")


async def test_questions_and_answers_beyond_the_reserve_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(tmp_path, branch_tokens=64) as worker:
        feeder = worker.feeder("s")
        await feeder.open()
        await feeder.show()
        used = worker.pages_used
        code, details = await refused(worker.said("s", "red " * 100))
        assert code == grpc.StatusCode.INVALID_ARGUMENT
        assert "64 fit" in details
        # Accounts that are wrong: there are no pages for what was admitted.
        allocate = worker.bench.cache.pool.allocate
        with monkeypatch.context() as broken:
            broken.setattr(
                worker.bench.cache.pool, "allocate", lambda pages, _: allocate(pages, 10_000)
            )
            code, details = await refused(worker.said("s"))
        assert code == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "beyond its reservation" in details
        await worker.settle(used)
        assert (await worker.said("s")).answer_tokens == 8


async def test_a_session_whose_frame_failed_can_be_opened_again_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine ended it; whoever feeds it comes back, and is not taken for one who stayed."""
    async with serving(tmp_path) as worker:
        feeder = worker.feeder("s")
        await feeder.open()
        await feeder.show()
        execute = worker.bench.runner.execute

        def faulty(runs: list[Run]) -> Any:
            if any(run.tubelet for run in runs):
                raise RuntimeError("a fault on the device")
            return execute(runs)

        with monkeypatch.context() as broken:
            broken.setattr(worker.bench.runner, "execute", faulty)
            assert (await refused(feeder.show()))[0] == grpc.StatusCode.INTERNAL
        again = worker.feeder("s")
        await again.open()
        await again.show()
        assert (await worker.said("s")).frames_seen == 1
        await worker.release("s")


async def test_a_session_deleted_in_the_middle_of_an_answer(tmp_path: Path) -> None:
    async with serving(tmp_path) as worker:
        await worker.fed("s")
        with slowed(worker):
            call = worker.answer("s")
            await call.read()
            await worker.release("s")
            code, _ = await refused(whole(call))
        assert code == grpc.StatusCode.NOT_FOUND
        await worker.settle(0)
        await worker.serves("t")


async def test_clients_gone_while_their_session_is_opened(tmp_path: Path) -> None:
    """Before the engine came to it, and in the middle; and two that open it at once."""
    async with serving(tmp_path, room=2) as worker:
        with slowed(worker):
            for number in range(20):
                feeder = worker.feeder(f"s{number % 3}", grace_s=0.05)
                opening = asyncio.create_task(feeder.open())
                await asyncio.sleep(0.002 + 0.004 * (number % 8))
                feeder.call.cancel()
                opening.cancel()
                await asyncio.wait([opening], timeout=5)
        await worker.settle(0)
        both = [worker.feeder("twice") for _ in range(2)]
        await asyncio.gather(*(feeder.open() for feeder in both))
        await worker.release("twice")
        await worker.settle(0)
        for name in "ab":
            await worker.feeder(name).open()
        both = [worker.feeder("c") for _ in range(2)]
        codes = await asyncio.gather(*(refused(feeder.open()) for feeder in both))
        assert [code for code, _ in codes] == 2 * [grpc.StatusCode.RESOURCE_EXHAUSTED]


async def test_a_client_gone_in_the_middle_of_an_answer(tmp_path: Path) -> None:
    async with serving(tmp_path) as worker:
        await worker.fed("s")
        used = worker.pages_used
        with slowed(worker):
            for _ in range(5):
                call = worker.answer("s")
                await call.read()
                call.cancel()
            channel = grpc.aio.insecure_channel(worker.address)
            call = InferenceServiceStub(channel).Answer(call_request("s"))
            await call.read()
            await channel.close()  # without a word
            await worker.settle(used)
        assert (await worker.said("s")).answer_tokens == 8


async def test_scores_that_are_no_numbers_fail_their_answer_alone(tmp_path: Path) -> None:
    async with serving(tmp_path) as worker:
        for name in ("good", "bad"):
            await worker.fed(name)
        used = worker.pages_used
        with not_a_number(worker):
            bad, good = await asyncio.gather(
                refused(worker.said("bad", "blue")), worker.said("good")
            )
        assert bad == (grpc.StatusCode.INTERNAL, "the model produced no valid scores")
        assert good.answer_tokens == 8
        await worker.settle(used)
        assert (await worker.said("bad")).answer_tokens == 8


async def test_a_step_that_fails_costs_the_part_that_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(tmp_path) as worker:
        execute = worker.bench.runner.execute
        fault_frames = False

        def faulty(runs: list[Run]) -> Any:
            if any(FAULT in run.tokens or (fault_frames and run.tubelet) for run in runs):
                raise RuntimeError("a fault on the device")
            return execute(runs)

        monkeypatch.setattr(worker.bench.runner, "execute", faulty)
        feeder = worker.feeder("s")
        await feeder.open()
        await feeder.show()
        code, details = await refused(worker.said("s", "blue"))
        assert (code, details) == (grpc.StatusCode.INTERNAL, "the model failed on this input")
        fault_frames = True  # after that, nobody knows what the session's pages hold
        assert (await refused(feeder.show()))[0] == grpc.StatusCode.INTERNAL
        fault_frames = False
        assert (await refused(worker.said("s")))[0] == grpc.StatusCode.NOT_FOUND
        await worker.release("s")
        await worker.serves("t")


async def test_a_defect_of_the_engine_costs_its_sessions_and_not_the_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(tmp_path) as worker:
        feeder = worker.feeder("s")
        await feeder.open()

        def broken_plan(*_: object) -> None:
            raise ZeroDivisionError

        with monkeypatch.context() as broken:
            broken.setattr(worker.bench.core._scheduler, "plan", broken_plan)
            assert (await refused(feeder.show()))[0] == grpc.StatusCode.INTERNAL
        await worker.release("s")
        await worker.serves("t")


async def test_a_watch_on_a_session_that_fails_ends(tmp_path: Path) -> None:
    async with serving(tmp_path) as worker:
        feeder = worker.feeder("s")
        await feeder.open()
        await feeder.show()
        watch = gateway_pb2.Watch(watch="w", condition="blue", interval_s=0.05)
        request = inference_pb2.WatchRequest(session_id="s", watch=watch)
        with not_a_number(worker):
            call = worker.stub.WatchSession(request, timeout=PATIENCE_S)
            assert (await refused(whole(call)))[0] == grpc.StatusCode.INTERNAL
        assert (await worker.said("s", "blue")).answer_tokens == 8


# Checkpoints: the worker says what is wrong, and ends before it serves


def _missing(folder: Path, index: dict[str, Any]) -> str:
    name = "model.layers.1.mlp.up_proj.weight"
    del index["weight_map"][name]
    return f"missing in the checkpoint: {name}"


def _extra(folder: Path, index: dict[str, Any]) -> str:
    shard = next(folder.glob("*.safetensors"))
    save_file(load_file(shard) | {"adapter.weight": torch.zeros(2)}, shard, {"format": "pt"})
    index["weight_map"]["adapter.weight"] = shard.name
    return "no use for: adapter.weight"


def _corrupt(folder: Path, index: dict[str, Any]) -> str:
    shard = max(folder.glob("*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:900])
    return shard.name


@pytest.mark.parametrize("damage", [_missing, _extra, _corrupt])
def test_a_damaged_checkpoint_ends_the_worker_with_its_fault(
    damage: Callable[[Path, dict[str, Any]], str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = write_checkpoint("qwen2_5_vl", tmp_path / "model", shards=2)
    file = folder / "model.safetensors.index.json"
    index = json.loads(file.read_text())
    said = damage(folder, index)
    file.write_text(json.dumps(index))
    monkeypatch.setenv("WORKER_MODEL", str(folder))
    monkeypatch.setenv("WORKER_DTYPE", "float32")
    monkeypatch.setattr("services.common.entry.set_up_logging", lambda *_: None)  # of this process
    monkeypatch.setattr(worker_main, "GIL_SWITCH_S", sys.getswitchinterval())
    with pytest.raises(SystemExit) as ended:
        worker_main.main()
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error


def test_weights_without_numbers_end_the_worker_before_it_serves(tmp_path: Path) -> None:
    """A process of its own: exit code 2 and one line, though its ports are open by then."""
    folder = write_checkpoint("smolvlm", tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    next(tensor for name, tensor in tensors.items() if "down_proj" in name).fill_(math.nan)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    settings = {
        "WORKER_MODEL": str(folder),
        "WORKER_KV_MEMORY_BYTES": str(2**24),
        "WORKER_THREADS": "1",
    }
    worker = ServiceProcess("inference_worker", settings, tmp_path)
    worker.spawn()
    assert worker.process is not None
    assert worker.process.wait(120) == 2, worker.log()
    (line,) = [line for line in worker.log().splitlines() if line.startswith("inference_worker:")]
    assert "the model produced no valid scores" in line
    assert "Traceback" not in worker.log()


# What callers send


ABSURD: dict[str, list[dict[str, Any]]] = {
    "Note": [{"session_id": "x" * 5_000_000}, {"session_id": ""}, {}],
    "StreamFrames": [
        {"open": {"session_id": "x" * 5_000_000}},
        {"open": {"session_id": ""}},
        {"open": {"session_id": "s", "window_segments": 2**32 - 1}},
        {"open": {"session_id": "s", "max_pixels": 2**32 - 1, "window_segments": 64}},
        {"open": {"session_id": "s", "grace_s": math.nan}},
        {"open": {"session_id": "s", "grace_s": -1.0}},
        {"frame": {"pixels": b"x" * 5_000_000}},
        {},
    ],
    "Answer": [
        {"session_id": "s", "question": {"text": "red " * 500_000}},
        {"session_id": "s", "question": {"text": "red", "temperature": math.nan}},
        {"session_id": "s", "question": {"text": "red", "temperature": -1.0}},
        {"session_id": "s", "question": {"text": "red", "temperature": 1e-30}},
        {"session_id": "s", "question": {"text": "red", "temperature": 1.0, "top_p": -3.0}},
        {"session_id": "s", "question": {"text": "red", "temperature": 1.0, "top_p": math.inf}},
        {"session_id": "s", "question": {"text": "red", "repetition_penalty": -math.inf}},
        {"session_id": "s", "question": {"text": "red", "repetition_penalty": 1e-300}},
        {"session_id": "s", "question": {"text": "red", "temperature": 1.0, "seed": 2**64 - 1}},
        {"session_id": "s", "question": {"text": "red", "max_tokens": 2**32 - 1}},
        {"session_id": "s", "question": {"text": "red", "stop": ["x"] * 100_000}},
        {"session_id": "s", "question": {"text": "red", "stop": ["", "x" * 1_000_000]}},
        {"session_id": "s", "question": {"text": "red\x00\u202e\U0001f600" * 20}},
        {"session_id": "s" * 1_000_000, "question": {"text": "red"}},
        {"session_id": "s"},
    ],
    "WatchSession": [
        {"session_id": "s", "watch": {"condition": "red", "interval_s": math.nan}},
        {"session_id": "s", "watch": {"condition": "red", "interval_s": -math.inf}},
        {"session_id": "s", "watch": {"condition": "red", "debounce_s": math.nan}},
        {"session_id": "s", "watch": {"condition": "red", "cooldown_s": -1e300}},
        {"session_id": "s", "watch": {"condition": "red " * 500_000}},
        {"session_id": "s"},
    ],
    "ScoreStatements": [
        {"session_id": "s", "statements": ["red"] * 10_000},
        {"session_id": "s", "statements": ["red " * 500_000]},
        {"session_id": "s", "statements": ["", "red\x00\u202e\U0001f600"]},
        {"session_id": "s" * 1_000_000, "statements": ["red"]},
        {"session_id": "s"},
    ],
    "ResizeSession": [
        {"session_id": "x" * 1_000_000},
        {"session_id": "s", "window_segments": 2**32 - 1},
        {},
    ],
    "ReleaseSession": [{"session_id": "x" * 1_000_000}, {}],
    "Load": [{"interval_s": math.nan}, {"interval_s": -math.inf}, {"interval_s": 1e300}],
    "Describe": [{}],
}
# What a caller may hear of that; anything else says that we did not expect it.
CLEAR = {
    grpc.StatusCode.OK,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.DEADLINE_EXCEEDED,  # of those that go on until they are cancelled
}


async def outcome(channel: grpc.aio.Channel, method: str, payload: bytes) -> grpc.StatusCode:
    """How a call with these bytes as its only message ends within a moment."""
    path = f"/sightline.v1.InferenceService/{method}"
    # On the wire the same as a stream of one; with a stream, what grpc's client says when it is cut
    # off while it writes is its own "Internal error from Core".
    call = channel.unary_stream(path)(payload, timeout=0.25)
    try:
        async for _ in call:
            pass
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


@pytest.mark.parametrize("method", METHODS)
async def test_absurd_fields_are_answered_clearly(method: str, tmp_path: Path) -> None:
    async with serving(tmp_path) as worker:
        feeder = worker.feeder("s")
        await feeder.open()
        await feeder.show()
        async with grpc.aio.insecure_channel(worker.address) as channel:
            for fields in ABSURD[method]:
                message = _request(method)(**fields)
                code = await outcome(channel, method, message.SerializeToString())
                assert code in CLEAR, (method, str(fields)[:100])
                if re.search(r"\b(nan|inf)\b", str(fields)):
                    assert code == grpc.StatusCode.INVALID_ARGUMENT, (method, fields)
        await worker.serves("t")


async def test_bytes_that_are_almost_messages_disturb_nobody(tmp_path: Path) -> None:
    generator = random.Random(4)
    async with serving(tmp_path) as worker:
        feeder = worker.feeder("steady")
        await feeder.open()
        async with grpc.aio.insecure_channel(worker.address) as channel:
            for number in range(16):
                calls = [
                    outcome(channel, method, _damaged(method, generator)) for method in METHODS
                ]
                assert set(await asyncio.gather(*calls)) <= CLEAR
                if number % 4 == 0:
                    await feeder.show()
        assert (await worker.said("steady")).frames_seen == 4


def _request(method: str) -> Callable[..., Message]:
    return getattr(inference_pb2, METHODS[method].input_type.name)  # type: ignore[no-any-return]


def _damaged(method: str, generator: random.Random) -> bytes:
    """A message that was cut, or of which some bits are others. No session survives it."""
    fields = generator.choice([each for each in ABSURD[method] if len(str(each)) < 1000])
    content = bytearray(_request(method)(**fields).SerializeToString())
    for _ in range(generator.randrange(1, 4)):
        if content:
            content[generator.randrange(len(content))] ^= 1 << generator.randrange(8)
    return bytes(content[: generator.randrange(len(content) + 1)]) + generator.randbytes(
        generator.choice([0, 0, 3, 100])
    )


async def test_slow_readers_hold_up_nobody(tmp_path: Path) -> None:
    """Of answers, and of acknowledgements."""
    async with serving(tmp_path, frame_queue=4) as worker:
        feeder = worker.feeder("s")
        await feeder.open()
        await feeder.show()
        used = worker.pages_used
        slow = [worker.answer("s") for _ in range(20)]
        for call in slow:
            await call.read()
        for _ in range(10):  # the video goes on, and so do others' answers
            await feeder.show()
            await worker.said("s")
        # Read or not, answers end and free their pages.
        await eventually(lambda: not worker.bench.engine.snapshot().num_running)
        deaf = worker.feeder("deaf")
        await deaf.open()
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            for _ in range(400):  # more than the credit allows, and nobody reads
                await deaf.send()
        await refused(whole(deaf.call))  # a client that still writes is not told more by grpc
        for call in slow[:10]:
            await whole(call)
        for call in slow[10:]:
            call.cancel()
        await worker.release("deaf")
        assert worker.pages_used >= used
        await worker.serves("t")


@pytest.mark.parametrize("count", [80, pytest.param(200, marks=pytest.mark.slow)])
async def test_many_sessions_come_and_go(tmp_path: Path, count: int) -> None:
    """Opened, fed, asked, watched, taken over, dropped and released in any order, most of them
    while there is no room."""
    async with serving(tmp_path, room=8, frame_queue=4, park_after_s=0.05) as worker:
        codes: set[grpc.StatusCode] = set()

        async def live(number: int) -> None:
            generator = random.Random(number)
            for _ in range(generator.randrange(1, 3)):
                await asyncio.sleep(generator.random())
                feeder = worker.feeder(
                    f"session-{generator.randrange(number // 2 + 1)}", grace_s=0.1
                )
                try:
                    await feeder.open()
                    for _ in range(generator.randrange(8)):
                        await act(generator, feeder)
                except (RefusedError, grpc.aio.AioRpcError) as error:
                    code, details = status(error)
                    if details != "Internal error from Core":  # grpc's own, to late writers
                        codes.add(code)
                except asyncio.InvalidStateError:  # it is over
                    pass
                feeder.call.cancel()

        async def act(generator: random.Random, feeder: Feeder) -> None:
            session = feeder.opening.session_id
            match generator.randrange(7):
                case 0:
                    await worker.said(session, max_tokens=generator.randrange(1, 9))
                case 1:
                    call = worker.answer(session)
                    await call.read()
                    call.cancel()
                case 2:
                    watch = gateway_pb2.Watch(watch="w", condition="red", interval_s=0.05)
                    request = inference_pb2.WatchRequest(session_id=session, watch=watch)
                    call = worker.stub.WatchSession(request, timeout=0.2)
                    with contextlib.suppress(grpc.aio.AioRpcError):
                        await call.read()
                case 3 if generator.random() < 0.3:
                    await worker.release(session)
                case _:
                    await feeder.show()

        async with asyncio.timeout(3 * PATIENCE_S):
            while grpc.StatusCode.RESOURCE_EXHAUSTED not in codes:  # a slow machine finds room
                async with asyncio.TaskGroup() as tasks:
                    for number in range(count):
                        tasks.create_task(live(number), name=f"live:{number}")
        assert codes <= CLEAR | {grpc.StatusCode.CANCELLED}
        # Nobody feeds them: their grace ends.
        await eventually(lambda: not worker.bench.core.sessions)
        await worker.serves("t")


def call_request(session: str) -> inference_pb2.AnswerRequest:
    question = gateway_pb2.Question(turn="t", text="what is red")
    return inference_pb2.AnswerRequest(session_id=session, question=question)


async def whole(call: Any) -> None:
    while await call.read() is not grpc.aio.EOF:
        pass
    if await call.code() != grpc.StatusCode.OK:
        raise RefusedError(await call.code(), await call.details())


@contextlib.contextmanager
def not_a_number(worker: Worker) -> Iterator[None]:
    """What `FAULT` leads to has no valid scores."""
    runner = worker.bench.runner
    sample = runner._sample

    def spoiled(logits: torch.Tensor, runs: list[Run]) -> Any:
        faulty = [FAULT in run.tokens for run in runs]
        return sample(logits.masked_fill(torch.tensor(faulty)[:, None], math.nan), runs)

    runner._sample = spoiled  # type: ignore[method-assign]
    try:
        yield
    finally:
        runner._sample = sample  # type: ignore[method-assign]


@contextlib.contextmanager
def slowed(worker: Worker) -> Iterator[None]:
    """Steps take 20 ms, so that an answer has a middle."""
    runner = worker.bench.runner
    execute = runner.execute

    def slow(runs: list[Run]) -> Any:
        time.sleep(0.02)
        return execute(runs)

    runner.execute = slow  # type: ignore[method-assign]
    try:
        yield
    finally:
        runner.execute = execute  # type: ignore[method-assign]
