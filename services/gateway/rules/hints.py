"""Hints: what a product rule asks while nothing changes, in the place of its whole catalogue.

Nothing is shown while its `idle` holds. A product is still shown while it is the likeliest of those
that were likely when all were asked for last: by itself its probability says little, for a model
may find a glove as likely as the cap that is held.
"""

import heapq
from collections.abc import Mapping

from services.gateway.rules.judgement import Judgement, Reading
from services.gateway.rules.kinds import HELD, PRODUCT, kind_of, threshold_of, with_each
from sightline.v1 import rules_pb2

SURE = 0.9  # probability of a hint that is believed
MOST_HINTED = 4  # looks in a row for which hints alone are believed
NUM_RIVALS = 8  # statements that were likely, and are asked with that of the product


class Hints:
    """Hints of one rule. No I/O."""

    def __init__(self, rule: rules_pb2.Rule) -> None:
        self._idle = rule.product.idle if kind_of(rule) == PRODUCT else ""
        self._sure = max(SURE, threshold_of(rule))
        statement = rule.product.statement or HELD
        self._of_product = {
            product.sku: with_each(statement, product.names) for product in rule.product.products
        }
        self._rivals: list[str] = []
        self._num_hinted = 0  # looks in a row

    def asked(self, judgement: Judgement) -> list[str]:
        """Statements that may spare the whole catalogue. None where there are no such, and where
        hints alone were believed for long enough."""
        if not self._idle or self._num_hinted >= MOST_HINTED:
            return []
        shown = self._of_product.get(judgement.value)
        if shown is None:
            return [self._idle]
        return list(dict.fromkeys([*shown, *self._rivals])) if self._rivals else []

    def note(self, probabilities: Mapping[str, float]) -> None:
        """What a look at the whole catalogue has found."""
        self._num_hinted = 0
        if self._idle:
            every = [text for texts in self._of_product.values() for text in texts]
            self._rivals = heapq.nlargest(NUM_RIVALS, every, key=probabilities.__getitem__)

    def unchanged(
        self, judgement: Judgement, probabilities: Mapping[str, float], at_ns: int
    ) -> Reading | None:
        """The reading where these say surely enough that all is as it was read last; None where all
        has to be asked for."""
        value = judgement.value
        shown = self._of_product.get(value)
        likeliest = max(shown or [self._idle], key=probabilities.__getitem__)
        probability = probabilities[likeliest]
        rivals = self._rivals if shown else []
        highest = max((probabilities[each] for each in rivals), default=0.0)
        if probability <= self._sure or probability < highest:
            return None
        self._num_hinted += 1
        return Reading(
            at_ns=at_ns,
            active=bool(value),
            value=value,
            by_value=True,
            probability=probability,
        )
