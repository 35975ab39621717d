"""The measure of the live shop: what is a violation, which alarm is of it, which one is false."""

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from tests.examples import EXAMPLES


@pytest.fixture
def measure(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(EXAMPLES / "live_shop"))
    for name in ("measure", "shop", "catalogue", "voices"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    import measure  # type: ignore[import-not-found]

    return measure


def story(*spans: tuple[float, float, str]) -> dict[str, Any]:
    facts = [
        {"kind": "prohibited", "time_s": begin, "until_s": end, "answer": answer}
        for begin, end, answer in spans
    ]
    return {"seconds": 60.0, "facts": facts}


def judged(measure: Any, truth: dict[str, Any], *alarms: tuple[float, bool]) -> Any:
    found = measure.Found()
    heard = [
        measure.Heard(SimpleNamespace(kind="predicate", active=active), at_s, at_s + 0.5)
        for at_s, active in alarms
    ]
    measure.judge(found, SimpleNamespace(products={}), truth, heard)
    return found


CALM = ((0.0, 10.0, "no"), (20.0, 60.0, "no"))


def test_a_hand_that_moves_makes_no_second_violation(measure: Any) -> None:
    truth = story(CALM[0], (12, 14, "yes"), (15, 18, "yes"), CALM[1])
    (violation,) = measure.violations_of(truth)
    assert (violation.since_s, violation.begin_s) == (10, 12)
    assert (violation.end_s, violation.until_s) == (18, 20)
    found = judged(measure, truth, (12.5, True), (19, False))
    assert (found.violations, found.alarmed, found.false_alarms) == (1, 1, 0)
    assert found.alarm_delays_s == [1.0]


def test_what_comes_in_and_goes_out_is_no_false_alarm_and_what_comes_later_is(measure: Any) -> None:
    truth = story(CALM[0], (12, 18, "yes"), CALM[1])
    found = judged(measure, truth, (9.5, True), (10.5, False), (20.5, True), (40, True))
    assert (found.alarmed, found.false_alarms) == (1, 1)
    assert measure.told(found)["false_alarms_per_hour"] == 60.0


def test_an_alarm_that_stands_is_of_the_next_violation_too_and_one_that_ended_is_not(
    measure: Any,
) -> None:
    truth = story((0, 5, "no"), (6, 8, "yes"), (9, 30, "no"), (31, 33, "yes"), (34, 60, "no"))
    assert judged(measure, truth, (6.5, True)).alarmed == 2
    assert judged(measure, truth, (6.5, True), (9, False)).alarmed == 1


def test_what_lasts_from_the_first_to_the_last_moment_is_one(measure: Any) -> None:
    (violation,) = measure.violations_of(story((0, 60, "yes")))
    assert (violation.since_s, violation.until_s) == (0, 60)
    assert measure.violations_of(story(*CALM)) == []
