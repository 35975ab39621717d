"""Ages and moments in words, as answers about the past say them."""

import datetime
from zoneinfo import ZoneInfo

NS = 1_000_000_000
_UNITS = ((86400, "day"), (3600, "hour"), (60, "minute"), (1, "second"))


def ago(seconds: float) -> str:
    """An age in the largest unit that it has at least one and a half of: "90 seconds ago",
    "3 minutes ago"."""
    size, unit = next((each for each in _UNITS if seconds >= 1.5 * each[0]), _UNITS[-1])
    count = max(0, round(seconds / size))
    return f"{count} {unit}{'' if count == 1 else 's'} ago"


def zone_of(name: str) -> ZoneInfo:
    """A time zone by its name of the IANA. Raises ValueError."""
    try:
        return ZoneInfo(name)
    except (ValueError, OSError, LookupError):  # a path that is none, a folder, an unknown one
        raise ValueError(f"{name[:64]!r} is no time zone, as Europe/Berlin is one") from None


def clock(ns: int, zone: datetime.tzinfo = datetime.UTC) -> str:
    """Time of day of a moment since the Unix epoch, and what the zone calls its time then, by which
    the two hours of a night in which clocks are set back differ: "14:02:10 CET"."""
    return f"{datetime.datetime.fromtimestamp(ns // NS, zone):%H:%M:%S %Z}"
