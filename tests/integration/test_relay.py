"""The relay worker, a real process, before a model server that speaks as the real ones do."""

import base64
import contextlib
import io
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import grpc
import numpy as np
import pytest

from services.local import model_servers
from sightline.status import details_of
from sightline.v1 import dialogue_pb2, gateway_pb2, inference_pb2
from sightline.v1.inference_pb2_grpc import InferenceServiceStub
from tests.eventually import PATIENCE_S, wait_until
from tests.integration.test_worker import Feeder
from tests.model_server import KEY, MODEL, SIDE, WORDS, ModelServer, relaying
from tests.processes import ServiceProcess

TEXT = "".join(WORDS)
S = 10**9


@pytest.fixture(scope="module")
def worker(
    model_server: ModelServer,
    shared_process: Callable[..., ServiceProcess],
    tmp_path_factory: pytest.TempPathFactory,
) -> ServiceProcess:
    key = tmp_path_factory.mktemp("relay") / "key"
    key.write_text(f"{KEY}\n")
    return shared_process("inference_worker", WORKER_RELAY_KEY_FILE=key, **relaying(model_server))


@pytest.fixture(scope="module")
def stub(worker: ServiceProcess) -> Iterator[InferenceServiceStub]:
    with grpc.insecure_channel(worker.address) as channel:
        yield InferenceServiceStub(channel)


@pytest.fixture
def feeder(
    stub: InferenceServiceStub, model_server: ModelServer, request: pytest.FixtureRequest
) -> Iterator[Feeder]:
    """A session of the test's name that has seen six frames, each brighter than the last."""
    model_server.faults.clear()
    model_server.requests.clear()
    model_server.yes = 0.9
    feeder = Feeder(stub, request.node.name, grace_s=0)
    for number in range(6):
        feeder.push(picture(40 * number), number * S)
    yield feeder
    feeder.close()


def picture(level: int) -> bytes:
    return np.full((SIDE, SIDE, 3), level, np.uint8).tobytes()


def asked(session: str, **question: object) -> inference_pb2.AnswerRequest:
    question = {"turn": "t", "text": "What is there?", **question}
    return inference_pb2.AnswerRequest(
        session_id=session,
        question=gateway_pb2.Question(**question),
        history=[dialogue_pb2.Round(question="Who are you?", answer="Nobody.")],
    )


def levels(body: dict[str, object]) -> list[int]:
    """Brightness of the pictures that a question came with."""
    content = body["messages"][-1]["content"]  # type: ignore[index]
    urls = [part["image_url"]["url"] for part in content if part["type"] == "image_url"]
    found = []
    for url in urls:
        data = base64.b64decode(url.removeprefix("data:image/jpeg;base64,"))
        with av.open(io.BytesIO(data), format="mjpeg") as container:
            frame = next(container.decode(video=0))
        found.append(int(frame.to_ndarray(format="rgb24").mean()))
    return found


def test_it_tells_what_it_wants_of_a_gateway(stub: InferenceServiceStub) -> None:
    description = stub.Describe(inference_pb2.DescribeRequest(), timeout=10)
    assert (description.model, description.device) == (MODEL, "relay")
    assert (description.frame_width, description.frame_height) == (SIDE, SIDE)
    assert (description.window_segments, description.tubelet) == (4, 1)
    assert description.preferred_fps == 1.0
    assert not description.HasField("loading")
    report = next(stub.Load(inference_pb2.LoadRequest(), timeout=10))
    assert report.kv_pages_total == report.max_sessions > 0


def test_it_imports_no_torch(worker: ServiceProcess) -> None:
    maps = Path(f"/proc/{worker.process.pid}/maps").read_text()  # type: ignore[union-attr]
    assert "libtorch" not in maps
    assert "libav" in maps


def test_calls_and_schemas_are_passed_on(
    stub: InferenceServiceStub,
    model_server: ModelServer,
    feeder: Feeder,
    request: pytest.FixtureRequest,
) -> None:
    tools = [gateway_pb2.Tool(name="set_lamp", parameters='{"properties": {}}')]
    wanted = asked(request.node.name, tools=tools, tool_choice="required")
    *_, last = stub.Answer(wanted, timeout=10)
    [call] = last.done.tool_calls
    assert (call.name, call.arguments, last.done.text) == ("set_lamp", '{"level": 3}', "")
    assert model_server.requests[-1]["tool_choice"] == "required"
    call.output = "it is on"
    wanted = asked(request.node.name, tools=tools, called=[call], answer_schema='{"type": "array"}')
    *_, last = stub.Answer(wanted, timeout=10)
    assert (last.done.text, list(last.done.degraded)) == (TEXT, ["schema_unenforced"])
    body = model_server.requests[-1]
    assert body["response_format"]["json_schema"]["schema"] == {"type": "array"}
    assert [message["role"] for message in body["messages"]] == [
        *("user", "assistant", "user", "assistant", "tool")
    ]
    assert body["messages"][-1]["content"] == "it is on"
    model_server.faults.append("400")  # of a server that knows no schemas
    wanted = asked(request.node.name, answer_schema='{"type": "array"}')
    *_, last = stub.Answer(wanted, timeout=10)
    assert last.done.text == TEXT
    assert ["response_format" in each for each in model_server.requests[-2:]] == [True, False]


