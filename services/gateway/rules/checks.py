"""Checks of what strangers say of a rule."""

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from google.protobuf.message import Message

from services.common.checks import (
    MAX_INSTRUCTIONS_BYTES,
    MAX_QUESTION_BYTES,
    check_seconds,
    check_statements,
)
from services.common.redaction import holds_secret
from services.gateway.rules.kinds import (
    CHOICE,
    COMMENTARY,
    CONDITIONS,
    HEALTH,
    PRODUCT,
    SCORE,
    asked_of,
    kind_of,
)
from services.gateway.rules.schedule import Hours
from services.gateway.sessions.labels import checked_labels
from sightline.errors import InvalidArgumentError
from sightline.v1 import rules_pb2

MAX_RULE_BYTES = 1024 * 1024  # with a catalogue
MAX_NAME_CHARACTERS = 80
MAX_OPTIONS, MAX_PRODUCTS, MAX_NAMES = 255, 400, 8
MAX_TEXT_CHARACTERS = 2048  # of a link, of a price, of an address
LEAST_INTERVAL_S = 0.1
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
SECRET = "an address in a rule holds no password or key: whoever may see the rule would see it"


def check_rule(rule: rules_pb2.Rule) -> None:
    """Raise InvalidArgumentError for a rule that no session can have."""
    kind = kind_of(rule)
    if not kind:
        raise InvalidArgumentError("a rule has one of the kinds predicate, choice, …")
    check_name(rule.name)
    if rule.ByteSize() > MAX_RULE_BYTES:
        raise InvalidArgumentError(f"a rule has at most {MAX_RULE_BYTES} bytes")
    for text in _texts(rule):
        if _CONTROL.search(text):
            raise InvalidArgumentError("the texts of a rule hold no control characters")
        if holds_secret(text):
            raise InvalidArgumentError(SECRET)
    if rule.severity not in rules_pb2.Severity.values():
        raise InvalidArgumentError("unknown severity")
    checked_labels(rule.labels)
    for name in ("interval_s", "debounce_s", "cooldown_s"):
        check_seconds(name, getattr(rule, name))
    Hours.of(rule.schedule)
    most = len(rule.score.levels) - 1 if kind == SCORE else 1
    if not (math.isfinite(rule.threshold) and 0 <= rule.threshold <= max(1, most)):
        raise InvalidArgumentError(f"the threshold of a {kind} is between 0 and {max(1, most)}")
    if kind in (CHOICE, SCORE):
        options = rule.choice.options if kind == CHOICE else rule.score.levels
        if not 2 <= len(set(options)) == len(options) <= MAX_OPTIONS:
            raise InvalidArgumentError(
                f"a {kind} has 2 to {MAX_OPTIONS} options or levels, all different"
            )
    if kind == HEALTH:
        unknown = [each for each in rule.health.conditions if each not in CONDITIONS]
        if unknown:
            raise InvalidArgumentError(
                f"{unknown[0][:16]!r} is none of the conditions {', '.join(CONDITIONS)}"
            )
    elif kind == COMMENTARY:
        if len(rule.commentary.question.encode()) > MAX_QUESTION_BYTES:
            raise InvalidArgumentError(f"a question has at most {MAX_QUESTION_BYTES} bytes")
        if len(rule.commentary.instructions.encode()) > MAX_INSTRUCTIONS_BYTES:
            raise InvalidArgumentError(f"instructions have at most {MAX_INSTRUCTIONS_BYTES} bytes")
    else:
        if kind == PRODUCT:
            _check_products(rule.product)
        check_statements(asked_of(rule))
        if rule.product.idle:
            check_statements([rule.product.idle])


def _texts(value: Any) -> Iterator[str]:
    """Every text of a message, however deep."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _texts(each)
    elif isinstance(value, Message):
        for _, each in value.ListFields():
            yield from _texts(each)
    elif isinstance(value, Iterable):
        for each in value:
            yield from _texts(each)


def check_name(name: str) -> None:
    """Raise InvalidArgumentError for what is no name of a rule."""
    if len(name) > MAX_NAME_CHARACTERS or not name.isprintable():
        raise InvalidArgumentError(f"a name has at most {MAX_NAME_CHARACTERS} printable characters")


def _check_products(rule: rules_pb2.ProductRule) -> None:
    skus = [product.sku for product in rule.products]
    if not 0 < len(set(skus)) == len(skus) <= MAX_PRODUCTS:
        raise InvalidArgumentError(f"1 to {MAX_PRODUCTS} products, all with SKUs of their own")
    for product in rule.products:
        if not product.sku or not 0 < len(product.names) <= MAX_NAMES:
            raise InvalidArgumentError(f"a product has an SKU and 1 to {MAX_NAMES} names")
        for text in (product.sku, product.link, product.price, product.picture):
            if len(text) > MAX_TEXT_CHARACTERS or not text.isprintable():
                raise InvalidArgumentError(
                    f"what a product has is of at most {MAX_TEXT_CHARACTERS} printable characters"
                )
        for address in (product.link, product.picture):
            # It becomes a link on a page: nothing that a browser would run.
            if _scheme(address) not in ("", "http", "https"):
                raise InvalidArgumentError("links and pictures of products are http(s) addresses")
            if holds_secret(f"https:{address}"):  # of one that begins with //
                raise InvalidArgumentError(SECRET)


def _scheme(address: str) -> str | None:
    """Scheme of an address; None: it is none."""
    try:
        return urlsplit(address).scheme
    except ValueError:
        return None


def interval_s(rule: rules_pb2.Rule) -> float:
    """Seconds from one check to the next."""
    usual_s = 10.0 if kind_of(rule) == COMMENTARY else 1.0
    return max(LEAST_INTERVAL_S, rule.interval_s if rule.HasField("interval_s") else usual_s)
