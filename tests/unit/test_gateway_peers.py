"""Gateways among themselves: what they sign, and what one knows of another's session."""

import asyncio
import time
from dataclasses import replace
from typing import Any

import pytest

from services.gateway.cluster import signature
from services.gateway.cluster.keeper import Keeper
from services.gateway.cluster.signature import METADATA, Signature
from services.gateway.config import GatewayConfig
from services.gateway.sessions.lease import SECOND_NS, Lease
from services.gateway.sessions.remote_session import RemoteSession
from services.gateway.sessions.session import Session
from services.gateway.sessions.session_spec import digest_of
from services.gateway.workers.workers import Workers
from sightline.errors import FailedPreconditionError, NotFoundError, UnauthenticatedError
from sightline.v1 import gateway_pb2 as pb
from sightline.v1 import inference_pb2, peer_pb2
from tests.eventually import eventually
from tests.unit.fake_worker import FakeWorker
from tests.unit.gateway_parts import running

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


async def test_questions_leave_a_worker_that_hangs_before_its_owner_tells() -> None:
    workers = Workers(("w:1", "w:2"))
    remote = RemoteSession(_lease(), workers, GatewayConfig(), _nothing)
    first, second = workers.all()
    first.hung.set()
    assert not remote.moving, "it has nowhere to go"
    second.description = inference_pb2.ModelDescription(max_sessions=4)
    second.report(inference_pb2.LoadReport(max_sessions=4))
    assert remote.moving
    told = _lease()
    told.record.worker = "w:2"
    remote.hear(told)
    assert not remote.moving
    await workers.aclose()


class _Renewed:
    """A store of leases that notes whose worker each renewal told of."""

    def __init__(self) -> None:
        self.workers: list[str] = []

    async def renew(self, session: Session, record: peer_pb2.SessionRecord) -> bool:
        self.workers.append(record.worker)
        return False


async def test_a_move_is_told_at_once() -> None:
    first, second = FakeWorker(), FakeWorker()
    async with running(first, second) as parts:
        await eventually(lambda: all(worker.answering for worker in parts.workers.all()))
        session = await parts.push_session()
        store: Any = _Renewed()
        nothing: Any = None
        keeper = Keeper(GatewayConfig(), parts.sessions, store, nothing, nothing)
        parts.sessions.listen(keeper)
        await keeper._renew(session)
        was = first if session.worker.address == first.address else second
        was.draining = True
        await eventually(lambda: len(store.workers) == 2)
        assert store.workers == [was.address, session.worker.address]
        assert store.workers[0] != store.workers[1]


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


class _Late:
    """Leases that were not renewed, and what their gateways say."""

    def __init__(self, leases: list[Lease], living: set[str]) -> None:
        self.leases, self.living = leases, living
        self.asked: list[str] = []
        self.left_s = 0.0

    async def late(self, left_s: float, most: int) -> list[Lease]:
        self.left_s = left_s
        return self.leases[:most]

    async def answers(self, address: str) -> bool:
        self.asked.append(address)
        return address in self.living


async def test_only_sessions_of_a_gateway_that_is_silent_in_both_ways_are_adopted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def lease(session: str, address: str, fence: int) -> Lease:
        record = peer_pb2.SessionRecord()
        return Lease(
            session=session, owner="x", address=address, fence=fence, left_s=1.0, record=record
        )

    leases = [lease("a", "hung:1", 3), lease("b", "busy:1", 1), lease("c", "hung:1", 7)]
    late: Any = _Late(leases, living={"busy:1"})
    nothing: Any = None
    config = GatewayConfig(redis_url="redis://x", cluster_secret=SECRET, lease_s=4.0)
    keeper = Keeper(config, nothing, late, late, nothing)
    adopted: list[tuple[str, str, int | None]] = []

    async def adopt(session: str, how: str, fence: int | None = None) -> None:
        adopted.append((session, how, fence))

    monkeypatch.setattr(keeper, "adopt", adopt)
    await keeper.adopt_of_silent()
    assert adopted == [("a", "lease", 3), ("c", "lease", 7)]
    assert sorted(late.asked) == ["busy:1", "hung:1"], "each is asked once"
    assert late.left_s == 2.0, "two renewals of one second are missing"