def test_an_answer_comes_from_the_newest_frames(
    stub: InferenceServiceStub,
    model_server: ModelServer,
    feeder: Feeder,
    request: pytest.FixtureRequest,
) -> None:
    question = asked(request.node.name, instructions="Be brief.", temperature=0.5, seed=7)
    events = list(stub.Answer(question, timeout=30))
    done = events[-1].done
    assert done.text == TEXT == "".join(event.text_delta.text for event in events)
    assert sum(event.HasField("text_delta") for event in events) > 1
    assert (done.frames_seen, done.first_capture_ns, done.last_capture_ns) == (4, 2 * S, 5 * S)
    assert (done.prompt_tokens, done.finish_reason) == (321, gateway_pb2.FINISH_REASON_STOP)
    [body] = model_server.requests
    assert all(abs(a - b) <= 3 for a, b in zip(levels(body), (80, 120, 160, 200), strict=True))
    assert [each["role"] for each in body["messages"]] == ["user", "assistant", "user"]
    assert body["messages"][-1]["content"][-1]["text"] == "Be brief.\n\nWhat is there?"
    assert (body["temperature"], body["seed"], body["model"]) == (0.5, 7, MODEL)


def test_length_and_stop_strings_end_an_answer(
    stub: InferenceServiceStub, feeder: Feeder, request: pytest.FixtureRequest
) -> None:
    short = list(stub.Answer(asked(request.node.name, max_tokens=2), timeout=30))[-1].done
    assert (short.text, short.finish_reason) == ("A red", gateway_pb2.FINISH_REASON_LENGTH)
    stopped = list(stub.Answer(asked(request.node.name, stop=[" is"]), timeout=30))[-1].done
    assert (stopped.text, stopped.finish_reason) == (
        "A red square",
        gateway_pb2.FINISH_REASON_STOP,
    )


@pytest.mark.parametrize("fault", ["500", "503", "429"])
def test_a_passing_fault_is_waited_out(
    stub: InferenceServiceStub,
    model_server: ModelServer,
    feeder: Feeder,
    request: pytest.FixtureRequest,
    fault: str,
) -> None:
    model_server.faults.append(fault)
    assert list(stub.Answer(asked(request.node.name), timeout=30))[-1].done.text == TEXT
    assert len(model_server.requests) == 2


