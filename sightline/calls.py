"""Calls on one channel to a gateway: typed errors, deadlines, and retries where they are safe."""

import asyncio
import random
from collections.abc import AsyncGenerator, Callable
from typing import Any

import grpc

from sightline.access import Access, SignedStub
from sightline.errors import (
    DeadlineExceededError,
    SightlineError,
    UnavailableError,
    error_from_status,
)
from sightline.status import details_of
from sightline.types import RatedRound, Round, Timeouts
from sightline.unreachable import why_unreachable
from sightline.v1 import dialogue_pb2, gateway_pb2_grpc
from sightline.v1 import gateway_pb2 as pb
from sightline.wire import is_of_transport, rated_round, round_of

__all__ = ["CUT_SHORT", "Calls", "StreamClosedError", "backoff_s", "from_rpc", "send"]

ATTEMPTS = 4
MAX_LEFT = 4  # connections that were left, and may have calls under way


# What grpc raises of a stream that is half-closed in the moment in which its server ends it.
CUT_SHORT = grpc.aio.InternalError
_LOST_REASON = "Internal error from Core"  # grpc's words for the status it makes up


def from_rpc(error: grpc.aio.AioRpcError, address: str) -> SightlineError:
    """The typed error a failed call stands for.

    A write to a stream that the server has ended a moment ago makes grpc declare INTERNAL by
    itself, and the server's own status is lost (grpcio 1.76 to 1.85). All that is known then is
    that the stream is over; streams whose end has a reason to tell carry it in a last message.
    """
    details = error.details() or ""
    if error.code() is grpc.StatusCode.INTERNAL and details == _LOST_REASON:
        return UnavailableError("the server ended the stream")
    if error.code() is grpc.StatusCode.CANCELLED:  # not by whoever asked: that raises another
        return UnavailableError("the server ended the call")
    if error.code() is grpc.StatusCode.UNAVAILABLE:
        if "failed to connect" in details.lower():
            details = f"cannot reach {address}"
        elif is_of_transport(details):
            details = f"the connection to {address} broke"
    if error.code() is grpc.StatusCode.UNIMPLEMENTED and "http2 header" in details:  # of a proxy
        details = f"cannot reach {address}: what answers there speaks HTTP, and no gRPC"
        return UnavailableError(details)
    if error.code() is grpc.StatusCode.UNIMPLEMENTED:
        details = f"{address} is of an earlier version, which cannot do this"
    reason, retry_after_s = details_of(error.trailing_metadata())
    return error_from_status(error.code(), details, reason=reason, retry_after_s=retry_after_s)


class StreamClosedError(Exception):
    """A stream that takes nothing more; its reader learns why."""


async def send(call: Any, message: Any) -> None:
    """Write to a stream. Raises StreamClosedError where it has ended meanwhile, or the status of a
    call that could not be made."""
    await call.wait_for_connection()
    try:
        await call.write(message)
    except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
        raise StreamClosedError from None


def backoff_s(
    attempt: int, rng: random.Random, *, least_s: float = 0.1, most_s: float = 2.0
) -> float:
    """A wait before try number `attempt` + 1: exponential, with full jitter over its upper half."""
    ceiling = min(most_s, least_s * 2.0**attempt)
    return rng.uniform(ceiling / 2, ceiling)


