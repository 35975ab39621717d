"""Rules without a server: what they may be, when they are checked, and what is an event."""

import base64
import hashlib
import hmac
from datetime import UTC, datetime
from typing import Any

import pytest

from services.common.retry_after import seconds_of
from services.gateway.rules.changes import change_rule
from services.gateway.rules.check_notes import CheckNotes
from services.gateway.rules.checks import check_rule, interval_s
from services.gateway.rules.hints import MOST_HINTED, Hints
from services.gateway.rules.judgement import NS, Judgement, Reading
from services.gateway.rules.kinds import Said, asked_of, health_reading, reading_of
from services.gateway.rules.post import Post
from services.gateway.rules.posting import (
    Poster,
    body_of,
    parsed_url,
    secret_of,
    signature_of,
)
from services.gateway.rules.rule_store import Kept
from services.gateway.rules.schedule import Hours
from services.gateway.sources.remote.egress_policy import EgressPolicy
from sightline.errors import InvalidArgumentError, UnavailableError
from sightline.v1 import peer_pb2
from sightline.v1 import rules_pb2 as pb


def rule(**fields: Any) -> pb.Rule:
    fields.setdefault("predicate", pb.PredicateRule(condition="a phone is there"))
    return pb.Rule(**fields)


def choice(*options: str, **fields: Any) -> pb.Rule:
    return pb.Rule(choice=pb.ChoiceRule(statement="it is {}", options=options), **fields)


# --- what checks found ------------------------------------------------------------------------


class Notebook:
    """A store that keeps what it is given."""

    def __init__(self) -> None:
        self.written: list[dict[str, pb.RuleCheck]] = []
        self.away = False

    async def note_checks(self, session: str, checks: peer_pb2.RuleChecks) -> None:
        if self.away:
            raise UnavailableError("away")
        self.written.append(dict(checks.checks))


async def test_checks_are_noted_together_and_seldom() -> None:
    now_s, store = 100.0, Notebook()
    notes = CheckNotes("s", store, clock=lambda: now_s)
    await notes.write({"a"})
    assert store.written == []
    notes.note("a", Reading(at_ns=1, active=True, value="red", probability=0.9))
    notes.note("b", None, unfamiliar=True)
    await notes.write({"a", "b"})
    notes.note("a", Reading(at_ns=2, active=False, probability=0.2))
    await notes.write({"a", "b"})
    (first,) = store.written
    assert (first["a"].active, first["a"].value, first["a"].probability) == (True, "red", 0.9)
    assert first["b"].unfamiliar_picture
    now_s += 3
    await notes.write({"a"})
    assert {rule: each.active for rule, each in store.written[1].items()} == {"a": False}
    store.away = True
    now_s += 3
    notes.note("a", None)
    await notes.write({"a"})  # nobody is the worse for it


# --- what they may be -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bad", "word"),
    [
        (pb.Rule(), "kinds"),
        (pb.Rule(predicate=pb.PredicateRule(condition=" ")), "empty"),
        (rule(threshold=1.5), "threshold"),
        (rule(threshold=float("nan")), "threshold"),
        (rule(debounce_s=-1), "debounce_s"),
        (rule(interval_s=float("inf")), "interval_s"),
        (rule(name="x" * 81), "name"),
        (rule(labels={"a b": "c"}), "label"),
        (choice("red"), "options"),
        (choice("red", "red"), "different"),
        (pb.Rule(health=pb.HealthRule(conditions=["dim"])), "dim"),
        (pb.Rule(commentary=pb.CommentaryRule(question="x" * 5000)), "bytes"),
        (pb.Rule(product=pb.ProductRule()), "products"),
        (pb.Rule(product=pb.ProductRule(products=[pb.Product(sku="1")])), "names"),
        (
            pb.Rule(
                product=pb.ProductRule(
                    products=[pb.Product(sku="1", names=["cup"], link="javascript:alert(1)")]
                )
            ),
            "http",
        ),
        (
            pb.Rule(
                product=pb.ProductRule(
                    products=[pb.Product(sku="1", names=["cup"], picture="http://[")]
                )
            ),
            "http",
        ),
        (rule(schedule=pb.Schedule(hours=[pb.Hours(begin="25:00")])), "time"),
        (rule(schedule=pb.Schedule(hours=[pb.Hours(days=["monday"])])), "days"),
        (rule(schedule=pb.Schedule(time_zone="../etc", hours=[pb.Hours()])), "zone"),
        (rule(schedule=pb.Schedule(time_zone="Europe", hours=[pb.Hours()])), "zone"),
        (rule(schedule=pb.Schedule(time_zone="Europe/Berlin")), "hours"),
    ],
)
def test_what_is_no_rule_is_refused_by_name(bad: pb.Rule, word: str) -> None:
    with pytest.raises(InvalidArgumentError, match=word):
        check_rule(bad)


