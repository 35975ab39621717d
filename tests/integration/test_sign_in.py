"""A gateway that asks who calls: every door, every permission, allowed and denied."""

import asyncio
import base64
import json
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import jwt
import pytest
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from services.gateway.auth.keys import new_key
from services.local.clip import Clip
from sightline.cli import main
from sightline.status import details_of
from sightline.v1 import dialogue_pb2, gateway_pb2_grpc, rules_pb2
from sightline.v1 import gateway_pb2 as pb
from tests.eventually import wait_until
from tests.processes import SHAPES, ServiceProcess, free_port
from tests.publish import RtmpPublisher
from tests.suite import write_clip
from tests.unit.gemini_parts import PATH as GEMINI

PERMISSIONS = ("publish", "view", "ask", "watch", "admin")
WORKER = {
    "WORKER_MODEL": str(SHAPES),
    "WORKER_THREADS": "1",
    "WORKER_KV_MEMORY_BYTES": str(512 << 20),
}
LATER = {
    "GetTranscript": "NOT_LISTENING",
    "CreateSession": "SOURCE_UNREADABLE",
    "Speak": "SPEECH_NOT_CONFIGURED",
    "Voices": "SPEECH_NOT_CONFIGURED",
    "GetConversation": "CONVERSATIONS_NOT_CONFIGURED",
    "DeleteConversation": "CONVERSATIONS_NOT_CONFIGURED",
    "RateTurn": "CONVERSATIONS_NOT_CONFIGURED",
    "ListRated": "CONVERSATIONS_NOT_CONFIGURED",
    **dict.fromkeys(
        (
            *("CreateRule", "ListRules", "GetRule", "UpdateRule", "DeleteRule"),
            *(
                "ListEvents",
                "WatchEvents",
                "GetEvent",
                "AcknowledgeEvent",
                "CreateWebhook",
                "ListWebhooks",
                "DeleteWebhook",
            ),
            "ListDeadLetters",
        ),
        "RULES_NOT_CONFIGURED",
    ),
}
# What each permission allows: admin holds the others.
ALLOWED = {each: {each} for each in PERMISSIONS} | {"admin": set(PERMISSIONS)}


@dataclass(slots=True)
class Guarded:
    """A gateway with keys, one for each permission, and a session that shows something."""

    gateway: ServiceProcess
    keys_file: Path
    clip: Clip
    rtmp_port: int
    keys: dict[str, str] = field(default_factory=dict)
    session: pb.Session = field(default_factory=pb.Session)

    @property
    def http(self) -> str:
        return f"http://127.0.0.1:{self.gateway.http_port}"

    @property
    def stub(self) -> gateway_pb2_grpc.SightlineServiceStub:
        return gateway_pb2_grpc.SightlineServiceStub(grpc.insecure_channel(self.gateway.address))

    def add(self, name: str, permissions: list[str], *patterns: str, tenant: str = "") -> str:
        key, line = new_key(name, permissions, patterns or ("*",), tenant)
        with self.keys_file.open("a") as output:
            output.write(line + "\n")
        self.keys[name] = key
        return key

    def wait_known(self, key: str) -> None:
        """Wait until the file, which is looked at once a second, was: the last key is in it."""
        request = pb.ListSessionsRequest()
        wait_until(lambda: self.outcome("ListSessions", request, key)[0] != "UNAUTHENTICATED")

    def create(self, key: str, name: str = "room", **wanted: Any) -> pb.Session:
        request = pb.CreateSessionRequest(options=pb.SessionOptions(name=name), **wanted)
        if not request.source:
            request.push.SetInParent()
        return self.stub.CreateSession(request, metadata=bearer(key), timeout=30)

    def refused(self, code: str, reason: str, method: str, request: Any, key: str = "") -> None:
        """One call, which must fail so."""
        assert self.outcome(method, request, key) == (code, reason), method

    def outcome(self, method: str, request: Any, key: str = "") -> tuple[str, str]:
        """Code and reason of a call, of a stream up to its first message."""
        call = getattr(self.stub, method)
        try:
            reply = call(request, metadata=bearer(key), timeout=30)
            if not hasattr(reply, "DESCRIPTOR"):
                next(iter(reply))
                reply.cancel()
        except grpc.RpcError as error:
            return error.code().name, details_of(error.trailing_metadata())[0]
        return "OK", ""


