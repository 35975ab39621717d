"""Percentiles of the last minute."""

import pytest

from services.common import metrics
from services.gateway.frames.latency import SLOT_S, WINDOW_S, Latencies


def test_percentiles_are_right_to_one_per_cent() -> None:
    latencies = Latencies()
    for number in range(1, 1001):
        latencies.add(100.0, number / 1000)
    p50, p95, most = latencies.percentiles_ms(100.0, (0.5, 0.95, 1.0))
    assert p50 == pytest.approx(500, rel=0.012)
    assert p95 == pytest.approx(950, rel=0.012)
    assert most == pytest.approx(1000, rel=0.012)


def test_a_minute_later_they_are_forgotten_however_many_came() -> None:
    latencies = Latencies()
    for _ in range(10_000):
        latencies.add(100.0, 0.5)
    latencies.add(100.0 + WINDOW_S - 2 * SLOT_S, 0.1)  # one frame does not push the others out
    assert latencies.percentiles_ms(130.0, (0.5,))[0] == pytest.approx(500, rel=0.012)
    later_s = 100.0 + WINDOW_S + SLOT_S
    assert latencies.percentiles_ms(later_s, (0.5,))[0] == pytest.approx(100, rel=0.012)
    assert latencies.percentiles_ms(later_s + WINDOW_S, (0.5, 0.95)) == [0.0, 0.0]


def test_memory_is_bounded_by_time_and_width() -> None:
    latencies = Latencies()
    for number in range(50_000):
        latencies.add(number / 100, 0.01 + (number % 500) / 10_000)
    slots = latencies._slots
    assert len(slots) <= WINDOW_S / SLOT_S + 1
    assert all(len(bins) < 200 for _, bins in slots)


def test_promises_lie_on_the_edges_of_buckets() -> None:
    promised = {0.045, 0.12, 0.2, 0.21, 0.38, 2}
    assert promised <= set(metrics.LATENCY_BUCKETS)
    assert list(metrics.LATENCY_BUCKETS) == sorted(set(metrics.LATENCY_BUCKETS))
