"""Standing rules in a real Redis: told once, found again, sent to whoever wants to know."""

import asyncio
import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import grpc
import pytest

import sightline
from services.gateway.api.rules import table_of
from services.gateway.auth.caller import ANYBODY
from services.gateway.frames.picture_health import Condition
from services.gateway.rules.event_store import EventStore
from services.gateway.rules.records import Records
from services.gateway.rules.rule_store import RuleStore
from sightline import cli
from sightline.errors import InvalidArgumentError, UnavailableError
from sightline.mcp_rules import RuleTools
from sightline.v1 import gateway_pb2, peer_pb2
from sightline.v1 import rules_pb2 as pb
from tests.eventually import eventually
from tests.processes import RedisServer
from tests.rule_parts import PHONE, Shown, events_of, phone, settings, until
from tests.unit.fake_worker import FakeWorker
from tests.unit.gateway_parts import Parts, running
from tests.unit.http_parts import served

pytestmark = pytest.mark.needs("redis")


async def test_a_rule_tells_without_a_viewer_and_is_found_again(redis_server: RedisServer) -> None:
    worker = FakeWorker()
    worker.scores[PHONE] = 0.1
    async with running(worker, **settings(redis_server)) as parts:
        session = await parts.push_session(name="kitchen")
        shown = Shown(parts, session)
        await shown.show()
        made = await parts.stub.CreateRule(
            pb.CreateRuleRequest(
                session="kitchen",
                rule=phone(severity=pb.SEVERITY_CRITICAL, labels={"line": "4"}),
            )
        )
        assert made.session == session.id

        async def noted() -> pb.RuleCheck | None:
            state = (await parts.stub.GetRule(pb.GetRuleRequest(rule="phones"))).state
            return state.check if state.HasField("check") else None

        check = await until(noted)
        assert not check.active
        assert check.probability == pytest.approx(0.1)
        assert abs(check.time_ns - time.time_ns()) < 60e9
        worker.scores[PHONE] = 0.9
        await shown.show()
        (first,) = await events_of(parts, 1)
        assert (first.active, first.number, first.rule_name) == (True, 1, "phones")
        assert (first.kind, first.session_name) == ("predicate", "kitchen")
        assert dict(first.labels) == {"line": "4"}
        assert abs(first.time_ns - time.time_ns()) < 60e9
        whole = await parts.stub.GetEvent(pb.GetEventRequest(event=first.event))
        assert whole.jpeg.startswith(b"\xff\xd8")
        worker.scores[PHONE] = 0.2
        await shown.show()
        _, second = await events_of(parts, 2)
        assert (second.active, second.number) == (False, 2)
        kept = await parts.stub.GetRule(pb.GetRuleRequest(rule="phones"))
        assert (kept.state.active, kept.state.events) == (False, 2)
        acknowledged = await parts.stub.AcknowledgeEvent(
            pb.AcknowledgeEventRequest(event=first.event, note="seen")
        )
        again = await parts.stub.AcknowledgeEvent(pb.AcknowledgeEventRequest(event=first.event))
        assert acknowledged.acknowledged.note == again.acknowledged.note == "seen"
        left = await parts.stub.ListEvents(pb.ListEventsRequest(unacknowledged=True))
        assert [each.event for each in left.events] == [second.event]
        with pytest.raises(grpc.aio.AioRpcError) as taken:
            await parts.stub.CreateRule(pb.CreateRuleRequest(session="kitchen", rule=phone()))
        assert taken.value.code() is grpc.StatusCode.ALREADY_EXISTS
        await parts.stub.DeleteRule(pb.DeleteRuleRequest(rule=made.rule))
        assert not (await parts.stub.ListRules(pb.ListRulesRequest())).rules
        worker.scores[PHONE] = 0.9
        await shown.show()
        await shown.show()
        assert len(await events_of(parts, 2)) == 2, "a deleted rule tells nothing"


