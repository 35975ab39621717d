"""The dialogue client against a real server on the loopback interface whose faults are chosen."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from prometheus_client import REGISTRY

from services.common.dialogue_client import DialogueClient
from services.inference_worker.metrics import ROUNDS
from sightline.v1 import dialogue_pb2, dialogue_pb2_grpc
from tests.eventually import PATIENCE_S, eventually
from tests.unit.fake_dialogue import FakeDialogue
from tests.unit.served import NOWHERE, served


@asynccontextmanager
async def _dialogue(**options: Any) -> AsyncIterator[tuple[DialogueClient, FakeDialogue]]:
    fake = FakeDialogue()
    add = dialogue_pb2_grpc.add_DialogueServiceServicer_to_server
    async with served(add, fake) as address:
        defaults = {"context_timeout_s": 5.0, "first_backoff_s": 0.005, "max_backoff_s": 0.02}
        peer = DialogueClient(address, ROUNDS, **(defaults | options))
        yield peer, fake
        await peer.aclose()


def _append(peer: DialogueClient, conversation: str, turn: str) -> "asyncio.Future[bool]":
    return peer.append(
        conversation,
        turn=turn,
        question=f"question {turn}",
        answer=f"answer {turn}",
        asked_ns=1,
        capture_ns=2,
        interrupted=False,
        session="s",
    )


def _round(turn: str) -> dialogue_pb2.Round:
    return dialogue_pb2.Round(
        turn=turn,
        question=f"question {turn}",
        answer=f"answer {turn}",
        asked_ns=1,
        capture_ns=2,
    )


def _outcome(name: str) -> float:
    value = REGISTRY.get_sample_value("sightline_worker_rounds_total", {"outcome": name})
    return value or 0.0


async def test_rounds_are_written_in_order_and_read_back() -> None:
    async with _dialogue() as (peer, fake):
        assert await peer.context("c", 10) == []  # never opened: a beginning, not a failure
        for number in range(12):
            _append(peer, "c", f"t{number}")
            _append(peer, "d", f"u{number}")
        await eventually(lambda: len(fake.turns("d")) == 12)
        assert fake.turns("c") == [f"t{number}" for number in range(12)]
        assert fake.turns("d") == [f"u{number}" for number in range(12)]
        assert fake.sessions == {"c": "s", "d": "s"}
        assert (fake.rounds["c"][0].asked_ns, fake.rounds["c"][0].capture_ns) == (1, 2)
        assert await peer.context("c", 3) == [_round("t9"), _round("t10"), _round("t11")]
        assert peer.available


async def test_history_is_right_while_rounds_wait_and_after() -> None:
    async with _dialogue() as (peer, fake):
        _append(peer, "c", "t0")
        await eventually(lambda: peer.num_waiting == 0)
        fake.refuse = grpc.StatusCode.UNAVAILABLE
        assert await peer.context("c", 10) is None
        assert not peer.available
        for turn in ("t1", "t2"):
            _append(peer, "c", turn)
        _append(peer, "d", "u0")
        # Dialogue is away: what was said since then is still known.
        assert await peer.context("c", 10) == [_round("t1"), _round("t2")]
        assert await peer.context("e", 10) is None
        await eventually(lambda: fake.tries > 8)
        fake.refuse = None
        # Whether t1 and t2 are written by now or not, they count once and in order.
        assert await peer.context("c", 10) == [_round("t0"), _round("t1"), _round("t2")]
        assert await peer.context("c", 2) == [_round("t1"), _round("t2")]
        await eventually(lambda: (fake.turns("c"), fake.turns("d")) == (["t0", "t1", "t2"], ["u0"]))
        assert await peer.context("c", 10) == [_round("t0"), _round("t1"), _round("t2")]
        assert peer.available


@pytest.mark.parametrize(
    "code", [grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.DEADLINE_EXCEEDED]
)
async def test_passing_failures_are_tried_again(code: grpc.StatusCode) -> None:
    async with _dialogue() as (peer, fake):
        fake.refuse = code
        _append(peer, "c", "t0")
        await eventually(lambda: fake.tries >= 3)
        fake.refuse = None
        await eventually(lambda: fake.turns("c") == ["t0"])


async def test_a_context_takes_no_longer_than_its_deadline() -> None:
    async with _dialogue(context_timeout_s=0.05) as (peer, fake):
        fake.hang = True
        started = time.monotonic()
        assert await peer.context("c", 10) is None
        assert time.monotonic() - started < PATIENCE_S
        fake.hang = False


async def test_many_contexts_at_once_do_not_time_each_other_out() -> None:
    """Together they take longer than the deadline of one."""
    async with _dialogue(context_timeout_s=4.0) as (peer, fake):
        _append(peer, "c", "t0")
        await eventually(lambda: peer.num_waiting == 0)
        fake.each_s = 0.03
        contexts = await asyncio.gather(*(peer.context("c", 5) for _ in range(150)))
        assert contexts == [[_round("t0")]] * 150
        fake.hang = True
        began = time.monotonic()
        assert await asyncio.gather(*(peer.context("c", 5) for _ in range(150))) == [None] * 150
        assert time.monotonic() - began < PATIENCE_S  # not the sum of their deadlines
        fake.hang = False


async def test_nobody_there_is_none_at_once() -> None:
    peer = DialogueClient(NOWHERE, ROUNDS, context_timeout_s=PATIENCE_S)
    started = time.monotonic()
    assert await peer.context("c", 10) is None
    assert time.monotonic() - started < PATIENCE_S / 2
    await peer.aclose()


async def test_a_full_queue_drops_the_oldest_and_counts_it() -> None:
    before = _outcome("dropped_full")
    async with _dialogue(max_waiting=3) as (peer, fake):
        fake.refuse = grpc.StatusCode.UNAVAILABLE
        for number in range(10):
            _append(peer, "c", f"t{number}")
        assert await peer.context("c", 10) == [_round("t7"), _round("t8"), _round("t9")]
        assert _outcome("dropped_full") == before + 7
        fake.refuse = None
        await eventually(lambda: fake.turns("c") == ["t7", "t8", "t9"])


async def test_a_refused_round_does_not_hold_up_the_others() -> None:
    before = _outcome("dropped_refused")
    async with _dialogue() as (peer, fake):
        fake.refuse_turn = "bad"
        for turn in ("t0", "bad", "t1"):
            _append(peer, "c", turn)
        await eventually(lambda: fake.turns("c") == ["t0", "t1"])
    assert _outcome("dropped_refused") == before + 1


async def test_whoever_hands_a_round_over_learns_what_became_of_it() -> None:
    async with _dialogue(max_waiting=3) as (peer, fake):
        fake.refuse_turn = "bad"
        assert await _append(peer, "c", "t0")
        assert await _append(peer, "c", "t0"), "there already is there, too"
        assert not await _append(peer, "c", "bad")
        fake.refuse = grpc.StatusCode.UNAVAILABLE
        dropped, *waiting = [_append(peer, "c", f"t{number}") for number in range(1, 5)]
        assert not await dropped
        assert not any(each.done() for each in waiting)
        fake.refuse = None
        assert await asyncio.gather(*waiting) == [True] * 3
        assert fake.turns("c") == ["t0", "t2", "t3", "t4"]


async def test_one_conversation_does_not_hold_up_the_others() -> None:
    async with _dialogue() as (peer, fake):
        fake.each_s = 0.001
        fake.hang_in = "slow"
        _append(peer, "slow", "t0")
        await eventually(lambda: fake.tries)
        for number in range(40):
            _append(peer, f"c{number}", "t0")
        await eventually(lambda: peer.num_waiting == 1)
        fake.hang_in = ""


async def test_a_turn_that_is_asked_again_is_no_part_of_its_history() -> None:
    async with _dialogue() as (peer, _):
        for turn in ("t0", "t1", "t2"):
            _append(peer, "c", turn)
        await eventually(lambda: peer.num_waiting == 0)
        assert await peer.context("c", 2, before="t2") == [_round("t0"), _round("t1")]
        assert await peer.context("c", 2, before="t1") == [_round("t0"), _round("t2")]
        assert await peer.context("c", 2, before="new") == [_round("t1"), _round("t2")]


async def test_what_is_forgotten_is_not_written() -> None:
    async with _dialogue() as (peer, fake):
        fake.refuse = grpc.StatusCode.UNAVAILABLE
        stored = _append(peer, "c", "t0")
        _append(peer, "d", "u0")
        await eventually(lambda: fake.tries)
        peer.forget("c")
        assert not await stored
        tries = fake.tries  # of which the last may still be on its way
        await eventually(lambda: fake.tries > tries + 1)
        fake.refuse = None
        await eventually(lambda: peer.num_waiting == 0)
        assert fake.turns("d") == ["u0"]
        assert fake.turns("c") == []


async def test_a_round_without_a_turn_gets_one() -> None:
    async with _dialogue() as (peer, fake):
        _append(peer, "c", "")
        _append(peer, "c", "")
        await eventually(lambda: len(fake.turns("c")) == 2)
        assert all(fake.turns("c"))


async def test_closing_writes_what_waits() -> None:
    async with _dialogue(first_backoff_s=0.05, max_backoff_s=60.0) as (peer, fake):
        fake.refuse = grpc.StatusCode.UNAVAILABLE
        _append(peer, "c", "t0")
        _append(peer, "c", "t1")
        await eventually(lambda: fake.tries >= 4)
        fake.refuse = None
        await peer.aclose()  # cuts the long wait for the next try short
        assert fake.turns("c") == ["t0", "t1"]
        before = _outcome("dropped_shutdown")
        _append(peer, "c", "late")
        assert _outcome("dropped_shutdown") == before + 1


async def test_closing_gives_up_in_time_and_counts_what_is_lost() -> None:
    before = _outcome("dropped_shutdown")
    async with _dialogue(flush_timeout_s=0.05) as (peer, fake):
        fake.hang = True
        for number in range(4):
            _append(peer, "c", f"t{number}")
        started = time.monotonic()
        await peer.aclose()
        assert time.monotonic() - started < 20
    assert _outcome("dropped_shutdown") == before + 4
