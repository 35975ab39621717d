"""Decisions: by gRPC, by HTTP, and as OpenAI's clients ask for them."""

from typing import Any

import grpc
import pytest

from sightline.v1 import gateway_pb2 as pb
from tests.unit.fake_worker import FakeWorker
from tests.unit.http_parts import served
from tests.unit.test_chat_completions import address_of_picture

MOODS = ["calm", "hurried", "angry"]


def _worker() -> FakeWorker:
    worker = FakeWorker()
    worker.scores = {
        "a cup is there": 0.9,
        "the guest is calm": 0.6,
        "the guest is hurried": 0.3,
        "the guest is angry": 0.3,
        "how full full": 0.0,
        "how full empty": 0.0,
    }
    return worker


async def test_statements_choices_and_levels_are_decided_in_one_call() -> None:
    worker = _worker()
    async with served(worker) as (parts, client):
        session = await parts.push_session(name="cam", seen=True)
        questions = [
            pb.DecideQuestion(name="cup", statement="a cup is there"),
            pb.DecideQuestion(statement="the guest is {}", choices=MOODS),
            pb.DecideQuestion(statement="the guest is {}", levels=MOODS),
            pb.DecideQuestion(statement="how full", levels=["empty", "full"]),
        ]
        decided = await parts.stub.Decide(pb.DecideRequest(session="cam", questions=questions))
        cup, mood, level, neither = decided.decisions
        assert (cup.name, cup.probability, cup.value) == ("cup", 0.9, "")
        assert (mood.value, mood.score) == ("calm", 0)
        assert list(mood.probabilities) == pytest.approx([0.5, 0.25, 0.25])
        assert level.score == pytest.approx(0.25 + 2 * 0.25)
        assert list(neither.probabilities) == [0.5, 0.5]
        [asked] = worker.scored
        assert (asked.session_id, len(asked.statements)) == (session.id, 9)
        # The same by HTTP.
        body = {"questions": [{"name": "cup", "statement": "a cup is there"}]}
        reply = await client.post("/api/sessions/cam/decide", json=body)
        said = await reply.json()
        assert said["decisions"] == [{"name": "cup", "probability": 0.9}]
        assert said["prompt_tokens"] == 7


@pytest.mark.parametrize(
    "questions",
    [
        [],
        [{"statement": " "}],
        [{"statement": "x"}] * 401,
        [{"statement": "x" * 2000}],
        [{"statement": "x is {}"}],  # a forgotten --choice would be scored as it stands
        [{"statement": "x", "choices": ["a"]}],
        [{"statement": "x", "choices": ["a", "a"]}],
        [{"statement": "x", "choices": ["a", "b"], "levels": ["a", "b"]}],
        [{"statement": "x", "choices": [str(n) for n in range(200)]}] * 30,
    ],
)
async def test_what_cannot_be_decided_is_refused(questions: list[Any]) -> None:
    async with served() as (parts, client):
        await parts.push_session(name="cam", seen=True)
        reply = await client.post("/api/sessions/cam/decide", json={"questions": questions})
        assert (reply.status, (await reply.json())["code"]) == (400, "INVALID_ARGUMENT")


async def test_a_worker_that_was_away_is_asked_again() -> None:
    worker = _worker()
    async with served(worker) as (parts, client):
        await parts.push_session(name="cam", seen=True)
        body = {"questions": [{"statement": "a cup is there"}]}
        worker.failures["ScoreStatements"] = [grpc.StatusCode.UNAVAILABLE]
        assert (await client.post("/api/sessions/cam/decide", json=body)).status == 200
        assert worker.calls["ScoreStatements"] == 2
        worker.failures["ScoreStatements"] = [grpc.StatusCode.INVALID_ARGUMENT]
        assert (await client.post("/api/sessions/cam/decide", json=body)).status == 400
    async with served(_worker()) as (parts, client):
        await parts.push_session(name="cam")
        refused = await client.post("/api/sessions/cam/decide", json=body)
        assert (await refused.json())["reason"] == "NO_FRAME_YET"


async def test_openai_s_decisions_are_about_a_session() -> None:
    async with served(_worker()) as (parts, client):
        await parts.push_session(name="cam", seen=True)
        body = {
            "model": "builtin",
            "input": "sightline://cam",
            "questions": [
                {"type": "predicate", "name": "cup", "instructions": "a cup is there"},
                {"type": "predicate", "instructions": [{"type": "input_text", "text": "b"}]},
                {
                    "type": "choice",
                    "instructions": "the guest is {}",
                    "choices": [{"value": "x", "description": "angry"}, {"value": "calm"}],
                },
                {
                    "type": "choice",
                    "instructions": "a cup is there",
                    "choices": [{"value": False}, {"value": True}],
                },
                {
                    "type": "score",
                    "instructions": "the guest is {}",
                    "levels": [{"label": mood} for mood in MOODS],
                },
            ],
        }
        reply = await client.post("/v1/decisions", json=body)
        said = await reply.json()
        assert reply.status == 200, said
        cup, other, choice, either, score = said["answers"]
        assert cup == {"type": "predicate", "name": "cup", "probability": 0.9}
        assert (other["name"], other["probability"]) == (None, 0.5)
        assert choice["choice"] == "calm"
        assert choice["confidence"] == pytest.approx(2 / 3)
        assert [each["value"] for each in choice["probabilities"]] == ["x", "calm"]
        assert (either["choice"], either["confidence"]) == (True, 0.9)
        assert either["probabilities"][0] == {"value": False, "probability": pytest.approx(0.1)}
        assert score["score"] == pytest.approx(0.75)
        assert score["probabilities"][2] == {"label": "angry", "value": 2, "probability": 0.25}
        assert said["usage"]["input_tokens"] == 7


async def test_openai_s_decisions_are_about_pictures() -> None:
    worker = _worker()
    async with served(worker) as (parts, client):
        picture = {"type": "input_image", "image_url": address_of_picture("jpeg")}
        message = {"role": "user", "content": [picture, {"type": "input_text", "text": "A till."}]}
        asked = {"type": "predicate", "instructions": "a cup is there"}
        body = {"model": "builtin", "input": [message], "questions": [asked]}
        reply = await client.post("/v1/decisions", json=body)
        assert reply.status == 200, await reply.text()
        assert list(worker.scored[0].statements) == ["A till.\na cup is there"]
        assert not parts.sessions.all()


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"input": "a text"}, "input"),
        ({"input": 5}, "input"),
        ({"input": [{"role": "tool"}]}, "input[0]"),
        ({"questions": []}, "questions"),
        ({"questions": [{"type": "essay"}]}, "questions[0].type"),
        ({"questions": [{"type": "predicate"}]}, "questions[0].instructions.content"),
        ({"questions": [{"type": "choice", "instructions": "x"}]}, "questions[0].choices"),
        ({"model": ""}, "model"),
    ],
)
async def test_what_is_wrong_with_decisions_is_named(change: dict[str, Any], param: str) -> None:
    async with served(_worker()) as (parts, client):
        await parts.push_session(name="cam", seen=True)
        body = {
            "model": "builtin",
            "input": "sightline://cam",
            "questions": [{"type": "predicate", "instructions": "x"}],
        }
        reply = await client.post("/v1/decisions", json={**body, **change})
        error = (await reply.json())["error"]
        assert (reply.status, error["param"]) == (400, param), error