@pytest.mark.parametrize(
    ("faults", "code", "reason"),
    [
        (["500"] * 3, grpc.StatusCode.UNAVAILABLE, "MODEL_AWAY"),
        (["404"], grpc.StatusCode.UNAVAILABLE, "MODEL_AWAY"),
        (["cut"], grpc.StatusCode.UNAVAILABLE, "MODEL_AWAY"),
        (["error"], grpc.StatusCode.UNAVAILABLE, "MODEL_AWAY"),
        (["429"] * 3, grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_QUESTIONS"),
        (["400"], grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT"),
    ],
)
def test_a_lasting_fault_is_told_without_the_servers_words(
    stub: InferenceServiceStub,
    model_server: ModelServer,
    feeder: Feeder,
    request: pytest.FixtureRequest,
    faults: list[str],
    code: grpc.StatusCode,
    reason: str,
) -> None:
    model_server.faults.extend(faults)
    with pytest.raises(grpc.RpcError) as caught:
        list(stub.Answer(asked(request.node.name), timeout=30))
    error = caught.value
    assert error.code() == code
    assert details_of(error.trailing_metadata()).reason == reason
    assert "127.0.0.1" not in error.details()
    assert "secret" not in error.details()
    assert list(stub.Answer(asked(request.node.name), timeout=30))[-1].done.text == TEXT


def test_cancelling_an_answer_closes_the_request(
    stub: InferenceServiceStub,
    model_server: ModelServer,
    feeder: Feeder,
    request: pytest.FixtureRequest,
) -> None:
    model_server.hung.clear()
    model_server.left.clear()
    model_server.faults.append("hang")
    call = stub.Answer(asked(request.node.name), timeout=PATIENCE_S)
    codes: list[grpc.StatusCode] = []

    def read() -> None:
        with contextlib.suppress(grpc.RpcError):
            list(call)
        codes.append(call.code())

    reading = threading.Thread(target=read)
    reading.start()
    assert model_server.hung.wait(30)
    call.cancel()
    assert model_server.left.wait(30)
    reading.join(PATIENCE_S)
    assert codes == [grpc.StatusCode.CANCELLED]


@pytest.mark.parametrize(("yes", "expected"), [(0.8, 0.8 / 0.95), (0.0, 0.0)])
def test_statements_are_scored_by_probabilities(
    stub: InferenceServiceStub,
    model_server: ModelServer,
    feeder: Feeder,
    request: pytest.FixtureRequest,
    yes: float,
    expected: float,
) -> None:
    model_server.yes = yes
    scored = stub.ScoreStatements(
        inference_pb2.ScoreStatementsRequest(
            session_id=request.node.name, statements=["it is red", "it is there"]
        ),
        timeout=30,
    )
    assert list(scored.probabilities) == pytest.approx([expected] * 2)
    assert (scored.frames_seen, scored.last_capture_ns) == (4, 5 * S)
    assert all(body["max_tokens"] == 1 for body in model_server.requests)


def test_a_watch_fires_when_its_answer_changes(
    stub: InferenceServiceStub,
    model_server: ModelServer,
    feeder: Feeder,
    request: pytest.FixtureRequest,
) -> None:
    model_server.yes = 0.1
    watch = gateway_pb2.Watch(watch="w", condition="it is red", interval_s=0.05)
    wanted = inference_pb2.WatchRequest(session_id=request.node.name, watch=watch)
    call = stub.WatchSession(wanted, timeout=60)
    wait_until(lambda: model_server.requests, "the first check")
    model_server.yes = 0.9
    feeder.push(picture(250), 6 * S)
    event = next(call)
    assert event.active
    assert event.capture_ns == 6 * S
    assert event.score == pytest.approx(0.9 / 0.95)
    call.cancel()


def test_a_session_moves_with_its_fence_and_its_window(
    stub: InferenceServiceStub,
    model_server: ModelServer,
    feeder: Feeder,
    request: pytest.FixtureRequest,
) -> None:
    name = f"{request.node.name}:moved"
    moved = Feeder(stub, name, grace_s=0, replays=3, fence=2)
    for number in (3, 4, 5):
        moved.push(picture(40 * number), number * S, replayed=True)
    assert list(stub.Answer(asked(name), timeout=30))[-1].done.frames_seen == 3
    with pytest.raises(grpc.RpcError) as caught:
        Feeder(stub, name, fence=1)
    assert details_of(caught.value.trailing_metadata()).reason == "NOT_OWNER"
    again = Feeder(stub, name, grace_s=0, fence=3)
    assert again.opened.resumed
    assert again.opened.last_capture_ns == 5 * S
    again.close()


def test_a_server_without_probabilities_is_asked_for_words(
    model_server: ModelServer, service_process: Callable[..., ServiceProcess]
) -> None:
    """By a worker of the test's own, which asks this server for words alone from then on."""
    settings = relaying(model_server) | {"WORKER_RELAY_KEY": KEY}
    with grpc.insecure_channel(service_process("inference_worker", **settings).address) as channel:
        stub = InferenceServiceStub(channel)
        feeder = Feeder(stub, "relayed", grace_s=0)
        feeder.push(picture(40), S)
        model_server.requests.clear()
        model_server.yes, model_server.word = None, "<think>yes?</think>No, it is not."
        wanted = inference_pb2.ScoreStatementsRequest(
            session_id="relayed", statements=["it is red"]
        )
        assert list(stub.ScoreStatements(wanted, timeout=30).probabilities) == [0.0]
        assert ["logprobs" in body for body in model_server.requests] == [True, False]
        model_server.word = "Yes."
        assert list(stub.ScoreStatements(wanted, timeout=30).probabilities) == [1.0]
        assert len(model_server.requests) == 3
        feeder.close()


async def test_make_run_tells_of_a_server_that_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    server = ModelServer()
    port = int(server.url.rpartition(":")[2].removesuffix("/v1"))
    monkeypatch.setattr(model_servers, "_PORTS", {1: "nobody", port: "Ollama"})
    try:
        line = await model_servers.relay_line()
        server.away = True
        assert await model_servers.relay_line() == ""
    finally:
        server.stop()
    assert f"WORKER_MODEL=openai:http://127.0.0.1:{port}/v1#{MODEL}" in line
