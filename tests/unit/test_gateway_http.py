"""The HTTP interface: JSON, WebSocket, preview pictures, the page, and other sites' pages."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import ClientWebSocketResponse, WSMsgType
from google.protobuf import json_format
from yarl import URL

from services.common.hosts import Hosts, may_probe
from services.gateway.sessions.states import LIVE
from services.gateway.workers import workers as router
from sightline.v1 import gateway_pb2, inference_pb2
from tests.eventually import PATIENCE_S, eventually
from tests.unit.fake_worker import ANSWER, FakeWorker
from tests.unit.gateway_parts import KEY, picture
from tests.unit.http_parts import served


async def _start(socket: ClientWebSocketResponse, **start: Any) -> dict[str, Any]:
    await socket.send_json({"start": start})
    return dict((await _until(socket, "started"))["started"])


async def _until(socket: ClientWebSocketResponse, kind: str) -> dict[str, Any]:
    while True:
        message = await socket.receive(timeout=10)
        assert message.type is WSMsgType.TEXT, message
        event: dict[str, Any] = json.loads(message.data)
        if kind in event:
            return event


async def test_sessions_are_made_listed_and_removed() -> None:
    async with served() as (parts, client):
        wanted = {"push": {"key": KEY}, "options": {"name": "cam", "fps": 5}}
        reply = await client.post("/api/sessions", json=wanted)
        assert reply.status == 201
        created = await reply.json()
        assert created["key"] == KEY
        assert created["whip_url"].endswith(f"/whip/{KEY}")
        listed = (await (await client.get("/api/sessions")).json())["sessions"]
        assert [session["name"] for session in listed] == ["cam"]
        assert "key" not in listed[0]
        one = await (await client.get("/api/sessions/cam")).json()
        assert one["id"] == created["id"]
        assert one["fps"] == 5
        assert (await client.delete(f"/api/sessions/{created['id']}")).status == 204
        assert (await client.get(f"/api/sessions/{created['id']}")).status == 404
        assert not parts.sessions.all()


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"[]", 400),
        (b'{"push": {"key": "x"}}', 400),
        (b'{"nonsense": 1}', 400),
        (b"\xff\xfe\x00", 400),
        (b'{"source": "' + b"x" * 100_000 + b'"}', 413),
        (b"[" * 5000, 400),
    ],
)
async def test_bad_bodies_get_an_error_as_json(body: bytes, status: int) -> None:
    async with served() as (parts, client):
        reply = await client.post("/api/sessions", data=body)
        assert reply.status == status
        error = await reply.json()
        assert error["code"] == "INVALID_ARGUMENT"
        assert error["message"]
        assert not parts.sessions.all()


async def test_an_address_of_another_method_is_no_address_that_is_missing() -> None:
    """Not only where something is read: whoever opens in a browser what a question is sent to."""
    async with served() as (_, client):
        for method, path, allowed in (
            ("GET", "/api/sessions/demo/ask", "POST"),
            ("DELETE", "/api/sessions", "GET, HEAD, POST"),
            ("POST", "/api/info", "GET, HEAD"),
        ):
            reply = await client.request(method, path)
            assert (reply.status, (await reply.json())["detail"]) == (
                405,
                f"{method} is not for this address, which takes {allowed}",
            )
            assert reply.headers["Allow"].replace(",", ", ") == allowed
        for method in ("GET", "POST", "DELETE"):
            reply = await client.request(method, "/api/nothing")
            assert (reply.status, (await reply.json())["detail"]) == (
                404,
                "the API has nothing here",
            )


@pytest.mark.parametrize(
    ("path", "body", "part"),
    [
        ("/api/sessions", {"push": True}, "push field: it is an object, in braces"),
        ("/api/sessions", 5, "JSON: it is an object, in braces"),
        ("/api/sessions", [], "message: it is an object, in braces"),
        ("/api/sessions/cam/ask", {"question": 5}, "question field: it is an object, in braces"),
        ("/api/sessions", {"options": {"window": -1}}, "window field: Value out of range: -1"),
    ],
)
async def test_what_is_wrong_with_a_body_is_said_in_words_of_json(
    path: str, body: Any, part: str
) -> None:
    async with served() as (parts, client):
        await parts.push_session(name="cam", seen=True)
        reply = await client.post(path, json=body)
        assert (reply.status, (await reply.json())["detail"].endswith(part)) == (400, True)


async def test_how_long_a_body_may_be_is_said() -> None:
    async with served() as (_, client):
        body = b'{"source": "' + b"x" * 100_000 + b'"}'
        for sent in (body, chunks(body)):
            reply = await client.post("/api/sessions", data=sent)
            assert "longer than the 65536 bytes" in (await reply.json())["detail"]


async def chunks(body: bytes) -> AsyncIterator[bytes]:
    """Without a length beforehand."""
    yield body


async def test_errors_carry_the_status_of_their_code() -> None:
    async with served(max_sessions=1) as (parts, client):
        cases = [
            ("GET", "/api/sessions/none", 404, "NOT_FOUND"),
            ("DELETE", "/api/sessions/none", 404, "NOT_FOUND"),
            ("GET", "/api/nothing", 404, "NOT_FOUND"),
            ("PUT", "/api/sessions", 405, "INVALID_ARGUMENT"),
            ("GET", "/api/sessions/none/converse", 404, "NOT_FOUND"),
        ]
        for method, path, status, code in cases:
            reply = await client.request(method, path)
            assert (reply.status, (await reply.json())["code"]) == (status, code)
        session = await parts.push_session()
        assert (await client.get(f"/api/sessions/{session.id}/converse")).status == 400
        reply = await client.post("/api/sessions", json={"push": {}})
        assert (reply.status, (await reply.json())["code"]) == (429, "RESOURCE_EXHAUSTED")


async def test_info_says_what_the_model_knows_and_where_things_are() -> None:
    async with served() as (parts, client):
        await eventually(parts.workers.descriptions)
        info = await (await client.get("/api/info")).json()
        [model] = info["models"]
        assert (model["name"], model["ready"], model["workers"]) == ("builtin", True, 1)
        assert model["card"]["can"] == ["red circles"]
        assert model["card"]["cannot"] == []
        assert (model["window"], model["max_window"]) == (4, 64)
        assert info["rtmp_url"] == "rtmp://localhost/live"
        assert info["limits"]["question_bytes"] == 4096
        assert info["speech"] is False
        assert info["version"]


async def test_info_is_the_message_of_the_contract() -> None:
    async with served(ice_servers=("turn:me:secret@turn.example:3478",)) as (parts, client):
        await eventually(parts.workers.descriptions)
        said = await parts.stub.GetServerInfo(gateway_pb2.GetServerInfoRequest())
        body = await (await client.get("/api/info")).text()
        assert json_format.Parse(body, gateway_pb2.GetServerInfoResponse()) == said
        [server] = said.ice_servers
        assert (server.urls[0], server.username) == ("turn:turn.example:3478", "me")


async def test_refusals_have_reasons_and_say_when_to_try_again() -> None:
    async with served() as (parts, client):
        body = await (await client.get("/api/sessions/none")).json()
        assert (body["code"], body["reason"]) == ("NOT_FOUND", "SESSION_NOT_FOUND")
        assert "retry_after_s" not in body
        parts.sessions.refuse()
        reply = await client.post("/api/sessions", json={"push": {}})
        body = await reply.json()
        assert (reply.status, body["reason"]) == (503, "DRAINING")
        assert int(reply.headers["Retry-After"]) == body["retry_after_s"] > 0
        reply = await client.get("/api/conversations/some-id")
        assert (await reply.json())["reason"] == "CONVERSATIONS_NOT_CONFIGURED"
        assert (await client.delete("/api/conversations/some-id")).status == 503


async def test_sessions_are_made_once_changed_and_listed_by_pages() -> None:
    async with served(FakeWorker(max_sessions=8)) as (parts, client):
        for number in range(4):
            labels = {"parity": str(number % 2)}
            wish = {"push": {}, "options": {"labels": labels}, "request_id": f"request-{number}"}
            first = await (await client.post("/api/sessions", json=wish)).json()
            again = await (await client.post("/api/sessions", json=wish)).json()
            assert first["id"] == again["id"]
            assert first["labels"] == labels
        path = f"/api/sessions/{first['id']}"
        changed = await (await client.patch(path, json={"fps": 3, "window": 9})).json()
        assert (changed["fps"], changed["window"]) == (3, 9)
        assert (await client.patch(path, json={"nonsense": 3})).status == 400
        seen: list[str] = []
        query = {"page_size": "3", "page_token": ""}
        while True:
            page = await (await client.get("/api/sessions", params=query)).json()
            seen += [each["id"] for each in page["sessions"]]
            if not (token := page.get("next_page_token")):
                break
            query["page_token"] = token
        assert seen == [session.id for session in parts.sessions.all()]
        odd = await (await client.get("/api/sessions?label=parity=1")).json()
        assert len(odd["sessions"]) == 2
        for bad in ("page_size=x", "page_size=-1", "page_token=x"):
            assert (await client.get(f"/api/sessions?{bad}")).status == 400


async def test_info_answers_while_no_worker_does() -> None:
    worker = FakeWorker()
    async with served(worker) as (parts, client):
        await worker.stop()
        await eventually(lambda: not parts.workers.descriptions())
        info = await (await client.get("/api/info")).json()
        assert info["models"] == []
        reply = await client.post("/api/sessions", json={"push": {}})
        assert (reply.status, (await reply.json())["code"]) == (503, "UNAVAILABLE")


async def test_info_tells_how_far_a_model_is_and_fills_in_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(router, "LOADING_S", 0.02)
    worker = FakeWorker()
    worker.loading = inference_pb2.LoadingState(
        phase=inference_pb2.LOADING_PHASE_DOWNLOADING,
        bytes_done=3_100_000_000,
        bytes_total=7_500_000_000,
        eta_s=120,
    )
    async with served(worker) as (parts, client):
        await eventually(lambda: parts.workers.loading())
        info = await (await client.get("/api/info")).json()
        text = "Downloading builtin: 41 %, 3.1 of 7.5 GB, about 2 min"
        [model] = info["models"]
        assert model["loading"]["text"] == text
        assert model["loading"]["percent"] == 41
        assert (model["name"], model["ready"]) == ("builtin", False)
        refused = await client.post("/api/sessions", json={"push": {}})
        assert refused.status == 503
        assert (await refused.json())["message"] == f"the model is not ready. {text}"
        worker.loading = None
        await eventually(lambda: parts.workers.descriptions())
        info = await (await client.get("/api/info")).json()
        [model] = info["models"]
        assert model["ready"] is True
        assert "loading" not in model
        created = await client.post("/api/sessions", json={"push": {}})
        assert created.status == 201
        assert "stats" not in (await created.json()) or not (await created.json())["stats"].get(
            "degraded"
        ), "it is fine from its first moment"


async def test_the_preview_is_the_newest_picture_as_jpeg() -> None:
    async with served() as (parts, client):
        session = await parts.push_session(fps=1)
        path = f"/api/sessions/{session.id}/preview.jpg"
        assert (await client.get(path)).status == 204
        session.admit("rtmp").sink.take(picture(0, width=320, height=240))
        await eventually(lambda: session.state == LIVE)
        reply = await client.get(path)
        assert reply.content_type == "image/jpeg"
        assert reply.headers["Cache-Control"] == "no-store"
        assert (await reply.read()).startswith(b"\xff\xd8")
        assert (await client.get(path, params={"width": "100"})).status == 200
        for width in ("-1", "x", "9" * 50):
            assert (await client.get(path, params={"width": width})).status == 400


async def test_the_page_is_served_with_its_files_only() -> None:
    async with served() as (_, client):
        reply = await client.get("/")
        assert reply.status == 200
        assert "<html" in await reply.text()
        assert reply.headers["X-Content-Type-Options"] == "nosniff"
        assert (await client.get("/app.js")).status == 200
        for path in ("/../config.py", "/%2e%2e/config.py", "/missing.js"):
            assert (await client.get(path)).status in (403, 404)


# --- WebSocket ------------------------------------------------------------------------------------


async def test_the_pages_client_is_served_with_it() -> None:
    async with served() as (_, client):
        reply = await client.get("/client/index.js")
        assert reply.status == 200
        assert reply.content_type.endswith("/javascript")
        assert "export" in await reply.text()
        for path in ("/client/", "/client/index.d.ts", "/client/app.js"):
            assert (await client.get(path)).status == 404, path


async def test_a_code_is_of_an_address_and_of_nothing_else() -> None:
    async with served() as (_, client):
        reply = await client.get(
            "/api/code.svg", params={"address": "https://192.0.2.7:8080/#hall"}
        )
        assert (reply.status, reply.content_type) == (200, "image/svg+xml")
        assert (await reply.text()).startswith("<svg")
        wrong = (
            "",
            "hall",
            "javascript:alert(1)",
            "https://",
            "http://[::",
            f"http://x/{'y' * 512}",
        )
        for address in wrong:
            refused = await client.get("/api/code.svg", params={"address": address})
            assert refused.status == 400, address
            assert (await refused.json())["code"] == "INVALID_ARGUMENT"


async def test_a_websocket_is_a_line() -> None:
    worker = FakeWorker()
    async with served(worker) as (parts, client):
        session = await parts.push_session(name="cam", seen=True)
        async with client.ws_connect(f"/api/sessions/{session.id}/converse") as socket:
            started = await _start(socket, speech=True)
            assert started["session"]["name"] == "cam"
            await socket.send_json({"ask": {"turn": "t1", "text": "what happened"}})
            audio = await _until(socket, "audio_chunk")
            assert audio["audio_chunk"]["audio"]["sample_rate"] == 16000
            done = (await _until(socket, "answer_done"))["answer_done"]
            assert done["text"] == ANSWER
            assert done["finish_reason"] == "FINISH_REASON_STOP"
            await socket.send_json({"cancel": {"turn": "none"}})
            assert (await _until(socket, "error"))["error"]["code"] == "NOT_FOUND"
        assert worker.asked[0].session_id == session.id


async def test_a_websocket_that_broke_is_resumed() -> None:
    worker = FakeWorker()
    worker.pause_after = 2
    async with served(worker) as (parts, client):
        session = await parts.push_session(seen=True)
        path = f"/api/sessions/{session.id}/converse"
        async with client.ws_connect(path) as socket:
            handle = (await _start(socket))["resume_handle"]
            await socket.send_json({"ask": {"turn": "t1", "text": "what happened"}})
            last = (await _until(socket, "text_delta"))["sequence"]
        await eventually(lambda: session.viewers == 0)
        worker.go_on.set()
        async with client.ws_connect(path) as socket:
            started = await _start(socket, resume_handle=handle, last_sequence=last)
            assert started["resumed"] == "line"
            assert (await _until(socket, "answer_done"))["answer_done"]["text"] == ANSWER
        assert len(worker.asked) == 1


@pytest.mark.parametrize(
    "message",
    [
        "",
        "{",
        "[]",
        '{"ask": 5}',
        '{"nothing": {}}',
        '{"ask": {"turn": "t", "text": "x"}}',
        "[" * 999,
    ],
)
async def test_nonsense_on_a_websocket_is_told_and_ends_it(message: str) -> None:
    async with served() as (parts, client):
        session = await parts.push_session()
        async with client.ws_connect(f"/api/sessions/{session.id}/converse") as socket:
            await socket.send_str(message)
            error = (await _until(socket, "error"))["error"]
            assert error["code"] in ("INVALID_ARGUMENT", "FAILED_PRECONDITION")
            assert (await socket.receive(timeout=PATIENCE_S)).type is WSMsgType.CLOSE
            assert socket.close_code == 1008


async def test_a_huge_websocket_message_ends_it() -> None:
    async with served() as (parts, client):
        session = await parts.push_session(seen=True)
        path = f"/api/sessions/{session.id}/converse"
        async with client.ws_connect(path) as other:
            await _start(other)
            async with client.ws_connect(path) as socket:
                await _start(socket)
                await socket.send_str(json.dumps({"ask": {"text": "x" * 1_000_000}}))
                while (message := await socket.receive(timeout=PATIENCE_S)).type is WSMsgType.TEXT:
                    pass
                assert message.type in (WSMsgType.CLOSE, WSMsgType.CLOSED)
                assert socket.close_code == 1009
            await other.send_json({"ask": {"turn": "t", "text": "what happened"}})
            await _until(other, "answer_done")


async def test_a_removed_session_sends_its_websockets_away() -> None:
    async with served() as (parts, client):
        session = await parts.push_session()
        async with client.ws_connect(f"/api/sessions/{session.id}/converse") as socket:
            await _start(socket)
            assert (await client.delete(f"/api/sessions/{session.id}")).status == 204
            assert (await _until(socket, "go_away"))["go_away"]["reason"] == "session_deleted"
            assert (await socket.receive(timeout=PATIENCE_S)).type is WSMsgType.CLOSE


# --- other sites --------------------------------------------------------------------------------


async def test_pages_of_other_sites_are_refused_unless_allowed() -> None:
    friend = "https://friend.example"
    async with served(allowed_origins=(friend,)) as (parts, client):
        session = await parts.push_session()
        stranger = {"Origin": "https://stranger.example"}
        assert (await client.get("/api/info", headers=stranger)).status == 403
        assert (
            await client.post("/api/sessions", json={"push": {}}, headers=stranger)
        ).status == 403
        reply = await client.get(f"/api/sessions/{session.id}/converse", headers=stranger)
        assert reply.status == 403
        assert "Access-Control-Allow-Origin" not in reply.headers
        own = {"Origin": f"http://{client.host}:{client.port}"}
        assert (await client.get("/api/info", headers=own)).status == 200
        reply = await client.options("/api/sessions", headers={"Origin": friend})
        assert reply.status == 204
        assert reply.headers["Access-Control-Allow-Origin"] == friend
        reply = await client.get("/api/info", headers={"Origin": friend})
        assert reply.headers["Access-Control-Allow-Origin"] == friend
        assert len(parts.sessions.all()) == 1


# --- names of ours ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host",
    [
        "rebound.example",
        "rebound.example:8080",
        "localhost.rebound.example",
        "203.0.113.9",
        "127.0.0.1.rebound.example",
        "[::2]",
        "http://[::1",
        "localhost\tx",
        "user@localhost",
        "",
    ],
)
async def test_a_host_that_is_no_name_of_ours_is_refused(
    host: str, caplog: pytest.LogCaptureFixture
) -> None:
    """DNS rebinding: a page whose own name resolves to us is, to its browser, a page of ours."""
    async with served(public_http_url="https://live.example") as (parts, client):
        session = await parts.push_session()
        rebound = {"Host": host, "Origin": f"http://{host}"}
        for path in ("/", "/api/sessions", f"/api/sessions/{session.id}/converse"):
            reply = await client.get(path, headers={"Host": host})
            assert reply.status == 421
            problem = await reply.json()
            assert problem["code"] == problem["reason"] == "PERMISSION_DENIED"
            assert problem["message"] == "this server does not go by that name"
        assert (
            await client.post("/api/sessions", json={"push": {}}, headers=rebound)
        ).status == 421
        assert (await client.options("/api/sessions", headers=rebound)).status == 421
        assert len(parts.sessions.all()) == 1
        assert "GATEWAY_ALLOWED_HOSTS" in caplog.text


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("localhost:1", "http://localhost:1"),
        ("LOCALHOST", "http://localhost"),
        ("127.0.0.1:7", "http://127.0.0.1:7"),
        ("[::1]:8080", "http://[::1]:8080"),
        ("live.example", "https://live.example"),
        ("public.example:9", "http://public.example:9"),
        ("a.b.wide.example", "http://a.b.wide.example"),
        ("inner", "https://live.example"),
    ],
)
async def test_a_name_of_ours_is_let_in(host: str, origin: str) -> None:
    async with served(
        public_host="public.example",
        public_http_url="https://live.example/",
        allowed_hosts=("*.wide.example", "inner:80"),
    ) as (_, client):
        reply = await client.get("/api/info", headers={"Host": host, "Origin": origin})
        assert reply.status == 200


async def test_the_address_that_was_connected_to_is_a_name_of_ours() -> None:
    hosts = Hosts([])
    assert hosts.allow("10.1.2.3:8080", "10.1.2.3")
    assert hosts.allow("[fd00::5]:8080", "fd00::5")
    assert not hosts.allow("10.1.2.4:8080", "10.1.2.3")
    assert not hosts.allow("wide.example", "10.1.2.3")


@pytest.mark.parametrize(
    ("host", "may"),
    [("10.1.2.3:8080", True), ("gateway:8080", True), ("[fd00::1]", True), ("evil.example", False)],
)
async def test_probes_come_by_address_or_by_a_name_within_the_cluster(host: str, may: bool) -> None:
    assert may_probe(host) is may


@pytest.mark.parametrize("origin", ["http://[::1", "null", "//", "http://", "x" * 5000])
async def test_an_origin_that_is_none_is_refused(origin: str) -> None:
    async with served() as (_, client):
        assert (await client.get("/api/info", headers={"Origin": origin})).status == 403


async def test_responses_tell_browsers_to_be_careful() -> None:
    async with served() as (_, client):
        page = await client.get("/")
        policy = page.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "script-src 'self';" in policy
        for path in ("/", "/api/info", "/api/none", "/missing"):
            headers = (await client.get(path)).headers
            assert headers["X-Content-Type-Options"] == "nosniff"
            assert headers["Referrer-Policy"] == "no-referrer"
            assert headers["Cross-Origin-Resource-Policy"] == "same-origin"


@pytest.mark.parametrize(
    "path",
    [
        "/../app.py",
        "/..%2fapp.py",
        "/%2e%2e/app.py",
        "/%2e%2e%2fapp.py",
        "/..%5capp.py",
        "//etc/passwd",
        "/%2fetc%2fpasswd",
        "/page%00.html",
        "/" + "x" * 4000,
    ],
)
async def test_nothing_but_the_page_isserved(path: str) -> None:
    async with served() as (_, client):
        reply = await client.session.get(URL(str(client.make_url("/"))[:-1] + path, encoded=True))
        assert reply.status in (400, 403, 404), reply.status