async def test_nothing_is_told_of_a_session_whose_events_are_being_erased(
    redis_server: RedisServer,
) -> None:
    """One that came between the erasure and the session's end stayed."""
    worker = FakeWorker()
    async with running(worker, **settings(redis_server)) as parts:
        rules: Any = parts.rules
        session = await parts.push_session(name="kitchen")
        shown = Shown(parts, session)
        await parts.stub.CreateRule(pb.CreateRuleRequest(session="kitchen", rule=phone()))
        await eventually(lambda: session in rules._watchmen)
        redis_server.kill()
        with pytest.raises(UnavailableError):
            await rules.erase_events(session)
        redis_server.start()
        await eventually(lambda: session in rules._watchmen)  # it goes on
        await rules.erase_events(session)
        worker.scores[PHONE] = 0.9
        await shown.show()
        await rules._assign()
        assert session not in rules._watchmen
        assert not (await parts.stub.ListEvents(pb.ListEventsRequest())).events


async def test_a_rule_is_paused_resumed_and_changed(redis_server: RedisServer) -> None:
    worker = FakeWorker()
    worker.scores[PHONE] = 0.6
    async with served(worker, **settings(redis_server)) as (parts, http):
        shown = Shown(parts, await parts.push_session(name="kitchen"))
        await shown.show()
        await parts.stub.CreateRule(pb.CreateRuleRequest(session="kitchen", rule=phone()))
        await events_of(parts, 1)

        async def change(**wanted: Any) -> dict[str, Any]:
            answered = await http.patch("/api/rules/phones", json=wanted)
            assert answered.status == 200, await answered.text()
            return dict(await answered.json())

        assert (await change(paused=True))["paused"]
        ended = (await events_of(parts, 2))[1]
        assert (ended.active, ended.reason) == (False, "paused")
        await shown.show()
        await shown.show()
        assert len(await events_of(parts, 2)) == 2, "a paused rule tells nothing"
        both = (change(threshold=0.7, labels={"labels": {"line": "4"}}), change(cooldown_s=0.5))
        await asyncio.gather(*both)  # neither loses what the other said
        raised = await change(paused=False)
        assert (raised["threshold"], raised["cooldown_s"]) == (0.7, 0.5)
        before = await checked(parts)
        await shown.show()
        await until(lambda: later_check(parts, before))
        assert len(await events_of(parts, 2)) == 2, "0.6 is not enough any more"
        await change(threshold=0.5, cooldown_s=0)
        resumed = (await events_of(parts, 3))[2]  # of a picture that was there already
        assert (resumed.active, resumed.number, dict(resumed.labels)) == (True, 3, {"line": "4"})
        assert (await http.patch("/api/rules/phones", json={"threshold": 2})).status == 400
        assert (await http.patch("/api/rules/phones", json={})).status == 400
        assert (await http.patch("/api/rules/none", json={"paused": True})).status == 404


async def checked(parts: Parts) -> int:
    """When the rule of phones was checked last."""
    state = (await parts.stub.GetRule(pb.GetRuleRequest(rule="phones"))).state
    return state.check.time_ns


async def later_check(parts: Parts, than_ns: int) -> bool:
    return await checked(parts) > than_ns


async def test_rules_and_on_demand_events_go_with_their_session(redis_server: RedisServer) -> None:
    worker = FakeWorker()
    worker.scores[PHONE] = 0.9
    async with running(worker, **settings(redis_server, session_rules=1)) as parts:
        session = await parts.push_session(name="kitchen")
        await Shown(parts, session).show()
        await parts.stub.CreateRule(pb.CreateRuleRequest(session="kitchen", rule=phone()))
        with pytest.raises(grpc.aio.AioRpcError) as full:
            await parts.stub.CreateRule(
                pb.CreateRuleRequest(session="kitchen", rule=phone(name="more"))
            )
        assert full.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        await events_of(parts, 1)
        await parts.stub.DeleteSession(
            gateway_pb2.DeleteSessionRequest(session="kitchen", events=True)
        )
        assert not (await parts.stub.ListEvents(pb.ListEventsRequest())).events

        async def gone() -> bool:
            return not (await parts.stub.ListRules(pb.ListRulesRequest())).rules

        await until(gone)
        other = await parts.push_session(name="hall", key="another-key-2")
        made = pb.CreateRuleRequest(session=other.id, rule=phone())
        assert (await parts.stub.CreateRule(made)).name == "phones", "its name is free again"


