"""Whatever strangers send, no answer is INTERNAL, no traceback is logged, and the gateway goes on.

Seeded, so that a failure comes again.
"""

import asyncio
import contextlib
import gc
import gzip
import json
import logging
import random
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
from aiohttp import ClientSession, WSMsgType
from google.protobuf import message_factory

from services.common.listener import DoorLimits
from services.common.server import ServiceHost
from services.gateway.config import GatewayConfig
from services.gateway.gateway import Gateway
from sightline.v1 import dialogue_pb2, inference_pb2, tts_pb2
from sightline.v1 import gateway_pb2 as pb
from tests.processes import RedisServer, ServiceProcess
from tests.unit.fake_worker import FakeWorker
from tests.unit.gateway_parts import KEY
from tests.unit.gemini_parts import PATH as LIVE

SEED = 14
AT_ONCE = 32  # requests: most of them wait for more until their time is over
SERVICE = "sightline.v1.SightlineService"
TTS = tts_pb2.DESCRIPTOR.services_by_name["TtsService"]
DIALOGUE = dialogue_pb2.DESCRIPTOR.services_by_name["DialogueService"]
INFERENCE = inference_pb2.DESCRIPTOR.services_by_name["InferenceService"]
SERVICES = (pb.DESCRIPTOR.services_by_name["SightlineService"], TTS, DIALOGUE, INFERENCE)
SDP = "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\nm=video 9 UDP/TLS/RTP/SAVPF 96\r\n"
TEXTS = [
    "",
    "x" * 300,
    "x" * 5000,
    "\x00",
    "a\r\nSET injected 1\r\n",
    "\u202e\u0000\ufffd",
    "%s%n%x",
    "../../etc/passwd",
    "rtsp://[::1",
    "rtsp://[::1]:99999999/x",
    "http://" + "x" * 2000,
    "http://\u2603.example/",
    "http://user:pass@[v1.x]/",
    "file:///etc/passwd",
    "http://127.0.0.1:1/x",
    "rtmp://",
    "://",
    "/" + "y" * 1900,
    "a/" * 900,
    "NaN",
    "\ud7ff\U0010ffff",
]
VALUES: list[Any] = [
    None,
    True,
    -1,
    0,
    2**31,
    2**63,
    2**64,
    10**400,
    1e308,
    -1e308,
    0.5,
    "1e999",
    [],
    {},
    [[]],
    *TEXTS,
]
BODIES = [
    b"",
    b"{",
    b"null",
    b"[]",
    b"1" * 5000,
    b'{"source": "\\ud800"}',
    b'{"source": "\xff"}',
    b'{"source": "a", "source": "b"}',
    b'{"push": {}, "source": "x"}',
    b'{"options": {"fps": "NaN"}, "push": {}}',
    b'{"options": {"fps": 1e999}, "push": {}}',
    b'{"options": {"name": "\\u0000"}, "push": {}}',
    b'{"push": ' * 200 + b"{}" + b"}" * 200,
    b'{"a":' * 20_000,
    b"\xef\xbb\xbf{}",
    '{"push": {}}'.encode("utf-16"),
    gzip.compress(b'{"push": {}}'),
    SDP.encode(),
    b"\x00" * 64,
    b"x" * 70_000,
]
PATHS = [
    "/",
    "/index.html",
    "/healthz",
    "/metrics",
    "/api/info",
    "/api/sessions",
    "/api/sessions/{session}",
    "/api/sessions/{session}/preview.jpg",
    "/api/sessions/{session}/preview.jpg?width=%F0%9F%98%80",
    "/api/sessions/{session}/preview.jpg?width=\u0661\u0662",
    "/api/sessions/{session}/preview.jpg?width=00000&width=x",
    "/api/sessions/{session}/converse",
    "/api/sessions/%00",
    "/api/sessions/%ff%fe",
    "/api/sessions/%",
    "/api/sessions/%zz",
    "/api/sessions/" + "z" * 3000,
    "/api/sessions/..%2f..%2fetc",
    "/api//sessions",
    "/api/sessions?" + "a=b&" * 1500,
    "/api/sessions?%=%&&=;[]",
    "/whip",
    "/whip/" + KEY,
    "/whip/%ff",
    "/whip/" + KEY + "/none",
    "/whip/\u2603/\u2603",
    "*",
    "//",
    "http://other.example/api/info",
    "http://[::1/api/info",
    "/\udcff",
]
HEADERS = [
    "Content-Type: application/json",
    "Content-Type: application/sdp",
    "Content-Type: application/json; charset=nonsense",
    "Content-Type: ;;;=",
    "Content-Type: multipart/form-data",
    "Content-Encoding: gzip",
    "Content-Encoding: br",
    "Content-Encoding: nonsense",
    "Authorization: Bearer \udcff",
    "Authorization: Bearer " + KEY,
    "Authorization: Bearer",
    "Authorization: Basic \udc80\udc81",
    "Origin: http://[::1",
    "Origin: null",
    "Origin: \udcff",
    "Host: [::1",
    "Host: \udcff",
    "Host: localhost\r\nHost: other",
    "Expect: 100-continue",
    "Expect: 999",
    "Range: bytes=-99999999999999999999",
    "Range: bytes=0-0,1-1",
    "If-None-Match: \udcff",
    "If-Modified-Since: Thu, 99 Foo 0000 99:99:99 GMT",
    "If-Range: \udcff",
    "Cookie: \udcff=;=;;",
    "X-Forwarded-For: \udcff, [::1",
    "Upgrade: websocket\r\nConnection: Upgrade",
    "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 99",
    "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: \udcff",
    "Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: x",
    "Transfer-Encoding: chunked",
    "Transfer-Encoding: gzip, chunked",
    "X-Long: " + "x" * 9000,
    "Access-Control-Request-Method: \udcff",
]

