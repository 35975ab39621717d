"""The hours of a rule: on which days, between which times of which time zone it is checked."""

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Self
from zoneinfo import ZoneInfo

from services.common.ages import zone_of
from sightline.errors import InvalidArgumentError
from sightline.v1 import rules_pb2

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
DAY_MINUTES = 24 * 60
MAX_HOURS = 32
_TIME = re.compile(r"([01]\d|2[0-4]):([0-5]\d)")


@dataclass(frozen=True, slots=True)
class _Hours:
    """Minutes of a day from `begin` until before `end`, which is more than a day's where they last
    beyond midnight; `days`: those on which they begin."""

    days: frozenset[int]
    begin: int
    end: int

    def hold(self, day: int, minute: int) -> bool:
        if day in self.days and self.begin <= minute < self.end:
            return True
        return (day - 1) % 7 in self.days and minute < self.end - DAY_MINUTES


@dataclass(frozen=True, slots=True)
class Hours:
    """The times at which a rule is checked. Without a schedule it always is."""

    zone: ZoneInfo | None
    hours: tuple[_Hours, ...]

    @classmethod
    def of(cls, schedule: rules_pb2.Schedule) -> Self:
        """Raises InvalidArgumentError for what is no schedule."""
        if not schedule.hours:
            if schedule.time_zone:
                raise InvalidArgumentError("a schedule with a time zone has hours, too")
            return cls(None, ())
        if len(schedule.hours) > MAX_HOURS:
            raise InvalidArgumentError(f"a schedule has at most {MAX_HOURS} hours")
        try:
            zone = zone_of(schedule.time_zone or "UTC")
        except ValueError as error:
            raise InvalidArgumentError(str(error)) from None
        return cls(zone, tuple(_hours(each) for each in schedule.hours))

    def hold(self, now_s: float) -> bool:
        """Whether a moment, in seconds since 1970, is one of them."""
        if self.zone is None:
            return True
        there = datetime.fromtimestamp(now_s, self.zone)
        day, minute = there.weekday(), there.hour * 60 + there.minute
        return any(each.hold(day, minute) for each in self.hours)


def settle_zone(rule: rules_pb2.Rule, time_zone: str) -> None:
    """Have the hours of a rule that name no time zone name this one, so that they stay those that
    were meant whatever a gateway is set to later."""
    if rule.schedule.hours and not rule.schedule.time_zone:
        rule.schedule.time_zone = time_zone


def _hours(given: rules_pb2.Hours) -> _Hours:
    unknown = [day for day in given.days if day not in DAYS]
    if unknown:
        raise InvalidArgumentError(f"{unknown[0][:16]!r} is none of the days {', '.join(DAYS)}")
    days = frozenset(map(DAYS.index, given.days)) or frozenset(range(7))
    begin, end = _minute("begin", given.begin or "00:00"), _minute("end", given.end or "24:00")
    if begin == DAY_MINUTES:
        raise InvalidArgumentError("hours begin before 24:00")
    return _Hours(days, begin, end if end > begin else end + DAY_MINUTES)


def _minute(name: str, text: str) -> int:
    match = _TIME.fullmatch(text)
    minute = int(match[1]) * 60 + int(match[2]) if match else DAY_MINUTES + 1
    if minute > DAY_MINUTES:
        raise InvalidArgumentError(f"the {name} of hours is a time such as 22:00")
    return minute