async def test_a_gateway_that_goes_on_tells_nothing_twice(redis_server: RedisServer) -> None:
    """Two stores stand for two gateways that both think that a session is theirs."""
    async with running(FakeWorker(), **settings(redis_server)) as parts:
        records = Records(parts.config)
        rules, events = RuleStore(records, parts.config), EventStore(records, parts.config)
        rule = phone(rule="r_1", session="a" * 16, session_name="kitchen")
        record = peer_pb2.RuleRecord(rule=rule)
        await rules.create(record)
        first = pb.RuleState(active=True, events=1, capture_ns=5)
        event = pb.RuleEvent(rule="r_1", active=True, number=1)
        told = await events.tell(record, first, event, b"", 1)
        assert told.event
        again = await events.tell(record, first, event, b"", 1)
        assert again.event == told.event, "its reply was lost"
        other = pb.RuleState(active=True, events=1, capture_ns=6)
        refused = await events.tell(record, other, event, b"", 2)
        assert (refused.event, refused.state) == ("", first)
        second = pb.RuleState(active=False, events=2, capture_ns=7)
        assert (await events.tell(record, second, event, b"", 2)).event
        late = await events.tell(record, pb.RuleState(active=True, events=3), event, b"", 1)
        assert (late.event, late.state) == ("", second), "by one that has lost the session"
        (kept,) = await rules.of_session("a" * 16)
        assert kept.rule.state == second
        await rules.delete(record)
        gone = await events.tell(record, pb.RuleState(events=3), event, b"", 2)
        assert gone.state is None
        await records.aclose()


async def test_events_wait_while_redis_is_away(redis_server: RedisServer) -> None:
    worker = FakeWorker()
    worker.scores[PHONE] = 0.1
    async with running(worker, **settings(redis_server)) as parts:
        shown = Shown(parts, await parts.push_session(name="kitchen"))
        await shown.show()
        await parts.stub.CreateRule(pb.CreateRuleRequest(session="kitchen", rule=phone()))
        await eventually(lambda: worker.scored)
        redis_server.kill()
        worker.scores[PHONE] = 0.9
        count = len(worker.scored)
        await shown.show()
        await eventually(lambda: len(worker.scored) > count + 1)
        redis_server.start()
        (event,) = await events_of(parts, 1)
        assert event.active


async def test_kinds_of_rules(redis_server: RedisServer) -> None:
    worker = FakeWorker()
    worker.scores |= {
        "a cup is held": 0.9,
        "a bowl is held": 0.2,
        "it is red": 0.95,
        "it is blue": 0.05,
    }
    worker.answer = "somebody lifts a cup"
    async with running(worker, **settings(redis_server)) as parts:
        shown = Shown(parts, await parts.push_session(name="shop"))
        await shown.show()
        cup = pb.Product(sku="C-1", names=["a cup"], link="https://shop.example/c1", price="9 €")
        wanted = [
            pb.Rule(
                name="shown",
                interval_s=0.1,
                product=pb.ProductRule(products=[cup, pb.Product(sku="B-1", names=["a bowl"])]),
            ),
            pb.Rule(
                name="colour",
                interval_s=0.1,
                choice=pb.ChoiceRule(statement="it is", options=["red", "blue"]),
            ),
            pb.Rule(name="says", interval_s=0.1, commentary=pb.CommentaryRule()),
            pb.Rule(name="never", predicate=pb.PredicateRule(condition="x"), schedule=_over()),
        ]
        for rule in wanted:
            await parts.stub.CreateRule(pb.CreateRuleRequest(session="shop", rule=rule))
        found = {each.rule_name: each for each in await events_of(parts, 3)}
        assert found["shown"].product == cup
        assert (found["shown"].value, found["shown"].active) == ("C-1", True)
        assert found["colour"].value == "red"
        assert found["says"].text == worker.answer
        worker.answer = "somebody lifts the cup"  # nothing new
        worker.scores |= {"a cup is held": 0.3, "it is red": 0.1, "it is blue": 0.9}
        await shown.show()
        later = (await events_of(parts, 5))[3:]
        assert {each.rule_name: (each.value, each.active) for each in later} == {
            "shown": ("", False),
            "colour": ("blue", True),
        }
        assert not any("x" in each.statements for each in worker.scored), "outside its hours"