def bearer(key: str) -> list[tuple[str, str]]:
    return [("authorization", f"Bearer {key}")] if key else []


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    folder = tmp_path_factory.mktemp("guarded")
    worker = ServiceProcess("inference_worker", WORKER, folder)
    worker.start(120)
    keys_file, rtmp_port = folder / "keys.jsonl", free_port()
    keys_file.touch()
    environment = {
        "GATEWAY_WORKERS": worker.address,
        "GATEWAY_MEDIA_ROOT": str(folder),
        "GATEWAY_RTMP_PORT": str(rtmp_port),
        "GATEWAY_AUTH": "keys",
        "GATEWAY_AUTH_KEYS": str(keys_file),
    }
    gateway = ServiceProcess("gateway", environment, folder)
    running = Guarded(gateway, keys_file, write_clip(folder, seed=5, seconds=12), rtmp_port)
    for permission in PERMISSIONS:
        running.add(permission, [permission])
    gateway.start()
    source = running.clip.path.name
    running.session = running.create(running.keys["admin"], "lobby", source=source)
    wait_until(lambda: _frames(running, running.session.id) > 8)
    yield running
    for service in (gateway, worker):
        service.stop()


def _frames(running: Guarded, session: str) -> int:
    request = pb.GetSessionRequest(session=session)
    reply = running.stub.GetSession(request, metadata=bearer(running.keys["admin"]), timeout=10)
    return int(reply.stats.frames_processed)


# --- gRPC -----------------------------------------------------------------------------------


def test_reflection_is_off_where_callers_are_asked(guarded: Guarded) -> None:
    with grpc.insecure_channel(guarded.gateway.address) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        asked = reflection_pb2.ServerReflectionRequest(list_services="")
        with pytest.raises(grpc.RpcError) as refused:
            list(stub.ServerReflectionInfo(iter([asked]), timeout=10))
    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


def _requests(session: str) -> dict[str, tuple[str, Any]]:
    """Of every method: the permission it needs ("" for none in particular) and a request."""
    ask = pb.AskRequest(session=session, question=pb.Question(text="what is there"))
    wanted = [pb.DecideQuestion(statement="a red circle")]
    decide = pb.DecideRequest(session=session, questions=wanted)
    said = pb.GetConversationRequest(conversation="none-of-this-name")
    unwanted = dialogue_pb2.DeleteConversationRequest(conversation="none-of-this-name")
    start = pb.ClientEvent(start=pb.Start(session=session))
    return {
        "CreateSession": ("admin", pb.CreateSessionRequest(source="no-such-file.mp4")),
        "ListSessions": ("view", pb.ListSessionsRequest()),
        "GetSession": ("view", pb.GetSessionRequest(session=session)),
        "UpdateSession": ("admin", pb.UpdateSessionRequest(session=session, fps=4)),
        "DeleteSession": ("admin", pb.DeleteSessionRequest(session=session)),
        "Ask": ("ask", ask),
        "Decide": ("ask", decide),
        "GetPicture": ("view", pb.GetPictureRequest(session=session)),
        "GetTranscript": ("view", pb.GetTranscriptRequest(session=session)),
        "Converse": ("view", iter([start])),
        "Speak": ("ask", pb.SpeakRequest(text="hello")),
        "Voices": ("", pb.VoicesRequest()),
        "GetConversation": ("ask", said),
        "DeleteConversation": ("ask", unwanted),
        "RateTurn": ("ask", dialogue_pb2.RateTurnRequest(conversation="none", turn="none")),
        "ListRated": ("admin", dialogue_pb2.ListRatedRequest()),
        "GetMemory": ("view", pb.GetMemoryRequest(session=session)),
        "CreateRule": ("watch", rules_pb2.CreateRuleRequest(session=session)),
        "ListRules": ("view", rules_pb2.ListRulesRequest(session=session)),
        "GetRule": ("view", rules_pb2.GetRuleRequest(rule="none")),
        "UpdateRule": ("watch", rules_pb2.UpdateRuleRequest(rule="none", paused=True)),
        "DeleteRule": ("watch", rules_pb2.DeleteRuleRequest(rule="none")),
        "ListEvents": ("view", rules_pb2.ListEventsRequest()),
        "WatchEvents": ("view", rules_pb2.WatchEventsRequest()),
        "GetEvent": ("view", rules_pb2.GetEventRequest(event="1-1")),
        "AcknowledgeEvent": ("watch", rules_pb2.AcknowledgeEventRequest(event="1-1")),
        "CreateWebhook": ("admin", rules_pb2.CreateWebhookRequest()),
        "ListWebhooks": ("admin", rules_pb2.ListWebhooksRequest()),
        "DeleteWebhook": ("admin", rules_pb2.DeleteWebhookRequest(webhook="none")),
        "ListDeadLetters": ("admin", rules_pb2.ListDeadLettersRequest(webhook="none")),
    }


