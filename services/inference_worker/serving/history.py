"""History of conversations, as answering needs it."""

import asyncio
from typing import Protocol

from sightline.v1 import dialogue_pb2


class History(Protocol):
    """Earlier rounds of a conversation, and where finished ones go. `available` is False while
    what is kept cannot be reached."""

    @property
    def available(self) -> bool: ...

    async def context(
        self, conversation: str, rounds: int, *, before: str = ""
    ) -> list[dialogue_pb2.Round] | None:
        """The last rounds, oldest first, but for the turn `before`; None when they cannot be had
        now."""
        ...

    def append(
        self,
        conversation: str,
        *,
        turn: str,
        question: str,
        answer: str,
        asked_ns: int,
        capture_ns: int,
        interrupted: bool,
        session: str,
    ) -> "asyncio.Future[bool]":
        """Take a round to keep. The result: whether it is stored, once that is known."""
        ...
