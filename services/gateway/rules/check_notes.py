"""Notes of the last check of each rule: for people who want to see that it is looked after."""

import contextlib
import time
from collections.abc import Callable, Collection
from typing import Protocol

from services.gateway.rules.judgement import Reading
from sightline.errors import UnavailableError
from sightline.v1 import peer_pb2, rules_pb2

NOTED_S = 2.0  # between two writes of a session's


class Store(Protocol):
    """Where notes are kept."""

    async def note_checks(self, session: str, checks: peer_pb2.RuleChecks) -> None:
        """Raises UnavailableError."""


class CheckNotes:
    """The last checks of one session's rules, written together and seldom: whatever number of rules
    is checked however often, a session costs Redis one command in two seconds. One event loop."""

    def __init__(
        self, session: str, store: Store, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._session = session
        self._store = store
        self._clock = clock
        self._checks: dict[str, rules_pb2.RuleCheck] = {}
        self._changed = False
        self._written_s = float("-inf")

    def note(self, rule: str, reading: Reading | None, *, unfamiliar: bool = False) -> None:
        """Take what a check found; None: nothing that counts."""
        check = rules_pb2.RuleCheck(time_ns=time.time_ns(), unfamiliar_picture=unfamiliar)
        if reading is not None:
            check.active, check.value = reading.active, reading.value
            check.probability, check.score = reading.probability, reading.score
        self._checks[rule] = check
        self._changed = True

    async def write(self, rules: Collection[str]) -> None:
        """Write what is new of these rules, where it is time to. Others are forgotten."""
        if not self._changed or self._clock() - self._written_s < NOTED_S:
            return
        self._written_s, self._changed = self._clock(), False
        self._checks = {rule: each for rule, each in self._checks.items() if rule in rules}
        with contextlib.suppress(UnavailableError):  # the next ones are newer
            await self._store.note_checks(self._session, peer_pb2.RuleChecks(checks=self._checks))
