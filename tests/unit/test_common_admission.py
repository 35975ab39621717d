"""What callers may hold of a gRPC port, on a real server."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from services.common import admission
from services.common.admission import Admission, CallLimits
from services.common.errors import ErrorInterceptor
from services.common.places import Trusted
from sightline.errors import ResourceExhaustedError
from sightline.v1 import dialogue_pb2 as pb
from sightline.v1 import dialogue_pb2_grpc
from tests.eventually import PATIENCE_S

DELETE = "/sightline.v1.DialogueService/Delete"
Code = grpc.StatusCode


class _Dialogue(dialogue_pb2_grpc.DialogueServiceServicer):
    def __init__(self) -> None:
        self.go_on = asyncio.Event()
        self.entered = asyncio.Semaphore(0)

    async def Delete(self, request: Any, context: Any) -> Any:
        self.entered.release()
        if request.conversation == "wait":
            await self.go_on.wait()
        return pb.DeleteConversationResponse(existed=True)


@contextlib.asynccontextmanager
async def _served(**limits: Any) -> AsyncIterator[tuple[_Dialogue, int]]:
    admitted = Admission(CallLimits(**limits), Trusted())
    server = grpc.aio.server(interceptors=[ErrorInterceptor(admitted)])
    servicer = _Dialogue()
    dialogue_pb2_grpc.add_DialogueServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield servicer, port
    servicer.go_on.set()
    await server.stop(None)


def _slow(channel: grpc.aio.Channel) -> Any:
    """A call whose request never comes."""
    return channel.stream_unary(DELETE)()


async def test_slow_requests_keep_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "PATIENCE_S", 0.05)
    async with (
        _served(receiving=4, request_s=30) as (_, port),
        grpc.aio.insecure_channel(f"127.0.0.1:{port}") as slow,
        grpc.aio.insecure_channel(f"127.0.0.1:{port}") as quick,
    ):
        held = [_slow(slow) for _ in range(12)]
        await asyncio.gather(*(call.wait_for_connection() for call in held))
        stub = dialogue_pb2_grpc.DialogueServiceStub(quick)
        for _ in range(3):
            assert (await stub.Delete(pb.DeleteConversationRequest(), timeout=PATIENCE_S)).existed
        codes = [await call.code() for call in held if call.done()]
        assert codes
        assert set(codes) == {Code.RESOURCE_EXHAUSTED}
        for call in held:
            call.cancel()


async def test_a_request_that_never_comes_ends_its_call() -> None:
    async with (
        _served(request_s=0.05) as (_, port),
        grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        call = _slow(channel)
        assert await call.code() is Code.DEADLINE_EXCEEDED


async def test_one_place_has_so_many_calls() -> None:
    async with (
        _served(calls_per_place=3) as (servicer, port),
        grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        stub = dialogue_pb2_grpc.DialogueServiceStub(channel)
        request = pb.DeleteConversationRequest(conversation="wait")
        held = [stub.Delete(request, timeout=10) for _ in range(3)]
        for _ in held:
            await servicer.entered.acquire()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Delete(request, timeout=10)
        assert caught.value.code() is Code.RESOURCE_EXHAUSTED
        servicer.go_on.set()
        assert all(reply.existed for reply in await asyncio.gather(*held))
        assert (await stub.Delete(request, timeout=10)).existed


def test_streams_have_a_limit_of_their_own() -> None:
    admitted = Admission(CallLimits(streams_per_place=1), Trusted())
    with admitted.call("192.0.2.1", True):
        with pytest.raises(ResourceExhaustedError), admitted.call("192.0.2.1", True):
            pass
        with admitted.call("192.0.2.1", False), admitted.call("192.0.2.2", True):
            pass
    assert not admitted._calls
    assert not admitted._streams


async def test_a_call_without_a_request_is_the_callers_fault() -> None:
    async with _served() as (_, port), grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = channel.stream_unary(DELETE)()
        await call.done_writing()
        assert await call.code() is Code.INVALID_ARGUMENT


async def test_who_connects_and_says_nothing_costs_no_call() -> None:
    async with _served(calls=1) as (_, port):
        held = [socket.create_connection(("127.0.0.1", port)) for _ in range(20)]
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub = dialogue_pb2_grpc.DialogueServiceStub(channel)
            assert (await stub.Delete(pb.DeleteConversationRequest(), timeout=PATIENCE_S)).existed
        for connection in held:
            connection.close()
