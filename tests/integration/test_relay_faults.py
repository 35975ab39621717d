"""A relay before model servers that fail in every way that servers do: whoever asks is told so in a
sentence of ours, soon, and nobody else is disturbed."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from email.utils import formatdate
from pathlib import Path
from typing import Any

import grpc
import pytest

from services.inference_worker.relay import upstream
from sightline.status import details_of
from sightline.v1 import gateway_pb2, inference_pb2
from sightline.v1.inference_pb2_grpc import InferenceServiceStub
from tests.eventually import wait_until
from tests.integration.test_relay import TEXT, asked, picture
from tests.integration.test_worker import Feeder
from tests.model_server import KEY, ModelServer, Reply, relaying
from tests.processes import ServiceProcess

SILENT_S = 4.0
MOST_GROWTH_KIB = 64 * 1024
INNER = "http://10.9.8.7:8000"
S = 10**9
UNAVAILABLE, EXHAUSTED = grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.fixture(scope="module")
def worker(
    model_server: ModelServer, shared_process: Callable[..., ServiceProcess]
) -> ServiceProcess:
    settings = {"WORKER_RELAY_KEY": KEY, "WORKER_RELAY_TIMEOUT_S": SILENT_S}
    return shared_process("inference_worker", **settings, **relaying(model_server))


@pytest.fixture
def stub(worker: ServiceProcess, model_server: ModelServer) -> Iterator[InferenceServiceStub]:
    """The relay, with a session that has seen a frame."""
    model_server.faults.clear()
    model_server.requests.clear()
    with grpc.insecure_channel(worker.address) as channel:
        stub = InferenceServiceStub(channel)
        feeder = Feeder(stub, "relayed", grace_s=0)
        feeder.push(picture(40), S)
        yield stub
        feeder.close()


def event(**fields: Any) -> bytes:
    return b"data: " + json.dumps(fields).encode() + b"\n\n"


def delta(finish: str | None = None, **said: Any) -> bytes:
    return event(choices=[{"index": 0, "delta": said, "finish_reason": finish}])


DONE = b"data: [DONE]\n\n"
HTML = b"<html><body>" + f"Welcome to {INNER}, your key is {KEY}".encode() + b"</body></html>\n"
REFUSAL = json.dumps({"error": {"message": f"{INNER} does not like {KEY}"}}).encode()
JSON = {"Content-Type": "application/json"}
CALL = [{"index": 0, "function": {"name": "wipe", "arguments": "{}"}}]

FAULTS: dict[str, tuple[Reply, grpc.StatusCode, str]] = {
    "page": (Reply(HTML, headers={"Content-Type": "text/html"}), UNAVAILABLE, upstream.NONSENSE),
    "endless page": (Reply(HTML * 100, then="again"), UNAVAILABLE, upstream.SILENT),
    "nothing": (Reply(), UNAVAILABLE, upstream.NONSENSE),
    "binary": (Reply(bytes(range(256)) * 64), UNAVAILABLE, upstream.NONSENSE),
    "cut": (Reply(delta(content="A red")), UNAVAILABLE, upstream.CUT),
    "error": (Reply(delta(content="A") + b"data: " + REFUSAL), UNAVAILABLE, upstream.CUT),
    "error at once": (Reply(b"data: " + REFUSAL + b"\n\n"), UNAVAILABLE, upstream.CUT),
    "error as JSON": (Reply(REFUSAL, headers=JSON), UNAVAILABLE, upstream.NONSENSE),
    "no JSON": (Reply(b"data: {oops\n\n"), UNAVAILABLE, upstream.CUT),
    "long line": (Reply(b"x" * 65536, then="again"), UNAVAILABLE, upstream.NONSENSE),
    "long event": (
        Reply(b'data: {"a": "' + b"x" * 2**21 + b'"}\n\n'),
        UNAVAILABLE,
        upstream.NONSENSE,
    ),
    "comments": (Reply(b": ping\n\n", then="again", pause_s=0.2), UNAVAILABLE, upstream.SILENT),
    "empty events": (
        Reply(event(choices=[]), then="again", pause_s=0.1),
        UNAVAILABLE,
        upstream.SILENT,
    ),
    "silence": (Reply(then="hold"), UNAVAILABLE, upstream.SILENT),
    "no choices": (Reply(event(choices=[]) + DONE), UNAVAILABLE, upstream.NOTHING),
    "no text": (Reply(delta("stop") + DONE), UNAVAILABLE, upstream.NOTHING),
    "a call": (Reply(delta("tool_calls", tool_calls=CALL) + DONE), UNAVAILABLE, upstream.NOTHING),
    "thoughts": (
        Reply(delta(reasoning_content="hm") + delta("length") + DONE),
        UNAVAILABLE,
        upstream.THOUGHTS,
    ),
    "thoughts in text": (
        Reply(delta(content="<think>hm, hm") + delta("length") + DONE),
        UNAVAILABLE,
        upstream.THOUGHTS,
    ),
    "endless thoughts": (
        Reply(delta(reasoning="hm, " * 200), then="again"),
        UNAVAILABLE,
        upstream.THOUGHTS,
    ),
    "401": (Reply(REFUSAL, 401, JSON), UNAVAILABLE, upstream.NO_KEY),
    "403": (Reply(REFUSAL, 403, JSON), UNAVAILABLE, upstream.NO_KEY),
    "404": (Reply(REFUSAL, 404, JSON), UNAVAILABLE, upstream.NO_NAME),
    "302": (Reply(b"", 302, {"Location": f"{INNER}/v1"}), UNAVAILABLE, upstream.ELSEWHERE),
    "307": (Reply(b"", 307, {"Location": f"{INNER}/v1"}), UNAVAILABLE, upstream.ELSEWHERE),
    "501": (Reply(REFUSAL, 501, JSON), UNAVAILABLE, upstream.AWAY),
    "503 for long": (Reply(b"", 503, {"Retry-After": "99999999999"}), UNAVAILABLE, upstream.AWAY),
    "429": (Reply(REFUSAL, 429, {"Retry-After": "30"}), EXHAUSTED, upstream.BUSY),
    "400 in drops": (
        Reply(b"x", 400, JSON, then="again", pause_s=0.5),
        grpc.StatusCode.INVALID_ARGUMENT,
        upstream.REFUSED,
    ),
}


@pytest.mark.parametrize("name", list(FAULTS))
def test_a_fault_is_told_in_words_of_ours_and_disturbs_nobody(
    stub: InferenceServiceStub, model_server: ModelServer, worker: ServiceProcess, name: str
) -> None:
    reply, code, words = FAULTS[name]
    before_kib = memory_kib(worker)
    model_server.faults.append(reply)
    failed: list[grpc.RpcError] = []

    def ask() -> None:
        with pytest.raises(grpc.RpcError) as caught:
            list(stub.Answer(asked("relayed"), timeout=120))
        failed.append(caught.value)

    asking = threading.Thread(target=ask)
    asking.start()
    wait_until(lambda: model_server.requests)
    assert list(stub.Answer(asked("relayed"), timeout=120))[-1].done.text == TEXT
    asking.join(120)
    [error] = failed
    assert (error.code(), error.details()) == (code, words)
    for secret in (INNER, KEY, "127.0.0.1"):
        assert secret not in error.details()
    assert memory_kib(worker) - before_kib < MOST_GROWTH_KIB


def memory_kib(worker: ServiceProcess) -> int:
    status = Path(f"/proc/{worker.process.pid}/status").read_text()  # type: ignore[union-attr]
    return int(status.split("VmRSS:")[1].split()[0])


def test_a_date_says_when_to_come_back(
    stub: InferenceServiceStub, model_server: ModelServer
) -> None:
    later = formatdate(time.time() + 900, usegmt=True)
    model_server.faults.append(Reply(b"", 429, {"Retry-After": later}))
    with pytest.raises(grpc.RpcError) as caught:
        list(stub.Answer(asked("relayed"), timeout=120))
    details = details_of(caught.value.trailing_metadata())
    assert 600 < details.retry_after_s <= 900
    assert len(model_server.requests) == 1, "it is not waited for"


@pytest.mark.parametrize(
    ("reply", "text", "finish"),
    [
        (Reply(delta("stop", content="Yes.")), "Yes.", "STOP"),  # no [DONE]
        (Reply(delta("stop", content="Yes."), then="hold"), "Yes.", "STOP"),
        (Reply(delta(content="Yes.") + DONE, then="hold"), "Yes.", "STOP"),
        (Reply(delta(content="Yes.") + b"data: [DONE]"), "Yes.", "STOP"),  # no end of the line
        (
            Reply(delta("stop", content="Yes."), headers={"Content-Type": "text/plain"}),
            "Yes.",
            "STOP",
        ),
        (
            Reply(delta("stop", content="Gr\u00fc\u00dfe").replace(b"\\u00df", b"\xff")),
            "Grü\ufffde",
            "STOP",
        ),
        (Reply(delta(content="\ud83d") + delta("stop", content="\ude00")), "\U0001f600", "STOP"),
        (Reply(delta("stop", content="a \ud83d")), "a \ufffd", "STOP"),
        (
            Reply(delta(reasoning_content="hm") + delta("stop", content="Yes.") + DONE),
            "Yes.",
            "STOP",
        ),
        (Reply(delta("stop", content="<think>no</think>Yes.") + DONE), "Yes.", "STOP"),
        (Reply(delta("stop", content=[{"type": "text", "text": "Yes."}])), "Yes.", "STOP"),
        (
            Reply(
                delta("stop", content="Yes.")
                + event(choices=[], usage={"prompt_tokens": 2**70})
                + DONE
            ),
            "Yes.",
            "STOP",
        ),
        (Reply(delta("stop", content="Yes."), pause_s=SILENT_S / 2), "Yes.", "STOP"),
    ],
)
def test_an_answer_that_is_odd_is_an_answer(
    stub: InferenceServiceStub, model_server: ModelServer, reply: Reply, text: str, finish: str
) -> None:
    model_server.faults.append(reply)
    done = list(stub.Answer(asked("relayed"), timeout=120))[-1].done
    assert done.text == text
    assert gateway_pb2.FinishReason.Name(done.finish_reason) == f"FINISH_REASON_{finish}"


def test_a_stream_without_end_ends(stub: InferenceServiceStub, model_server: ModelServer) -> None:
    model_server.faults.append(Reply(delta(content="on and "), then="again"))
    done = list(stub.Answer(asked("relayed", max_tokens=16), timeout=120))[-1].done
    assert done.text.startswith("on and on and ")
    assert len(done.text) <= 64 * 17
    assert done.finish_reason == gateway_pb2.FINISH_REASON_LENGTH


@pytest.mark.parametrize("reply", [Reply(HTML), Reply(REFUSAL), Reply(b'{"choices": []}')])
def test_a_statement_is_not_judged_by_nonsense(
    stub: InferenceServiceStub, model_server: ModelServer, reply: Reply
) -> None:
    model_server.faults.append(reply)
    request = inference_pb2.ScoreStatementsRequest(session_id="relayed", statements=["a cup"])
    with pytest.raises(grpc.RpcError) as caught:
        stub.ScoreStatements(request, timeout=120)
    assert (caught.value.code(), caught.value.details()) == (UNAVAILABLE, upstream.NONSENSE)


def test_the_log_has_the_servers_words_without_the_key(
    stub: InferenceServiceStub, model_server: ModelServer, worker: ServiceProcess
) -> None:
    for reply in (Reply(REFUSAL, 403, JSON), Reply(b"data: " + REFUSAL + b"\n\n")):
        model_server.faults.append(reply)
        with pytest.raises(grpc.RpcError):
            list(stub.Answer(asked("relayed"), timeout=120))
    assert "does not like ***" in worker.log()
    assert KEY not in worker.log()
