"""Exchange of a call in which requests go out while replies come in, as with TTS and ASR."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any, TypeAlias

import grpc

from services.common.tasks import cancel_and_wait, spawn

_Call: TypeAlias = Any  # grpc.aio.StreamStreamCall, whose stubs do not know EOF


async def exchange(
    call: _Call,
    first: Any,
    rest: AsyncIterator[Any],
    *,
    connect_timeout_s: float,
    reply_timeout_s: float,
) -> AsyncGenerator[Any, None]:
    """Replies to `first` and to the `rest` of the requests, which are sent meanwhile.

    The other side sends its headers as soon as it has taken the call. Raises TimeoutError when it
    does not within `connect_timeout_s`, or has no reply `reply_timeout_s` after the last request;
    AioRpcError for a refusal or a loss; and what `rest` raises. Closing the iterator ends the call.
    """
    writer: asyncio.Task[None] | None = None
    try:
        async with asyncio.timeout(connect_timeout_s):
            with contextlib.suppress(asyncio.InvalidStateError):  # over already: see below why
                await call.write(first)
            await call.initial_metadata()
        # Not before: gRPC forgets why a call was refused when more is written to it.
        writer = spawn(_write(call, rest), name="write requests")
        while (reply := await _next(call, writer, reply_timeout_s)) is not None:
            yield reply
    finally:
        call.cancel()
        await cancel_and_wait(writer)


async def _next(call: _Call, writer: asyncio.Task[None], timeout_s: float) -> Any:
    """The next reply, None at the end. TimeoutError once all is written and none comes."""
    reading = asyncio.ensure_future(call.read())
    try:
        await asyncio.wait((reading, writer), return_when=asyncio.FIRST_COMPLETED)
        if writer.done() and not writer.cancelled():
            writer.result()  # a failure of whoever makes the requests is the caller's to know
        async with asyncio.timeout(timeout_s):
            reply = await reading
    finally:
        await cancel_and_wait(reading)
    return None if reply is grpc.aio.EOF else reply


async def _write(call: _Call, requests: AsyncIterator[Any]) -> None:
    # The call may end while it is written to; whoever reads from it learns of it.
    # grpc tells of a call that ends in the moment in which it is half-closed by an InternalError.
    ended = (asyncio.InvalidStateError, grpc.aio.AioRpcError, grpc.aio.InternalError)
    with contextlib.suppress(*ended):
        async for request in requests:
            await call.write(request)
        await call.done_writing()
