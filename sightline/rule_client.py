"""Standing rules for programs without an event loop: `client.rules`. `sightline.rules.Rules` says
what each method does."""

from collections.abc import Iterator, Mapping
from typing import Any

from sightline import rules
from sightline.background import background

__all__ = ["Rules"]


class Rules:
    """The rules that this client may see."""

    def __init__(self, of: rules.Rules) -> None:
        self._rules = of

    def create(self, session: str, rule: Mapping[str, Any]) -> rules.Rule:
        """Watch a session for something from now on, whoever looks."""
        return background.run(self._rules.create(session, rule))

    def all(self, session: str = "") -> list[rules.Rule]:
        """Rules of one session or of all, the oldest first."""
        return background.run(self._rules.all(session))

    def get(self, rule: str) -> rules.Rule:
        """A rule by its id or name."""
        return background.run(self._rules.get(rule))

    def update(self, rule: str, **changes: Any) -> rules.Rule:
        """Change a rule; what is left out stays. Changes: `paused`, `threshold`, `interval_s`,
        `debounce_s`, `cooldown_s`, `schedule`, `severity`, `labels`."""
        return background.run(self._rules.update(rule, **changes))

    def delete(self, rule: str) -> None:
        """End a rule; its events stay."""
        background.run(self._rules.delete(rule))

    def events(self, **options: Any) -> list[rules.RuleEvent]:
        """The newest events first. Options: `session`, `rule`, `after`, `unacknowledged`,
        `limit`."""
        return background.run(self._rules.events(**options))

    def follow(self, **options: Any) -> Iterator[rules.RuleEvent]:
        """Events as they come, for ever. Options: `session`, `rule`, `after`."""
        return background.iterate(self._rules.follow(**options))

    def acknowledge(self, event: str, *, note: str = "") -> rules.RuleEvent:
        """Say that somebody has seen to an event."""
        return background.run(self._rules.acknowledge(event, note=note))

    def picture(self, event: str) -> bytes:
        """JPEG of the moment; empty where none is kept."""
        return background.run(self._rules.picture(event))

    def clip(self, event: str) -> bytes:
        """MP4 of the seconds before and after; empty where none is kept (yet)."""
        return background.run(self._rules.clip(event))

    def create_webhook(self, url: str, *, severity: str = "", session: str = "") -> rules.Webhook:
        """Send events to an address from now on."""
        return background.run(self._rules.create_webhook(url, severity=severity, session=session))

    def webhooks(self) -> list[rules.Webhook]:
        return background.run(self._rules.webhooks())

    def delete_webhook(self, webhook: str) -> None:
        background.run(self._rules.delete_webhook(webhook))

    def dead_letters(self, webhook: str) -> list[tuple[str, str]]:
        """Events that a webhook did not take, and why, the newest first."""
        return background.run(self._rules.dead_letters(webhook))