class Calls:
    """The gateway's methods, called with manners. Belongs to one event loop."""

    def __init__(
        self,
        access: Access,
        timeouts: Timeouts,
        rng: random.Random | None = None,
    ) -> None:
        self.address = access.address
        self.timeouts = timeouts
        self.rng = rng or random.Random()
        self._access = access
        self._left: list[grpc.aio.Channel] = []
        self._turn = 0
        self.channel, self.stub = self._connect()

    def _connect(self) -> tuple[grpc.aio.Channel, Any]:
        channel = self._access.channel(self._turn)
        stub: Any = gateway_pb2_grpc.SightlineServiceStub(channel)
        return channel, SignedStub(stub, self._access.token) if self._access.token else stub

    async def leave(self, stub: Any) -> None:
        """Whoever answers calls of this stub ends or is silent: further calls go over another
        connection, to the next address where there are several."""
        if stub is not self.stub:
            return  # somebody else has found out
        self._left.append(self.channel)
        self._turn += 1
        self.channel, self.stub = self._connect()
        if len(self._left) > MAX_LEFT:
            await self._left.pop(0).close()

    async def wait_until_reachable(self) -> None:
        """Raises UnavailableError, which says why, when nobody answers at the address in
        `connect_s`."""
        waited_s = self.timeouts.connect_s
        try:
            async with asyncio.timeout(waited_s):
                await self.channel.channel_ready()
        except TimeoutError:
            encrypted = self._access.credentials is not None
            why = await why_unreachable(self.address, encrypted=encrypted, waited_s=waited_s)
            raise UnavailableError(f"cannot reach {self.address}: {why}") from None

    async def unary(
        self,
        method: Callable[..., Any],
        request: Any,
        timeout_s: float | None = None,
        *,
        retry: bool = True,
    ) -> Any:
        """Call once, or until it works: UNAVAILABLE is retried a few times within the deadline,
        after as long as the server says where it says so."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + (self.timeouts.call_s if timeout_s is None else timeout_s)
        for attempt in range(ATTEMPTS):
            try:
                return await method(request, timeout=max(deadline - loop.time(), 0.001))
            except grpc.aio.AioRpcError as error:
                failure = from_rpc(error, self.address)
                wait_s = max(backoff_s(attempt, self.rng), failure.retry_after_s or 0.0)
                last = attempt == ATTEMPTS - 1 or loop.time() + wait_s >= deadline
                if not retry or last or not isinstance(failure, UnavailableError):
                    raise failure from None
            await asyncio.sleep(wait_s)
        raise AssertionError("unreachable")

    async def stream(
        self, method: Callable[..., Any], request: Any, timeout_s: float
    ) -> AsyncGenerator[Any, None]:
        """The replies of a server stream, which must end in `timeout_s`."""
        call = method(request, timeout=timeout_s)
        try:
            async for reply in call:
                yield reply
        except grpc.aio.AioRpcError as error:
            failure = from_rpc(error, self.address)
            if isinstance(failure, DeadlineExceededError):
                failure = DeadlineExceededError(f"no end after {timeout_s:g} s")
            raise failure from None
        finally:
            call.cancel()

    async def history(self, conversation: str) -> list[Round]:
        """Every kept round of a conversation, oldest first."""
        rounds: list[Round] = []
        request = pb.GetConversationRequest(conversation=conversation)
        while True:
            reply = await self.unary(self.stub.GetConversation, request)
            rounds += map(round_of, reply.rounds)
            if not reply.next_page_token:
                return rounds
            request.page_token = reply.next_page_token

    async def forget(self, conversation: str) -> bool:
        """Remove a conversation; whether there was one."""
        request = dialogue_pb2.DeleteConversationRequest(conversation=conversation)
        reply = await self.unary(self.stub.DeleteConversation, request)
        return bool(reply.existed)

    async def rate(self, conversation: str, turn: str, *, up: bool | None, better: str) -> None:
        """Keep what somebody thinks of an answer."""
        rating = dialogue_pb2.RATING_UP if up else dialogue_pb2.RATING_DOWN
        request = dialogue_pb2.RateTurnRequest(
            conversation=conversation,
            turn=turn,
            rating=dialogue_pb2.RATING_UNSPECIFIED if up is None else rating,
            better=better,
        )
        await self.unary(self.stub.RateTurn, request)

    async def rated(self) -> list[RatedRound]:
        """Every answer that was rated."""
        rounds: list[RatedRound] = []
        request = dialogue_pb2.ListRatedRequest()
        while True:
            reply = await self.unary(self.stub.ListRated, request)
            rounds += map(rated_round, reply.rounds)
            if not reply.next_page_token:
                return rounds
            request.page_token = reply.next_page_token

    async def aclose(self) -> None:
        await asyncio.gather(*(channel.close() for channel in (*self._left, self.channel)))
