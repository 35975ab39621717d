"""What `sightline mcp` lets an assistant do with standing rules: see, make, change and end them,
and read and acknowledge what they told."""

import dataclasses
from collections.abc import Callable, Coroutine
from typing import Any

from sightline import aio
from sightline.errors import InvalidArgumentError, NotFoundError
from sightline.rules import Rule

__all__ = ["RuleTools"]

MOST_EVENTS = 100


class RuleTools:
    """What an assistant may do with rules, each with a description for it."""

    def __init__(self, client: aio.Client) -> None:
        self._rules = client.rules

    def all(self) -> list[Callable[..., Coroutine[Any, Any, Any]]]:
        return [
            self.rules,
            self.create_rule,
            self.update_rule,
            self.delete_rule,
            self.rule_events,
            self.acknowledge_event,
            self.event_picture,
        ]

    async def rules(self, session: str = "") -> list[dict[str, Any]]:
        """The standing rules of a stream, by its name or id, or of all: what the server watches for
        when nobody looks, how each stands, and why one is not checked."""
        return [_told(each) for each in await self._rules.all(session)]

    async def create_rule(
        self,
        session: str,
        condition: str = "",
        name: str = "",
        severity: str = "",
        rule: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Have a stream watched from now on, also when this conversation is over: an event whenever
        `condition`, such as "a phone is there", begins or ceases to hold. `severity`: info, warning
        or critical. `rule` has what else a rule may have, and its other kinds in the place of a
        condition: {"choice": {"statement": "the light is {}", "options": ["red", "green"]}},
        {"score": {"statement": "the queue is {}", "levels": ["empty", "short", "long"]}},
        {"health": {}} (the picture is bad), {"commentary": {}} (what is new), {"product":
        {"products": [{"sku": "C-1", "names": ["a red cup"]}]}} (which is shown), with "threshold",
        "interval_s", "debounce_s", "cooldown_s", "labels", "schedule"."""
        wanted = dict(rule or {})
        if condition:
            wanted["predicate"] = {"condition": condition}
        if name:
            wanted["name"] = name
        if severity:
            wanted["severity"] = severity
        return _told(await self._rules.create(session, wanted))

    async def update_rule(
        self,
        rule: str,
        paused: bool | None = None,
        threshold: float | None = None,
        interval_s: float | None = None,
        debounce_s: float | None = None,
        cooldown_s: float | None = None,
        schedule: dict[str, Any] | None = None,
        severity: str = "",
        labels: dict[str, str] | None = None,
    ) -> dict[str, Any]:
        """Change a rule, by its id or name; what is left out stays. `paused`: it is not checked
        until it is resumed with false. `threshold`: the probability above which it holds; below
        0, as that of `interval_s`, the usual one again. `debounce_s`: how long a change must hold;
        `cooldown_s`: the least time between two events. `schedule`: {"time_zone": "Europe/Berlin",
        "hours": [{"days": ["mon"], "begin": "22:00", "end": "06:00"}]}, {} for always. `severity`:
        info, warning or critical. `labels` take the place of all that it had. A rule that is to
        watch for something else is another rule."""
        changed = await self._rules.update(
            rule,
            paused=paused,
            threshold=threshold,
            interval_s=interval_s,
            debounce_s=debounce_s,
            cooldown_s=cooldown_s,
            schedule=schedule,
            severity=severity,
            labels=labels,
        )
        return _told(changed)

    async def delete_rule(self, rule: str) -> str:
        """End a rule, by its id or name, for everybody; the events that it told stay."""
        await self._rules.delete(rule)
        return f"{rule} has ended"

    async def rule_events(
        self,
        session: str = "",
        rule: str = "",
        after: str = "",
        unacknowledged: bool = False,
        limit: int = 20,
    ) -> list[dict[str, Any]]:
        """What rules have told until now, the newest first: of one stream or of one rule, by name
        or id, or of all; later than the event `after`; only those that nobody has acknowledged."""
        if not 0 < limit <= MOST_EVENTS:
            raise InvalidArgumentError(f"limit is at most {MOST_EVENTS}")
        found = await self._rules.events(
            session=session, rule=rule, after=after, unacknowledged=unacknowledged, limit=limit
        )
        return [dataclasses.asdict(each) for each in found]

    async def acknowledge_event(self, event: str, note: str = "") -> dict[str, Any]:
        """Say that somebody has seen to an event, by its id; the first who does is kept."""
        return dataclasses.asdict(await self._rules.acknowledge(event, note=note))

    async def event_picture(self, event: str) -> Any:
        """The picture of an event's moment, by its id."""
        from mcp.server.mcpserver import Image

        picture = await self._rules.picture(event)
        if not picture:
            raise NotFoundError("no picture of that event is kept")
        return Image(data=picture, format="jpeg")


def _told(rule: Rule) -> dict[str, Any]:
    """A rule as JSON has it, with the words for how it stands."""
    return {**rule.spec, "kind": rule.kind, "active": rule.active, "paused": rule.paused}
