"""One viewer's dialogue about a session."""

import secrets
from collections.abc import Callable
from types import TracebackType
from typing import Self, Unpack

from sightline.answer import Answer, Watch
from sightline.calls import Calls
from sightline.line import Line
from sightline.types import AskOptions, SessionInfo
from sightline.v1 import gateway_pb2 as pb

__all__ = ["Conversation"]


class Conversation:
    """One dialogue about a session, with its own history. `async with` closes its line."""

    def __init__(
        self, calls: Calls, start: pb.Start, on_session: Callable[[SessionInfo], None]
    ) -> None:
        self.closed = False
        self._calls = calls
        self._line = Line(calls, start, on_session)

    @property
    def id(self) -> str:
        """Known after the first answer; give it to `session.conversation` to continue later."""
        return self._line.conversation

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Hang up. What was said is kept by the server until it expires."""
        self.closed = True
        await self._line.aclose()

    def ask(
        self, text: str, *, timeout_s: float | None = None, **options: Unpack[AskOptions]
    ) -> Answer:
        """Ask about the video as it is now, with what was said before."""
        question = pb.Question(turn=secrets.token_hex(8), text=text, **options)
        return self._line.ask(
            question, self._calls.timeouts.answer_s if timeout_s is None else timeout_s
        )

    def watch(
        self,
        condition: str,
        *,
        interval_s: float = 0.0,
        debounce_s: float = 0.0,
        cooldown_s: float = 0.0,
        timeout_s: float | None = None,
        limit: int | None = None,
    ) -> Watch:
        """Be told whenever `condition` begins or ceases to hold."""
        request = pb.Watch(
            watch=secrets.token_hex(8),
            condition=condition,
            interval_s=interval_s,
            debounce_s=debounce_s,
            cooldown_s=cooldown_s,
        )
        return self._line.watch(request, timeout_s, limit)