_PARTS: dict[str, Any] = {
    "text": None,
    "inlineData": {"mimeType": None, "data": None},
    "functionCall": {"id": None, "name": None, "args": {"x": None}},
    "functionResponse": {"id": None, "name": None, "response": {"x": None}},
}
# What clients of Google's say, by the names of the fields.
GEMINI: dict[str, Any] = {
    "setup": {
        "model": None,
        "generationConfig": {"responseModalities": None, "temperature": None, "topK": None},
        "systemInstruction": {"parts": _PARTS},
        "tools": {"functionDeclarations": {"name": None, "parameters": {"type": None}}},
        "sessionResumption": {"handle": None},
        "realtimeInputConfig": {"automaticActivityDetection": {"silenceDurationMs": None}},
        "proactivity": {"proactiveVideo": None},
        "sightline": {"session": None, "watches": {"id": None, "condition": None}},
    },
    "clientContent": {"turns": {"role": None, "parts": _PARTS}, "turnComplete": None},
    "realtimeInput": {
        "audio": {"mimeType": None, "data": None},
        "video": {"mimeType": None, "data": None},
        "text": None,
        "activityEnd": None,
        "audioStreamEnd": None,
    },
    "toolResponse": {"functionResponses": {"id": None, "name": None, "response": {"x": None}}},
}
GOOGLES = ["audio/pcm;rate=16000", "image/jpeg", "image/png", "TEXT", "user", "/9j/", "AAAA", True]


