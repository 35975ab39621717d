"""Ages and moments in words, as answers about the past say them."""

import datetime

NS = 1_000_000_000
_UNITS = ((86400, "day"), (3600, "hour"), (60, "minute"), (1, "second"))


def ago(seconds: float) -> str:
    """An age in the largest unit that it has at least one and a half of: "90 seconds ago",
    "3 minutes ago"."""
    size, unit = next((each for each in _UNITS if seconds >= 1.5 * each[0]), _UNITS[-1])
    count = max(0, round(seconds / size))
    return f"{count} {unit}{'' if count == 1 else 's'} ago"


def clock(ns: int) -> str:
    """Time of day of a moment since the Unix epoch, in UTC: what reads it knows its own zone."""
    return f"{datetime.datetime.fromtimestamp(ns // NS, datetime.UTC):%H:%M:%S} UTC"
