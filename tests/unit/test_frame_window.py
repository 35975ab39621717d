"""The window of a session's newest frames: whatever breaks, order holds and each counts once."""

import random

import pytest

from services.gateway.frames.frame_window import FrameWindow, SentFrame
from services.gateway.frames.sampler import SampledFrame

WINDOW = 5


def frame(number: int) -> SampledFrame:
    return SampledFrame(b"", 1, 1, number, "stream", float(number))


def numbers(sent: list[SentFrame]) -> list[int]:
    return [each.frame.capture_ns for each in sent]


def resend(window: FrameWindow) -> list[SentFrame]:
    found = []
    while (sent := window.send_again()) is not None:
        found.append(sent)
    return found


def test_what_is_acknowledged_stays_as_long_as_it_is_among_the_newest() -> None:
    window = FrameWindow(WINDOW)
    sent = [window.send(frame(number)) for number in range(8)]
    assert window.num_waiting == 8
    assert numbers(window.acknowledge(sent[6].sequence)) == list(range(7))
    assert (window.num_waiting, window.num_first()) == (1, WINDOW)
    assert window.sampled_s(7) == 7.0, "in flight"
    assert window.sampled_s(2) == 2.0, "kept"
    assert window.sampled_s(1) is None, "pushed out"


def test_a_moment_has_the_frame_that_was_understood_by_then() -> None:
    window = FrameWindow(3)
    for number in range(6):
        window.send(frame(number))
    window.acknowledge(5)
    assert window.frame_at(3) == frame(3)
    assert window.frame_at(5) == frame(4), "the next is not understood yet"
    assert window.frame_at(1) is None, "it has left"


def test_a_worker_that_forgot_gets_the_newest_window_there_is() -> None:
    window = FrameWindow(WINDOW)
    sent = [window.send(frame(number)) for number in range(8)]
    window.acknowledge(sent[5].sequence)
    assert window.num_first(1) == WINDOW
    window.replay([frame(8)])
    again = resend(window)
    assert numbers(again) == [4, 5, 6, 7, 8], "kept, in flight, and what waited"
    assert [each.fresh for each in again] == [False] * 2 + [True] * 3
    assert [each.sequence for each in again] == list(range(9, 14))


def test_what_no_worker_was_shown_is_not_pushed_out() -> None:
    window = FrameWindow(WINDOW)
    window.acknowledge(window.send(frame(0)).sequence)
    waiting = [frame(number) for number in range(1, 9)]
    assert window.num_first(len(waiting)) == 8
    window.replay(waiting)
    assert numbers(resend(window)) == list(range(1, 9))


def test_a_worker_that_goes_on_is_told_nothing_twice() -> None:
    window = FrameWindow(WINDOW)
    sent = [window.send(frame(number)) for number in range(4)]
    window.acknowledge(sent[1].sequence)
    assert window.resume() == 2, "lost: nobody knows whether they were understood"
    assert window.send_again() is None
    assert window.num_first() == 4, "but another worker will be shown them"


def test_new_frames_do_not_overtake_those_that_come_again() -> None:
    window = FrameWindow(WINDOW)
    window.acknowledge(window.send(frame(0)).sequence)
    window.replay()
    with pytest.raises(AssertionError):
        window.send(frame(1))


@pytest.mark.parametrize("seed", range(30))
def test_whatever_happens_order_holds_and_every_frame_counts_once(seed: int) -> None:
    chance = random.Random(seed)
    window = FrameWindow(WINDOW)
    taken = counted = lost = 0
    seen: list[int] = []  # by the worker of now, since it knows the session
    on_wire: list[SentFrame] = []
    for _ in range(600):
        match chance.choice(["send", "send", "send", "acknowledge", "acknowledge", "break"]):
            case "send":
                if (sent := window.send_again()) is None:
                    sent, taken = window.send(frame(taken)), taken + 1
                on_wire.append(sent)
            case "acknowledge" if on_wire:
                num = chance.randint(1, len(on_wire))
                understood = window.acknowledge(on_wire[num - 1].sequence)
                assert understood == on_wire[:num]
                on_wire = on_wire[num:]
                seen += numbers(understood)
                counted += sum(each.fresh for each in understood)
            case "break":
                ring = [frame(taken + number) for number in range(chance.randint(0, 3))]
                first = window.num_first(len(ring))
                resumed = chance.random() < 0.4
                arrived = chance.randint(0, len(on_wire))  # understood, but never acknowledged
                if resumed:
                    seen += numbers(on_wire[:arrived])
                on_wire = []
                if resumed:
                    lost += window.resume()
                else:
                    window.replay(ring)
                    seen, taken = [], taken + len(ring)
                    coming = [f.capture_ns for f, _ in window._again]
                    assert len(coming) == first
                    assert coming == list(range(taken - len(coming), taken)), "all of the newest"
                    assert len(coming) >= min(taken, WINDOW)
        assert seen == sorted(set(seen)), "in order, and none twice"
        assert taken == counted + lost + sum(each.fresh for each in on_wire) + sum(
            fresh for _, fresh in window._again
        )
        assert window.num_waiting == len(on_wire) + len(window._again)
