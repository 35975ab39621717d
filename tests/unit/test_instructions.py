"""Instructions: words before a question, for models that read them."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from services.common.checks import MAX_INSTRUCTIONS_BYTES, check_question
from services.inference_worker.model.sampling import Sampling
from services.inference_worker.serving.answering import Answerer
from sightline.errors import InvalidArgumentError
from sightline.v1 import gateway_pb2 as pb
from sightline.v1 import inference_pb2


class HeardError(Exception):
    """The question has come to the engine."""


class Deaf:
    """An engine that takes nothing."""

    branch_tokens = 1000

    def submit_branch(self, session: str, job: Any) -> None:
        raise HeardError


class Words:
    """A model whose tokens are words."""

    sampling = Sampling()

    def __init__(self, *, reads_instructions: bool) -> None:
        self.asked: list[str] = []
        self.spec = SimpleNamespace(
            reads_instructions=reads_instructions,
            history_before_cursor=False,
            history_rounds=0,
            max_answer_tokens=10,
        )

    def question_tokens(self, history: list[Any], question: str, form: Any = None) -> list[int]:
        self.asked.append(question)
        return list(range(len(question.split())))


def _given(
    instructions: str, *, reads_instructions: bool = True, said: str = "", most_tokens: int = 8
) -> str:
    """The words that the model is given. Raises what a question is refused with."""
    question = pb.Question(text="what is there", instructions=instructions)
    model = Words(reads_instructions=reads_instructions)
    answerer = Answerer(
        engine=cast(Any, Deaf()),
        model=cast(Any, model),
        history=None,
        speech=None,
        question_tokens=most_tokens,
        history_rounds=0,
    )
    with pytest.raises(HeardError):
        answerer._submit(inference_pb2.AnswerRequest(question=question, said=said), [])
    return model.asked[-1]


async def test_a_model_reads_its_instructions_before_the_question() -> None:
    assert _given("Be brief.") == "Be brief.\n\nwhat is there"
    assert _given("") == "what is there"


async def test_a_model_that_reads_none_is_given_the_question_alone() -> None:
    assert _given("Be brief.", reads_instructions=False) == "what is there"


async def test_a_model_reads_what_was_said_as_far_as_there_is_room() -> None:
    heading, said = "What was said in the video:", "one\ntwo\nthree"
    given = _given("", said=said, most_tokens=12)
    assert given == f"{heading}\n{said}\n\nwhat is there"
    given = _given("Hm.", said=said, most_tokens=11)
    assert given == f"{heading}\nthree\n\nHm.\n\nwhat is there"
    assert _given("", said=said, most_tokens=9) == "what is there"
    assert _given("", said=said, reads_instructions=False) == "what is there"


async def test_instructions_count_as_words_of_the_question() -> None:
    with pytest.raises(InvalidArgumentError, match="9 tokens"):
        _given("one two three four five six")


def test_endless_instructions_are_refused() -> None:
    question = pb.Question(text="what", instructions="x" * MAX_INSTRUCTIONS_BYTES)
    check_question(question)
    question.instructions += "x"
    with pytest.raises(InvalidArgumentError):
        check_question(question)
