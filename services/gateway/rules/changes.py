"""Changes of a rule while it is watched for."""

from services.gateway.rules.checks import check_rule
from services.gateway.rules.schedule import settle_zone
from services.gateway.sessions.labels import checked_labels
from sightline.errors import InvalidArgumentError
from sightline.v1 import rules_pb2


def change_rule(wanted: rules_pb2.UpdateRuleRequest, time_zone: str, rule: rules_pb2.Rule) -> None:
    """Change a rule, in place, as its owner wants it. time_zone: of hours that name none. Raises
    InvalidArgumentError where that makes a rule that no session can have, or says nothing."""
    asked = [field.name for field, _ in wanted.ListFields() if field.name != "rule"]
    if not asked:
        raise InvalidArgumentError("a change of a rule says what is to be otherwise")
    for name in ("threshold", "interval_s"):  # left out, they are as is usual for the kind
        if name in asked and getattr(wanted, name) < 0:
            asked.remove(name)
            rule.ClearField(name)
    for name in ("paused", "threshold", "interval_s", "debounce_s", "cooldown_s", "severity"):
        if name in asked:
            setattr(rule, name, getattr(wanted, name))
    if "schedule" in asked:
        rule.schedule.CopyFrom(wanted.schedule)
        if wanted.schedule == rules_pb2.Schedule():
            rule.ClearField("schedule")
    if "labels" in asked:
        labels = checked_labels(wanted.labels.labels)
        rule.labels.clear()
        rule.labels.update(labels)
    check_rule(rule)
    if "schedule" in asked:
        settle_zone(rule, time_zone)