def test_what_is_a_rule_is_taken() -> None:
    check_rule(rule())
    check_rule(choice("red", "blue", threshold=0.7))
    levels = ["none", "short", "long"]
    check_rule(pb.Rule(score=pb.ScoreRule(statement="the queue is", levels=levels), threshold=1.5))
    check_rule(pb.Rule(health=pb.HealthRule()))
    check_rule(pb.Rule(commentary=pb.CommentaryRule()))


def test_intervals_have_a_usual_and_a_least() -> None:
    assert interval_s(rule()) == 1.0
    assert interval_s(rule(interval_s=0)) == 0.1
    assert interval_s(pb.Rule(commentary=pb.CommentaryRule())) == 10.0


# --- hours ------------------------------------------------------------------------------------


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


def test_hours_beyond_midnight_belong_to_the_day_that_they_began_on() -> None:
    night = pb.Hours(days=["fri"], begin="22:00", end="06:00")
    hours = Hours.of(pb.Schedule(time_zone="Europe/Berlin", hours=[night]))
    assert not hours.hold(at("2026-11-27T20:59"))  # 21:59 there, on a Friday
    assert hours.hold(at("2026-11-27T21:00"))
    assert hours.hold(at("2026-11-28T04:59"))
    assert not hours.hold(at("2026-11-28T05:00"))
    assert not hours.hold(at("2026-11-28T22:00"))  # a Saturday


def test_a_night_in_which_clocks_are_set_is_an_hour_shorter_or_longer() -> None:
    night = Hours.of(
        pb.Schedule(time_zone="Europe/Berlin", hours=[pb.Hours(begin="22:00", end="06:00")])
    )
    for evening, minutes in (("2026-03-28", 7 * 60), ("2026-10-24", 9 * 60), ("2026-06-01", 480)):
        noon_s = at(f"{evening}T12:00")
        held = [night.hold(noon_s + 60 * minute) for minute in range(24 * 60)]
        assert sum(held) == minutes
        first = held.index(True)
        assert all(held[first : first + minutes]), "in one piece"


def test_without_a_schedule_they_always_hold() -> None:
    assert Hours.of(pb.Schedule()).hold(0.0)
    whole = Hours.of(pb.Schedule(hours=[pb.Hours(days=["mon"])]))
    assert whole.hold(at("2026-11-30T00:00"))
    assert whole.hold(at("2026-11-30T23:59"))
    assert not whole.hold(at("2026-12-01T00:00"))


# --- events -----------------------------------------------------------------------------------


def told(judgement: Judgement, at_s: float, *, active: bool = False, value: str = "") -> bool:
    """Whether a reading is an event; it is told then."""
    reading = Reading(at_ns=round(at_s * NS), active=active, value=value, by_value=bool(value))
    if not judgement.weigh(reading):
        return False
    judgement.settle(
        pb.RuleState(
            active=active,
            value=value,
            capture_ns=reading.at_ns,
            events=judgement.state.events + 1,
        )
    )
    return True


