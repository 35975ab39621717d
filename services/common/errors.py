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

from services.common.metrics import RPC_SECONDS
from services.common.redaction import redacted
from sightline.errors import InvalidArgumentError, SightlineError

log = logging.getLogger(__name__)

MAX_DETAIL_CHARS = 1000  # a status travels in a header, and headers have a limit of 8 KiB


class ErrorInterceptor(ServerInterceptor):
    """Turns domain errors into their status and unknown ones into INTERNAL without detail.

    Bytes that are not the request's message are INVALID_ARGUMENT. Also times every call, because
    this is the one place that sees them all.
    """

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
        if handler.response_streaming:
            behaviour = handler.stream_stream or handler.unary_stream
            make = (
                grpc.stream_stream_rpc_method_handler
                if handler.request_streaming
                else grpc.unary_stream_rpc_method_handler
            )
            wrap = _wrap_streaming
        else:
            behaviour = handler.stream_unary or handler.unary_unary
            make = (
                grpc.stream_unary_rpc_method_handler
                if handler.request_streaming
                else grpc.unary_unary_rpc_method_handler
            )
            wrap = _wrap_unary
        if handler.request_streaming:
            wrapped = wrap(behaviour, method)
            return make(wrapped, decode, handler.response_serializer)
        # A single request is decoded inside the call, where a failure still gets its status.
        wrapped = wrap(lambda raw, context: behaviour(decode(raw), context), method)
        return make(wrapped, None, handler.response_serializer)


def _decoder(deserializer: Callable[[bytes], Any] | None) -> Callable[[bytes], Any]:
    def decode(raw: bytes) -> Any:
        if deserializer is None:
            return raw
        try:
            return deserializer(raw)
        except DecodeError as error:
            raise InvalidArgumentError("the bytes are not a message of this method") from error

    return decode


def _wrap_unary(behaviour: Callable[..., Any], method: str) -> Callable[..., Any]:
    async def call(request: Any, context: ServicerContext[Any, Any]) -> Any:
        outcome = _Outcome(method)
        with outcome.timed():
            try:
                return await behaviour(request, context)
            except Exception as error:
                await outcome.abort(error, context)

    return call


def _wrap_streaming(behaviour: Callable[..., Any], method: str) -> Callable[..., Any]:
    async def call(request: Any, context: ServicerContext[Any, Any]) -> None:
        outcome = _Outcome(method)
        with outcome.timed():
            try:
                result = behaviour(request, context)
                if hasattr(result, "__aiter__"):
                    await _send_all(result, context)
                else:  # a library servicer that writes through the context
                    await result
            except Exception as error:
                await outcome.abort(error, context)

    return call


async def _send_all(replies: AsyncIterator[Any], context: ServicerContext[Any, Any]) -> None:
    """Send what a servicer yields, and let it clean up at once when the caller goes away.

    Left to grpc, a generator cancelled between two replies is closed by the garbage collector.
    """
    async with contextlib.aclosing(replies) as open_replies:  # type: ignore[type-var]
        async for reply in open_replies:
            await context.write(reply)


@dataclass(slots=True)
class _Outcome:
    """How one call ended."""

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
        self.code, message = self._status_of(error)
        _forget_frames(error)
        await context.abort(self.code, redacted(message)[:MAX_DETAIL_CHARS])

    def _status_of(self, error: Exception) -> tuple[grpc.StatusCode, str]:
        error = _one_of_group(error)
        if isinstance(error, SightlineError):
            return error.code, error.message
        if isinstance(error, grpc.aio.AioRpcError):  # a peer's refusal, passed on as it came
            return error.code(), error.details() or ""
        log.error("unhandled error", extra={"method": self.method}, exc_info=error)
        return grpc.StatusCode.INTERNAL, "internal error"


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
    """What a task group failed of, where every failure in it was raised on purpose."""
    if not isinstance(error, ExceptionGroup):
        return error
    on_purpose, others = error.split((SightlineError, grpc.aio.AioRpcError))
    if others is not None or on_purpose is None:
        return error
    first = on_purpose.exceptions[0]
    return _one_of_group(first)
