"""Events of rules as rows of a spreadsheet: the same from the server and from the terminal."""

from collections.abc import Mapping
from datetime import UTC, datetime, tzinfo
from typing import Any

from sightline.printing import cell

__all__ = ["COLUMNS", "event_row"]

COLUMNS = (
    *("event", "time_ns", "session", "session_name", "rule", "rule_name", "kind", "severity"),
    *("active", "value", "probability", "score", "text", "reason", "acknowledged_by"),
    *("acknowledged_ns", "time"),
)


def event_row(fields: Mapping[str, Any], zone: tzinfo | None) -> list[object]:
    """An event's row, by the names of its columns. `time`, which people and spreadsheets read, is
    that of a zone; None: of this machine's."""
    moment = datetime.fromtimestamp(int(fields["time_ns"]) / 1e9, UTC).astimezone(zone)
    row = {**fields, "time": moment.isoformat(sep=" ", timespec="milliseconds")}
    return [cell("" if (value := row[name]) is None else value) for name in COLUMNS]
