"""Logs that strangers cannot fill: each kind of line has a limit, and what was withheld is said."""

import io
import json
import logging

import pytest

from services.common import log as logs
from services.common.log import JsonFormatter, Sparing, SparingHandler


class _Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def _record(
    message: str = "knock", level: int = logging.INFO, **fields: object
) -> logging.LogRecord:
    return logging.makeLogRecord({"name": "door", "levelno": level, "msg": message, **fields})


def test_a_kind_of_line_has_a_limit_and_its_count_is_said() -> None:
    clock = _Clock()
    sparing = Sparing(clock)
    passed = [record for _ in range(1000) for record in sparing.pass_on(_record())]
    assert len(passed) == logs.MAX_LINES
    assert len(sparing.pass_on(_record("another message"))) == 1
    clock.now_s += logs.WINDOW_S
    notice, other = sparing.pass_on(_record("a third"))
    assert (notice.of, notice.withheld) == ("knock", 1000 - logs.MAX_LINES)  # type: ignore[attr-defined]
    assert other.msg == "a third"
    assert len(sparing.pass_on(_record())) == 1


def test_a_failure_that_repeats_is_one_line_and_a_count() -> None:
    """Of each peer the first is said at once; what differs is another line."""
    clock = _Clock()
    sparing = Sparing(clock)

    def fail(peer: str, code: str = "UNAVAILABLE") -> list[logging.LogRecord]:
        return sparing.pass_on(_record("a peer failed", logging.WARNING, peer=peer, code=code))

    assert [one.peer for one in fail("the model")] == ["the model"]  # type: ignore[attr-defined]
    assert sum(len(fail("the model")) for _ in range(49)) == 0
    assert len(fail("the voice")) == len(fail("the model", "INTERNAL")) == 1
    clock.now_s += logs.WINDOW_S
    again, first = fail("the model")
    assert (again.peer, again.repeated) == ("the model", 49)  # type: ignore[attr-defined]
    assert not hasattr(first, "repeated")
    assert "repeated" in JsonFormatter("gateway").format(again)
    fail("the model")
    assert [one.repeated for one in sparing.rest()] == [1]  # type: ignore[attr-defined]


def test_a_failure_whose_words_change_each_time_has_the_limit_of_its_kind() -> None:
    sparing = Sparing(_Clock())
    lines = (_record("a peer failed", logging.WARNING, reason=n % 200) for n in range(1000))
    assert sum(len(sparing.pass_on(line)) for line in lines) == logs.MAX_LINES
    assert all(len(kind.said) <= logs.MAX_LINES for kind in sparing._kinds.values())
    (*again, notice) = sparing.rest()
    assert len(again) == logs.MAX_LINES
    assert logs.MAX_LINES + sum(one.repeated for one in again) + notice.withheld == 1000  # type: ignore[attr-defined]


def test_what_is_to_be_accounted_for_is_never_withheld() -> None:
    sparing = Sparing(_Clock())
    line = logging.makeLogRecord({"name": logs.AUDIT, "levelno": logging.INFO, "msg": "audit"})
    assert sum(len(sparing.pass_on(line)) for _ in range(1000)) == 1000


def test_messages_that_are_not_constant_do_not_fill_memory() -> None:
    sparing = Sparing(_Clock())
    passed = sum(len(sparing.pass_on(_record(f"number {n}"))) for n in range(10_000))
    assert passed <= logs.MAX_KINDS + logs.MAX_LINES
    assert len(sparing._kinds) <= logs.MAX_KINDS + 1


def test_what_is_withheld_at_the_end_is_said_at_the_end() -> None:
    stream = io.StringIO()
    handler = SparingHandler(stream)
    handler.setFormatter(JsonFormatter("gateway"))
    for _ in range(logs.MAX_LINES + 5):
        handler.handle(_record())
    handler.close()
    entries = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert entries[-1]["withheld"] == 5
    assert entries[-1]["of"] == "knock"
    assert len(entries) == logs.MAX_LINES + 1


@pytest.mark.parametrize("field", ["msg", "reason"])
def test_strangers_do_not_choose_how_long_a_line_is(field: str) -> None:
    record = _record()
    setattr(record, field, "x" * 1_000_000)
    assert len(JsonFormatter("gateway").format(record)) < 3 * logs.MAX_TEXT