async def test_health_is_told_also_while_the_model_is_away(redis_server: RedisServer) -> None:
    worker = FakeWorker()
    async with running(worker, **settings(redis_server)) as parts:
        session = await parts.push_session(name="yard")
        await Shown(parts, session).show()
        lens = pb.Rule(name="lens", health=pb.HealthRule(conditions=["dark"]), interval_s=0.1)
        for rule in (lens, phone()):
            await parts.stub.CreateRule(pb.CreateRuleRequest(session="yard", rule=rule))
        worker.failures["ScoreStatements"] = [grpc.StatusCode.UNAVAILABLE] * 1000
        session._source.now = Condition.FROZEN
        await asyncio.sleep(0.3)
        session._source.now = Condition.DARK
        (event,) = await events_of(parts, 1)
        assert (event.kind, event.active, event.value) == ("health", True, "dark")
        session._source.now = None  # nobody knows
        await asyncio.sleep(0.3)
        session._source.now = Condition.FINE
        _, over = await events_of(parts, 2)
        assert (over.active, over.value) == (False, "fine")


async def test_unfamiliar_pictures_are_no_events(redis_server: RedisServer) -> None:
    worker = FakeWorker()
    worker.scores[PHONE], worker.strangeness = 0.9, 1.5
    async with running(worker, **settings(redis_server)) as parts:
        shown = Shown(parts, await parts.push_session(name="street"))
        await shown.show()
        await parts.stub.CreateRule(pb.CreateRuleRequest(session="street", rule=phone()))
        await eventually(lambda: worker.scored)
        await shown.show()
        await eventually(lambda: len(worker.scored) > 1)
        assert not (await parts.stub.ListEvents(pb.ListEventsRequest())).events
        worker.strangeness = 0.5
        await shown.show()
        (event,) = await events_of(parts, 1)
        assert event.number == 1


async def test_a_catalogue_is_not_asked_for_while_nothing_changes(
    redis_server: RedisServer,
) -> None:
    worker = FakeWorker()
    nothing, cup, bowl = "nothing is held", "a cup is held", "a bowl is held"
    others = [f"thing {number}" for number in range(10)]
    worker.scores |= {nothing: 0.95, cup: 0.1, bowl: 0.1}
    worker.scores |= {f"{other} is held": 0.01 * number for number, other in enumerate(others)}
    async with running(worker, **settings(redis_server)) as parts:
        shown = Shown(parts, await parts.push_session(name="shop"))
        await shown.show()
        goods = [pb.Product(sku="C-1", names=["a cup"]), pb.Product(sku="B-1", names=["a bowl"])]
        goods += [pb.Product(sku=other, names=[other]) for other in others]
        product = pb.ProductRule(products=goods, idle=nothing)
        wanted = pb.Rule(interval_s=0.1, product=product)
        await parts.stub.CreateRule(pb.CreateRuleRequest(session="shop", rule=wanted))
        await eventually(lambda: worker.scored)
        assert [list(each.statements) for each in worker.scored] == [[nothing]]
        worker.scores |= {nothing: 0.2, cup: 0.95}
        await shown.show()
        (first,) = await events_of(parts, 1)
        assert first.value == "C-1"
        count = len(worker.scored)
        await shown.show()
        await eventually(lambda: len(worker.scored) > count)
        (few,) = [list(each.statements) for each in worker.scored[count:]]
        assert few == [cup, bowl, *(f"thing {number} is held" for number in range(9, 3, -1))]
        worker.scores |= {cup: 0.1, bowl: 0.8}
        await shown.show()
        _, second = await events_of(parts, 2)
        assert second.value == "B-1"


def _over() -> pb.Schedule:
    """Hours that ended a while ago."""
    hour = (time.gmtime().tm_hour + 12) % 24
    return pb.Schedule(hours=[pb.Hours(begin=f"{hour:02}:00", end=f"{hour:02}:01")])