def test_every_method_asks_who_calls(guarded: Guarded) -> None:
    methods = pb.DESCRIPTOR.services_by_name["SightlineService"].methods_by_name
    requests = _requests(guarded.session.id)
    # These two have rules of their own, below.
    assert set(methods) == {*requests, "GetServerInfo", "PushFrames"}
    for method in requests:
        for key, reason in (("", "TOKEN_MISSING"), ("sl_wrong", "TOKEN_INVALID")):
            _, request = _requests(guarded.session.id)[method]
            guarded.refused("UNAUTHENTICATED", reason, method, request, key)


@pytest.mark.parametrize("permission", PERMISSIONS)
def test_a_permission_opens_its_methods_alone(guarded: Guarded, permission: str) -> None:
    key = guarded.keys[permission]
    for method, (needed, request) in _requests(guarded.session.id).items():
        if method == "DeleteSession" and permission == "admin":
            continue  # has a test of its own
        if needed and needed not in ALLOWED[permission]:
            guarded.refused("PERMISSION_DENIED", "NOT_PERMITTED", method, request, key)
            continue
        # What this gateway does not have is refused after the sign-in.
        reason = LATER.get(method, "")
        assert guarded.outcome(method, request, key)[1] == reason, method


def test_who_may_ask_or_watch_is_told_so_within_a_conversation(guarded: Guarded) -> None:
    def said(*permissions: str) -> dict[str, str]:
        key = guarded.add(f"viewer-{'-'.join(permissions)}", ["view", *permissions])
        events = [
            pb.ClientEvent(start=pb.Start(session=guarded.session.id)),
            pb.ClientEvent(ask=pb.Question(turn="t", text="what is there")),
            pb.ClientEvent(watch=pb.Watch(watch="w", condition="a red circle")),
            pb.ClientEvent(unwatch=pb.Unwatch(watch="w")),
        ]
        found: dict[str, str] = {}
        guarded.wait_known(key)
        call = guarded.stub.Converse(iter(events), metadata=bearer(key), timeout=60)
        for event in call:
            if event.WhichOneof("event") == "error":
                found.setdefault(event.error.turn or event.error.watch, event.error.reason)
            elif event.WhichOneof("event") == "answer_done":
                found["t"] = "answered"
        return found

    both = said("ask", "watch")
    assert both["t"] == "answered"
    assert "NOT_PERMITTED" not in both.values()
    assert said("ask")["w"] == "NOT_PERMITTED"
    assert said("watch")["t"] == "NOT_PERMITTED"


def test_sessions_outside_of_pattern_and_tenant_are_not_there(guarded: Guarded) -> None:
    red = guarded.add("red", ["admin"], "lobby*", tenant="red")
    blue = guarded.add("blue", ["admin"], tenant="blue")
    lobby = guarded.add("lobby", ["admin"], "lobby*")
    guarded.wait_known(lobby)
    hers = guarded.create(red, "lobby")  # a name is a tenant's own

    def listed(key: str) -> set[str]:
        reply = guarded.stub.ListSessions(
            pb.ListSessionsRequest(), metadata=bearer(key), timeout=10
        )
        return {session.id for session in reply.sessions}

    assert listed(red) == {hers.id}
    assert listed(blue) == set()
    assert listed(lobby) == {hers.id, guarded.session.id}
    by_name = pb.GetSessionRequest(session="lobby")
    found = guarded.stub.GetSession(by_name, metadata=bearer(red), timeout=10)
    assert found.id == hers.id
    for method, (_, request) in _requests(hers.id).items():
        if getattr(request, "session", ""):
            guarded.refused("NOT_FOUND", "SESSION_NOT_FOUND", method, request, blue)
    guarded.refused(
        "PERMISSION_DENIED",
        "NOT_PERMITTED",
        "CreateSession",
        pb.CreateSessionRequest(push=pb.Push(), options=pb.SessionOptions(name="hall")),
        red,
    )
    rename = pb.UpdateSessionRequest(session=hers.id, name="hall")
    guarded.refused("PERMISSION_DENIED", "NOT_PERMITTED", "UpdateSession", rename, red)
    unwanted = pb.DeleteSessionRequest(session=hers.id)
    guarded.stub.DeleteSession(unwanted, metadata=bearer(red), timeout=10)
    assert listed(red) == set()


