"""The worker's client against the real dialogue service while Redis and dialogue come and go."""

import asyncio
from collections.abc import Callable

import redis

from services.common.dialogue_client import DialogueClient
from services.inference_worker.metrics import ROUNDS
from sightline.v1.dialogue_pb2 import Round
from tests.eventually import eventually
from tests.processes import RedisServer, ServiceProcess


def _append(peer: DialogueClient, number: int) -> None:
    peer.append(
        "c",
        turn=f"t{number}",
        question=f"q{number}",
        answer=f"a{number}",
        asked_ns=number,
        capture_ns=number,
        interrupted=False,
    )


def _rounds(numbers: range) -> list[Round]:
    return [
        Round(
            turn=f"t{number}",
            question=f"q{number}",
            answer=f"a{number}",
            asked_ns=number,
            capture_ns=number,
        )
        for number in numbers
    ]


async def _written(peer: DialogueClient) -> None:
    await eventually(lambda: not peer.num_waiting)


async def test_history_survives_redis_and_dialogue_being_killed(
    redis_server: RedisServer, service_process: Callable[..., ServiceProcess]
) -> None:
    dialogue = service_process("dialogue", DIALOGUE_REDIS_URL=redis_server.url)
    # A generous deadline: this is about what is read, and test machines are busy.
    peer = DialogueClient(dialogue.address, ROUNDS, context_timeout_s=5.0)
    assert await peer.context("c", 10) == []
    for number in range(3):
        _append(peer, number)
    await _written(peer)
    assert await peer.context("c", 10) == _rounds(range(3))

    redis_server.kill()
    assert await peer.context("c", 10) is None
    assert not peer.available
    _append(peer, 3)
    _append(peer, 4)
    assert await peer.context("c", 10) == _rounds(range(3, 5))  # what was said since is known
    redis_server.start()
    await _written(peer)
    assert await peer.context("c", 10) == _rounds(range(5))
    assert peer.available

    dialogue.kill()
    assert await peer.context("c", 10) is None
    _append(peer, 5)
    dialogue.restart()
    await _written(peer)
    assert await peer.context("c", 4) == _rounds(range(2, 6))
    await peer.aclose()


async def test_a_full_redis_degrades_answers_until_it_takes_rounds_again(
    redis_server: RedisServer, service_process: Callable[..., ServiceProcess]
) -> None:
    dialogue = service_process("dialogue", DIALOGUE_REDIS_URL=redis_server.url)
    peer = DialogueClient(dialogue.address, ROUNDS, context_timeout_s=5.0)
    _append(peer, 0)
    await _written(peer)
    with redis.Redis.from_url(redis_server.url) as client:
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("maxmemory", "1")
        _append(peer, 1)
        for _ in range(3):  # reading goes on; that does not mean that all is well
            assert await peer.context("c", 10) == _rounds(range(2))
            await _until_unavailable(peer)
        assert await peer.context("new", 10) == []
        assert not peer.available
        client.config_set("maxmemory", "0")
    await _written(peer)
    assert peer.available
    assert await peer.context("c", 10) == _rounds(range(2))
    await peer.aclose()


async def _until_unavailable(peer: DialogueClient) -> None:
    await eventually(lambda: not peer.available)


async def test_what_waits_is_written_when_the_worker_ends(
    redis_server: RedisServer, service_process: Callable[..., ServiceProcess]
) -> None:
    dialogue = service_process("dialogue", DIALOGUE_REDIS_URL=redis_server.url)
    peer = DialogueClient(dialogue.address, ROUNDS, flush_timeout_s=20.0)
    redis_server.kill()
    _append(peer, 0)
    _append(peer, 1)
    closing = asyncio.create_task(peer.aclose())
    await asyncio.sleep(0.2)
    redis_server.start()
    await closing
    assert peer.num_waiting == 0
    reader = DialogueClient(dialogue.address, ROUNDS, context_timeout_s=5.0)
    assert await reader.context("c", 10) == _rounds(range(2))
    await reader.aclose()