async def test_a_statement_that_no_model_reads_keeps_no_other_from_its_check(
    redis_server: RedisServer,
) -> None:
    worker = FakeWorker()
    worker.scores[PHONE] = 0.9
    long = "x" * 500

    async with running(worker, **settings(redis_server)) as parts:
        worker.unreadable = long
        await Shown(parts, await parts.push_session(name="kitchen")).show()
        bad = pb.Rule(name="bad", predicate=pb.PredicateRule(condition=long), interval_s=0.1)
        await parts.stub.CreateRule(pb.CreateRuleRequest(session="kitchen", rule=bad))
        await parts.stub.CreateRule(pb.CreateRuleRequest(session="kitchen", rule=phone()))
        (event,) = await events_of(parts, 1)
        assert event.rule_name == "phones"

        async def wrong() -> str:
            kept: pb.Rule = await parts.stub.GetRule(pb.GetRuleRequest(rule="bad"))
            return kept.state.error

        assert "too long" in await until(wrong)


# --- HTTP ---------------------------------------------------------------------------------------


async def test_rules_and_events_by_http(redis_server: RedisServer) -> None:
    worker = FakeWorker()
    worker.scores[PHONE] = 0.1
    async with served(worker, **settings(redis_server)) as (parts, client):
        shown = Shown(parts, await parts.push_session(name="kitchen"))
        await shown.show()
        body = {"name": "=phones", "predicate": {"condition": PHONE}, "interval_s": 0}
        made = await client.post("/api/sessions/kitchen/rules", json=body)
        assert made.status == 201, await made.text()
        rule = await made.json()
        listed = await (await client.get("/api/rules")).json()
        assert [each["rule"] for each in listed["rules"]] == [rule["rule"]]
        stream = await client.get("/api/events", headers={"Accept": "text/event-stream"})
        assert stream.status == 200
        worker.scores[PHONE] = 0.9
        await shown.show()
        lines = [
            await _line(stream, "id"),
            await _line(stream, "event"),
            await _line(stream, "data"),
        ]
        event = json.loads(lines[2])
        assert lines[1] == "rule_event"
        assert (event["event"], event["active"]) == (lines[0], True)
        stream.close()
        worker.scores[PHONE] = 0.1
        await shown.show()
        await events_of(parts, 2)
        resumed = await client.get(
            "/api/events", headers={"Accept": "text/event-stream", "Last-Event-ID": lines[0]}
        )
        assert json.loads(await _line(resumed, "data"))["number"] == "2"
        resumed.close()
        jpeg = await client.get(f"/api/events/{event['event']}/picture")
        assert (await jpeg.read()).startswith(b"\xff\xd8")
        assert (await client.get(f"/api/events/{event['event']}/clip")).status == 404
        done = await client.post(f"/api/events/{event['event']}/acknowledge", json={"note": "ok"})
        assert (await done.json())["acknowledged"]["note"] == "ok"
        table = await (await client.get("/api/events", headers={"Accept": "text/csv"})).text()
        heading, newest, oldest = table.splitlines()
        assert heading.startswith("event,time_ns,session")
        assert "'=phones" in newest, "no formula"
        assert oldest.startswith(event["event"])
        assert (await client.get("/api/events/nonsense")).status == 400
        assert (await client.get("/api/events/1-1")).status == 404
        assert (await client.delete("/api/rules/=phones")).status == 204
        assert (await client.delete("/api/rules/=phones")).status == 404


async def _line(stream: Any, field: str) -> str:
    """Value of the next line of a stream that has this field."""
    async with asyncio.timeout(30):
        while not (line := (await stream.content.readline()).decode()).startswith(f"{field}: "):
            assert line, "the stream has ended"
    return line.removeprefix(f"{field}: ").strip()


async def test_without_a_redis_there_are_none() -> None:
    async with served() as (_, client):
        refused = await client.get("/api/rules")
        assert refused.status == 503
        assert (await refused.json())["reason"] == "RULES_NOT_CONFIGURED"


async def test_what_is_kept_goes_in_its_time(redis_server: RedisServer) -> None:
    """Also where nothing new comes that would push it out."""
    worker = FakeWorker()
    worker.scores[PHONE] = 0.9
    async with running(worker, **settings(redis_server)) as parts:
        shown = Shown(parts, await parts.push_session(name="kitchen"))
        await shown.show()
        await parts.stub.CreateRule(pb.CreateRuleRequest(session="kitchen", rule=phone()))
        (event,) = await events_of(parts, 1)
        wanted = pb.GetEventRequest(event=event.event)
        assert (await parts.stub.GetEvent(wanted)).jpeg
        day = dataclasses.replace(parts.config, event_pictures_s=0.001)
        records = Records(day)
        await asyncio.sleep(0.01)
        await EventStore(records, day).trim([""])
        assert not (await parts.stub.GetEvent(wanted)).jpeg
        await EventStore(records, dataclasses.replace(day, events_s=0.001)).trim([""])
        assert not (await parts.stub.ListEvents(pb.ListEventsRequest())).events
        await records.aclose()