def test_a_change_is_an_event_once() -> None:
    judgement = Judgement(pb.RuleState())
    assert not told(judgement, 1)
    assert told(judgement, 2, active=True)
    assert not told(judgement, 3, active=True)
    assert told(judgement, 4)


def test_a_change_must_hold_and_events_must_rest() -> None:
    judgement = Judgement(pb.RuleState(), debounce_s=1.0, cooldown_s=5.0)
    assert not told(judgement, 10.0, active=True)
    assert not told(judgement, 10.5)  # a flicker
    assert not told(judgement, 10.6, active=True)
    assert not told(judgement, 11.5, active=True)
    assert told(judgement, 11.6, active=True)
    assert not told(judgement, 12.0)
    assert not told(judgement, 15.0)  # it has held, but the last event was a moment ago
    assert told(judgement, 16.6)


def test_another_value_begins_to_hold_anew() -> None:
    judgement = Judgement(pb.RuleState(), debounce_s=1.0)
    assert not told(judgement, 1.0, value="red")
    assert not told(judgement, 1.9, value="blue")
    assert not told(judgement, 2.5, value="blue")
    assert told(judgement, 2.9, value="blue")


def test_what_nobody_saw_hold_begins_to_hold_anew() -> None:
    judgement = Judgement(pb.RuleState(), debounce_s=1.0)
    assert not told(judgement, 1.0, active=True)
    judgement.lapse()
    assert not told(judgement, 90.0, active=True)
    judgement.lapse()
    assert told(judgement, 91.0, active=True), "it was out of sight for as long as it must hold"
    assert not told(judgement, 95.0)
    assert not told(judgement, 5.0)  # the clock was set back
    assert told(judgement, 6.0)


def test_only_what_was_active_ends_with_its_hours() -> None:
    for value in ("", "red"):
        active = Judgement(pb.RuleState(active=True, value=value, capture_ns=7, events=1))
        reading = active.rest()
        assert reading is not None
        assert (reading.active, reading.value, reading.at_ns) == (False, "", 7)
    fine = Judgement(pb.RuleState(value="fine", events=2))  # of scores and health, as it is
    assert fine.rest() is None
    late = Judgement(pb.RuleState(), debounce_s=1.0)
    assert not told(late, 1.0, active=True)  # the last moment of its hours …
    assert late.rest() is None
    assert not told(late, 3600.0, active=True)  # … and the first of the next ones


def test_what_could_not_be_told_is_an_event_again() -> None:
    judgement = Judgement(pb.RuleState())
    seen = Reading(at_ns=NS, active=True)
    assert judgement.weigh(seen)
    assert judgement.weigh(seen)


def test_who_goes_on_knows_what_was_told() -> None:
    judgement = Judgement(pb.RuleState(active=True, events=1, capture_ns=NS))
    assert not told(judgement, 2, active=True)
    assert told(judgement, 3)


# --- kinds ------------------------------------------------------------------------------------


def test_choices_count_where_one_is_likely_enough() -> None:
    asked = choice("red", "blue")
    assert asked_of(asked) == ["it is red", "it is blue"]
    sure = reading_of(asked, {"it is red": 0.9, "it is blue": 0.1}, 7)
    assert sure is not None
    assert (sure.value, sure.by_value, sure.at_ns) == ("red", True, 7)
    assert (
        reading_of(choice("red", "blue", threshold=0.8), {"it is red": 0.6, "it is blue": 0.4}, 7)
        is None
    )


def test_scores_are_active_from_a_level_on() -> None:
    queue = pb.Rule(score=pb.ScoreRule(statement="{}", levels=["none", "short", "long"]))
    low = reading_of(queue, {"none": 0.8, "short": 0.2, "long": 0.0}, 0)
    high = reading_of(queue, {"none": 0.0, "short": 0.2, "long": 0.8}, 0)
    assert low is not None
    assert high is not None
    assert (low.active, low.value, round(low.score, 2)) == (False, "none", 0.2)
    assert (high.active, high.value, round(high.score, 2)) == (True, "long", 1.8)


