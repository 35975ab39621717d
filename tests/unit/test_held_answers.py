"""Answers that are held to a form, by a whole engine with random weights: whatever it says fits."""

import asyncio
import contextlib
import json
from typing import Any

import jsonschema
import numpy as np
import pytest

from services.inference_worker.serving.answering import Answerer
from sightline.errors import InvalidArgumentError
from sightline.reasons import Reason
from sightline.v1 import gateway_pb2 as pb
from sightline.v1 import inference_pb2
from tests.checkpoints import load, write_checkpoint
from tests.unit.tiny import Bench, tiny_model

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "colours": {"type": "array", "items": {"enum": ["red", "blue"]}, "maxItems": 3},
        "count": {"type": "integer", "minimum": 0, "maximum": 9},
        "seen": {"type": "boolean"},
    },
    "required": ["colours", "count", "seen"],
    "additionalProperties": False,
}
TOOLS = [
    pb.Tool(name="set_lamp", description="Switch a lamp.", parameters=json.dumps(SCHEMA)),
    pb.Tool(name="ring"),
]


@pytest.fixture(scope="module", params=["qwen2_5_vl", "smolvlm"])
def bench(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    folder = tmp_path_factory.mktemp(request.param)
    write_checkpoint(request.param, folder)
    model = load(folder)
    bench = Bench(model, num_pages=2048, page_size=16, branch_tokens=2048, prefill=512)
    bench.open("s")
    width, height = model.spec.layout.width, model.spec.layout.height
    rng = np.random.default_rng(0)
    for number in range(2):
        bench.push("s", rng.integers(0, 256, (height, width, 3), dtype=np.uint8), number)
    bench.run()
    return bench


async def answered(bench: Bench, question: pb.Question) -> tuple[pb.AnswerStarted, pb.AnswerDone]:
    answerer = Answerer(
        engine=bench.engine,
        model=bench.model,
        history=None,
        speech=None,
        question_tokens=64,
        history_rounds=0,
    )
    request = inference_pb2.AnswerRequest(session_id="s", question=question)
    started, done, words = pb.AnswerStarted(), pb.AnswerDone(), ""

    async def turn() -> None:
        while True:
            bench.run()
            await asyncio.sleep(0)

    turning = asyncio.create_task(turn())
    try:
        async with contextlib.aclosing(answerer.answer(request)) as events:
            async for event in events:
                match event.WhichOneof("event"):
                    case "started":
                        started = event.started
                    case "text_delta":
                        words += event.text_delta.text
                    case "done":
                        done = event.done
    finally:
        turning.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await turning
    assert words == done.text
    return started, done


@pytest.mark.parametrize("temperature", [0.0, 3.0])
async def test_json_of_a_schema(bench: Bench, temperature: float) -> None:
    question = pb.Question(
        text="What is there?",
        answer_schema=json.dumps(SCHEMA),
        temperature=temperature,
        repetition_penalty=1.3,
        top_k=5,
        top_p=0.9,
        max_tokens=200,
    )
    started, done = await answered(bench, question)
    assert started.formed
    assert done.finish_reason == pb.FINISH_REASON_STOP
    jsonschema.validate(json.loads(done.text), SCHEMA)
    assert "schema_unenforced" not in done.degraded


@pytest.mark.parametrize("choice", ["required", "ring", "set_lamp"])
async def test_a_call_that_is_required(bench: Bench, choice: str) -> None:
    question = pb.Question(text="Light!", tools=TOOLS, tool_choice=choice, single_call=True)
    _, done = await answered(bench, question)
    assert not done.text
    [call] = done.tool_calls
    assert call.id.startswith("call_")
    assert call.name == choice if choice != "required" else call.name in ("ring", "set_lamp")
    arguments = json.loads(call.arguments)
    jsonschema.validate(arguments, SCHEMA if call.name == "set_lamp" else {"maxProperties": 0})


async def test_others_are_not_touched(bench: Bench) -> None:
    free = pb.Question(text="What is there?", max_tokens=12)
    _, before = await answered(bench, free)
    held = pb.Question(text="What is there?", answer_schema='{"type": "object"}', max_tokens=12)
    (_, after), _ = await asyncio.gather(answered(bench, free), answered(bench, held))
    assert after.text == before.text


async def test_what_cannot_be_held_is_told(bench: Bench) -> None:
    odd = json.dumps({"$ref": "#/nowhere"})
    question = pb.Question(text="What?", answer_schema=odd, max_tokens=4)
    started, done = await answered(bench, question)
    assert not started.formed
    assert "schema_unenforced" in done.degraded
    question = pb.Question(text="What?", tools=TOOLS, max_tokens=4)
    _, done = await answered(bench, question)
    assert ("tools_ignored" in done.degraded) != bench.model.knows_calls


async def test_the_builtin_model_calls_nothing() -> None:
    bench = Bench(tiny_model())
    bench.open("s")
    bench.push("s", np.zeros((64, 64, 3), np.uint8))
    bench.run()
    question = pb.Question(text="what is red", tools=TOOLS, answer_schema='{"type": "object"}')
    started, done = await answered(bench, question)
    assert not started.formed
    assert {"tools_ignored", "schema_unenforced"} <= set(done.degraded)
    question.tool_choice = "ring"
    with pytest.raises(InvalidArgumentError) as refused:
        await answered(bench, question)
    assert refused.value.reason == Reason.TOOLS_UNSUPPORTED
