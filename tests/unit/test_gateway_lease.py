"""What a session's lease says of it: everything that another gateway needs to go on with it."""

from dataclasses import fields, replace

from services.gateway.sessions.lease import record_of, spec_of
from sightline.v1 import peer_pb2
from tests.unit.fake_worker import FakeWorker
from tests.unit.gateway_parts import running


async def test_every_wish_of_a_session_outlives_its_gateway() -> None:
    async with running(FakeWorker()) as parts:
        session = await parts.push_session(fps=1)
        asked = {
            "name": "kitchen",
            "source": "rtsp://camera/1",
            "key_digest": "5f",
            "fps": 2.5,
            "window": 7,
            "max_pixels": 4096,
            "lossless": True,
            "loop": True,
            "grace_s": 12.0,
            "priority": -3,
            "memory": 3,
            "listen": True,
            "delegate": 2,
            "delegate_to": "pool-b",
            "labels": {"place": "door"},
            "tenant": "red",
            "model": "pool-a",
        }
        session.spec = replace(session.spec, **asked)  # type: ignore[arg-type]
        session.labels = dict(session.spec.labels)
        read = peer_pb2.SessionRecord.FromString(record_of(session).SerializeToString())
        again = spec_of(read)
        names = {field.name for field in fields(again)} - {"key", "asked"}  # kept apart
        assert names == asked.keys(), "a new field belongs into record_of and spec_of"
        assert {name: getattr(again, name) for name in names} == asked
        assert again.key == ""
