"""The `sightline` commands about standing rules: rules, events, webhooks."""

import argparse
import asyncio
import csv
import dataclasses
import json
import re
import sys
from pathlib import Path
from typing import Any

from sightline import aio
from sightline.errors import InvalidArgumentError, NotFoundError
from sightline.event_table import COLUMNS, event_row
from sightline.printing import clock, print_json, print_table
from sightline.rules import Rule, RuleEvent

__all__ = ["add_commands"]

SEVERITIES = ("info", "warning", "critical")
_HOURS = re.compile(r"(?:(?P<days>[a-z,-]+) )?(?P<begin>\d\d:\d\d)-(?P<end>\d\d:\d\d)")
_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


async def rules(client: aio.Client, options: argparse.Namespace) -> int:
    if options.action == "add":
        made = await client.rules.create(options.session, _spec(options))
        _tell_rules([made], options.json)
    elif options.action == "change":
        changed = await client.rules.update(options.rule, **_changes(options))
        _tell_rules([changed], options.json)
    elif options.action in ("pause", "resume"):
        paused = options.action == "pause"
        changes = [await client.rules.update(each, paused=paused) for each in options.rules]
        _tell_rules(changes, options.json)
    elif options.action == "delete":
        for each in options.rules:
            await client.rules.delete(each)
    else:
        _tell_rules(await client.rules.all(options.session or ""), options.json)
    return 0


def _tell_rules(found: list[Rule], as_json: bool) -> None:
    if as_json:
        print_json({"rules": [dict(each.spec) for each in found]})
        return
    lines = [
        (
            each.name,
            each.session_name,
            each.kind,
            _told(each),
            str(each.events),
            each.error,
            each.id,
        )
        for each in found
    ]
    print_table(("RULE", "SESSION", "KIND", "NOW", "EVENTS", "WRONG", "ID"), lines)


def _told(rule: Rule) -> str:
    if rule.paused:
        return "paused"
    if rule.kind == "commentary":
        return ""
    return rule.value or ("yes" if rule.active else "no")


def _spec(options: argparse.Namespace) -> dict[str, Any]:
    """The rule that the options describe."""
    kinds: dict[str, Any] = {
        "predicate": options.condition and {"condition": options.condition},
        "choice": options.choice and {"statement": options.choice, "options": options.option},
        "score": options.score and {"statement": options.score, "levels": options.option},
        "health": options.health and {"conditions": [each for each in options.health if each]},
        "commentary": options.commentary is not None and {"question": options.commentary},
        "product": options.catalogue and _product_rule(options),
    }
    given = {kind: fields for kind, fields in kinds.items() if fields}
    if len(given) != 1:
        raise InvalidArgumentError(
            "one of --condition, --choice, --score, --health, --commentary and --catalogue"
        )
    spec: dict[str, Any] = dict(given)
    for name in ("name", "threshold", "interval_s", "debounce_s", "cooldown_s"):
        if (value := getattr(options, name)) is not None:
            spec[name] = value
    if options.severity:
        spec["severity"] = options.severity
    if options.label:
        spec["labels"] = dict(options.label)
    if options.hours:
        spec["schedule"] = _schedule(options)
    return spec


def _changes(options: argparse.Namespace) -> dict[str, Any]:
    """What the options change of a rule, as `Rules.update` takes it."""
    changes: dict[str, Any] = {
        name: value
        for name in ("threshold", "interval_s", "debounce_s", "cooldown_s", "severity")
        if (value := getattr(options, name)) is not None
    }
    changes |= dict.fromkeys(options.usual, -1)
    if options.label:
        changes["labels"] = dict(options.label)
    if options.hours or options.always:
        changes["schedule"] = _schedule(options) if options.hours else {}
    return changes


def _schedule(options: argparse.Namespace) -> dict[str, Any]:
    return {
        "time_zone": options.zone or "",
        "hours": [hours(each) for each in options.hours],
    }


def hours(text: str) -> dict[str, Any]:
    """ "mon-fri 22:00-06:00", "sat,sun 00:00-24:00", "08:00-17:00" """
    match = _HOURS.fullmatch(text.strip().lower())
    if match is None:
        raise InvalidArgumentError(f"{text!r} are no hours, as 'mon-fri 22:00-06:00' are")
    days: list[str] = []
    for part in filter(None, (match["days"] or "").split(",")):
        first, _, last = part.partition("-")
        if first not in _DAYS or (last or first) not in _DAYS:
            raise InvalidArgumentError(f"{part!r} is none of the days {', '.join(_DAYS)}")
        begin, end = _DAYS.index(first), _DAYS.index(last or first)
        days += [_DAYS[day % 7] for day in range(begin, end + (7 if end < begin else 0) + 1)]
    return {"days": days, "begin": match["begin"], "end": match["end"]}