def test_a_product_goes_by_its_likeliest_name_and_may_be_none() -> None:
    shop = pb.Rule(
        product=pb.ProductRule(
            products=[
                pb.Product(sku="A", names=["a cup", "a mug"]),
                pb.Product(sku="B", names=["a bowl"]),
            ]
        )
    )
    assert asked_of(shop) == ["a cup is held", "a mug is held", "a bowl is held"]
    held = reading_of(shop, {"a cup is held": 0.2, "a mug is held": 0.9, "a bowl is held": 0.6}, 0)
    none = reading_of(shop, {"a cup is held": 0.2, "a mug is held": 0.3, "a bowl is held": 0.1}, 0)
    assert held is not None
    assert none is not None
    assert (held.active, held.value) == (True, "A")
    assert (none.active, none.value) == (False, "")


def test_a_hint_says_that_nothing_has_changed() -> None:
    goods = [pb.Product(sku="A", names=["a cup", "a mug"]), pb.Product(sku="B", names=["a bowl"])]
    shop = pb.Rule(product=pb.ProductRule(products=goods, idle="nothing is held"))
    nothing, cup, mug, bowl = (
        f"{each} is held" for each in ("nothing", "a cup", "a mug", "a bowl")
    )

    def told(value: str = "") -> Judgement:
        return Judgement(pb.RuleState(value=value), debounce_s=1.0)

    assert not Hints(pb.Rule(product=pb.ProductRule(products=goods))).asked(told())
    assert not Hints(rule()).asked(told())
    hints = Hints(shop)
    assert hints.asked(told()) == hints.asked(told("gone")) == [nothing]
    assert not hints.asked(told("A"))  # nobody knows yet what else is likely
    assert hints.unchanged(told(), {nothing: 0.95}, 0) is not None
    assert hints.unchanged(told(), {nothing: 0.85}, 0) is None
    hints.note({cup: 0.99, mug: 0.2, bowl: 0.98})
    assert hints.asked(told("A")) == [cup, mug, bowl]
    still = hints.unchanged(told("A"), {cup: 0.98, mug: 0.1, bowl: 0.97}, 7)
    assert still == Reading(at_ns=7, active=True, value="A", by_value=True, probability=0.98)
    assert hints.unchanged(told("A"), {cup: 0.98, mug: 0.1, bowl: 0.99}, 7) is None


def test_a_hint_is_not_believed_for_ever_and_confirms_what_is_about_to_be_told() -> None:
    goods = [pb.Product(sku="A", names=["a cup"]), pb.Product(sku="B", names=["a bowl"])]
    hints = Hints(pb.Rule(product=pb.ProductRule(products=goods, idle="nothing is held")))
    judgement = Judgement(pb.RuleState(), debounce_s=1.0)
    for at_ns in range(MOST_HINTED):
        assert hints.asked(judgement) == ["nothing is held"]
        reading = hints.unchanged(judgement, {"nothing is held": 0.99}, at_ns)
        assert reading is not None
        assert not judgement.weigh(reading)
    assert not hints.asked(judgement)
    hints.note({"a cup is held": 0.95, "a bowl is held": 0.3})
    cup = Reading(at_ns=MOST_HINTED, active=True, value="A", by_value=True)
    assert not judgement.weigh(cup)
    assert hints.asked(judgement) == ["a cup is held", "a bowl is held"]
    assert hints.unchanged(judgement, {"a cup is held": 0.8, "a bowl is held": 0.1}, NS) is None
    assert hints.unchanged(judgement, {"a cup is held": 0.95, "a bowl is held": 0.96}, NS) is None
    still = hints.unchanged(judgement, {"a cup is held": 0.96, "a bowl is held": 0.1}, 2 * NS)
    assert still is not None
    assert (still.active, still.value) == (True, "A")
    assert judgement.weigh(still)
    judgement.settle(pb.RuleState(active=True, value="A"))
    assert hints.asked(judgement) == ["a cup is held", "a bowl is held"]


