"""Capture times: from a publisher's timestamps, and from RTP sender reports."""

import random

from services.gateway.sources.clock import ArrivalClock
from services.gateway.sources.whip.sender_clock import NTP_TO_UNIX_S, SenderClock

MS = 1_000_000
SECOND = 1000 * MS
T0 = 1_790_000_000 * SECOND
FRAME = 40 * MS


def test_jitter_does_not_move_capture_times() -> None:
    dice = random.Random(1)
    clock = ArrivalClock()
    clock.map(0, T0 + 20 * MS)  # the least delay is known from the start
    for index in range(1, 500):
        arrival = T0 + index * FRAME + 20 * MS + dice.randrange(0, 200) * MS
        assert clock.map(index * FRAME, arrival) == (T0 + 20 * MS + index * FRAME, "stream")


def test_a_capture_is_never_later_than_its_arrival() -> None:
    dice = random.Random(2)
    clock = ArrivalClock()
    for index in range(500):
        arrival = T0 + index * FRAME + dice.randrange(0, 300) * MS
        capture, _ = clock.map(index * FRAME, arrival)
        assert capture <= arrival


def test_a_slow_publisher_clock_is_followed() -> None:
    """1 ms per second slow: after ten minutes, 600 ms; at most two windows of it are missing."""
    clock = ArrivalClock()
    for index in range(15_000):
        real = T0 + index * FRAME
        capture, _ = clock.map(int(index * FRAME * 0.999), real + 10 * MS)
        assert real - 65 * MS <= capture <= real + 10 * MS


def test_a_fast_publisher_clock_is_followed() -> None:
    clock = ArrivalClock()
    for index in range(15_000):
        real = T0 + index * FRAME
        capture, _ = clock.map(int(index * FRAME * 1.001), real + 10 * MS)
        assert abs(capture - real - 10 * MS) <= MS


def test_timestamps_that_leap_or_restart_begin_anew() -> None:
    clock = ArrivalClock()
    for index in range(10):
        clock.map(index * FRAME, T0 + index * FRAME)
    now = T0 + 10 * FRAME
    assert clock.map(3600 * SECOND, now) == (now, "stream")
    assert clock.map(3600 * SECOND + FRAME, now + FRAME + 5 * MS) == (now + FRAME, "stream")
    assert clock.map(0, now + 2 * FRAME) == (now + 2 * FRAME, "stream")


def test_a_pause_of_the_network_is_no_leap() -> None:
    clock = ArrivalClock()
    clock.map(0, T0)
    clock.map(FRAME, T0 + FRAME)
    late = T0 + 8 * SECOND
    assert clock.map(2 * FRAME, late) == (T0 + 2 * FRAME, "stream")


def test_timestamps_that_stand_still_give_the_arrival() -> None:
    clock = ArrivalClock()
    sources = [clock.map(0, T0 + index * FRAME)[1] for index in range(5)]
    assert sources == ["stream", "stream", "arrival", "arrival", "arrival"]
    assert clock.map(0, T0 + 9 * FRAME) == (T0 + 9 * FRAME, "arrival")


def ntp(unix_ns: int) -> int:
    seconds, rest = divmod(unix_ns, SECOND)
    return (seconds + NTP_TO_UNIX_S) << 32 | (rest << 32) // SECOND


def test_sender_reports_give_the_senders_wall_clock() -> None:
    clock = SenderClock()
    assert clock.map(90_000, T0)[1] == "stream"
    clock.report(ntp(T0 - SECOND), 90_000)
    capture, source = clock.map(90_000 + 45_000, T0)
    assert source == "sender_report"
    assert abs(capture - (T0 - SECOND // 2)) < 1000


def test_a_report_from_before_the_timestamps_wrapped() -> None:
    clock = SenderClock()
    clock.report(ntp(T0), 0xFFFFFFFF - 90_000 + 1)
    capture, source = clock.map((1 << 32) + 90_000, T0 + 2 * SECOND + 5 * MS)
    assert source == "sender_report"
    assert abs(capture - (T0 + 2 * SECOND)) < 1000


def test_a_senders_clock_that_cannot_be_true_is_not_believed() -> None:
    for wrong in (-3600 * SECOND, -11 * SECOND, SECOND, 86400 * SECOND):
        clock = SenderClock()
        clock.report(ntp(T0 + wrong), 90_000)
        assert clock.map(90_000, T0) == (T0, "stream")


def test_a_report_of_timestamps_that_are_over_is_forgotten() -> None:
    """A sender that begins anew: its old report would date the new pictures back."""
    clock = SenderClock()
    clock.map(900_000, T0)
    clock.report(ntp(T0), 900_000)
    assert clock.map(900_000 + 90_000, T0 + SECOND) == (T0 + SECOND, "sender_report")
    anew = T0 + 2 * SECOND
    assert clock.map(900_000 - 360_000, anew) == (anew, "stream")
    clock.report(ntp(anew), 900_000 - 360_000)
    assert clock.map(900_000 - 351_000, anew + SECOND // 10)[1] == "sender_report"