# --- SDK and command line -----------------------------------------------------------------------


async def test_rules_from_a_program_and_a_terminal(
    redis_server: RedisServer, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    worker = FakeWorker()
    worker.scores |= {PHONE: 0.1, "a cup is held": 0.1}
    async with (
        running(worker, **settings(redis_server, time_zone="Asia/Kolkata")) as parts,
        sightline.aio.connect(parts.address) as client,
    ):
        shown = Shown(parts, await parts.push_session(name="kitchen"))
        await shown.show()

        async def said_by_server() -> str:
            assert parts.rules is not None
            wanted = pb.ListEventsRequest()
            return await table_of(await parts.rules.events.listed(wanted, ANYBODY))

        async def said(*words: str) -> str:
            assert await cli.run(["--server", parts.address, *words]) == 0
            return capsys.readouterr().out

        rule = {"name": "@phones", "predicate": {"condition": PHONE}, "interval_s": 0.1}
        made = await client.rules.create("kitchen", rule)
        assert (made.kind, made.active, made.session_name) == ("predicate", False, "kitchen")
        goods = tmp_path / "goods.csv"
        goods.write_text("sku,names,price\nC-1,a cup|a mug,9 €\n")
        options = ("--name", "goods", "--interval", "0.1", "--severity", "warning")
        options += ("--statement", "{} is held", "--idle", "nothing is held")
        await said("rules", "add", "kitchen", "--catalogue", str(goods), *options)
        night = ("--hours", "fri-sun 22:00-06:00", "--zone", "Europe/Berlin")
        await said("rules", "add", "kitchen", "--health", "--name", "lens", *night)
        lens = await client.rules.get("lens")
        assert lens.spec["schedule"]["time_zone"] == "Europe/Berlin"
        day = ("--hours", "08:00-17:00", "--severity", "critical", "--name", "by day")
        await said("rules", "add", "kitchen", "--condition", PHONE, *day)
        by_day = (await client.rules.get("by day")).spec
        assert by_day["schedule"]["time_zone"] == "Asia/Kolkata", "the server's"
        assert by_day["severity"] == "SEVERITY_CRITICAL"
        await client.rules.delete("by day")
        with pytest.raises(InvalidArgumentError, match="none of info, warning, critical"):
            await client.rules.create("kitchen", {**rule, "severity": "grave"})
        goods_rule = (await client.rules.get("goods")).spec["product"]
        assert goods_rule["idle"] == "nothing is held"
        (hours,) = lens.spec["schedule"]["hours"]
        assert hours == {"days": ["fri", "sat", "sun"], "begin": "22:00", "end": "06:00"}

        following = client.rules.follow(rule="goods")
        first = asyncio.ensure_future(anext(following))
        await eventually(lambda: parts.rules.events.readers)
        worker.scores |= {PHONE: 0.9, "a mug is held": 0.8}
        await shown.show()
        event = await first
        await following.aclose()
        assert (event.value, event.severity) == ("C-1", "warning")
        assert event.product == {"sku": "C-1", "names": ["a cup", "a mug"], "price": "9 €"}
        await events_of(parts, 2)
        assert (await client.rules.picture(event.id)).startswith(b"\xff\xd8")
        assert await client.rules.clip(event.id) == b""
        jpeg = tmp_path / "moment.jpg"
        await said("events", "--picture", event.id, str(jpeg))
        assert jpeg.read_bytes() == await client.rules.picture(event.id)
        film = ("events", "--clip", event.id, str(tmp_path / "moment.mp4"))
        assert await cli.run(["--server", parts.address, *film]) == 4, "none is kept"
        one, other = [each.event for each in await events_of(parts, 2)]
        await said("events", "--acknowledge", event.id, "--note", "packed")
        left = await client.rules.events(unacknowledged=True)
        assert [each.rule_name for each in left] == ["@phones"]
        listed = await said("rules", "list")
        assert "C-1" in listed
        assert "phones" in listed
        heading, *table = (await said("events", "--csv")).splitlines()
        server = await said_by_server()
        assert heading == server.splitlines()[0], "the same as from the server"
        assert heading.startswith("event,time_ns")
        assert all(row.split(",")[0] in server for row in table)
        assert any(",'@phones," in row for row in table), "no formula"
        assert "phones  yes" in await said("events", "--rule", "@phones")
        await said("rules", "pause", "@phones", "lens")
        assert (await client.rules.get("lens")).paused
        assert (await client.rules.get("@phones")).paused
        assert "paused" in await said("rules", "list")
        await said("rules", "resume", "@phones")
        terms = ("--threshold", "0.8", "--cooldown", "60", "--severity", "critical")
        await said("rules", "change", "@phones", *terms, "--hours", "08:00-17:00")
        spec = (await client.rules.get("@phones")).spec
        assert (spec["threshold"], spec["severity"]) == (0.8, "SEVERITY_CRITICAL")
        assert spec["schedule"]["hours"] == [{"begin": "08:00", "end": "17:00"}]
        await said("rules", "change", "@phones", "--always", "--usual", "threshold")
        spec = (await client.rules.get("@phones")).spec
        assert "schedule" not in spec
        assert "threshold" not in spec
        assert spec["cooldown_s"] == 60
        assert (await said("events", "--acknowledge", one, other)).count("acknowledged") == 2
        left = await client.rules.events(unacknowledged=True)
        assert not {one, other} & {each.id for each in left}
        await said("rules", "delete", "@phones")
        assert {each.name for each in await client.rules.all()} == {"goods", "lens"}
        assert await cli.run(["--server", parts.address, "rules", "delete", "@phones"]) == 4


async def test_an_assistant_makes_changes_and_ends_rules(redis_server: RedisServer) -> None:
    worker = FakeWorker()
    worker.scores |= {PHONE: 0.1}
    async with (
        running(worker, **settings(redis_server)) as parts,
        sightline.aio.connect(parts.address) as client,
    ):
        shown = Shown(parts, await parts.push_session(name="kitchen"))
        await shown.show()
        tools = RuleTools(client)
        assert all(tool.__doc__ for tool in tools.all())
        terms = {"interval_s": 0.1, "labels": {"room": "hall"}}
        made = await tools.create_rule("kitchen", PHONE, "phones", "warning", terms)
        assert (made["kind"], made["severity"]) == ("predicate", "SEVERITY_WARNING")
        options = {"choice": {"statement": "the light is {}", "options": ["red", "green"]}}
        assert (await tools.create_rule("kitchen", rule=options))["kind"] == "choice"
        with pytest.raises(sightline.InvalidArgumentError, match="none of info"):
            await tools.create_rule("kitchen", PHONE, severity="grave")

        changed = await tools.update_rule("phones", threshold=0.8, severity="critical")
        assert (changed["threshold"], changed["severity"]) == (0.8, "SEVERITY_CRITICAL")
        assert changed["labels"] == {"room": "hall"}, "what is left out stays"
        night = {"hours": [{"begin": "22:00", "end": "06:00"}]}
        assert "schedule" in await tools.update_rule("phones", schedule=night, paused=True)
        listed = {each["name"]: each for each in await tools.rules("kitchen")}
        assert listed["phones"]["paused"]
        changed = await tools.update_rule(
            "phones", schedule={}, paused=False, labels={}, threshold=-1
        )
        assert {"schedule", "labels", "threshold"}.isdisjoint(changed)

        worker.scores |= {PHONE: 0.9}
        await shown.show()
        await events_of(parts, 1)
        [event] = await tools.rule_events(rule="phones", unacknowledged=True)
        assert event["severity"] == "critical"
        assert (await tools.acknowledge_event(event["id"], "seen"))["acknowledged_by"] is not None
        assert await tools.rule_events(rule="phones", unacknowledged=True) == []
        with pytest.raises(sightline.InvalidArgumentError, match="limit"):
            await tools.rule_events(limit=1000)
        await tools.delete_rule("phones")
        assert "phones" not in {each["name"] for each in await tools.rules()}
        assert await tools.rule_events("kitchen"), "what it told stays"
