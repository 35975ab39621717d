"""Time zones: hours that questions name, answers say and rules keep, also on the nights in which
clocks are set."""

from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from services.common.ages import clock, zone_of
from services.common.config import ConfigError
from services.gateway.config import GatewayConfig
from services.gateway.memory.past_question import past_question
from services.gateway.memory.recaller import told
from services.gateway.rules.changes import change_rule
from services.gateway.rules.schedule import Hours
from services.local.time_zone import own_time_zone
from sightline.errors import InvalidArgumentError
from sightline.printing import clock as printed
from sightline.v1 import dialogue_pb2, rules_pb2

NS = 1_000_000_000
BERLIN = ZoneInfo("Europe/Berlin")  # to summer time on 2026-03-29, back on 2026-10-25
HAVANA = ZoneInfo("America/Havana")  # at midnight: 2026-03-08 begins at 01:00
KOLKATA = ZoneInfo("Asia/Kolkata")


def utc_ns(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * NS


def middle(question: str, now: str, zone: ZoneInfo) -> str:
    """The moment in UTC that a question asks about at a moment in UTC."""
    asked = past_question(question, utc_ns(now), zone)
    assert asked is not None, question
    return f"{datetime.fromtimestamp(asked.at_ns // NS, UTC):%Y-%m-%dT%H:%M}"


@pytest.mark.parametrize(
    ("question", "now", "zone", "meant"),
    [
        ("what was there at 14:05?", "2026-12-01T15:00", BERLIN, "2026-12-01T13:05"),
        ("what was there at 14:05?", "2026-06-01T15:00", BERLIN, "2026-06-01T12:05"),
        ("what was there at 14:05?", "2026-12-01T15:00", KOLKATA, "2026-12-01T08:35"),
        ("what was there at 14:05 UTC?", "2026-12-01T15:00", BERLIN, "2026-12-01T14:05"),
        ("was war um 14:05 Uhr zu sehen?", "2026-12-01T15:00", BERLIN, "2026-12-01T13:05"),
        # It is half past midnight there, and the evening before it was yesterday.
        ("what was there at 23:50?", "2026-12-01T23:30", BERLIN, "2026-12-01T22:50"),
        ("what was there yesterday at 15?", "2026-12-01T23:30", BERLIN, "2026-12-01T14:00"),
        ("what was there at midnight?", "2026-12-01T23:30", BERLIN, "2026-12-01T23:00"),
        # Yesterday at noon is 23 and 25 hours before noon where clocks were set in between.
        ("what was there yesterday at noon?", "2026-03-29T10:00", BERLIN, "2026-03-28T11:00"),
        ("what was there yesterday at noon?", "2026-10-25T11:00", BERLIN, "2026-10-24T10:00"),
        # 02:30 is passed over in the spring, and is there twice in the autumn.
        ("what was there at 2:30?", "2026-03-29T08:00", BERLIN, "2026-03-29T01:30"),
        ("what was there at 2:30?", "2026-10-25T08:00", BERLIN, "2026-10-25T01:30"),
        ("what was there at 2:30?", "2026-10-25T01:10", BERLIN, "2026-10-25T00:30"),
        ("what was there at 2:10?", "2026-10-25T00:20", BERLIN, "2026-10-25T00:10"),
        ("what was there at 2:30?", "2026-10-25T00:10", BERLIN, "2026-10-24T00:30"),
    ],
)
def test_an_hour_is_of_the_clock_of_those_who_ask(
    question: str, now: str, zone: ZoneInfo, meant: str
) -> None:
    assert middle(question, now, zone) == meant


@pytest.mark.parametrize(
    ("question", "now", "zone", "begin", "end"),
    [
        ("today", "2026-12-01T23:30", BERLIN, "2026-12-01T23:00", "2026-12-01T23:30"),
        ("yesterday", "2026-12-01T23:30", BERLIN, "2026-11-30T23:00", "2026-12-01T23:00"),
        ("yesterday", "2026-03-30T10:00", BERLIN, "2026-03-28T23:00", "2026-03-29T22:00"),
        ("yesterday", "2026-10-26T10:00", BERLIN, "2026-10-24T22:00", "2026-10-25T23:00"),
        ("last night", "2026-03-29T10:00", BERLIN, "2026-03-28T17:00", "2026-03-29T04:00"),
        (
            "yesterday afternoon",
            "2026-12-02T10:00",
            KOLKATA,
            "2026-12-01T06:30",
            "2026-12-01T12:30",
        ),
        ("today", "2026-03-08T12:00", HAVANA, "2026-03-08T05:00", "2026-03-08T12:00"),
    ],
)
def test_days_begin_and_end_at_their_own_midnights(
    question: str, now: str, zone: ZoneInfo, begin: str, end: str
) -> None:
    asked = past_question(f"what happened {question}?", utc_ns(now), zone)
    assert asked is not None
    assert (asked.from_ns, asked.to_ns) == (utc_ns(begin), utc_ns(end))


@pytest.mark.parametrize("zone", ["Europe/Berlin", "Asia/Kolkata", "Pacific/Kiritimati", "UTC"])
def test_what_is_said_of_a_moment_is_understood_as_that_moment(zone: str) -> None:
    """Through a year, by the hour: "at 14:05" of the answer asks about its moment again."""
    there = zone_of(zone)
    for moment_ns in range(utc_ns("2026-01-01T00:05"), utc_ns("2027-01-01"), 3600 * NS):
        said = clock(moment_ns, there).split()[0]
        asked = past_question(f"what was there at {said}?", moment_ns + 600 * NS, there)
        assert asked is not None
        assert asked.at_ns == moment_ns


def test_an_answer_names_its_zone_by_which_an_hour_is_known_that_is_there_twice() -> None:
    first, again = utc_ns("2026-10-25T00:30"), utc_ns("2026-10-25T01:30")
    assert (clock(first, BERLIN), clock(again, BERLIN)) == ("02:30:00 CEST", "02:30:00 CET")
    assert clock(first) == "00:30:00 UTC"
    asked = past_question("what was there at 2:30?", utc_ns("2026-10-25T08:00"), BERLIN)
    assert asked is not None
    moment = dialogue_pb2.Moment(start_ns=again, end_ns=again + NS, line="a red cup")
    assert "(02:30:00 CET): a red cup" in told(asked, [moment], again + 600 * NS, BERLIN)


def test_hours_of_a_rule_on_nights_in_which_clocks_are_set() -> None:
    def held(begin: str, end: str, day: str, days: tuple[str, ...] = ()) -> int:
        """Minutes between noon and noon in which it holds."""
        hours = rules_pb2.Hours(days=days, begin=begin, end=end)
        schedule = Hours.of(rules_pb2.Schedule(time_zone="Europe/Berlin", hours=[hours]))
        noon_s = utc_ns(f"{day}T12:00") // NS
        return sum(schedule.hold(noon_s + 60 * minute) for minute in range(24 * 60))

    assert held("02:15", "02:45", "2026-03-28") == 0, "it is passed over"
    assert held("02:15", "02:45", "2026-10-24") == 60, "it is there twice"
    assert held("02:30", "06:00", "2026-03-28") == 180, "from where clocks were set"
    assert held("22:00", "02:30", "2026-03-28", ("sat",)) == 240
    assert held("22:00", "02:30", "2026-10-24", ("sat",)) == 300
    assert held("22:00", "02:30", "2026-10-24", ("sun",)) == 0


def test_hours_that_name_no_zone_get_the_gateways_when_they_are_said() -> None:
    rule = rules_pb2.Rule(predicate=rules_pb2.PredicateRule(condition="a phone is there"))
    schedule = rules_pb2.Schedule(hours=[rules_pb2.Hours(begin="22:00", end="06:00")])
    change_rule(rules_pb2.UpdateRuleRequest(schedule=schedule), "Europe/Berlin", rule)
    assert rule.schedule.time_zone == "Europe/Berlin"
    change_rule(rules_pb2.UpdateRuleRequest(debounce_s=1), "Asia/Kolkata", rule)
    assert rule.schedule.time_zone == "Europe/Berlin"
    schedule.time_zone = "Asia/Kolkata"
    change_rule(rules_pb2.UpdateRuleRequest(schedule=schedule), "Europe/Berlin", rule)
    assert rule.schedule.time_zone == "Asia/Kolkata"
    change_rule(rules_pb2.UpdateRuleRequest(schedule=rules_pb2.Schedule()), "Asia/Kolkata", rule)
    assert not rule.HasField("schedule")


@pytest.mark.parametrize("name", ["Mars/Olympus", "../../etc/passwd", "Europe", "/etc/localtime"])
def test_what_is_no_zone_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="GATEWAY_TIME_ZONE"):
        GatewayConfig.from_env({"GATEWAY_WORKERS": "127.0.0.1:1", "GATEWAY_TIME_ZONE": name})
    with pytest.raises(InvalidArgumentError, match="no time zone"):
        Hours.of(rules_pb2.Schedule(time_zone=name, hours=[rules_pb2.Hours(begin="22:00")]))


def test_a_machines_own_zone_is_found(tmp_path: Path) -> None:
    none = tmp_path / "none"
    linked, named = tmp_path / "localtime", tmp_path / "timezone"
    linked.symlink_to("/usr/share/zoneinfo/Asia/Kolkata")
    named.write_text("Europe/Paris\n")
    assert own_time_zone({"TZ": ":Europe/Berlin"}, linked, named) == "Europe/Berlin"
    assert own_time_zone({"TZ": "CET-1CEST"}, linked, named) == "Asia/Kolkata"
    assert own_time_zone({}, none, named) == "Europe/Paris"
    assert own_time_zone({}, none, none) == "UTC"


def test_a_terminal_names_the_day_of_what_is_not_of_today() -> None:
    now = datetime.now()
    assert printed(int(now.timestamp() * 1e9)).count("-") in (0, 2), "midnight may be in between"
    long_ago = datetime(2026, 3, 29, 14, 5, 10, 230_000)
    assert printed(round(long_ago.timestamp() * 1e9)) == "2026-03-29 14:05:10.23"
    assert printed(round(long_ago.timestamp() * 1e9), hundredths=False) == "2026-03-29 14:05:10"
    assert printed(12 * NS).count("-") == 0, "a camera without a clock"
