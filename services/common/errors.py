"""The gRPC side of `sightline.errors`: one interceptor maps every exception to a status."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from grpc.aio import ServerInterceptor, ServicerContext

from services.common.admission import Admission, CallLimits
from services.common.metrics import RPC_SECONDS
from services.common.places import Trusted
from services.common.redaction import redacted
from services.common.tracing import served
from sightline.errors import (
    DeadlineExceededError,
    InternalError,
    InvalidArgumentError,
    ResourceExhaustedError,
    SightlineError,
    UnavailableError,
    error_from_status,
)
from sightline.reasons import Reason
from sightline.status import DETAILS, details_bytes, details_of
from sightline.v1 import gateway_pb2

log = logging.getLogger(__name__)

# A status travels in headers, which have a limit of 8 KiB: percent-encoded, and in its details.
MAX_DETAIL_CHARS, MAX_DETAIL_BYTES = 1000, 1200
RESTARTING_S = 3.0  # until another try at a service that is being started makes sense
# Trailing metadata of errors that a service raised on purpose: their words are meant for callers.
# What grpc itself says of a peer that is away holds addresses, and is meant for operators.
ON_PURPOSE = ("sightline-error", "1")
# Codes of a peer that is away: not there, or stopping with a call in its hands.
AWAY = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED})
_UNCOUNTED = ("/grpc.health.v1.Health/Check",)  # a full service is not a sick one


def error_event(
    error: SightlineError, *, turn: str = "", watch: str = ""
) -> gateway_pb2.ErrorEvent:
    """Event by which a stream tells of an error that does not end it, or of the one that does."""
    return gateway_pb2.ErrorEvent(
        turn=turn,
        watch=watch,
        code=error.code.name,
        message=redacted(error.message),
        reason=error.reason,
        retry_after_s=error.retry_after_s,
    )


def error_of_peer(error: grpc.aio.AioRpcError, peer: str) -> SightlineError:
    """Error for a caller of ours whose call needed another service's that failed.

    `peer` is its name in a sentence: "the model". The peer's own words are passed on; grpc's go
    to the log.
    """
    return error_of_status(error.code(), error.details(), error.trailing_metadata(), peer)


async def error_of_call(call: Any, peer: str) -> SightlineError:
    """The peer's refusal of a call that is over."""
    return error_of_status(
        await call.code(), await call.details(), await call.trailing_metadata(), peer
    )


def error_of_status(
    code: grpc.StatusCode, details: str | None, trailing: Any, peer: str
) -> SightlineError:
    if ON_PURPOSE in [(name, value) for name, value in trailing or ()]:
        reason, retry_after_s = details_of(trailing)
        return error_from_status(code, details, reason=reason, retry_after_s=retry_after_s)
    log.warning("a peer failed", extra={"peer": peer, "code": code.name, "reason": details or ""})
    name = peer[:1].upper() + peer[1:]
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return DeadlineExceededError(f"{name} took too long: try again")
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return ResourceExhaustedError(f"{name} has no room for this now: try again later")
    if code in AWAY:
        return restarting(peer)
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return UnavailableError(
            f"{name} runs another version than this server", reason=Reason.VERSION_MISMATCH
        )
    return InternalError(f"{name} failed")


def restarting(peer: str, reason: str = "") -> UnavailableError:
    """Words for callers about a peer that is away."""
    return UnavailableError(
        f"{peer[:1].upper()}{peer[1:]} is restarting: try again in some seconds",
        reason=reason,
        retry_after_s=RESTARTING_S,
    )


class ErrorInterceptor(ServerInterceptor):
    """Turns domain errors into their status and unknown ones into INTERNAL without detail.

    Bytes that are not the request's message are INVALID_ARGUMENT. Also times every call and
    counts it against the limits of `admission`, because this is the one place that sees them all.
    """

    def __init__(self, admission: Admission | None = None) -> None:
        self._admission = admission or Admission(CallLimits(), Trusted())

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        handler = await continuation(handler_call_details)
        if handler is None:
            return handler
        method = handler_call_details.method
        decode = _decoder(handler.request_deserializer)
        # Every call is served as one that streams its requests: a single one is then read inside
        # the call, where it takes its turn, and where a failure still gets its status.
        if handler.response_streaming:
            behaviour = handler.stream_stream or handler.unary_stream
            make, run = grpc.stream_stream_rpc_method_handler, _run_streaming
        else:
            behaviour = handler.stream_unary or handler.unary_unary
            make, run = grpc.stream_unary_rpc_method_handler, _run_unary
        streams = handler.request_streaming

        async def call(requests: AsyncIterator[bytes], context: ServicerContext[Any, Any]) -> Any:
            outcome = _Outcome(method)
            traced = served(method, context.invocation_metadata())
            with outcome.timed(), self._admission.busy(context), traced:
                try:
                    place = self._admission.place(context)
                    counted = method not in _UNCOUNTED
                    with self._admission.call(place, streams) if counted else _nothing():
                        if streams:
                            request: Any = _Decoded(requests, decode)
                        else:
                            request = decode(await self._admission.first(requests, place))
                        return await run(behaviour, request, context)
                except Exception as error:
                    try:
                        await outcome.abort(error, context)
                    except grpc.aio.InternalError:
                        # The caller is gone, and grpc may not know it yet: it would complain.
                        raise asyncio.CancelledError from None

        return make(call, None, handler.response_serializer)


