"""Rounds that a caller keeps by itself and sends along with its question."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

from services.inference_worker.model.family import Round
from services.inference_worker.serving.answering import Answerer
from sightline.v1 import dialogue_pb2, inference_pb2


class Kept:
    """What is kept of one conversation."""

    available = True

    def __init__(self) -> None:
        self.appended: list[str] = []

    def append(self, conversation: str, *, answer: str, **_: Any) -> "asyncio.Future[bool]":
        self.appended.append(answer)
        stored: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        stored.set_result(True)
        return stored

    async def context(self, conversation: str, rounds: int, *, before: str = "") -> list[Any]:
        return [dialogue_pb2.Round(question="kept", answer=conversation)]


def _answerer(history_rounds: int, kept: Kept | None = None) -> Answerer:
    model = SimpleNamespace(
        spec=SimpleNamespace(history_rounds=history_rounds, reads_instructions=True)
    )
    return Answerer(
        engine=cast(Any, None),
        model=cast(Any, model),
        history=cast(Any, kept or Kept()),
        speech=None,
        question_tokens=100,
        history_rounds=8,
    )


async def test_the_last_given_rounds_are_read_where_there_is_no_conversation() -> None:
    given = [dialogue_pb2.Round(question=f"q{n}", answer=f"a{n}") for n in range(3)]
    request = inference_pb2.AnswerRequest(history=given)
    rounds = await _answerer(2)._rounds(request, [])
    assert rounds == [Round("q1", "a1"), Round("q2", "a2")]
    assert await _answerer(0)._rounds(request, []) == []
    request.conversation = "c"
    assert await _answerer(2)._rounds(request, []) == [Round("kept", "c")]


async def test_an_answer_ahead_of_its_question_is_the_askers_to_keep() -> None:
    kept = Kept()
    for ahead in (True, False):
        request = inference_pb2.AnswerRequest(conversation="c", ahead=ahead)
        *_, last = [event async for event in _answerer(8, kept)._recite(request, "It was red.")]
        assert last.done.HasField("kept")
        assert last.done.kept == (not ahead)
        assert kept.appended == ([] if ahead else ["It was red."])
