"""Ratings of answers: kept with their turn, listed, and erased with their conversation."""

from typing import Any

import grpc
import pytest
import redis

from sightline.v1 import dialogue_pb2 as pb
from tests.integration.test_dialogue import Start, _append, dialogue
from tests.processes import RedisServer

__all__ = ["dialogue"]  # a fixture


def _rated(stub: Any) -> list[tuple[str, str, int, str]]:
    found: list[pb.RatedRound] = []
    token = ""
    while True:
        page = stub.ListRated(pb.ListRatedRequest(page_token=token), timeout=10)
        found += page.rounds
        token = page.next_page_token
        if not token:
            break
    return [(r.conversation, r.round.turn, r.round.rating, r.round.better) for r in found]


def test_a_rating_lives_and_dies_with_its_turn(dialogue: Start, redis_server: RedisServer) -> None:
    _, stub = dialogue(MAX_ROUNDS=3)

    def rate(conversation: str, turn: str, rating: pb.Rating, better: str = "") -> None:
        request = pb.RateTurnRequest(
            conversation=conversation, turn=turn, rating=rating, better=better
        )
        stub.RateTurn(request, timeout=10)

    for conversation in "ab":
        stub.Open(pb.OpenConversationRequest(id=conversation, session="s"), timeout=10)
        for turn in ("1", "2"):
            _append(stub, conversation, turn)
    rate("a", "1", pb.RATING_UP)
    rate("a", "1", pb.RATING_DOWN, "no")
    rate("b", "2", pb.RATING_UP)
    assert _rated(stub) == [("a", "1", pb.RATING_DOWN, "no"), ("b", "2", pb.RATING_UP, "")]
    said = stub.History(pb.HistoryRequest(conversation="a"), timeout=10).rounds
    assert [(each.answer, each.rating) for each in said] == [
        ("yes", pb.RATING_DOWN),
        ("yes", pb.RATING_UNSPECIFIED),
    ]

    for conversation, turn in (("a", "3"), ("nothing", "1")):
        with pytest.raises(grpc.RpcError) as refused:
            rate(conversation, turn, pb.RATING_UP)
        assert refused.value.code() is grpc.StatusCode.NOT_FOUND

    rate("b", "2", pb.RATING_UNSPECIFIED)
    assert _rated(stub) == [("a", "1", pb.RATING_DOWN, "no")]
    for turn in "345":
        _append(stub, "a", turn)  # the first leaves, with what was thought of it
    assert _rated(stub) == []
    with pytest.raises(grpc.RpcError) as refused:
        rate("a", "5", pb.RATING_DOWN, "x" * 900_000)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    rate("a", "5", pb.RATING_UP)
    for conversation in "ab":
        stub.Delete(pb.DeleteConversationRequest(conversation=conversation), timeout=10)
    assert _rated(stub) == []


def test_names_of_rated_conversations_that_expired_do_not_pile_up(
    dialogue: Start, redis_server: RedisServer
) -> None:
    _, stub = dialogue()
    with redis.Redis.from_url(redis_server.url) as client:
        for number in range(60):
            name = f"c-{number}"
            stub.Open(pb.OpenConversationRequest(id=name), timeout=10)
            _append(stub, name, "1")
            rated = pb.RateTurnRequest(conversation=name, turn="1", rating=pb.RATING_UP)
            stub.RateTurn(rated, timeout=10)
            if number:  # as if its time were over
                client.delete(f"sightline:dialogue:{name}")
        assert 1 <= client.zcard("sightline:conversations-rated") < 30
    assert [each[0] for each in _rated(stub)] == ["c-0"]