def _product_rule(options: argparse.Namespace) -> dict[str, Any]:
    said = {"statement": options.statement, "idle": options.idle}
    given = {name: text for name, text in said.items() if text is not None}
    return {"products": catalogue(options.catalogue), **given}


def catalogue(path: str | Path) -> list[dict[str, Any]]:
    """Products of a file: JSON, a list of objects with sku, names, link, price and picture; or CSV
    with such a heading, where several names have `|` between."""
    path = Path(path)
    text = path.read_text(encoding="utf-8-sig")
    try:
        rows = (
            json.loads(text) if path.suffix == ".json" else list(csv.DictReader(text.splitlines()))
        )
        rows = rows["products"] if isinstance(rows, dict) else rows
        return [_product(row) for row in rows]
    except (ValueError, TypeError, KeyError, AttributeError):
        raise InvalidArgumentError(
            f"{path} is no catalogue: a list of products with sku and names"
        ) from None


def _product(row: dict[str, Any]) -> dict[str, Any]:
    names = row["names"]
    if isinstance(names, str):
        names = [name.strip() for name in names.split("|") if name.strip()]
    product: dict[str, Any] = {"sku": str(row["sku"]), "names": list(names)}
    for field in ("link", "price", "picture"):
        if row.get(field):
            product[field] = str(row[field])
    return product


async def events(client: aio.Client, options: argparse.Namespace) -> int:
    where = {"session": options.session or "", "rule": options.rule or "", "after": options.after}
    if options.picture or options.clip:
        for wanted, load in (
            (options.picture, client.rules.picture),
            (options.clip, client.rules.clip),
        ):
            if wanted:
                event, path = wanted
                await _save(await load(event), event, path)
    elif options.acknowledge:
        for event in options.acknowledge:
            told = await client.rules.acknowledge(event, note=options.note)
            _tell_event(told, options.json)
    elif options.follow:
        async for event in client.rules.follow(**where):
            _tell_event(event, options.json)
    else:
        found = await client.rules.events(**where, unacknowledged=options.open, limit=options.limit)
        found.reverse()  # the newest is read last, where the prompt is
        if options.csv:
            writer = csv.writer(sys.stdout)
            writer.writerow(COLUMNS)
            for each in found:
                writer.writerow(event_row({**dataclasses.asdict(each), "event": each.id}, None))
        else:
            for event in found:
                _tell_event(event, options.json)
    return 0


async def _save(content: bytes, event: str, path: str) -> None:
    if not content:
        raise NotFoundError(f"none is kept of {event}")
    await asyncio.to_thread(Path(path).write_bytes, content)


def _tell_event(event: RuleEvent, as_json: bool) -> None:
    if as_json:
        print_json(dataclasses.asdict(event))
        return
    what = event.text or event.value or ("yes" if event.active else "no")
    shown = "" if event.text else f"  ({event.probability:.2f})"
    marks = "" if event.acknowledged_by is None else "  acknowledged"
    severity = "" if event.severity == "info" else f"{event.severity}  "
    where = f"{event.session_name}  {event.rule_name}"
    print(
        f"{clock(event.time_ns)}  {severity}{where}  {what}{shown}{marks}  {event.id}", flush=True
    )


async def webhooks(client: aio.Client, options: argparse.Namespace) -> int:
    if options.action == "add":
        made = await client.rules.create_webhook(
            options.url, severity=options.severity or "", session=options.session or ""
        )
        if options.json:
            print_json(dataclasses.asdict(made))
        else:
            print(f"webhook {made.id}, secret {made.secret}")
    elif options.action == "delete":
        await client.rules.delete_webhook(options.webhook)
    elif options.action == "dead":
        letters = await client.rules.dead_letters(options.webhook)
        if options.json:
            print_json({"letters": [{"event": event, "reason": why} for event, why in letters]})
        else:
            print_table(("EVENT", "REASON"), letters)
    else:
        found = await client.rules.webhooks()
        if options.json:
            print_json({"webhooks": [dataclasses.asdict(each) for each in found]})
        else:
            lines = [
                (each.id, each.url, str(each.delivered), str(each.dead), each.error)
                for each in found
            ]
            print_table(("WEBHOOK", "URL", "DELIVERED", "DEAD", "ERROR"), lines)
    return 0


