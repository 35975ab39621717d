"""Post of a watchman: one rule under watch, and what was seen and told of it."""

import asyncio

from services.gateway.rules.checks import interval_s
from services.gateway.rules.hints import Hints
from services.gateway.rules.judgement import Judgement
from services.gateway.rules.kinds import Said, asked_of, kind_of
from services.gateway.rules.rule_store import Kept
from services.gateway.rules.schedule import Hours
from sightline.v1 import rules_pb2


class Post:
    """One rule under watch."""

    def __init__(self, kept: Kept) -> None:
        rule = kept.rule
        self.kind = kind_of(rule)
        state = rules_pb2.RuleState()
        state.CopyFrom(rule.state)
        state.error, self.error = "", rule.state.error
        state.ClearField("check")
        self.judgement = Judgement(state)
        self.statements = self.asked = asked_of(rule)
        self.said = Said(state.text)
        self.late = False  # an event that could not be told waits
        self.task: asyncio.Task[None] | None = None  # of a commentary under way
        self._take(kept)

    def change(self, kept: Kept) -> None:
        """Go by the rule as it is kept now, from the next look on, which is at once where it is
        another than before. What was seen and told of it stays."""
        if _asked(kept.rule) == _asked(self.rule):
            return
        self._take(kept)
        if self.rule.paused and self.task is not None:
            self.task.cancel()

    def _take(self, kept: Kept) -> None:
        rule = kept.rule
        self.record, self.rule = kept.record, rule
        self.interval_s = interval_s(rule)
        self.hours = Hours.of(rule.schedule)
        self.judgement.adjust(debounce_s=rule.debounce_s, cooldown_s=rule.cooldown_s)
        self.hints = Hints(rule)
        self.due_s = 0.0  # monotonic
        self.seen = 0  # frames that were understood when it was checked last


def _asked(rule: rules_pb2.Rule) -> rules_pb2.Rule:
    """What a rule asks for, without what was told of it."""
    asked = rules_pb2.Rule()
    asked.CopyFrom(rule)
    asked.ClearField("state")
    return asked
