"""Workers that come and go: how they are found, and what becomes of their sessions."""

import asyncio
import socket
from collections.abc import AsyncGenerator, Iterator
from typing import Any

import pytest

from services.common.config import ConfigError
from services.gateway import metrics
from services.gateway.config import GatewayConfig
from services.gateway.sessions.session import Session
from services.gateway.sessions.states import LIVE
from services.gateway.workers.discovery import Several, StaticList, discovery_of
from services.gateway.workers.dns_name import DnsName
from services.gateway.workers.kubernetes_endpoints import found_in
from services.gateway.workers.lookup import Found, Standing, from_thread
from sightline.v1 import gateway_pb2 as pb
from tests.eventually import eventually
from tests.unit.fake_worker import ANSWER, WINDOW, FakeWorker
from tests.unit.gateway_parts import SECOND_NS, Parts, picture, running


def _config(workers: str) -> GatewayConfig:
    return GatewayConfig.from_env({"GATEWAY_WORKERS": workers})


# --- what GATEWAY_WORKERS says ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "kind", "parts"),
    [
        ("a:1, b:2", "static", ("a:1", "b:2")),
        ("static:a:1, b:2", "static", ("a:1", "b:2")),
        ("static:a:1,", "static", ("a:1",)),
        ("static:[::1]:5", "static", ("[::1]:5",)),
        ("dns:1", "static", ("dns:1",)),  # hosts of these names
        ("static:1,dns:2,kubernetes:3", "static", ("static:1", "dns:2", "kubernetes:3")),
        ("dns:///worker:50060", "static", ("dns:///worker:50060",)),  # gRPC's own notation
        ("dns:worker:50060", "dns", ("worker", "50060")),
        ("dns:[::1]:50060", "dns", ("[::1]", "50060")),
        ("kubernetes:video/trial-worker:grpc", "kubernetes", ("video", "trial-worker", "grpc")),
        ("kubernetes:video/worker:50060", "kubernetes", ("video", "worker", "50060")),
    ],
)
def test_the_ways_to_name_workers(text: str, kind: str, parts: tuple[str, ...]) -> None:
    assert _config(text).discoveries() == ((kind, parts),)


def test_several_places_are_named_in_their_order() -> None:
    text = "kubernetes:video/small:grpc; static:b:1,a:1;dns:large:50060;"
    assert _config(text).discoveries() == (
        ("kubernetes", ("video", "small", "grpc")),
        ("static", ("b:1", "a:1")),
        ("dns", ("large", "50060")),
    )


@pytest.mark.parametrize(
    "text",
    [
        *("a:1;static:", "a:1;dns:a:0", "dns:a:1;kubernetes:a:1", ";", "a:1;b"),
        *("static:", "static:a", "static:a:b", "static:a:1,b", "static::"),
        *("dns:", "dns:a:0", "dns:a:grpc", "dns:a:1,b:2", "dns:a:70000", "dns::1"),
        *("kubernetes:a:1", "kubernetes:a/b", "kubernetes:/b:1", "kubernetes:a/B:1"),
        *("kubernetes:a/b:", "kubernetes:a/b:99999", "kubernetes:a/b:1,c:2", "kubernetes:a/b/c:1"),
    ],
)
def test_what_names_no_workers_is_refused_by_name(text: str) -> None:
    with pytest.raises(ConfigError, match="GATEWAY_WORKERS"):
        _config(text)