class _Complaints(logging.Handler):
    """Everything logged with a traceback, or as an error."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.heard: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info or record.levelno >= logging.ERROR:
            error = record.exc_info[1] if record.exc_info else ""
            # grpc's one poller wakes the loop of a test that is over.
            if "PollerCompletionQueue" in record.getMessage() and "closed" in str(error):
                return
            self.heard.append(f"{record.name}: {record.getMessage()} {error!r}"[:400])


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[ServiceHost]:
    """A whole gateway in this process. At its end there may be nothing to complain of."""
    complaints = _Complaints()
    logging.getLogger().addHandler(complaints)
    worker = FakeWorker(max_sessions=64)
    await worker.start()
    config = GatewayConfig(
        workers=(worker.address,),
        rtmp_port=0,
        webrtc_port=0,
        media_root=tmp_path,
        open_timeout_s=1.0,
    )
    doors = DoorLimits(new_at_once=100_000, new_per_s=100_000.0)
    host = ServiceHost(name="gateway", config=config, full_names=(SERVICE,), doors=doors)
    gateway = Gateway(config, host)
    await gateway.start()
    await host.set_serving(True)
    yield host
    await gateway.drain()
    await host.stop()
    await worker.stop()
    gc.collect()
    await asyncio.sleep(0)
    logging.getLogger().removeHandler(complaints)
    assert not complaints.heard, "\n".join(complaints.heard[:20])


async def _make_session(host: ServiceHost, key: str = KEY) -> str:
    url = f"http://127.0.0.1:{host.http_port}/api/sessions"
    async with ClientSession() as client:
        reply = await client.post(url, json={"push": {"key": key}})
        assert reply.status == 201, await reply.text()
        return str((await reply.json())["id"])


async def _request(port: int, wire: bytes) -> tuple[int, bytes]:
    """The status and the rest of the answer to raw bytes; 0 where the connection just ends."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(wire)
        async with asyncio.timeout(3):
            status = await reader.readline()
            rest = await reader.read(65536) if status else b""
    except (ConnectionError, TimeoutError):  # it waits for more of the request
        return 0, b""
    finally:
        writer.close()
    return int(status.split()[1]) if status else 0, rest


