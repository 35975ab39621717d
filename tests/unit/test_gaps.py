"""Gaps between the frames that a worker is sent, counted in the session's own rate."""

import pytest

from services.gateway.frames.gaps import MOST, Gaps
from services.gateway.frames.sampler import FrameRate, SampledFrame
from tests.sources import START_NS

SECOND_NS = 1_000_000_000


def frame(at_s: float, period_s: float = 0.125) -> SampledFrame:
    at_ns = START_NS + round(at_s * SECOND_NS)
    return SampledFrame(b"", 1, 1, at_ns, "stream", 0.0, period_s * SECOND_NS)


def missing(times_s: list[float], period_s: float = 0.125) -> list[int]:
    gaps = Gaps()
    return [gaps.told(frame(at_s, period_s)).missing for at_s in times_s]


def test_what_is_missing_is_told_with_the_frame_after_it() -> None:
    assert missing([0, 0.125, 0.5, 0.625]) == [0, 0, 2, 0]
    assert missing([0, 60.0]) == [0, MOST]
    assert missing([0.5, 0.5]) == [0, 0]


def test_a_frame_that_misses_nothing_is_itself() -> None:
    gaps = Gaps()
    for each in (frame(0), frame(0.13), frame(9, period_s=0)):
        assert gaps.told(each) is each


@pytest.mark.parametrize("source", [30.0, 29.97, 25.0, 15.0, 12.0, 10.0, 8.0, 5.0, 1.0])
def test_no_rate_of_a_source_looks_like_a_loss(source: float) -> None:
    rate, gaps, found = FrameRate(8), Gaps(), 0
    for number in range(round(20 * source)):
        at_s = number / source
        period_s = rate.period_ns / SECOND_NS
        if rate.chooses(START_NS + round(at_s * SECOND_NS)):
            found += gaps.told(frame(at_s, period_s)).missing
    assert found == 0


@pytest.mark.parametrize("source", [30.0, 10.0, 8.0, 5.0])
def test_pictures_that_a_source_loses_are_missing(source: float) -> None:
    rate, gaps, found, lost = FrameRate(8), Gaps(), 0, 0
    for number in range(round(60 * source)):
        at_s = number / source
        if at_s % 5 >= 4.5:  # half a second of every five
            lost += 1
            continue
        period_s = rate.period_ns / SECOND_NS
        if rate.chooses(START_NS + round(at_s * SECOND_NS)):
            found += gaps.told(frame(at_s, period_s)).missing
    assert found == pytest.approx(lost * min(8.0, source) / source, rel=0.25)
