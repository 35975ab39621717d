"""The first message of a stream, looked at before whoever reads the stream."""

import asyncio
from collections.abc import AsyncIterator
from typing import TypeVar

from sightline.errors import DeadlineExceededError

T = TypeVar("T")

PATIENCE_S = 10.0


async def peeked(incoming: AsyncIterator[T]) -> tuple[T | None, AsyncIterator[T]]:
    """The first message, None where none comes, and the whole stream. Raises
    DeadlineExceededError."""
    try:
        async with asyncio.timeout(PATIENCE_S):
            first = await anext(incoming, None)
    except TimeoutError:
        raise DeadlineExceededError("no first message arrived") from None

    async def whole() -> AsyncIterator[T]:
        if first is not None:
            yield first
        async for message in incoming:
            yield message

    return first, whole()
