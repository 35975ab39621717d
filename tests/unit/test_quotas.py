"""Quotas of tenants: one that has had its share is refused, and crowds out nobody else."""

from dataclasses import replace

import grpc
import pytest

from services.common.http_status import http_status
from services.common.in_flight import InFlight
from services.gateway.auth.caller import Caller, Permission
from services.gateway.config import GatewayConfig
from services.gateway.sessions.quotas import Quotas
from services.gateway.viewers.viewer import Viewer
from sightline.errors import ResourceExhaustedError
from sightline.reasons import Reason
from sightline.v1 import gateway_pb2 as pb
from tests.unit.fake_worker import FakeWorker
from tests.unit.gateway_parts import running


class Clock:
    now_s = 50.0

    def __call__(self) -> float:
        return self.now_s


def quotas(**settings: int) -> tuple[Quotas, Clock]:
    clock = Clock()
    return Quotas(GatewayConfig(**settings), clock), clock  # type: ignore[arg-type]


def test_questions_come_back_with_time() -> None:
    found, clock = quotas(tenant_questions=6)
    for _ in range(6):
        found.question("red")
    with pytest.raises(ResourceExhaustedError) as refused:
        found.question("red")
    assert refused.value.reason == Reason.TOO_MANY_QUESTIONS
    assert refused.value.retry_after_s == pytest.approx(10.0)
    found.question("blue")
    clock.now_s += 10
    found.question("red")
    with pytest.raises(ResourceExhaustedError):
        found.question("red")
    for _ in range(20):
        found.question("")  # of no tenant


def test_without_a_number_nothing_is_counted() -> None:
    found, _ = quotas()
    for _ in range(100):
        found.question("red")
    found.check_session("red", 10**6)
    assert found.watches("red") is None
    assert found.pushed("red", 10**9) == 0.0


def test_pushed_bytes_beyond_the_rate_wait() -> None:
    found, clock = quotas(tenant_bytes=100_000)
    assert found.pushed("red", 100_000) == 0.0
    assert found.pushed("red", 50_000) == pytest.approx(0.5)
    assert found.pushed("blue", 100_000) == 0.0
    clock.now_s += 1.5
    assert found.pushed("red", 100_000) == 0.0


def test_watches_are_counted_over_all_viewers_of_a_tenant() -> None:
    found, _ = quotas(tenant_watches=2)
    red = found.watches("red")
    assert red is not None
    assert found.watches("red") is red
    red.enter()
    red.enter()
    with pytest.raises(ResourceExhaustedError) as refused:
        red.check()
    assert refused.value.reason == Reason.TOO_MANY_WATCHES
    blue = found.watches("blue")
    assert blue is not None
    blue.check()


async def test_a_tenants_sessions_are_counted_at_the_door() -> None:
    async with running(FakeWorker(max_sessions=4), tenant_sessions=1) as parts:
        red = Caller(name="r", permissions=frozenset({Permission.ADMIN}), tenant="red")
        blue = Caller(name="b", permissions=frozenset({Permission.ADMIN}), tenant="blue")
        request = pb.CreateSessionRequest(push=pb.Push())
        session = await parts.sessions.create(request, caller=red)
        with pytest.raises(ResourceExhaustedError) as refused:
            await parts.sessions.create(request, caller=red)
        assert refused.value.reason == Reason.TOO_MANY_SESSIONS
        await parts.sessions.create(request, caller=blue)
        await parts.sessions.remove(session.id, red)
        await parts.sessions.create(request, caller=red)


async def test_a_tenants_questions_are_refused_with_429s_code() -> None:
    async with running(FakeWorker(), tenant_questions=1) as parts:
        session = await parts.push_session(seen=True)
        parts.sessions.quotas.question("red")
        caller = Caller(name="r", permissions=frozenset(Permission), tenant="red")
        viewer = Viewer(
            session,
            pb.Start(session=session.id),
            parts.config,
            InFlight("answers", owner="the gateway"),
            parts.viewers.turns,
            caller=replace(caller, tenant="red", is_current=lambda: True),
            quotas=parts.sessions.quotas,
        )
        session.spec = replace(session.spec, tenant="red")
        viewer.handle_event(pb.ClientEvent(ask=pb.Question(turn="t", text="why?")))
        event = await viewer._outbox.next()
        assert event is not None
        assert event.error.code == "RESOURCE_EXHAUSTED"
        assert http_status(grpc.StatusCode.RESOURCE_EXHAUSTED) == 429