def test_outside_of_a_cluster_there_is_none_to_ask(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setattr(
        "kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "none")
    )
    with pytest.raises(ConfigError, match="GATEWAY_WORKERS"):
        discovery_of(_config("kubernetes:video/worker:grpc"))


async def test_a_fixed_list_is_found_at_once() -> None:
    discovery = discovery_of(_config("a:1,b:2"))
    assert isinstance(discovery, StaticList)
    assert [found async for found in discovery.changes()] == [Found(("a:1", "b:2"))]


class Place:
    """A place that finds what a test puts into it."""

    def __init__(self) -> None:
        self.found: asyncio.Queue[Found] = asyncio.Queue()
        self.closed = False

    async def changes(self) -> AsyncGenerator[Found, None]:
        try:
            while True:
                yield await self.found.get()
        finally:
            self.closed = True


async def test_workers_of_several_places_are_those_of_all() -> None:
    first, second = Place(), Place()
    several = Several([first, StaticList(("s:1",)), second])
    changes = several.changes()
    second.found.put_nowait(Found(("b:1", "s:1"), frozenset(["b:1"])))
    while (found := await anext(changes)).addresses != ("s:1", "b:1"):
        pass
    assert found.ending == {"b:1"}
    first.found.put_nowait(Found(("a:1",)))
    assert (await anext(changes)).addresses == ("a:1", "s:1", "b:1"), "in the order of places"
    second.found.put_nowait(Found(()))
    assert await anext(changes) == Found(("a:1", "s:1"))
    await changes.aclose()
    assert first.closed
    assert second.closed


# --- names --------------------------------------------------------------------------------------


class Resolver:
    """What a name server answers, one entry for each question; an entry that is an error is
    raised. The last answer stays."""

    def __init__(self, *answers: list[str] | Exception) -> None:
        self.answers = list(answers)
        self.num_asked = 0

    def __call__(self, host: str, port: int, **_: Any) -> list[tuple[Any, ...]]:
        self.num_asked += 1
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return [
            (socket.AF_INET6 if ":" in each else socket.AF_INET, 1, 6, "", (each, port))
            for each in answer
        ]


def _looks(resolver: Resolver) -> Iterator[Found]:
    return DnsName("worker", 50060, interval_s=0, resolve=resolver).looks()


def test_a_name_is_all_of_its_addresses() -> None:
    looks = _looks(Resolver(["10.0.0.2", "10.0.0.1"], ["10.0.0.1", "10.0.0.2"], ["10.0.0.1"]))
    assert next(looks) == Found(("10.0.0.1:50060", "10.0.0.2:50060"))
    assert next(looks) == Found(("10.0.0.1:50060",)), "another order is no change"


def test_a_worker_with_addresses_of_both_families_is_one() -> None:
    assert next(_looks(Resolver(["fd00::1", "10.0.0.1"]))) == Found(("10.0.0.1:50060",))
    looks = _looks(Resolver(["fd00::1", "fd00::2", "10.0.0.1"]))
    assert next(looks) == Found(("[fd00::1]:50060", "[fd00::2]:50060"))


def test_a_name_that_is_not_resolved_keeps_its_last_addresses(
    caplog: pytest.LogCaptureFixture,
) -> None:
    away = socket.gaierror(-2, "Name or service not known")
    failures = metrics.DISCOVERY_FAILURES._value.get()
    resolver = Resolver(["10.0.0.1"], away, away, ["10.0.0.1"], away, ["10.0.0.2"])
    looks = _looks(resolver)
    assert next(looks) == Found(("10.0.0.1:50060",))
    assert next(looks) == Found(("10.0.0.2:50060",))
    assert resolver.num_asked == 6
    assert metrics.DISCOVERY_FAILURES._value.get() == failures + 3
    assert metrics.DISCOVERY_CURRENT.labels("worker")._value.get() == 1
    warnings = [each for each in caplog.records if each.levelname == "WARNING"]
    assert len(warnings) == 2, "once for each time that it went away"


async def test_looks_in_a_thread_arrive_and_end() -> None:
    name = DnsName("worker", 1, interval_s=0, resolve=Resolver(["10.0.0.1"], ["10.0.0.2"]))
    changes = name.changes()
    found: set[str] = set()
    while "10.0.0.2:1" not in found:  # the first may have been overtaken by it
        found |= set((await anext(changes)).addresses)
    await changes.aclose()
    assert name._stopped.is_set()


async def test_a_look_that_fails_for_good_is_told(caplog: pytest.LogCaptureFixture) -> None:
    def looks() -> Iterator[Found]:
        yield Found(("a:1",))
        raise ZeroDivisionError

    standing = Standing("somewhere")
    standing.worked()
    changes = from_thread(looks, lambda: None, standing)
    assert await anext(changes) == Found(("a:1",))
    await eventually(lambda: "workers are not looked up any more" in caplog.text)
    await eventually(lambda: metrics.DISCOVERY_CURRENT.labels("somewhere")._value.get() == 0)
    await changes.aclose()


# --- endpoints of a cluster ---------------------------------------------------------------------


def _slice(*endpoints: dict[str, Any], name: str = "a", kind: str = "IPv4") -> dict[str, Any]:
    return {
        "metadata": {"name": name},
        "addressType": kind,
        "ports": [{"name": "http", "port": 8080}, {"name": "grpc", "port": 50060}],
        "endpoints": list(endpoints),
    }


def _endpoint(address: str, pod: str = "", **conditions: bool | None) -> dict[str, Any]:
    endpoint: dict[str, Any] = {"addresses": [address], "conditions": conditions}
    return endpoint | ({"targetRef": {"kind": "Pod", "uid": pod}} if pod else {})


def test_endpoints_count_that_are_ready_or_end_and_serve() -> None:
    slices = [
        _slice(
            _endpoint("10.0.0.1", ready=True, serving=True, terminating=False),
            _endpoint("10.0.0.2", ready=False, serving=False, terminating=False),
            _endpoint("10.0.0.3", ready=False, serving=True, terminating=True),
            _endpoint("10.0.0.4", ready=False, serving=False, terminating=True),
            # Of a Service that publishes addresses which are not ready: that is ready for good.
            _endpoint("10.0.0.5", ready=True, serving=False, terminating=False),
            _endpoint("10.0.0.6", ready=True, serving=False, terminating=True),
            _endpoint("10.0.0.7", ready=None),
            {"addresses": ["10.0.0.8"]},
        )
    ]
    found = found_in(slices, "grpc")
    assert [each.partition(":")[0][-1] for each in found.addresses] == ["1", "3", "5", "7", "8"]
    assert found.ending == {"10.0.0.3:50060"}


def test_a_pod_with_two_addresses_is_one_worker() -> None:
    slices = [
        _slice(_endpoint("fd00::1", "p"), _endpoint("fd00::2", "q"), name="a", kind="IPv6"),
        _slice(_endpoint("10.0.0.1", "p"), name="b"),
        _slice(_endpoint("10.0.0.1", "p"), name="c"),  # while endpoints move between slices
    ]
    assert found_in(slices, "grpc") == Found(("10.0.0.1:50060", "[fd00::2]:50060"))


def test_endpoints_that_are_no_pods_are_one_worker_for_each_port() -> None:
    """Of a Service without a selector, on one host."""
    other = _slice(_endpoint("10.0.0.1"), name="b")
    other["ports"] = [{"name": "grpc", "port": 50061}]
    slices = [_slice(_endpoint("10.0.0.1")), other]
    assert found_in(slices, "grpc").addresses == ("10.0.0.1:50060", "10.0.0.1:50061")


def test_ports_have_names_or_numbers() -> None:
    slices = [_slice(_endpoint("10.0.0.1"))]
    assert found_in(slices, "8000").addresses == ("10.0.0.1:8000",)
    assert found_in(slices, "rtmp") == Found(())
    assert found_in([_slice() | {"endpoints": None, "ports": None}], "grpc") == Found(())


# --- workers ------------------------------------------------------------------------------------


async def _push(session: Session, *numbers: int) -> None:
    sink = session._publisher.sink if session._publisher else session.admit("rtmp").sink
    for number in numbers:
        before = session.counts.processed
        sink.take(picture(number))
        await eventually(lambda before=before: session.counts.processed == before + 1)


async def _ask(parts: Parts) -> pb.AnswerDone:
    request = pb.AskRequest(session="cam", question=pb.Question(text="what happened"))
    return (await parts.stub.Ask(request, timeout=20)).answer


def _of(session: Session) -> str:
    return session.feed.placement.worker.address


def _set(parts: Parts, *workers: FakeWorker, ending: FakeWorker | None = None) -> None:
    addresses = tuple(worker.address for worker in workers)
    parts.workers.set(Found(addresses, frozenset([ending.address] if ending else [])))


async def test_sessions_go_from_a_worker_that_is_gone_to_one_that_came() -> None:
    first, second, third = FakeWorker(), FakeWorker(), FakeWorker()
    await second.start()
    await third.start()
    async with running(first) as parts:
        session = await parts.push_session(fps=1, name="cam")
        await _push(session, *range(10))
        [before] = parts.workers.all()
        _set(parts, second)
        await eventually(lambda: _of(session) == second.address)
        await _push(session, 10)
        seen = [frame.capture_ns // SECOND_NS - 1 for frame in second.frames[session.id]]
        assert seen == [*range(10 - WINDOW, 10), 10]
        assert not session.message().stats.dropped
        assert (session.state, session.message().worker) == (LIVE, "worker 2")
        assert (await _ask(parts)).text == ANSWER
        assert second.asked
        assert not first.asked
        await eventually(lambda: parts.workers.all() != [before] and before.closed)
        assert [worker.name for worker in parts.workers.all()] == ["worker 2"]
        _set(parts, second, third, first)
        names = [worker.name for worker in parts.workers.all()]
        assert names == ["worker 2", "worker 3", "worker 4"], "a name is never another's"
    await second.stop()
    await third.stop()


async def test_a_worker_that_comes_back_as_another_still_has_an_old_state() -> None:
    first, second = FakeWorker(), FakeWorker()
    await second.start()
    async with running(first) as parts:
        session = await parts.push_session(fps=1, name="cam")
        await _push(session, *range(10))
        [before] = parts.workers.all()
        _set(parts, second)
        await eventually(lambda: _of(session) == second.address and before.closed)
        await _push(session, 10, 11)
        _set(parts, first)
        await eventually(lambda: _of(session) == first.address)
        await _push(session, 12)
        assert first.released == [session.id], "first of all the old state was given up"
        seen = [frame.capture_ns // SECOND_NS - 1 for frame in first.frames[session.id]]
        assert seen == [*range(12 - WINDOW, 12), 12]
        assert session.message().worker == "worker 3"
    await second.stop()


async def test_a_worker_that_is_gone_keeps_its_sessions_until_another_has_them() -> None:
    first = FakeWorker()
    async with running(first) as parts:
        session = await parts.push_session(fps=1, name="cam")
        await _push(session, 0)
        _set(parts)
        await _push(session, 1, 2)
        assert (await _ask(parts)).text == ANSWER
        [worker] = parts.workers.all()
        assert not worker.closed
        assert not parts.workers.with_room()
        _set(parts, first)
        assert parts.workers.all() == [worker], "it is the worker that it was"
        await eventually(parts.workers.with_room)
        assert not worker.unfit.is_set()
        await _push(session, 3)
        _set(parts)
        await session.aclose()
        await eventually(lambda: worker.closed)
        assert first.released == [session.id]


async def test_a_worker_without_sessions_is_gone_at_once_and_its_figures_too() -> None:
    first, second = FakeWorker(), FakeWorker()
    async with running(first, second) as parts:
        await eventually(lambda: all(worker.answering for worker in parts.workers.all()))
        ready = metrics.WORKERS.labels("ready")._value
        await eventually(lambda: ready.get() == 2)
        gone = metrics.WORKERS_CHANGED.labels("gone")._value.get()
        _set(parts, second)
        await eventually(lambda: ready.get() == 1 and len(parts.workers.all()) == 1)
        assert metrics.WORKERS.labels("away")._value.get() == 0
        assert metrics.WORKERS.labels("leaving")._value.get() == 0
        assert metrics.WORKERS_CHANGED.labels("gone")._value.get() == gone + 1


async def test_answers_under_way_end_at_a_worker_that_is_gone() -> None:
    first, second = FakeWorker(), FakeWorker()
    await second.start()
    async with running(first) as parts:
        session = await parts.push_session(fps=1, name="cam")
        await _push(session, 0)
        [worker] = parts.workers.all()
        first.pause_after = 2
        asking = asyncio.create_task(_ask(parts))
        await first.paused.wait()
        _set(parts, second)
        await eventually(lambda: _of(session) == second.address and worker.closed)
        await _push(session, 1)
        first.go_on.set()
        assert (await asking).text == ANSWER
        assert not second.asked
        assert first.cancelled_answers == 0
    await second.stop()


async def test_a_worker_that_ends_gets_no_new_session_and_gives_its_own_away() -> None:
    first, second = FakeWorker(), FakeWorker()
    async with running(first, second) as parts:
        await eventually(lambda: all(worker.answering for worker in parts.workers.all()))
        second.busy_sessions = 2  # so that the first is emptier
        await eventually(lambda: parts.workers.all()[1].load.sessions == 2)
        session = await parts.push_session(fps=1, name="cam")
        assert _of(session) == first.address
        await _push(session, 0)
        _set(parts, first, second, ending=first)
        await eventually(lambda: _of(session) == second.address)
        assert [worker.address for worker in parts.workers.with_room()] == [second.address]
        assert len(parts.workers.all()) == 2
        _set(parts, first, second)
        await eventually(lambda: len(parts.workers.with_room()) == 2)


async def test_a_gateway_without_workers_waits_for_the_first() -> None:
    first = FakeWorker()
    await first.start()
    async with running() as parts:
        creating = asyncio.create_task(parts.push_session(fps=1, name="cam"))
        await asyncio.sleep(0)
        _set(parts, first)
        session = await creating
        assert _of(session) == first.address
    await first.stop()
