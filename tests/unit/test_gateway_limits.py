"""What viewers share: one cannot take all of it, and none waits behind another's whole queue."""

import asyncio
import contextlib
from collections import Counter

import pytest

from services.common.in_flight import InFlight
from services.common.places import Trusted, place_of, split_peer
from services.gateway.sessions.question_queue import Asker, QuestionQueue
from sightline.errors import DeadlineExceededError, ResourceExhaustedError
from sightline.v1 import gateway_pb2 as pb
from tests.eventually import eventually
from tests.unit.fake_worker import FakeWorker
from tests.unit.gateway_parts import Parts, running


@pytest.mark.parametrize(
    ("host", "place"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::9%eth0", "2001:db8:1:2::/64"),
        ("", ""),
        ("nonsense", ""),
    ],
)
def test_a_place_is_an_address_or_a_64(host: str, place: str) -> None:
    assert place_of(host) == place


def test_a_trusted_proxy_says_whose_a_connection_is_and_nobody_else_does() -> None:
    trusted = Trusted(["10.0.0.0/8", "::1"])
    assert trusted.place("10.0.0.1", "198.51.100.1") == "198.51.100.1"
    assert trusted.place("10.0.0.1", "198.51.100.1, 198.51.100.2, 10.0.0.9") == "198.51.100.2"
    assert trusted.place("::1", "2001:db8::5") == "2001:db8::/64"
    assert trusted.place("10.0.0.1", "") == ""
    assert trusted.place("192.0.2.1", "198.51.100.1") == "192.0.2.1"


def test_a_peer_of_grpc_has_an_address() -> None:
    assert split_peer("ipv4:10.0.0.1:5") == ("10.0.0.1", 5)
    assert split_peer("ipv6:%5B2001:db8::1%5D:5") == ("2001:db8::1", 5)
    assert split_peer("ipv6:[::1]:5") == ("::1", 5)
    assert split_peer("ipv6:[::ffff:10.0.0.1]:5") == ("10.0.0.1", 5)
    assert split_peer("unix:") == ("", 0)


def test_one_place_leaves_half_to_those_who_come_later() -> None:
    watches = InFlight("watches", owner="the session", most=64)
    taken: Counter[str] = Counter()
    for place in ("a", "b", "c", "d", "e"):
        for _ in range(64):
            with contextlib.suppress(ResourceExhaustedError):
                watches.enter(place)
                taken[place] += 1
    assert [taken[place] for place in "abcde"] == [32, 16, 8, 4, 2]
    watches.leave("e")
    watches.enter("e")


def test_what_has_no_place_has_the_whole() -> None:
    watches = InFlight("watches", owner="the session", most=3)
    for _ in range(3):
        watches.enter("")
    with pytest.raises(ResourceExhaustedError, match="3 watches"):
        watches.enter("")


async def test_viewers_take_turns_whoever_asked_more() -> None:
    questions, order = QuestionQueue(1), []
    gate = asyncio.Event()

    async def ask(place: str, viewer: str) -> None:
        async with questions.slot(Asker(place, viewer), 60):
            await gate.wait()
            order.append((place, viewer))

    tasks = []
    for place, viewer, count in (
        ("flood", "1", 20),
        ("flood", "2", 20),
        ("quiet", "3", 2),
        ("other", "4", 1),
    ):
        tasks += [asyncio.create_task(ask(place, viewer)) for _ in range(count)]
        await asyncio.sleep(0)
    gate.set()
    await asyncio.gather(*tasks)
    assert len(order) == 43
    assert {place for place, _ in order[1:4]} == {"flood", "quiet", "other"}
    assert [place for place, _ in order[:7]].count("quiet") == 2
    flood = [viewer for place, viewer in order if place == "flood"]
    assert abs(flood[:10].count("1") - flood[:10].count("2")) <= 2
    assert questions._running == 0
    assert not questions._waiting