# --- a rule that is changed --------------------------------------------------------------------


def changed(before: pb.Rule, **wanted: Any) -> pb.Rule:
    after = pb.Rule()
    after.CopyFrom(before)
    change_rule(pb.UpdateRuleRequest(rule="phones", **wanted), "UTC", after)
    return after


def test_what_a_change_leaves_out_stays() -> None:
    before = rule(name="phones", cooldown_s=5, labels={"line": "4"}, threshold=0.7)
    paused = changed(before, paused=True)
    assert paused.paused
    assert changed(paused, paused=False) == before
    assert changed(before, cooldown_s=0).threshold == 0.7
    assert dict(changed(before, labels=pb.RuleLabels()).labels) == {}
    assert changed(before, severity=pb.SEVERITY_CRITICAL).severity == pb.SEVERITY_CRITICAL


def test_a_change_can_take_back_what_was_said() -> None:
    hours = pb.Schedule(hours=[pb.Hours(begin="22:00", end="06:00")])
    before = rule(threshold=0.7, interval_s=3, schedule=hours)
    usual = changed(before, threshold=-1, interval_s=-1, schedule=pb.Schedule())
    assert usual == rule()
    assert not usual.HasField("schedule")


@pytest.mark.parametrize(
    "wanted",
    [
        {},
        {"threshold": 1.5},
        {"cooldown_s": -1},
        {"severity": 9},
        {"schedule": pb.Schedule(time_zone="Mars")},
        {"labels": pb.RuleLabels(labels={"a b": ""})},
    ],
)
def test_a_change_makes_no_rule_that_could_not_be_made(wanted: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgumentError):
        changed(rule(), **wanted)


def test_a_post_goes_by_what_its_rule_asks_now_and_keeps_what_was_told() -> None:
    def kept(**fields: Any) -> Kept:
        return Kept(peer_pb2.RuleRecord(rule=rule(rule="r_1", **fields)))

    post = Post(kept())
    post.judgement.settle(pb.RuleState(active=True, events=1))
    post.due_s, post.seen = 100.0, 7
    post.change(kept(state=pb.RuleState(active=True, events=1)))
    assert (post.due_s, post.seen) == (100.0, 7), "only more was told of it"
    post.change(kept(threshold=0.9, interval_s=4, debounce_s=2))
    assert (post.due_s, post.seen, post.interval_s) == (0.0, 0, 4)
    assert post.judgement.state.active
    assert not post.judgement.weigh(Reading(at_ns=NS, active=False)), "it must hold first"


def test_health_is_about_the_conditions_that_are_named() -> None:
    dark = pb.Rule(health=pb.HealthRule(conditions=["dark"]))
    assert health_reading(dark, "dark", 0).active
    assert not health_reading(dark, "frozen", 0).active
    anything = pb.Rule(health=pb.HealthRule())
    assert health_reading(anything, "frozen", 0).active
    assert not health_reading(anything, "fine", 0).active


def test_a_commentary_does_not_repeat_itself() -> None:
    said = Said("")
    assert said.is_new("A red cup is on the table.", 0.4)
    said.add("A red cup is on the table.")
    assert not said.is_new("a red cup is on a table", 0.4)
    assert said.is_new("Somebody lifts the blue bowl up.", 0.4)
    said.add("Somebody lifts the blue bowl up.")
    assert not said.is_new("A red cup is on the table.", 0.4)
    assert not said.is_new("", 0.4)
    assert not Said("A red cup is on the table.").is_new("The red cup is on the table.", 0.4)


# --- webhooks ---------------------------------------------------------------------------------


def test_events_are_signed_as_standard_webhooks_are() -> None:
    # The example of the specification.
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    signed = signature_of(
        secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}'
    )
    assert signed == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_secrets_are_each_webhooks_own_and_kept_nowhere() -> None:
    one, other = secret_of("s" * 32, "w_1"), secret_of("s" * 32, "w_2")
    assert one != other
    assert one == secret_of("s" * 32, "w_1")
    assert len(base64.b64decode(one.removeprefix("whsec_"))) == 32
    made = hmac.new(b"s" * 32, b"webhook w_1", hashlib.sha256).digest()
    assert base64.b64decode(one.removeprefix("whsec_")) == made