_nothing = contextlib.nullcontext


class _Decoded:
    """A stream of requests. Not a generator, which one cancelled wait for a message would end."""

    def __init__(self, raw: AsyncIterator[bytes], decode: Callable[[bytes], Any]) -> None:
        self._raw = raw
        self._iterator: AsyncIterator[bytes] | None = None
        self._decode = decode

    def __aiter__(self) -> "_Decoded":
        return self

    async def __anext__(self) -> Any:
        if self._iterator is None:  # not before: one that nobody reads would be complained about
            self._iterator = aiter(self._raw)
        return self._decode(await anext(self._iterator))


def _decoder(deserializer: Callable[[bytes], Any] | None) -> Callable[[bytes], Any]:
    def decode(raw: bytes) -> Any:
        if deserializer is None:
            return raw
        try:
            return deserializer(raw)
        except DecodeError as error:
            raise InvalidArgumentError("the bytes are not a message of this method") from error

    return decode


async def _run_unary(
    behaviour: Callable[..., Any], request: Any, context: ServicerContext[Any, Any]
) -> Any:
    return await behaviour(request, context)


async def _run_streaming(
    behaviour: Callable[..., Any], request: Any, context: ServicerContext[Any, Any]
) -> None:
    result = behaviour(request, context)
    if hasattr(result, "__aiter__"):
        await _send_all(result, context)
    else:  # a library servicer that writes through the context
        await result


async def _send_all(replies: AsyncIterator[Any], context: ServicerContext[Any, Any]) -> None:
    """Send what a servicer yields, and let it clean up at once when the caller goes away.

    Left to grpc, a generator cancelled between two replies is closed by the garbage collector.
    """
    async with contextlib.aclosing(replies) as open_replies:  # type: ignore[type-var]
        async for reply in open_replies:
            await context.write(reply)


@dataclass(slots=True)
class _Outcome:
    """Outcome of one call."""

    method: str
    code: grpc.StatusCode = grpc.StatusCode.OK

    @contextlib.contextmanager
    def timed(self) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        except asyncio.CancelledError:
            self.code = grpc.StatusCode.CANCELLED
            raise
        finally:
            seconds = time.perf_counter() - started
            RPC_SECONDS.labels(self.method, self.code.name).observe(seconds)

    async def abort(self, error: Exception, context: ServicerContext[Any, Any]) -> None:
        """End the call with the status of `error`. Always raises."""
        if isinstance(error, grpc.aio.AbortError):  # the servicer aborted by itself
            self.code = context.code() or grpc.StatusCode.UNKNOWN
            raise error
        if _is_gone(error, context):
            self.code = grpc.StatusCode.CANCELLED
            raise error
        refusal = self._refusal_of(error)
        self.code = refusal.code
        _forget_frames(error)
        message = redacted(refusal.message)[:MAX_DETAIL_CHARS]
        message = message.encode()[:MAX_DETAIL_BYTES].decode(errors="ignore")
        number = int(self.code.value[0])
        details = details_bytes(number, message, refusal.reason, refusal.retry_after_s)
        await context.abort(self.code, message, (ON_PURPOSE, (DETAILS, details)))

    def _refusal_of(self, error: Exception) -> SightlineError:
        error = _one_of_group(error)
        if isinstance(error, SightlineError):
            return error
        if isinstance(error, grpc.aio.AioRpcError):
            return error_of_peer(error, "a part of the service")
        log.error("unhandled error", extra={"method": self.method}, exc_info=error)
        return InternalError("internal error")


def _forget_frames(error: BaseException | None) -> None:
    """Let go of what the calls that failed held. grpc keeps an aborted call's error in a circle of
    references, and with it a session and its pictures, until the collector of garbage comes by."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        error.__traceback__ = None
        error = error.__context__


def _is_gone(error: Exception, context: ServicerContext[Any, Any]) -> bool:
    """Whether grpc itself says that the caller or the server is gone: nobody is left to answer."""
    if isinstance(error, grpc.aio.UsageError):  # ours unless the call was over
        return context.done()
    return isinstance(error, grpc.aio.BaseError)


def _one_of_group(error: Exception) -> Exception:
    """Failure of a task group, where every failure in it was raised on purpose."""
    if not isinstance(error, ExceptionGroup):
        return error
    on_purpose, others = error.split((SightlineError, grpc.aio.AioRpcError))
    if others is not None or on_purpose is None:
        return error
    first = on_purpose.exceptions[0]
    return _one_of_group(first)