async def test_who_leaves_or_waits_too_long_gives_the_turn_up() -> None:
    questions = QuestionQueue(1)
    async with questions.slot(Asker("a"), 60):
        leaving = asyncio.create_task(_take(questions, "b", 60))
        patient = asyncio.create_task(_take(questions, "b", 60))
        await asyncio.sleep(0)
        leaving.cancel()
        with pytest.raises(DeadlineExceededError):
            await _take(questions, "c", 0.001)
        assert not patient.done()
    await patient
    # Given and given up in one moment.
    async with questions.slot(Asker("a"), 60):
        late = asyncio.create_task(_take(questions, "b", 60))
        await asyncio.sleep(0)
    late.cancel()
    await asyncio.gather(late, return_exceptions=True)
    assert questions._running == 0
    assert not questions._waiting


async def _take(questions: QuestionQueue, place: str, timeout_s: float) -> None:
    async with questions.slot(Asker(place), timeout_s):
        pass


async def test_one_viewer_cannot_take_a_sessions_watches() -> None:
    async with running(FakeWorker(), session_watches=8) as parts:
        session = await parts.push_session()
        refused = await _watch(parts, session.id, "192.0.2.1", lines=4)
        assert refused == 4 * 4 - 4
        assert await _watch(parts, session.id, "192.0.2.2", lines=1) == 2
        for line in parts.viewers.all():
            line.close("expired")
        await eventually(lambda: not session.watches.count)
        assert await _watch(parts, session.id, "192.0.2.3", lines=1) == 0


async def _watch(parts: Parts, session: str, place: str, lines: int) -> int:
    """Open lines and ask for four watches on each; how many were refused."""
    refused = 0
    for _ in range(lines):
        line = parts.viewers.open(pb.Start(session=session), place)
        assert await line._outbox.next() is not None  # started
        for number in range(4):
            watch = pb.Watch(watch=str(number), condition="a phone is there")
            line.handle_event(pb.ClientEvent(watch=watch))
        while len(line._outbox):
            event = await line._outbox.next()
            assert event is not None
            refused += event.error.code == "RESOURCE_EXHAUSTED"
    return refused


async def test_one_place_cannot_take_a_sessions_lines() -> None:
    async with running(FakeWorker(), max_viewers=4) as parts:
        session = await parts.push_session()
        mine = [parts.viewers.open(pb.Start(session=session.id), "192.0.2.1") for _ in range(2)]
        for line in mine:
            line._detached_s = None  # as while a connection carries it
        with pytest.raises(ResourceExhaustedError, match="from your address"):
            parts.viewers.open(pb.Start(session=session.id), "192.0.2.1")
        assert parts.viewers.open(pb.Start(session=session.id), "192.0.2.2")
        mine[0]._detached_s = 0.0
        assert parts.viewers.open(pb.Start(session=session.id), "192.0.2.1")
        assert mine[0].closed


async def test_a_thousand_questions_at_once_are_all_answered_in_turns() -> None:
    worker = FakeWorker()
    worker.pause_after = 0
    async with running(worker) as parts:
        session = await parts.push_session(seen=True)
        asks = [
            parts.stub.Ask(
                pb.AskRequest(session=session.id, question=pb.Question(text="what happened")),
                timeout=60,
            )
            for _ in range(1000)
        ]
        most = parts.config.session_answers
        await eventually(lambda: len(worker.asked) == most)
        await eventually(lambda: parts.sessions.all()[0].questions.num_waiting == 1000 - most)
        line = parts.viewers.open(pb.Start(session=session.id))
        line.handle_event(pb.ClientEvent(ask=pb.Question(turn="mine", text="what happened")))
        worker.go_on.set()
        replies = await asyncio.gather(*asks)
        assert all(reply.answer.text for reply in replies)
        questions = [request.question.turn for request in worker.asked]
        assert questions.index("mine") <= most + 2  # not behind the thousand