def test_a_body_says_what_and_when() -> None:
    event = pb.RuleEvent(event="1-0", kind="predicate", time_ns=1_500_000_000, active=True)
    body = body_of(event)
    assert body.startswith(
        b'{"type":"rule.predicate","timestamp":"1970-01-01T00:00:01.500Z","data":{'
    )
    assert b'"event":"1-0"' in body
    assert body == body_of(event)


@pytest.mark.parametrize(
    "url",
    [
        "ftp://a.example",
        "https://",
        "https://u:p@a.example",
        "https://a.example:0",
        "nothing",
        "https://a b",
        "https://127.0.0.1\\.a.example",
        "https://①②⑦.0.0.1",
        "https://2130706433",
        "https://169。254。169。254/latest",
    ],
)
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(InvalidArgumentError):
        parsed_url(url)


@pytest.mark.parametrize(
    ("host", "scheme", "allow", "may"),
    [
        ("93.184.216.34", "https", (), True),
        ("93.184.216.34", "http", (), False),
        ("127.0.0.1", "https", (), False),
        ("10.0.0.8", "https", (), False),
        ("169.254.169.254", "https", (), False),
        ("[::1]", "https", (), False),
        ("[::ffff:127.0.0.1]", "https", (), False),
        ("[::ffff:a9fe:a9fe]", "https", (), False),
        ("[64:ff9b::7f00:1]", "https", (), False),
        ("[2002:7f00:1::]", "https", (), False),
        ("0x7f.1", "https", (), False),
        ("localhost.", "https", (), False),
        ("0.0.0.0", "https", (), False),
        ("10.0.0.8", "http", ("10.0.0.0/8",), True),
        ("10.0.0.8:81", "http", ("10.0.0.8:80",), False),
    ],
)
async def test_webhooks_lead_where_they_may(
    host: str, scheme: str, allow: tuple[str, ...], may: bool
) -> None:
    poster = Poster(EgressPolicy(allow))
    url = parsed_url(f"{scheme}://{host}/hook")
    if may:
        await poster.check(url)
    else:
        with pytest.raises(InvalidArgumentError, match="GATEWAY_WEBHOOK_ALLOW"):
            await poster.check(url)


async def test_a_name_that_leads_inside_is_refused() -> None:
    poster = Poster(EgressPolicy((), resolve=lambda host, port: ["10.1.2.3"]))
    with pytest.raises(InvalidArgumentError):
        await poster.check(parsed_url("https://inside.example"))


async def test_a_name_that_leads_elsewhere_a_moment_later_is_looked_at_with_every_try() -> None:
    """DNS rebinding: what was public when the webhook was made leads inside now."""
    answers = [["93.184.216.34"], ["127.0.0.1"], ["::ffff:127.0.0.1"]]
    poster = Poster(EgressPolicy((), resolve=lambda host, port: answers.pop(0)))
    url = "https://rebinding.example/hook"
    await poster.check(parsed_url(url))
    for _ in range(2):
        outcome = await poster.post(url, secret_of("a", "w_1"), pb.RuleEvent(event="1-0"), 0.0)
        assert outcome.error == "it has no address that may be sent to"
    assert not answers


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ("120", 120),
        ("0", 0),
        ("-5", 0),
        ("soon", 0),
        ("", 0),
        ("9" * 4000, 999_999_999),
        ("Thu, 01 Jan 1970 00:02:00 GMT", 120),
        ("Wed, 31 Dec 1969 23:00:00 GMT", 0),
        ("Thu, 01 Jan 99999 00:00:00 GMT", 0),
    ],
)
def test_when_a_receiver_wants_to_be_tried_again(said: str, seconds: float) -> None:
    assert seconds_of(said, 0.0) == seconds