def test_frames_need_the_session_s_key_or_the_permission(guarded: Guarded) -> None:
    session = guarded.create(guarded.keys["admin"], "pushed")

    def push(opening: pb.PushOpen, key: str = "") -> str:
        messages = [pb.PushFramesRequest(open=opening), pb.PushFramesRequest(end=pb.PushEnd())]
        call = guarded.stub.PushFrames(iter(messages), metadata=bearer(key), timeout=20)
        try:
            replies = list(call)
        except grpc.RpcError as error:
            return details_of(error.trailing_metadata())[0]
        return replies[-1].error.reason

    assert push(pb.PushOpen(session=session.id, key=session.key)) == ""
    assert push(pb.PushOpen(key=session.key)) == ""
    assert push(pb.PushOpen(session=session.id), guarded.keys["publish"]) == ""
    assert push(pb.PushOpen(session=session.id), guarded.keys["admin"]) == ""
    assert push(pb.PushOpen(session=session.id), guarded.keys["view"]) == "NOT_PERMITTED"
    assert push(pb.PushOpen(session=session.id)) == "WRONG_KEY"
    wrong = pb.PushOpen(session=session.id, key="wrong-key-wrong")
    assert push(wrong, guarded.keys["publish"]) == "WRONG_KEY"
    assert push(wrong, "sl_wrong") == "TOKEN_INVALID"


def test_publishers_by_rtmp_need_their_session_s_key_alone(guarded: Guarded) -> None:
    session = guarded.create(guarded.keys["admin"], "camera")
    with RtmpPublisher(guarded.clip.path, f"rtmp://127.0.0.1:{guarded.rtmp_port}/live/wrong") as no:
        wait_until(lambda: no.error is not None)
    url = f"rtmp://127.0.0.1:{guarded.rtmp_port}/live/{session.key}"
    with RtmpPublisher(guarded.clip.path, url):
        wait_until(lambda: _frames(guarded, session.id) > 0)


def test_strangers_learn_how_to_sign_in_and_no_more(guarded: Guarded) -> None:
    info = guarded.stub.GetServerInfo(pb.GetServerInfoRequest(), timeout=10)
    assert info.sign_in == "token"
    assert info.version
    assert not info.models
    assert not info.rtmp_url
    whole = guarded.stub.GetServerInfo(
        pb.GetServerInfoRequest(), metadata=bearer(guarded.keys["watch"]), timeout=10
    )
    assert whole.models
    assert guarded.gateway.serving()


# --- HTTP -----------------------------------------------------------------------------------


