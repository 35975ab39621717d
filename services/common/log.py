"""JSON logs: one object a line on standard error, constant messages, fields beside them.

Strangers can make a service say the same thing often, so each kind of line has a limit; what was
withheld is counted and said. So is a warning that repeats another word for word, as those about a
peer that is away do. They can also choose how long a line is, so texts are cut.
"""

import json
import logging
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TextIO

from services.common.redaction import redacted

MAX_LINES = 50  # of one kind in WINDOW_S
MAX_TRACEBACKS = 5  # likewise
WINDOW_S = 10.0
MAX_KINDS = 512
AUDIT = "audit"  # the logger of what is to be accounted for, from callers who have signed in
MAX_TEXT = 2_000  # characters of a field
MAX_TRACEBACK = 20_000

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonFormatter(logging.Formatter):
    """`{"time", "level", "service", "logger", "message", …fields}`."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self.service = service

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "service": self.service,
            "logger": record.name,
            "message": _cut(record.getMessage(), MAX_TEXT),
        }
        entry |= {
            key: _cut(value, MAX_TEXT) if isinstance(value, str) else value
            for key, value in vars(record).items()
            if key not in _STANDARD
        }
        if record.exc_info:
            entry["traceback"] = _cut(self.formatException(record.exc_info), MAX_TRACEBACK)
        return json.dumps(_shown(entry), default=str)


def _shown(value: object) -> object:
    """The value without what no log may hold: passwords and tokens in URLs, however deep."""
    if isinstance(value, dict):
        return {key: _shown(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return [_shown(item) for item in value]
    if value is None or isinstance(value, bool | int | float):
        return value
    return redacted(str(value))


@dataclass(slots=True)
class _Kind:
    """Lines of one logger, level and message since `since_s`. `said`: those that were written, by
    their words, and how often each came again."""

    since_s: float
    first: logging.LogRecord
    admitted: int = 0
    withheld: int = 0
    said: dict[str, tuple[logging.LogRecord, int]] = field(default_factory=dict)


class Sparing:
    """Quota of log lines of each kind. `clock` is in seconds and never goes back."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._kinds: dict[tuple[str, int, str], _Kind] = {}

    def pass_on(self, record: logging.LogRecord) -> list[logging.LogRecord]:
        """Records to be written now: notices of what was withheld, and the record if it may."""
        if record.name == AUDIT:
            return [record]
        now_s = self._clock()
        written = [notice for kind in self._over(now_s) for notice in _notices(kind)]
        key = (record.name, record.levelno, str(record.msg)[:200])
        kind = self._kinds.get(key)
        if kind is None:
            if len(self._kinds) >= MAX_KINDS:  # messages are constant; whose are not share a kind
                key = (record.name, record.levelno, "")
            kind = self._kinds.setdefault(key, _Kind(now_s, record))
        words = _words(record) if record.levelno >= logging.WARNING and not record.exc_info else ""
        if words in kind.said:
            first, num_again = kind.said[words]
            kind.said[words] = (first, num_again + 1)
        elif kind.admitted < (MAX_TRACEBACKS if record.exc_info else MAX_LINES):
            kind.admitted += 1
            written.append(record)
            if words:
                kind.said[words] = (record, 0)
        else:
            kind.withheld += 1
        return written

    def rest(self) -> list[logging.LogRecord]:
        """Notices of everything withheld and not said yet."""
        return [notice for kind in self._over(float("inf")) for notice in _notices(kind)]

    def _over(self, now_s: float) -> list[_Kind]:
        ended = [key for key, kind in self._kinds.items() if now_s - kind.since_s >= WINDOW_S]
        return [self._kinds.pop(key) for key in ended]


class SparingHandler(logging.StreamHandler[TextIO]):
    """Writes what `Sparing` passes on."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._sparing = Sparing()

    def emit(self, record: logging.LogRecord) -> None:
        for passed in self._sparing.pass_on(record):
            super().emit(passed)

    def close(self) -> None:
        for notice in self._sparing.rest():
            super().emit(notice)
        super().close()


def set_up_logging(service: str, level: str) -> None:
    """Send the whole process's logs to standard error as JSON. Call once, from `__main__`."""
    handler = SparingHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(service))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]}… ({len(text)} characters)"


def _words(record: logging.LogRecord) -> str:
    """All that a line says, but for when and where in the code."""
    fields = {key: value for key, value in vars(record).items() if key not in _STANDARD}
    return f"{record.getMessage()[:MAX_TEXT]}\0{str(fields)[:MAX_TEXT]}"


def _notices(kind: _Kind) -> list[logging.LogRecord]:
    """What the end of a window says: lines that came again, with their count, and the rest."""
    notices = [
        logging.makeLogRecord(
            vars(first) | {"created": time.time(), "repeated": again, "window_s": WINDOW_S}
        )
        for first, again in kind.said.values()
        if again
    ]
    if kind.withheld:
        notices.append(_notice(kind))
    return notices


def _notice(kind: _Kind) -> logging.LogRecord:
    fields = {
        "name": kind.first.name,
        "levelno": kind.first.levelno,
        "levelname": kind.first.levelname,
        "msg": "lines withheld",
        "of": _cut(str(kind.first.msg), 200),
        "withheld": kind.withheld,
        "window_s": WINDOW_S,
    }
    return logging.makeLogRecord(fields)
