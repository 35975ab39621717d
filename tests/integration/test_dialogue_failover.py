"""Dialogue in front of several Redis: a primary, its replica, and a Sentinel that fails over."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import redis

from sightline.v1 import dialogue_pb2 as pb
from sightline.v1 import dialogue_pb2_grpc
from tests import tools
from tests.eventually import wait_until
from tests.processes import RedisSentinel, RedisServer, ServiceProcess

pytestmark = pytest.mark.option

Servers = tuple[RedisServer, RedisServer]


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Servers]:
    """A primary and its replica, in step."""
    tools.require("redis")
    servers = []
    for name in ("first", "second"):
        folder = tmp_path / name
        folder.mkdir()
        servers.append(RedisServer(folder))
    first, second = servers
    first.start()
    second.options["replicaof"] = f"127.0.0.1 {first.port}"
    second.start()
    with redis.Redis.from_url(second.url) as client:
        wait_until(lambda: client.info("replication")["master_link_status"] == "up")
    yield first, second
    for server in servers:
        server.kill()


class Talk:
    """Somebody who appends turn after turn, each until it is acknowledged."""

    def __init__(self, stub: dialogue_pb2_grpc.DialogueServiceStub) -> None:
        self.stub = stub
        self.acknowledged: list[str] = []
        self.refused = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "Talk":
        self.stub.Open(pb.OpenConversationRequest(id="c"), timeout=20)
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._over.set()
        self._thread.join(30)

    def wait(self, more: int) -> None:
        """Until so many more turns are acknowledged."""
        wanted = len(self.acknowledged) + more
        wait_until(lambda: len(self.acknowledged) >= wanted)

    def _run(self) -> None:
        number = 0
        while not self._over.is_set():
            round_ = pb.Round(turn=f"t{number}", question="q", answer="a", asked_ns=number + 1)
            try:
                request = pb.AppendRequest(conversation="c", round=round_)
                self.stub.Append(request, timeout=5)
            except grpc.RpcError:
                self.refused += 1
                self._over.wait(0.05)
                continue
            self.acknowledged.append(round_.turn)
            number += 1
            self._over.wait(0.005)


def _turns(stub: Any) -> list[str]:
    request = pb.HistoryRequest(conversation="c", limit=1000)
    return [round_.turn for round_ in stub.History(request, timeout=10).rounds]


def _stub(process: ServiceProcess) -> dialogue_pb2_grpc.DialogueServiceStub:
    return dialogue_pb2_grpc.DialogueServiceStub(grpc.insecure_channel(process.address))


def _up(process: ServiceProcess, stub: dialogue_pb2_grpc.DialogueServiceStub) -> list[str]:
    """What is kept, once Redis answers again."""
    found: list[list[str]] = []

    def read() -> bool:
        try:
            found.append(_turns(stub))
        except grpc.RpcError:
            return False
        return True

    wait_until(read)
    assert process.serving()
    return found[-1]


def test_the_second_address_takes_over_where_it_takes_writes(
    pair: Servers, service_process: Callable[..., ServiceProcess]
) -> None:
    first, second = pair
    process = service_process(
        "dialogue",
        DIALOGUE_REDIS_URL=f"{first.url}, {second.url}",
        DIALOGUE_REDIS_REPLICAS="1",
        DIALOGUE_MAX_ROUNDS="1000",
    )
    stub = _stub(process)
    with Talk(stub) as talk:
        talk.wait(30)
        first.kill()
        wait_until(lambda: talk.refused)
        assert _up(process, stub)[: len(talk.acknowledged)] == talk.acknowledged
        with redis.Redis.from_url(second.url) as client:
            client.replicaof("NO", "ONE")  # what an operator, or a managed Redis, does
        first.options["replicaof"] = f"127.0.0.1 {second.port}"
        first.start()
        talk.wait(30)
    assert _up(process, stub) == talk.acknowledged


def test_a_replica_that_is_named_first_is_passed_over(
    pair: Servers, service_process: Callable[..., ServiceProcess]
) -> None:
    first, second = pair
    process = service_process("dialogue", DIALOGUE_REDIS_URL=f"{second.url},{first.url}")
    stub = _stub(process)
    with Talk(stub) as talk:
        talk.wait(5)
    assert not talk.refused
    assert _turns(stub) == talk.acknowledged


def test_a_failover_in_mid_conversation_loses_and_doubles_nothing(
    pair: Servers, service_process: Callable[..., ServiceProcess], tmp_path: Path
) -> None:
    first, second = pair
    folder = tmp_path / "sentinel"
    folder.mkdir()
    sentinel = RedisSentinel(folder, first)
    sentinel.start()
    try:
        with redis.Redis(port=sentinel.port) as client:
            wait_until(lambda: client.sentinel_slaves("sightline"))
        process = service_process(
            "dialogue",
            DIALOGUE_REDIS_URL=f"redis://127.0.0.1:1/0,redis://127.0.0.1:{sentinel.port}/0",
            DIALOGUE_REDIS_SENTINEL="sightline",
            DIALOGUE_REDIS_REPLICAS="1",
            DIALOGUE_MAX_ROUNDS="1000",
        )
        stub = _stub(process)
        with Talk(stub) as talk:
            talk.wait(30)
            first.kill()
            with redis.Redis.from_url(second.url) as client:
                wait_until(lambda: client.role()[0] == b"master")
            first.start()  # the Sentinel makes it the replica of the other
            talk.wait(30)
        assert talk.refused, "meanwhile there was nobody to write to"
        assert _up(process, stub) == talk.acknowledged
    finally:
        sentinel.kill()


def test_without_a_replica_that_follows_nothing_counts_as_kept(
    pair: Servers, service_process: Callable[..., ServiceProcess]
) -> None:
    first, second = pair
    process = service_process("dialogue", DIALOGUE_REDIS_URL=first.url, DIALOGUE_REDIS_REPLICAS="1")
    stub = _stub(process)
    stub.Open(pb.OpenConversationRequest(id="c"), timeout=10)
    second.kill()
    round_ = pb.Round(turn="t", question="q", answer="a")
    request = pb.AppendRequest(conversation="c", round=round_)
    with pytest.raises(grpc.RpcError, match="too few replicas") as refused:
        stub.Append(request, timeout=10)
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE  # type: ignore[attr-defined]
    second.start()
    wait_until(lambda: _kept(stub, request))
    assert _turns(stub) == ["t"]


def _kept(stub: Any, request: pb.AppendRequest) -> bool:
    try:
        return bool(stub.Append(request, timeout=10).duplicate)
    except grpc.RpcError:
        return False
