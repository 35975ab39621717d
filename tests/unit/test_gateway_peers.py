"""Gateways among themselves: what they sign, and what one knows of another's session."""

import asyncio
import time
from dataclasses import replace

import pytest

from services.gateway.cluster import signature
from services.gateway.cluster.signature import METADATA, Signature
from services.gateway.config import GatewayConfig
from services.gateway.sessions.lease import SECOND_NS, Lease
from services.gateway.sessions.remote_session import RemoteSession
from services.gateway.sessions.session_spec import digest_of
from services.gateway.workers.workers import Workers
from sightline.errors import FailedPreconditionError, NotFoundError, UnauthenticatedError
from sightline.v1 import gateway_pb2 as pb
from sightline.v1 import peer_pb2

SECRET = "a secret of thirty-two characters"
REQUEST = peer_pb2.HandOverRequest(session="one")


def test_a_signed_call_is_known() -> None:
    metadata = Signature(SECRET).sign("HandOver", REQUEST)
    Signature(SECRET).check("HandOver", REQUEST, (*metadata, ("user-agent", "x")))


@pytest.mark.parametrize(
    ("method", "request_", "secret", "age_s"),
    [
        ("DeleteSession", REQUEST, SECRET, 0),
        ("HandOver", peer_pb2.HandOverRequest(session="other"), SECRET, 0),
        ("HandOver", REQUEST, SECRET + "!", 0),
        ("HandOver", REQUEST, "", 0),
        ("HandOver", REQUEST, SECRET, 31),
        ("HandOver", REQUEST, SECRET, -31),
    ],
    ids=["method", "request", "secret", "no secret", "old", "of the future"],
)
def test_a_signature_holds_for_one_call(
    method: str,
    request_: peer_pb2.HandOverRequest,
    secret: str,
    age_s: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    metadata = Signature(SECRET).sign("HandOver", REQUEST)
    later_s = time.time() + age_s
    monkeypatch.setattr(signature.time, "time", lambda: later_s)
    with pytest.raises(UnauthenticatedError):
        Signature(secret).check(method, request_, metadata)


@pytest.mark.parametrize("value", ["", " ", "now", "nan 00", "1e9", "0 " + "0" * 64, "käse"])
def test_nonsense_is_no_signature(value: str) -> None:
    for metadata in ((), None, ((METADATA, value),), ((METADATA, value),) * 2):
        with pytest.raises(UnauthenticatedError):
            Signature(SECRET).check("HandOver", REQUEST, metadata)


def test_keys_are_kept_as_digests_of_the_secret() -> None:
    digest = digest_of("a-key-of-mine", SECRET)
    assert "a-key-of-mine" not in digest
    assert digest_of("a-key-of-mine", SECRET) == digest
    assert digest_of("a-key-of-mine", "another") != digest
    assert digest_of("", SECRET) == ""


def _lease(*, moving: bool = False, **record: object) -> Lease:
    session = pb.Session(id="one", name="lobby", moving=moving)
    session.stats.frames_processed = 9
    session.stats.last_capture_ns = 100 * SECOND_NS
    told = peer_pb2.SessionRecord(session=session, worker="w:1", **record)
    return Lease("one", "owner", "nowhere:1", 1, 3.0, told)


async def _nothing(session: RemoteSession) -> None:
    pass


def _remote(lease: Lease) -> RemoteSession:
    return RemoteSession(lease, Workers(), GatewayConfig(lease_s=3.0), _nothing)


async def test_the_age_of_a_frame_follows_from_what_its_owner_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now_s = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now_s)
    # Written a second ago, when the newest frame was half a second old.
    remote = _remote(replace(_lease(newest_age_ns=SECOND_NS // 2), left_s=2.0))
    assert remote.frame_age_s(100 * SECOND_NS) == pytest.approx(1.5)
    assert remote.frame_age_s(101 * SECOND_NS) == pytest.approx(0.5)
    assert remote.frame_age_s(109 * SECOND_NS) == 0.0
    assert remote.frame_age_s(0) is None


async def test_questions_wait_until_a_worker_has_the_session() -> None:
    remote = _remote(_lease(moving=True))
    assert not await remote.wait_placed(0.0)
    waiting = asyncio.create_task(remote.wait_placed(10.0))
    await asyncio.sleep(0)
    remote.hear(_lease())
    assert await waiting


async def test_watches_hear_that_the_worker_is_another() -> None:
    remote = _remote(_lease())
    left = remote.moved_on
    remote.hear(_lease(published=True))
    assert not left.is_set()
    told = _lease()
    told.record.worker = "w:2"
    remote.hear(told)
    assert left.is_set()
    assert not remote.moved_on.is_set()


async def test_what_was_deleted_is_waited_for_no_longer() -> None:
    async def gone(session: RemoteSession) -> None:
        session.alive = False
        raise NotFoundError("the session was deleted")

    remote = RemoteSession(_lease(moving=True), Workers(), GatewayConfig(), gone)
    remote._heard_s = 0.0
    assert not await remote.wait_placed(10.0)


async def test_without_a_frame_there_is_nothing_to_ask_about() -> None:
    lease = _lease()
    lease.record.session.stats.frames_processed = 0
    with pytest.raises(FailedPreconditionError):
        _remote(lease).check_answerable()
    lease.record.published = True
    _remote(lease).check_answerable()
