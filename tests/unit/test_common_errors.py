"""The error interceptor, against a real server on the loopback interface."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from prometheus_client import REGISTRY

from services.common.errors import ErrorInterceptor
from sightline.errors import NotFoundError, SightlineError, UnavailableError, error_from_status
from sightline.v1 import dialogue_pb2 as pb
from sightline.v1 import dialogue_pb2_grpc, tts_pb2, tts_pb2_grpc
from tests.eventually import PATIENCE_S, eventually

DELETE = "/sightline.v1.DialogueService/Delete"
SYNTHESIZE = "/sightline.v1.TtsService/Synthesize"


class _Dialogue(dialogue_pb2_grpc.DialogueServiceServicer):
    def __init__(self, behaviour: Callable[[Any, Any], Any]) -> None:
        self._behaviour = behaviour

    async def Delete(self, request: Any, context: Any) -> Any:
        return await self._behaviour(request, context)


class _Tts(tts_pb2_grpc.TtsServiceServicer):
    def __init__(self, behaviour: Callable[[Any, Any], AsyncIterator[Any]]) -> None:
        self._behaviour = behaviour

    async def Synthesize(self, requests: Any, context: Any) -> AsyncIterator[Any]:
        async for reply in self._behaviour(requests, context):
            yield reply


@asynccontextmanager
async def _served(behaviour: Callable[[Any, Any], Any]) -> AsyncIterator[grpc.aio.Channel]:
    server = grpc.aio.server(interceptors=[ErrorInterceptor()])
    dialogue_pb2_grpc.add_DialogueServiceServicer_to_server(_Dialogue(behaviour), server)
    tts_pb2_grpc.add_TtsServiceServicer_to_server(_Tts(behaviour), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield channel
    await server.stop(None)


async def _delete(channel: grpc.aio.Channel) -> Any:
    stub = dialogue_pb2_grpc.DialogueServiceStub(channel)
    return await stub.Delete(pb.DeleteConversationRequest(conversation="c"), timeout=PATIENCE_S)


def _calls(method: str, code: str) -> float:
    labels = {"method": method, "code": code}
    return REGISTRY.get_sample_value("sightline_rpc_seconds_count", labels) or 0.0


async def _counted(method: str, code: str, times: float) -> None:
    """A call is counted when its handler is over, of which its caller may hear first."""
    await eventually(lambda: _calls(method, code) == times)


async def _raises(error: BaseException) -> grpc.aio.AioRpcError:
    async def behaviour(request: Any, context: Any) -> Any:
        raise error

    async with _served(behaviour) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await _delete(channel)
    return caught.value


@pytest.mark.parametrize("kind", SightlineError.__subclasses__())
async def test_every_domain_error_travels_and_returns(kind: type[SightlineError]) -> None:
    before = _calls(DELETE, kind.code.name)
    status = await _raises(kind("clear words"))
    assert (status.code(), status.details()) == (kind.code, "clear words")
    assert type(error_from_status(status.code(), status.details())) is kind
    await _counted(DELETE, kind.code.name, before + 1)


async def test_unknown_errors_say_nothing_to_the_caller_but_all_to_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    status = await _raises(ZeroDivisionError("secret"))
    assert (status.code(), status.details()) == (grpc.StatusCode.INTERNAL, "internal error")
    assert "secret" in caplog.text


async def test_a_task_group_that_failed_on_purpose_keeps_its_status() -> None:
    status = await _raises(ExceptionGroup("tasks", [ExceptionGroup("", [NotFoundError("gone")])]))
    assert (status.code(), status.details()) == (grpc.StatusCode.NOT_FOUND, "gone")
    mixed = ExceptionGroup("tasks", [NotFoundError("gone"), KeyError("defect")])
    assert (await _raises(mixed)).code() is grpc.StatusCode.INTERNAL


async def test_a_message_too_long_for_a_header_still_arrives() -> None:
    status = await _raises(UnavailableError("x" * 100_000))
    assert status.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_servicers_own_abort_is_left_alone() -> None:
    async def behaviour(request: Any, context: Any) -> Any:
        await context.abort(grpc.StatusCode.DATA_LOSS, "by hand")

    before = _calls(DELETE, "DATA_LOSS")
    async with _served(behaviour) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await _delete(channel)
    assert caught.value.code() is grpc.StatusCode.DATA_LOSS
    await _counted(DELETE, "DATA_LOSS", before + 1)


async def test_a_peers_refusal_is_passed_on() -> None:
    async with _served(_refusing(NotFoundError("the peer's words"))) as peer:

        async def behaviour(request: Any, context: Any) -> Any:
            return await _delete(peer)

        async with _served(behaviour) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await _delete(channel)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    assert caught.value.details() == "the peer's words"


def _refusing(error: Exception) -> Callable[[Any, Any], Any]:
    async def behaviour(request: Any, context: Any) -> Any:
        raise error

    return behaviour


async def test_bytes_that_are_no_message_are_the_callers_fault() -> None:
    async def unary(request: Any, context: Any) -> Any:
        return pb.DeleteConversationResponse()

    async with _served(unary) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary(DELETE)(b"\xff" * 9, timeout=PATIENCE_S)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_bytes_that_are_no_message_end_a_stream() -> None:
    async def echo(requests: Any, context: Any) -> AsyncIterator[Any]:
        async for _ in requests:
            yield tts_pb2.SynthesizeResponse()

    async with _served(echo) as channel:
        call = channel.stream_stream(SYNTHESIZE)(iter([b"", b"\xff" * 9]), timeout=PATIENCE_S)
        assert await call.read() == b""
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("busy_sending", [False, True])
async def test_a_stream_cleans_up_at_once_when_its_caller_goes_away(busy_sending: bool) -> None:
    cleaned = asyncio.Event()

    async def behaviour(requests: Any, context: Any) -> AsyncIterator[Any]:
        try:
            yield tts_pb2.SynthesizeResponse(text="first")
            while busy_sending:
                yield tts_pb2.SynthesizeResponse(text="x" * 100_000)
            await asyncio.Event().wait()
        finally:
            cleaned.set()

    before = _calls(SYNTHESIZE, "CANCELLED")
    async with _served(behaviour) as channel:
        stub = tts_pb2_grpc.TtsServiceStub(channel)
        call = stub.Synthesize(timeout=20)
        await call.write(tts_pb2.SynthesizeRequest(text="hello"))
        assert (await call.read()).text == "first"
        call.cancel()
        await asyncio.wait_for(cleaned.wait(), PATIENCE_S)
    await _counted(SYNTHESIZE, "CANCELLED", before + 1)


async def test_a_stream_that_fails_half_way_keeps_what_it_sent() -> None:
    async def behaviour(requests: Any, context: Any) -> AsyncIterator[Any]:
        yield tts_pb2.SynthesizeResponse(text="one")
        raise NotFoundError("then gone")

    async with _served(behaviour) as channel:
        call = tts_pb2_grpc.TtsServiceStub(channel).Synthesize(timeout=PATIENCE_S)
        assert (await call.read()).text == "one"
        with pytest.raises(grpc.aio.AioRpcError, match="then gone"):
            await call.read()


@pytest.mark.parametrize("timeout_s", [0.2, 20.0])
async def test_grpcs_own_words_about_a_peer_stay_in_the_log(
    timeout_s: float, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever asks is told what to do, not which address refused a connection."""
    address = "127.0.0.1:9"

    async def behaviour(request: Any, context: Any) -> Any:
        async with grpc.aio.insecure_channel(address) as peer:
            stub = dialogue_pb2_grpc.DialogueServiceStub(peer)
            return await stub.Delete(pb.DeleteConversationRequest(), timeout=timeout_s)

    async with _served(behaviour) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary(DELETE)(b"", timeout=30)
    details = caught.value.details() or ""
    assert "try again" in details
    for word in (address, "127", "ipv4", "connect", "last error", "StatusCode"):
        assert word not in details
    assert "a peer failed" in caplog.text