async def test_http_asks_who_calls(guarded: Guarded) -> None:
    session = guarded.create(guarded.keys["admin"], "http").id
    one = f"/api/sessions/{session}"
    routes = [
        ("GET", "/api/sessions", "view", 200),
        ("POST", "/api/sessions", "admin", 400),
        ("POST", "/api/uploads", "admin", 403),  # which this gateway takes from nobody
        ("GET", one, "view", 200),
        ("PATCH", one, "admin", 200),
        ("GET", f"{one}/preview.jpg", "view", 204),
        ("POST", f"{one}/ask", "ask", 400),
        ("GET", f"{one}/events", "view", 200),
        ("POST", f"{one}/watches?handle=none", "watch", 404),
        ("GET", f"{one}/watches?handle=none", "watch", 404),
        ("POST", f"{one}/decide", "ask", 400),
        ("POST", "/v1/decisions", "ask", 400),
        ("GET", "/v1/models", "view", 200),
        ("POST", "/v1/chat/completions", "ask", 400),
        ("POST", "/v1/realtime/client_secrets", "view", 200),
        ("GET", "/v1/realtime", "view", 400),
        ("GET", GEMINI, "view", 400),
        ("GET", "/v1beta/models", "view", 200),
        ("POST", "/v1beta/models/any:generateContent", "ask", 400),
        ("POST", "/v1/models/any:streamGenerateContent", "ask", 400),
        ("GET", "/api/conversations/none-of-this-name", "ask", 503),
        ("DELETE", "/api/conversations/none-of-this-name", "ask", 503),
        ("DELETE", one, "admin", 204),
    ]
    async with aiohttp.ClientSession(guarded.http) as client:

        async def status(method: str, path: str, key: str) -> tuple[int, Any]:
            headers = {"Authorization": f"Bearer {key}"} if key else {}
            body = {} if method in ("POST", "PATCH") else None
            async with client.request(method, path, headers=headers, json=body) as reply:
                text = await reply.text() if reply.content_type.endswith("json") else ""
                if reply.status == 401:
                    assert reply.headers["WWW-Authenticate"] == "Bearer"
                told = json.loads(text or "{}")
                return reply.status, told.get("error", told).get("reason")

        for method, path, needed, expected in routes:
            assert await status(method, path, "") == (401, "TOKEN_MISSING")
            assert await status(method, path, "sl_wrong") == (401, "TOKEN_INVALID")
            for permission in sorted(PERMISSIONS, key=lambda each: each == "admin"):
                found = await status(method, path, guarded.keys[permission])
                if needed not in ALLOWED[permission]:
                    assert found == (403, "NOT_PERMITTED"), (method, path, permission)
                else:
                    assert found[0] == expected, (method, path, permission)
        assert (await status("GET", f"/api/sessions?token={guarded.keys['admin']}", ""))[0] == 401
        for path in ("/", "/app.js", "/healthz"):
            assert (await status("GET", path, ""))[0] == 200
        async with client.get("/api/info") as reply:
            info = await reply.json()
        assert info["sign_in"] == "token"
        assert info["models"] == []
        assert (await status("GET", "/api/info", "sl_wrong"))[0] == 401


# --- WebSocket ------------------------------------------------------------------------------


async def test_a_websocket_brings_its_token_as_header_or_subprotocol(guarded: Guarded) -> None:
    path = f"/api/sessions/{guarded.session.id}/converse"
    viewer = guarded.add("page", ["view"])
    await asyncio.to_thread(guarded.wait_known, viewer)

    def protocols(key: str) -> list[str]:
        text = base64.urlsafe_b64encode(key.encode()).decode().rstrip("=")
        return ["sightline", f"sightline.token.{text}"]

    async with aiohttp.ClientSession(guarded.http) as client:
        for options in ({}, {"protocols": protocols("sl_wrong")}, {"protocols": ["sightline"]}):
            with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
                await client.ws_connect(path, **options)
            assert caught.value.status == 401
        with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
            await client.ws_connect(path, protocols=protocols(guarded.keys["ask"]))
        assert caught.value.status == 403
        header = {"headers": {"Authorization": f"Bearer {viewer}"}}
        for options in ({"protocols": protocols(viewer)}, header):
            async with client.ws_connect(path, **options) as socket:
                assert socket.protocol == ("sightline" if "protocols" in options else None)
                await socket.send_json({"start": {}})
                await socket.send_json({"ask": {"turn": "t", "text": "what is there"}})
                while "error" not in (event := await socket.receive_json(timeout=10)):
                    pass
                assert event["error"]["reason"] == "NOT_PERMITTED"
                assert event["error"]["turn"] == "t"


# --- rotation, and what is written down ---------------------------------------------------------


def test_viewers_whose_key_is_taken_out_are_sent_away(guarded: Guarded) -> None:
    before = guarded.keys_file.read_text()
    key = guarded.add("leaver", ["view"])
    guarded.wait_known(key)
    over = threading.Event()

    def said() -> Iterator[pb.ClientEvent]:
        yield pb.ClientEvent(start=pb.Start(session=guarded.session.id))
        over.wait(30)

    events = guarded.stub.Converse(said(), metadata=bearer(key), timeout=30)
    assert next(events).WhichOneof("event") == "started"
    guarded.keys_file.write_text(before)
    goodbyes = [event.go_away.reason for event in events if event.HasField("go_away")]
    over.set()
    assert goodbyes == ["signed_out"]
    guarded.refused(
        "UNAUTHENTICATED", "TOKEN_INVALID", "ListSessions", pb.ListSessionsRequest(), key
    )