def _mutated(dice: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(dice.randrange(4)):
        where = dice.randrange(len(changed) + 1)
        match dice.randrange(4):
            case 0 if changed:
                del changed[where : where + dice.randrange(1, 9)]
            case 1:
                changed[where:where] = dice.randbytes(dice.randrange(1, 5))
            case 2 if where < len(changed):
                changed[where] = dice.randrange(256)
            case _:
                changed[where:where] = changed[:32]
    return bytes(changed)


async def test_no_http_request_is_a_defect(host: ServiceHost) -> None:
    dice = random.Random(SEED)
    session = await _make_session(host)
    methods = ["GET", "POST", "PUT", "DELETE", "OPTIONS", "HEAD", "PATCH", "TRACE", "BREW", "get"]
    wires = []
    for path in PATHS:
        for _ in range(12):
            body = dice.choice(BODIES) if dice.random() < 0.7 else b""
            lines = [f"{dice.choice(methods)} {path.format(session=session)} HTTP/1.1"]
            name = dice.choice(["localhost"] * 9 + ["[::1", "\udcff", "other.example", ""])
            lines += [f"Host: {name}", "Connection: close"]
            lines += dice.sample(HEADERS, dice.randrange(3))
            lines += [f"Content-Length: {len(body)}"] if dice.random() < 0.9 else []
            text = "\r\n".join(lines) + "\r\n\r\n"
            wires.append(text.encode(errors="surrogateescape") + body)
    # Of each header once with a request that is served.
    for header in HEADERS:
        for target, kind, body in (
            ("GET /", "text/plain", "{}"),
            ("POST /whip", "application/sdp", SDP),
            ("POST /api/sessions", "application/json", "{}"),
        ):
            text = f"{target} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
            text += f"Content-Type: {kind}\r\nConnection: close\r\n{header}\r\n\r\n{body}"
            wires.append(text.encode(errors="surrogateescape"))
    for _ in range(150):
        wires.append(_mutated(dice, dice.choice(wires)) + b"\r\n\r\n")
    gate = asyncio.Semaphore(AT_ONCE)
    statuses: set[int] = set()

    async def check(wire: bytes) -> None:
        async with gate:
            status, rest = await _request(host.http_port, wire)
        statuses.add(status)
        assert status < 500 or status == 503, (status, wire[:300], rest[:500])

    await asyncio.gather(*(check(wire) for wire in wires))
    assert {200, 204, 400, 403, 404, 405, 415, 421} <= statuses


async def test_no_json_is_a_defect(host: ServiceHost) -> None:
    """Every field of what creates a session, and of what a viewer says, with every odd value."""
    dice = random.Random(SEED)
    session = await _make_session(host)
    url = f"http://127.0.0.1:{host.http_port}/api/sessions"
    async with ClientSession() as client:
        for body in [*BODIES, *_odd(dice, pb.CreateSessionRequest.DESCRIPTOR, 150)]:
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            reply = await client.post(url, data=data)
            said = await reply.json()
            assert reply.status in (201, 400, 404, 409, 413, 429), (data[:300], said)
            if reply.status == 201 and said["id"] != session:
                await client.delete(f"{url}/{said['id']}")
        for event in [*BODIES, *_odd(dice, pb.ClientEvent.DESCRIPTOR, 150)]:
            data = event if isinstance(event, bytes) else json.dumps(event).encode()
            async with client.ws_connect(f"{url}/{session}/converse") as socket:
                if dice.random() < 0.7:
                    await socket.send_str('{"start": {}}')
                if dice.random() < 0.1:
                    await socket.send_bytes(data)
                else:
                    await socket.send_str(data.decode(errors="replace"))
                await socket.send_str("{}")
                with contextlib.suppress(TimeoutError, asyncio.TimeoutError):
                    while (message := await socket.receive(0.02)).type is WSMsgType.TEXT:
                        said = json.loads(message.data)
                        assert said.get("error", {}).get("code") != "INTERNAL", data[:300]


async def test_no_message_of_googles_clients_is_a_defect(host: ServiceHost) -> None:
    dice = random.Random(SEED)
    await _make_session(host)
    url = f"http://127.0.0.1:{host.http_port}"
    async with ClientSession() as client:
        for number in range(150):
            kind = list(GEMINI)[number % 4]
            message = {kind: _odd_object(dice, GEMINI[kind])}
            async with client.ws_connect(url + LIVE) as socket:
                if kind != "setup":
                    await socket.send_str('{"setup": {}}')
                await socket.send_str(json.dumps(message))
                with contextlib.suppress(TimeoutError, asyncio.TimeoutError):
                    while (await socket.receive(0.02)).type is WSMsgType.TEXT:
                        pass
                assert socket.close_code != 1011, message
        for _ in range(50):
            contents = _odd_object(dice, {"contents": GEMINI["clientContent"]["turns"]})
            body = json.dumps(_odd_object(dice, GEMINI["setup"]) | contents)
            reply = await client.post(f"{url}/v1beta/models/builtin:generateContent", data=body)
            assert reply.status in (400, 404), (body[:300], await reply.text())


def _odd_object(dice: random.Random, fields: dict[str, Any]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for name in dice.sample(list(fields), dice.randint(1, min(3, len(fields)))):
        inner = fields[name]
        if inner is not None and dice.random() < 0.9:
            value: Any = _odd_object(dice, inner)
            made[name] = [value] if dice.random() < 0.5 else value
        else:
            made[name] = dice.choice(GOOGLES if dice.random() < 0.6 else VALUES)
    return made


def _odd(dice: random.Random, descriptor: Any, count: int) -> list[dict[str, Any]]:
    return [_odd_message(dice, descriptor, 0) for _ in range(count)]


def _odd_message(dice: random.Random, descriptor: Any, depth: int) -> dict[str, Any]:
    message: dict[str, Any] = {}
    for item in dice.sample(
        list(descriptor.fields), dice.randint(1, min(3, len(descriptor.fields)))
    ):
        if item.message_type is not None and depth < 4 and dice.random() < 0.9:
            message[item.name] = _odd_message(dice, item.message_type, depth + 1)
        else:
            message[item.name] = dice.choice(VALUES)
    return message


async def test_no_grpc_message_is_a_defect(host: ServiceHost) -> None:
    await _fuzz(f"127.0.0.1:{host.grpc_port}", SERVICE, await _make_session(host))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tts", "dialogue", "inference_worker"])
async def test_no_message_between_services_is_a_defect(
    name: str, service_process: Callable[..., ServiceProcess], redis_server: RedisServer
) -> None:
    service = {"tts": TTS, "dialogue": DIALOGUE, "inference_worker": INFERENCE}[name]
    settings = {"DIALOGUE_REDIS_URL": redis_server.url} if name == "dialogue" else {}
    process = await asyncio.to_thread(partial(service_process, name, timeout_s=120, **settings))
    await _fuzz(process.address, service.full_name, "a-session")
    assert process.serving()
    complaints = [entry for entry in process.log_entries() if entry["level"] == "error"]
    complaints += [entry for entry in process.log_entries() if "traceback" in entry]
    assert not complaints, complaints[:3]


async def _fuzz(address: str, service: str, session: str) -> None:
    dice = random.Random(SEED)
    descriptor = next(found for found in SERVICES if found.full_name == service)
    calls = []
    for method in descriptor.methods:
        for _ in range(40):
            most = 3 if method.client_streaming else 1
            raw = [
                _mutated(dice, _plausible(dice, method.input_type, session).SerializeToString())
                for _ in range(dice.randint(0, most))
            ]
            calls.append((f"/{service}/{method.name}", raw))
    gate = asyncio.Semaphore(AT_ONCE)
    async with grpc.aio.insecure_channel(address) as channel:

        async def check(path: str, raw: list[bytes]) -> None:
            async with gate:
                # All methods look the same on the wire.
                call = channel.stream_stream(path)(timeout=0.25)
                ended = (grpc.aio.AioRpcError, asyncio.InvalidStateError, grpc.aio.InternalError)
                with contextlib.suppress(*ended):
                    for message in raw:
                        await call.write(message)
                    await call.done_writing()
                code, details = await call.code(), await call.details() or ""
            assert code is not grpc.StatusCode.UNKNOWN, (path, raw)
            # grpc's client calls a stream INTERNAL that ends while it writes.
            for word in ("internal error", "Traceback", "Error(", "127.0.0.1", "ipv4"):
                assert word not in details or word.encode() in b"".join(raw), (path, details, raw)

        await asyncio.gather(*(check(path, raw) for path, raw in calls))


def _plausible(dice: random.Random, descriptor: Any, session: str) -> Any:
    message = message_factory.GetMessageClass(descriptor)()
    for item in descriptor.fields:
        if dice.random() < 0.5 or item.is_repeated:
            continue
        if item.message_type is not None:
            getattr(message, item.name).CopyFrom(_plausible(dice, item.message_type, session))
        elif item.name in ("session", "session_id", "conversation"):
            setattr(message, item.name, dice.choice([session, "none", ""]))
        elif item.name == "key":
            setattr(message, item.name, dice.choice([KEY, "wrong-key", ""]))
        elif item.type == item.TYPE_STRING:
            setattr(message, item.name, dice.choice(TEXTS))
        elif item.type == item.TYPE_BYTES:
            setattr(message, item.name, dice.randbytes(dice.randrange(200)))
        elif item.type in (item.TYPE_DOUBLE, item.TYPE_FLOAT):
            odd = [0.0, -1.0, 1e308, float("nan"), float("inf"), 0.1]
            setattr(message, item.name, dice.choice(odd))
        elif item.type == item.TYPE_BOOL:
            setattr(message, item.name, True)
        else:
            setattr(message, item.name, dice.choice([0, 1, 2, 2**31 - 1]))
    return message
