"""One trace of one question, from the capture of what it saw to its spoken answer, over every
service, as a receiver of OTLP gets it."""

import subprocess
import sys
import threading
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import grpc
import numpy as np
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

import sightline
from sightline.v1 import gateway_pb2, gateway_pb2_grpc
from tests.eventually import wait_until
from tests.processes import REPOSITORY
from tests.suite import Suite

pytestmark = pytest.mark.option

PREFIXES = {
    "gateway": "GATEWAY_",
    "inference_worker": "WORKER_",
    "dialogue": "DIALOGUE_",
    "tts": "TTS_",
}
TRACE = "0af7651916cd43dd8448eb211c80319c"


@dataclass
class Receiver:
    """A collector that keeps spans by trace: (service, span)."""

    traces: dict[str, list[tuple[str, Span]]] = field(default_factory=lambda: defaultdict(list))
    port: int = 0

    def take(self, request: ExportTraceServiceRequest) -> None:
        for resource in request.resource_spans:
            (service,) = [
                each.value.string_value
                for each in resource.resource.attributes
                if each.key == "service.name"
            ]
            for scope in resource.scope_spans:
                for span in scope.spans:
                    self.traces[span.trace_id.hex()].append((service, span))

    def names(self, trace: str) -> set[tuple[str, str]]:
        return {(service.partition(".")[2], span.name) for service, span in self.traces[trace]}


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/traces"
            body = self.rfile.read(int(self.headers["Content-Length"]))
            receiver.take(ExportTraceServiceRequest.FromString(body))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        receiver.port = server.server_address[1]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield receiver
        server.shutdown()


@pytest.fixture(scope="module")
def suite(receiver: Receiver, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Suite]:
    url = f"http://127.0.0.1:{receiver.port}"
    environment = {name: {f"{prefix}TRACES": url} for name, prefix in PREFIXES.items()}
    environment["inference_worker"] |= {"WORKER_THREADS": "1", "WORKER_MAX_SESSIONS": "2"}
    made = Suite(tmp_path_factory.mktemp("traces"), environment=environment)
    made.start()
    yield made
    assert not made.stop()


def test_a_spoken_answer_is_one_trace_over_all_services(suite: Suite, receiver: Receiver) -> None:
    with sightline.connect(suite.address) as client, client.open(push=True) as session:
        session.push(np.zeros((128, 128, 3), np.uint8))
        talk = session.conversation(speech=True)
        assert talk.ask("what do you see?").result().text
    wanted = {
        ("gateway", "question"),
        ("gateway", "capture to first words"),
        ("inference_worker", "Answer"),
        ("inference_worker", "prompt"),
        ("inference_worker", "words"),
        ("dialogue", "Context"),
        ("tts", "Synthesize"),
    }
    found = wait_until(
        lambda: [trace for trace in list(receiver.traces) if wanted <= receiver.names(trace)],
        timeout_s=20,
    )
    spans = {span.name: span for _, span in receiver.traces[found[0]]}
    question, capture = spans["question"], spans["capture to first words"]
    assert spans["Answer"].parent_span_id == question.span_id
    assert spans["Context"].parent_span_id == spans["Answer"].span_id
    assert capture.parent_span_id == question.span_id
    assert question.start_time_unix_nano < capture.end_time_unix_nano
    assert capture.start_time_unix_nano < spans["words"].start_time_unix_nano
    assert spans["prompt"].end_time_unix_nano <= spans["words"].end_time_unix_nano


def test_a_callers_trace_is_continued(suite: Suite, receiver: Receiver) -> None:
    with sightline.connect(suite.address) as client, client.open(push=True) as session:
        session.push(np.zeros((128, 128, 3), np.uint8))
        with grpc.insecure_channel(suite.address) as channel:
            stub = gateway_pb2_grpc.SightlineServiceStub(channel)
            request = gateway_pb2.AskRequest(
                session=session.id, question=gateway_pb2.Question(text="what is there?")
            )
            header = [("traceparent", f"00-{TRACE}-b7ad6b7169203331-01")]
            stub.Ask(request, metadata=header, timeout=30)
    wanted = {("gateway", "Ask"), ("gateway", "question"), ("inference_worker", "Answer")}
    wait_until(lambda: wanted <= receiver.names(TRACE), timeout_s=20)
    (ask,) = [span for _, span in receiver.traces[TRACE] if span.name == "Ask"]
    assert ask.parent_span_id.hex() == "b7ad6b7169203331"


def test_nothing_is_imported_while_traces_are_off(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "import services.gateway.__main__, services.inference_worker.__main__\n"
        "import services.dialogue.__main__, services.tts.__main__\n"
        "from services.common import tracing\n"
        "from services.common.config import ServiceConfig\n"
        "tracing.set_up_tracing('x', ServiceConfig())\n"
        "with tracing.span('a'), tracing.served('m', [('traceparent', 'x')]):\n"
        "    tracing.record('b', 1)\n"
        "assert tracing.trace_headers() is None\n"
        # The client of Redis imports what it counts with, where that is installed.
        "ours = ('opentelemetry.sdk.trace', 'opentelemetry.exporter')\n"
        "print([name for name in sys.modules if name.startswith(ours)])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, timeout=120
    )
    assert done.stdout.strip() == "[]", done.stderr