def test_publishers_whose_key_is_taken_out_are_cut_off(guarded: Guarded) -> None:
    session = guarded.create(guarded.keys["admin"], "left").id
    before = guarded.keys_file.read_text()
    key = guarded.add("pusher", ["publish"])
    guarded.wait_known(key)
    over = threading.Event()

    def said() -> Iterator[pb.PushFramesRequest]:
        yield pb.PushFramesRequest(open=pb.PushOpen(session=session))
        over.wait(30)

    replies = guarded.stub.PushFrames(said(), metadata=bearer(key), timeout=30)
    assert not next(replies).HasField("error")
    guarded.keys_file.write_text(before)
    errors = (reply.error.reason for reply in replies if reply.HasField("error"))
    assert next(errors) == "TOKEN_EXPIRED"
    over.set()


def test_who_created_asked_and_deleted_is_in_the_log_and_keys_are_not(guarded: Guarded) -> None:
    admin = guarded.keys["admin"]
    session = guarded.create(admin, "noted").id
    update = pb.UpdateSessionRequest(session=session, fps=2)
    guarded.stub.UpdateSession(update, metadata=bearer(admin), timeout=10)
    ask = pb.AskRequest(session=guarded.session.id, question=pb.Question(text="what is there"))
    guarded.stub.Ask(ask, metadata=bearer(guarded.keys["ask"]), timeout=60)
    unwanted = pb.DeleteSessionRequest(session=session)
    guarded.stub.DeleteSession(unwanted, metadata=bearer(admin), timeout=10)
    noted = [
        (entry["who"], entry["what"], entry["session"])
        for entry in guarded.gateway.log_entries()
        if entry["message"] == "audit"
    ]
    for what in ("create", "update", "delete"):
        assert ("admin", what, session) in noted
    assert ("ask", "ask", guarded.session.id) in noted
    log = guarded.gateway.log()
    assert not [name for name, key in guarded.keys.items() if key in log]


def test_refusals_are_counted_by_reason(guarded: Guarded) -> None:
    guarded.refused("UNAUTHENTICATED", "TOKEN_MISSING", "Voices", pb.VoicesRequest())
    with urllib.request.urlopen(
        f"http://127.0.0.1:{guarded.gateway.metrics_port}/metrics", timeout=10
    ) as reply:
        figures = reply.read().decode()
    assert 'sightline_refused_total{port="grpc",reason="token_missing"}' in figures


def test_tokens_of_a_secret_open_the_gateway_until_they_expire(tmp_path: Path) -> None:
    secret = "a secret of the gateway with 32 bytes or more"
    (tmp_path / "secret").write_text(secret)
    environment = {
        "GATEWAY_WORKERS": "127.0.0.1:1",
        "GATEWAY_RTMP_PORT": "",
        "GATEWAY_AUTH": "jwt",
        "GATEWAY_AUTH_JWT_SECRET": str(tmp_path / "secret"),
        "GATEWAY_AUTH_AUDIENCE": "sightline",
    }
    gateway = ServiceProcess("gateway", environment, tmp_path)
    gateway.start()
    running = Guarded(gateway, tmp_path / "none", None, 0)  # type: ignore[arg-type]

    def token(**others: Any) -> str:
        claims = {
            "sub": "alice",
            "aud": "sightline",
            "exp": time.time() + 60,
            "scope": "sightline:view",
        }
        return jwt.encode(claims | others, secret, algorithm="HS256")

    request = pb.ListSessionsRequest()
    running.stub.ListSessions(request, metadata=bearer(token()), timeout=10)
    for wrong, reason in (
        (token(exp=time.time() - 60), "TOKEN_EXPIRED"),
        (token(aud="other"), "TOKEN_INVALID"),
        ("", "TOKEN_MISSING"),
    ):
        running.refused("UNAUTHENTICATED", reason, "ListSessions", request, wrong)
    gateway.stop()


def test_the_command_line_signs_in(
    guarded: Guarded, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SIGHTLINE_SERVER", guarded.gateway.address)
    monkeypatch.delenv("SIGHTLINE_TOKEN", raising=False)
    assert main(["sessions"]) == 5
    assert "asks for a token" in capsys.readouterr().err
    assert main(["info"]) == 0
    assert "$SIGHTLINE_TOKEN" in capsys.readouterr().out
    monkeypatch.setenv("SIGHTLINE_TOKEN", guarded.keys["view"])
    assert main(["sessions"]) == 0
    assert "lobby" in capsys.readouterr().out
    assert main(["delete", "lobby"]) == 5
    assert "`admin`" in capsys.readouterr().err
