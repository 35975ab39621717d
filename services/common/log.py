"""JSON logs: one object a line on standard error, constant messages, fields beside them."""

import json
import logging
import sys
from datetime import UTC, datetime

from services.common.redaction import redacted

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
            "message": record.getMessage(),
        }
        entry |= {key: value for key, value in vars(record).items() if key not in _STANDARD}
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
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


def set_up_logging(service: str, level: str) -> None:
    """Send the whole process's logs to standard error as JSON. Call once, from `__main__`."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(service))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
