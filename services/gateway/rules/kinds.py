"""Kinds of rules: what each of them asks of a session, and what the answers mean."""

import re
from collections import deque
from collections.abc import Mapping, Sequence

from services.gateway.rules.judgement import Reading
from services.gateway.viewers.decisions import PLACE, shares_of, statements_of
from sightline.v1 import gateway_pb2, rules_pb2

PREDICATE, CHOICE, SCORE, HEALTH = "predicate", "choice", "score", "health"
COMMENTARY, PRODUCT = "commentary", "product"
KINDS = (PREDICATE, CHOICE, SCORE, HEALTH, COMMENTARY, PRODUCT)
SCORED = frozenset({PREDICATE, CHOICE, SCORE, PRODUCT})
CONDITIONS = ("dead", "dark", "covered", "frozen", "repeating")
HELD = f"{PLACE} is held"
WHAT_HAPPENS = "What happens now?"
MOST_SAID = 8  # commentaries that a new one is compared with
_WORD = re.compile(r"\w+")


def kind_of(rule: rules_pb2.Rule) -> str:
    return rule.WhichOneof("kind") or ""


def threshold_of(rule: rules_pb2.Rule) -> float:
    """The threshold of a rule, or that of its kind."""
    if rule.HasField("threshold"):
        return rule.threshold
    kind = kind_of(rule)
    if kind == SCORE:
        return (len(rule.score.levels) - 1) / 2
    return 0.4 if kind == COMMENTARY else 0.5


def asked_of(rule: rules_pb2.Rule) -> list[str]:
    """Statements whose probabilities a rule needs."""
    kind = kind_of(rule)
    if kind == PREDICATE:
        return [rule.predicate.condition]
    if kind == CHOICE:
        return with_each(rule.choice.statement, rule.choice.options)
    if kind == SCORE:
        return with_each(rule.score.statement, rule.score.levels)
    if kind == PRODUCT:
        named = [name for product in rule.product.products for name in product.names]
        return with_each(rule.product.statement or HELD, named)
    return []


def reading_of(
    rule: rules_pb2.Rule, probabilities: Mapping[str, float], at_ns: int
) -> Reading | None:
    """What the probabilities of its statements mean to a rule; None where that is nothing new: of
    several options none is likely enough."""
    kind = kind_of(rule)
    found = [probabilities[statement] for statement in asked_of(rule)]
    threshold = threshold_of(rule)
    if kind == PREDICATE:
        return Reading(at_ns=at_ns, active=found[0] > threshold, probability=found[0])
    if kind == PRODUCT:
        return _product(rule.product, found, threshold, at_ns)
    shares = shares_of(found)
    best = max(range(len(shares)), key=shares.__getitem__)
    if kind == CHOICE:
        if shares[best] < threshold:
            return None
        return Reading(
            at_ns=at_ns,
            active=True,
            value=rule.choice.options[best],
            by_value=True,
            probability=shares[best],
        )
    score = sum(number * share for number, share in enumerate(shares))
    return Reading(
        at_ns=at_ns,
        active=score >= threshold,
        value=rule.score.levels[best],
        probability=shares[best],
        score=score,
    )


def _product(
    rule: rules_pb2.ProductRule, found: Sequence[float], threshold: float, at_ns: int
) -> Reading:
    """The likeliest product by the likeliest of its names, where that holds at all."""
    likeliest, best, first = 0.0, "", 0
    for product in rule.products:
        last = first + len(product.names)
        probability = max(found[first:last])
        if probability > likeliest:
            likeliest, best = probability, product.sku
        first = last
    shown = likeliest > threshold
    return Reading(
        at_ns=at_ns,
        active=shown,
        value=best if shown else "",
        by_value=True,
        probability=likeliest,
    )


def health_reading(rule: rules_pb2.Rule, condition: str, at_ns: int) -> Reading:
    """What the condition of a source's pictures means to a rule about them."""
    bad = condition in (rule.health.conditions or CONDITIONS)
    return Reading(at_ns=at_ns, active=bad, value=condition, probability=1.0)


class Said:
    """The last commentaries of one rule, by their words."""

    def __init__(self, last: str) -> None:
        self._said: deque[frozenset[str]] = deque([_words(last)] if last else [], MOST_SAID)

    def is_new(self, text: str, share: float) -> bool:
        """Whether at least that share of its words stands in none of them taken alone."""
        words = _words(text)
        if not words:
            return False
        return all(len(words - before) >= share * len(words) for before in self._said)

    def add(self, text: str) -> None:
        self._said.append(_words(text))


def _words(text: str) -> frozenset[str]:
    return frozenset(_WORD.findall(text.lower()))


def with_each(statement: str, options: Sequence[str]) -> list[str]:
    """The statement with each of the options."""
    return statements_of(gateway_pb2.DecideQuestion(statement=statement, choices=options))
