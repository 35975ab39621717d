"""Rules that are absurd, and very many of them: clear refusals, and nothing else is disturbed."""

import json
import tracemalloc
from typing import Any

import pytest

from services.gateway.rules.checks import check_rule
from services.gateway.viewers.decisions import statements_of
from sightline.errors import InvalidArgumentError
from sightline.v1 import gateway_pb2
from sightline.v1 import rules_pb2 as pb
from tests.processes import RedisServer
from tests.rule_parts import PHONE, Shown, events_of, settings
from tests.unit.fake_worker import FakeWorker
from tests.unit.http_parts import served

MEGABYTE = 1024 * 1024
PREDICATE = {"condition": PHONE}


def _hours(**hours: Any) -> dict[str, Any]:
    return {"predicate": PREDICATE, "schedule": {"hours": [hours]}}


ABSURD: list[tuple[dict[str, Any], str]] = [
    ({"predicate": {"condition": "x" * 5000}}, "1024 bytes"),
    ({"predicate": {"condition": "a \x1b[2J phone"}}, "control characters"),
    ({"predicate": {"condition": "a phone\x00"}}, "control characters"),
    ({"predicate": PREDICATE, "name": "\x1b]0;phones\x07"}, "printable"),
    ({"predicate": PREDICATE, "threshold": "NaN"}, "threshold"),
    ({"predicate": PREDICATE, "threshold": -0.1}, "threshold"),
    ({"predicate": PREDICATE, "threshold": 1e308}, "threshold"),
    ({"predicate": PREDICATE, "cooldown_s": -1}, "cooldown_s"),
    ({"predicate": PREDICATE, "cooldown_s": "Infinity"}, "cooldown_s"),
    ({"predicate": PREDICATE, "interval_s": "NaN"}, "interval_s"),
    ({"predicate": PREDICATE, "debounce_s": 1e9}, "debounce_s"),
    ({"predicate": PREDICATE, "severity": 77}, "severity"),
    ({"predicate": PREDICATE, "labels": {str(n): "x" for n in range(17)}}, "labels"),
    ({"predicate": PREDICATE, "health": {}}, "kind"),
    ({"predicate": ["x"]}, "predicate"),
    ({"predicate": PREDICATE, "colour": "red"}, "colour"),
    ({}, "kinds"),
    (_hours(begin="25:00"), "22:00"),
    (_hours(begin="24:00"), "24:00"),
    (_hours(begin="22:60"), "22:00"),
    (_hours(end="٢٢:٠٠"), "22:00"),
    (_hours(begin="-1:00"), "22:00"),
    (_hours(days=["fri", "caturday"]), "caturday"),
    ({"predicate": PREDICATE, "schedule": {"hours": [{}] * 33}}, "32"),
    ({"predicate": PREDICATE, "schedule": {"time_zone": "Mars", "hours": [{}]}}, "Mars"),
    ({"predicate": PREDICATE, "schedule": {"time_zone": "a\x00", "hours": [{}]}}, "control"),
    ({"choice": {"statement": "it is {}", "options": ["red"]}}, "options"),
    ({"choice": {"statement": "{}" * 400, "options": ["red", "x" * 1000]}}, "1024 bytes"),
    ({"score": {"statement": "{}", "levels": [str(n) for n in range(300)]}}, "levels"),
    ({"product": {"products": [{"sku": "1", "names": ["cup"], "link": "file:///x"}]}}, "http"),
    ({"health": {"conditions": ["boring"]}}, "boring"),
    ({"commentary": {"question": "x" * 5000}}, "4096 bytes"),
]


@pytest.mark.needs("redis")
async def test_what_is_absurd_is_refused_in_words_and_disturbs_no_other(
    redis_server: RedisServer,
) -> None:
    worker = FakeWorker()
    async with served(worker, **settings(redis_server)) as (parts, client):
        shown = Shown(parts, await parts.push_session(name="kitchen"))
        await shown.show()
        path = "/api/sessions/kitchen/rules"
        made = await client.post(path, json={"name": "phones", "predicate": PREDICATE})
        assert made.status == 201
        for body, word in ABSURD:
            refused = await client.post(path, json=body)
            said = await refused.text()
            assert refused.status == 400, (body, said)
            assert word in said, (body, said)
        for text in ("NaN", "[" * 5000, '{"predicate": {"condition": "\udcff"}}', "null", "7", ""):
            refused = await client.post(path, data=text.encode("utf-8", "surrogateescape"))
            assert refused.status == 400, await refused.text()
        huge = json.dumps({"predicate": {"condition": "x" * 10 * MEGABYTE}})
        assert (await client.post(path, data=huge)).status == 413
        changes: list[dict[str, Any]] = [{"threshold": "NaN"}, {"cooldown_s": -1}, {}]
        changes.append({"schedule": {"hours": [{"begin": "25:00"}]}})
        for change in changes:
            refused = await client.patch("/api/rules/phones", json=change)
            assert refused.status == 400, (change, await refused.text())
        listed = await (await client.get("/api/rules")).json()
        assert [each["name"] for each in listed["rules"]] == ["phones"]
        worker.scores[PHONE] = 0.9
        await shown.show()
        (event,) = await events_of(parts, 1)
        assert event.active


def test_many_places_for_a_long_option_take_no_memory() -> None:
    """They are refused before the statements are made: those would be as long as memory is."""
    options = [f"{number} " + "x" * 200_000 for number in range(4)]
    choice = pb.ChoiceRule(statement="{}" * 1000, options=options)
    asked = gateway_pb2.DecideQuestion(statement="{}" * 1000, choices=options)
    tracemalloc.start()
    try:
        with pytest.raises(InvalidArgumentError, match="1024 bytes"):
            check_rule(pb.Rule(choice=choice))
        with pytest.raises(InvalidArgumentError, match="1024 bytes"):
            statements_of(asked)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 32 * MEGABYTE


@pytest.mark.needs("redis")
async def test_a_thousand_rules_of_one_session_are_checked_listed_and_ended(
    redis_server: RedisServer,
) -> None:
    worker = FakeWorker()
    most = settings(redis_server, session_rules=1000)
    async with served(worker, **most) as (parts, client):
        shown = Shown(parts, await parts.push_session(name="kitchen"))
        await shown.show()
        for number in range(1000):
            rule = pb.Rule(
                name=f"rule {number}",
                predicate=pb.PredicateRule(condition=f"thing {number} is there"),
                interval_s=0.5,
            )
            await parts.stub.CreateRule(pb.CreateRuleRequest(session="kitchen", rule=rule))
        more = {"name": "one more", "predicate": PREDICATE}
        refused = await client.post("/api/sessions/kitchen/rules", json=more)
        assert refused.status == 429, await refused.text()
        assert "1000" in await refused.text()
        for number in (0, 511, 512, 999):  # also of those that no first call has room for
            worker.scores[f"thing {number} is there"] = 0.9
        await shown.show()
        events = await events_of(parts, 4)
        wanted = {"rule 0", "rule 511", "rule 512", "rule 999"}
        assert {event.rule_name for event in events} == wanted
        listed = await (await client.get("/api/sessions/kitchen/rules")).json()
        assert len(listed["rules"]) == 1000
        assert (await client.delete("/api/sessions/kitchen")).status == 204
        assert not (await parts.stub.ListRules(pb.ListRulesRequest())).rules
