"""A gateway that asks a program who may do what, at every door."""

import json
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
import numpy as np
import pytest

import sightline
from sightline.reasons import Reason
from sightline.status import details_of
from sightline.v1 import gateway_pb2 as pb
from sightline.v1 import gateway_pb2_grpc
from tests.processes import SHAPES, ServiceProcess

pytestmark = pytest.mark.option

RULES = {  # token: (action, path) that it may; * is any path
    "boss": {("admin", "*"), ("publish", "*"), ("view", "*"), ("ask", "*"), ("watch", "*")},
    "guest": {("view", "lobby"), ("ask", "lobby"), ("view", "")},
    "camera": {("publish", "lobby")},
}


@dataclass
class Program:
    port: int = 0
    asked: list[dict[str, str]] = field(default_factory=list)


@pytest.fixture(scope="module")
def program() -> Iterator[Program]:
    program = Program()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            program.asked.append(question)
            rules = RULES.get(question["token"])
            if rules is None:
                self.send_response(401)
            else:
                wanted = {(question["action"], path) for path in (question["path"], "*")}
                self.send_response(200 if wanted & rules else 403)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        program.port = server.server_address[1]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield program
        server.shutdown()


@pytest.fixture(scope="module")
def gateway(program: Program, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    folder = tmp_path_factory.mktemp("callback")
    settings = {"WORKER_MODEL": str(SHAPES), "WORKER_THREADS": "1", "WORKER_MAX_SESSIONS": "4"}
    worker = ServiceProcess("inference_worker", settings, folder)
    worker.start(120)
    environment = {
        "GATEWAY_WORKERS": worker.address,
        "GATEWAY_RTMP_PORT": "",
        "GATEWAY_AUTH": "http",
        "GATEWAY_AUTH_HTTP_URL": f"http://127.0.0.1:{program.port}/auth",
    }
    gateway = ServiceProcess("gateway", environment, folder)
    gateway.start()
    yield gateway
    gateway.stop()
    worker.stop()


def outcome(gateway: ServiceProcess, method: str, request: object, token: str) -> tuple[str, str]:
    with grpc.insecure_channel(gateway.address) as channel:
        call = getattr(gateway_pb2_grpc.SightlineServiceStub(channel), method)
        metadata = [("authorization", f"Bearer {token}")] if token else []
        try:
            call(request, metadata=metadata, timeout=30)
        except grpc.RpcError as error:
            return error.code().name, details_of(error.trailing_metadata())[0]
    return "OK", ""


def test_the_callback_decides_at_every_door(gateway: ServiceProcess, program: Program) -> None:
    with (
        sightline.connect(gateway.address, token="boss", insecure_token=True) as boss,
        boss.open(push=True, name="lobby") as session,
    ):
        session.push(np.zeros((128, 128, 3), np.uint8))
        with sightline.connect(gateway.address, token="guest", insecure_token=True) as guest:
            seen = guest.session("lobby")
            assert seen.ask("what do you see?").result().text
            with pytest.raises(sightline.PermissionDeniedError):
                seen.delete()
        ask = pb.AskRequest(session="lobby", question=pb.Question(text="what is there?"))
        assert outcome(gateway, "Ask", ask, "guest") == ("OK", "")
        assert outcome(gateway, "Ask", ask, "camera") == (
            "PERMISSION_DENIED",
            Reason.NOT_PERMITTED,
        )
        assert outcome(gateway, "Ask", ask, "nobody")[0] == "UNAUTHENTICATED"
        assert outcome(gateway, "Ask", ask, "") == ("UNAUTHENTICATED", Reason.TOKEN_MISSING)
        by_id = pb.GetSessionRequest(session=session.id)
        assert outcome(gateway, "GetSession", by_id, "guest") == ("OK", "")
        url = f"http://127.0.0.1:{gateway.http_port}/api/sessions/lobby"
        request = urllib.request.Request(url, headers={"Authorization": "Bearer camera"})
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(request, timeout=10)
        assert refused.value.code == 403
    asked = {(each["token"], each["action"], each["path"]) for each in program.asked}
    assert ("boss", "admin", "lobby") in asked
    assert ("guest", "ask", "lobby") in asked
    assert {each["ip"] for each in program.asked} == {"127.0.0.1"}


def test_a_camera_publishes_without_the_sessions_key(gateway: ServiceProcess) -> None:
    with (
        sightline.connect(gateway.address, token="boss", insecure_token=True) as boss,
        boss.open(push=True, name="lobby") as session,
    ):
        frame = pb.PushFramesRequest()
        frame.frame.rgb.width = frame.frame.rgb.height = 16
        frame.frame.rgb.data = bytes(16 * 16 * 3)
        opening = pb.PushFramesRequest(open=pb.PushOpen(session="lobby"))
        messages = [opening, frame, pb.PushFramesRequest(end=pb.PushEnd())]
        with grpc.insecure_channel(gateway.address) as channel:
            stub = gateway_pb2_grpc.SightlineServiceStub(channel)
            metadata = [("authorization", "Bearer camera")]
            acks = list(stub.PushFrames(iter(messages), metadata=metadata, timeout=30))
            assert acks[-1].understood == 1
            with pytest.raises(grpc.RpcError) as refused:
                list(
                    stub.PushFrames(
                        iter(messages), metadata=[("authorization", "Bearer guest")], timeout=30
                    )
                )
        assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
        assert session.id