def add_commands(
    add: Any, everywhere: Any, as_json: Any, number: Any, label: Any, count: Any
) -> None:
    """The commands on a parser. add: makes one of a name, what it runs and what it is for;
    everywhere, as_json: options that all take, and those that tell something; the rest are types of
    arguments."""
    common = [everywhere, as_json]
    parser = add("rules", rules, "what sessions are watched for, whoever looks")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    listed = actions.add_parser("list", help="list them", parents=common)
    listed.add_argument("session", nargs="?", help="of this session alone, by id or name")
    made = actions.add_parser("add", help="watch a session for something", parents=common)
    made.add_argument("session", help="its id or name")
    made.add_argument("--condition", help='predicate: "a phone is there"')
    made.add_argument("--choice", metavar="STATEMENT", help='choice: "the light is {}"')
    made.add_argument("--score", metavar="STATEMENT", help='score: "the queue is {}"')
    made.add_argument(
        "--option", action="append", default=[], help="of a choice, or a level of a score"
    )
    made.add_argument(
        "--health",
        action="append",
        nargs="?",
        const="",
        metavar="CONDITION",
        help="the pictures are dead, dark, covered, frozen or repeating (any of them)",
    )
    made.add_argument(
        "--commentary",
        nargs="?",
        const="",
        metavar="QUESTION",
        help="say what happens, where that is new",
    )
    made.add_argument("--catalogue", metavar="FILE", help="products, as JSON or CSV")
    made.add_argument(
        "--statement", help='of each product of the catalogue: "the hand is holding {}"'
    )
    made.add_argument(
        "--idle", help='what holds while none is shown: "the hand is holding nothing"'
    )
    made.add_argument("--name")
    changed = actions.add_parser("change", help="change when one tells", parents=common)
    changed.add_argument("rule", help="its id or name")
    for each in (made, changed):
        _add_terms(each, number, label)
    changed.add_argument("--always", action="store_true", help="at all hours again")
    changed.add_argument(
        "--usual",
        action="append",
        default=[],
        choices=("threshold", "interval_s"),
        help="what is as usual for its kind again",
    )
    for action, text in (("pause", "check some no more for now"), ("resume", "check them again")):
        each = actions.add_parser(action, help=text, parents=common)
        each.add_argument("rules", nargs="+", metavar="rule", help="their ids or names")
    ended = actions.add_parser("delete", help="end some; their events stay", parents=[everywhere])
    ended.add_argument("rules", nargs="+", metavar="rule", help="their ids or names")
    ended.set_defaults(json=False)

    told = add("events", events, "what rules have told", as_json)
    told.add_argument("--session", help="of this session alone, by id or name")
    told.add_argument("--rule", help="of this rule alone, by id or name")
    told.add_argument("--after", default="", metavar="ID", help="later than this event")
    told.add_argument("--open", action="store_true", help="those that nobody has acknowledged")
    told.add_argument("--limit", type=count, default=100, metavar="N", help="at most so many (100)")
    told.add_argument("--follow", action="store_true", help="those that come from now on")
    told.add_argument("--csv", action="store_true", help="as a table for spreadsheets")
    told.add_argument(
        "--acknowledge", nargs="+", metavar="ID", help="say that somebody has seen to them"
    )
    for name, text in (
        ("picture", "write the JPEG of its moment"),
        ("clip", "write the MP4 of the seconds before and after"),
    ):
        told.add_argument(f"--{name}", nargs=2, metavar=("ID", "FILE"), help=text)
    told.add_argument("--note", default="", help="with --acknowledge")

    hooks = add("webhooks", webhooks, "where events are sent")
    kinds = hooks.add_subparsers(dest="action", required=True, metavar="ACTION")
    kinds.add_parser("list", help="list them", parents=common)
    hook = kinds.add_parser("add", help="send events to an address", parents=common)
    hook.add_argument("url", help="https://…")
    hook.add_argument("--severity", choices=SEVERITIES, help="events that are at least so severe")
    hook.add_argument("--session", help="events of this session alone, by id or name")
    for action, text in (("delete", "end one"), ("dead", "events that one did not take")):
        each = kinds.add_parser(action, help=text, parents=common)
        each.add_argument("webhook", help="its id")


def _add_terms(parser: argparse.ArgumentParser, number: Any, label: Any) -> None:
    """The options that say when a rule tells, and how grave that is."""
    parser.add_argument("--severity", choices=SEVERITIES)
    parser.add_argument("--threshold", type=number, metavar="P")
    for name, text in (
        ("interval", "seconds between two checks"),
        ("debounce", "seconds a change must hold"),
        ("cooldown", "least seconds between two events"),
    ):
        parser.add_argument(f"--{name}", dest=f"{name}_s", type=number, metavar="S", help=text)
    parser.add_argument(
        "--hours", action="append", metavar="HOURS", help='only then: "mon-fri 22:00-06:00"'
    )
    parser.add_argument(
        "--zone", metavar="ZONE", help="time zone of --hours, Europe/Berlin (the server's)"
    )
    parser.add_argument("--label", action="append", type=label, metavar="KEY=VALUE")
