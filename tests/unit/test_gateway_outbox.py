"""A line's outbox: numbers, bounds, and what comes again after a break."""

import asyncio
import random

import pytest

from services.gateway.viewers.outbox import Outbox, OutboxFullError
from sightline.v1 import gateway_pb2 as pb


def _outbox(max_pending: int = 100, max_kept: int = 100, max_bytes: int = 1 << 20) -> Outbox:
    return Outbox(max_pending=max_pending, max_kept=max_kept, max_bytes=max_bytes)


def _delta(text: str) -> pb.ServerEvent:
    return pb.ServerEvent(text_delta=pb.TextDelta(turn="t", text=text))


def _started() -> pb.ServerEvent:
    return pb.ServerEvent(started=pb.Started(resumed="line"))


async def _take(outbox: Outbox, count: int) -> list[pb.ServerEvent]:
    events = []
    for _ in range(count):
        event = await outbox.next()
        assert event is not None
        events.append(event)
    return events


def _texts(events: list[pb.ServerEvent]) -> list[str]:
    return [event.text_delta.text for event in events if event.HasField("text_delta")]


async def test_events_come_in_order_and_are_numbered_when_they_leave() -> None:
    outbox = _outbox()
    for text in "abc":
        outbox.put(_delta(text))
    events = await _take(outbox, 3)
    assert [event.sequence for event in events] == [1, 2, 3]
    assert _texts(events) == ["a", "b", "c"]


async def test_only_the_newest_state_is_sent_after_everything_else() -> None:
    outbox = _outbox()
    outbox.put_state(pb.Session(name="old"))
    outbox.put_state(pb.Session(name="new"))
    outbox.put(_delta("a"))
    events = await _take(outbox, 2)
    assert events[0].text_delta.text == "a"
    assert events[1].session_state.name == "new"
    for watch, score in (("w1", 0.1), ("w2", 0.2), ("w1", 0.3)):
        outbox.put_status(pb.WatchStatus(watch=watch, score=score))
    statuses = [event.watch_status for event in await _take(outbox, 2)]
    assert [(each.watch, each.score) for each in statuses] == [("w1", 0.3), ("w2", 0.2)]
    waiting = asyncio.ensure_future(outbox.next())
    await asyncio.sleep(0)
    assert not waiting.done()
    outbox.put(_delta("b"))
    assert (await waiting) is not None


async def test_what_was_sent_but_missed_comes_again_with_new_numbers() -> None:
    outbox = _outbox()
    for text in "abcd":
        outbox.put(_delta(text))
    await _take(outbox, 3)
    assert outbox.remembers(1)
    outbox.rewind(1, _started())
    events = await _take(outbox, 4)
    assert events[0].HasField("started")
    assert _texts(events) == ["b", "c", "d"]
    assert [event.sequence for event in events] == [4, 5, 6, 7]
    # The first try to come back was lost as well: the same events, newer numbers.
    outbox.rewind(1, _started())
    events = await _take(outbox, 4)
    assert _texts(events) == ["b", "c", "d"]
    assert [event.sequence for event in events] == [8, 9, 10, 11]
    outbox.rewind(9, _started())
    assert _texts(await _take(outbox, 3)) == ["c", "d"]


async def test_it_knows_when_missed_events_are_forgotten() -> None:
    outbox = _outbox(max_kept=2)
    for text in "abcd":
        outbox.put(_delta(text))
    await _take(outbox, 4)
    assert outbox.remembers(2)
    assert not outbox.remembers(1)


async def test_kept_bytes_are_bounded() -> None:
    outbox = _outbox(max_bytes=1000)
    for _ in range(20):
        outbox.put(_delta("x" * 300))
        await _take(outbox, 1)
    assert not outbox.remembers(16)
    assert outbox.remembers(18)


async def test_a_reader_that_does_not_read_is_noticed() -> None:
    outbox = _outbox(max_pending=3)
    for text in "abc":
        outbox.put(_delta(text))
    with pytest.raises(OutboxFullError):
        outbox.put(_delta("d"))
    small = _outbox(max_bytes=100)
    with pytest.raises(OutboxFullError):
        small.put(_delta("x" * 200))


async def test_closing_discards_or_finishes_what_waits() -> None:
    last = pb.ServerEvent(go_away=pb.GoAway(reason="why"))
    for discard, texts in ((True, []), (False, ["a"])):
        outbox = _outbox()
        outbox.put(_delta("a"))
        outbox.put_state(pb.Session(name="s"))
        goodbye = pb.ServerEvent()
        goodbye.CopyFrom(last)
        outbox.close(goodbye, discard=discard)
        outbox.put(_delta("late"))
        events = await _take(outbox, len(texts) + 1)
        assert _texts(events) == texts
        assert events[-1].go_away.reason == "why"
        assert await outbox.next() is None


async def test_finishing_ends_the_reader_until_the_next_one() -> None:
    outbox = _outbox()
    outbox.put(_delta("a"))
    outbox.finish()
    await _take(outbox, 1)
    assert await outbox.next() is None
    outbox.put(_delta("b"))
    outbox.rewind(1, _started())
    assert _texts(await _take(outbox, 2)) == ["b"]


async def test_random_breaks_lose_and_repeat_nothing() -> None:
    generator = random.Random(11)
    for _ in range(50):
        outbox = _outbox()
        put = 0
        got: list[str] = []
        last = 0
        for _ in range(60):
            action = generator.random()
            if action < 0.5:
                outbox.put(_delta(str(put)))
                put += 1
            elif action < 0.9 and len(outbox):
                (event,) = await _take(outbox, 1)
                assert event.sequence > last
                if generator.random() < 0.8:  # otherwise it is lost on the way
                    last = event.sequence
                    got += _texts([event])
                else:
                    outbox.rewind(last, _started())
            else:
                outbox.rewind(last, _started())
        while len(outbox):
            got += _texts(await _take(outbox, 1))
        assert got == [str(number) for number in range(put)]
