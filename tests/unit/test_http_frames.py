"""Pictures pushed by HTTP, one a request."""

import base64

import pytest

from services.gateway.api import frames
from services.gateway.sessions.states import LIVE
from sightline.v1 import gateway_pb2 as pb
from tests.eventually import eventually
from tests.unit.fake_worker import FakeWorker
from tests.unit.gateway_parts import KEY
from tests.unit.http_parts import served
from tests.unit.test_chat_completions import address_of_picture

PATH = "/api/sessions/door/frames"
SIGNED = {"Sightline-Key": KEY}


def still(codec: str) -> bytes:
    return base64.b64decode(address_of_picture(codec).partition(",")[2])


async def test_pictures_are_pushed_one_by_one_until_no_more_come(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    worker = FakeWorker()
    async with served(worker) as (parts, client):
        session = await parts.push_session(name="door", grace_s=60)
        for number, codec in enumerate(("jpeg", "png", "jpeg"), 1):
            where = f"{PATH}?capture_ns={number * 10**9}"
            reply = await client.post(where, data=still(codec), headers=SIGNED)
            assert (await reply.json())["received"] == str(number), await reply.text()
        await eventually(lambda: len(worker.frames[session.id]) == 3)
        assert session.state == LIVE
        assert session.source_kind == "push"
        monkeypatch.setattr(frames, "IDLE_S", 0.0)
        late = await client.post(f"{PATH}?capture_ns=5", data=still("png"), headers=SIGNED)
        assert late.status == 400
        await eventually(lambda: session.state != LIVE)
        # Nobody is there any more, so that another may come.
        with session.admit("rtmp"):
            reply = await client.post(PATH, data=still("png"), headers=SIGNED)
            assert (reply.status, (await reply.json())["reason"]) == (409, "PUBLISHER_PRESENT")


async def test_what_is_no_picture_or_has_no_key_is_refused() -> None:
    async with served() as (parts, client):
        await parts.push_session(name="door")
        await parts.sessions.create(_of_file())
        cases = [
            (PATH, b"no picture", SIGNED, 400, "INVALID_ARGUMENT"),
            (PATH, still("jpeg")[:40], SIGNED, 400, "INVALID_ARGUMENT"),
            (PATH, b"", SIGNED, 400, "INVALID_ARGUMENT"),
            (PATH, still("jpeg"), {}, 401, "WRONG_KEY"),
            (PATH, still("jpeg"), {"Sightline-Key": "wrong-key"}, 401, "WRONG_KEY"),
            ("/api/sessions/none/frames", still("jpeg"), SIGNED, 404, "SESSION_NOT_FOUND"),
            ("/api/sessions/clip/frames", still("jpeg"), SIGNED, 409, "NOT_A_PUSH_SESSION"),
        ]
        for path, picture, headers, status, reason in cases:
            reply = await client.post(path, data=picture, headers=headers)
            assert (reply.status, (await reply.json())["reason"]) == (status, reason), path
        huge = await client.post(PATH, data=b"\xff\xd8" * 5 * 2**20, headers=SIGNED)
        assert huge.status == 413


def _of_file() -> pb.CreateSessionRequest:
    return pb.CreateSessionRequest(source="clip.mp4", options=pb.SessionOptions(name="clip"))
