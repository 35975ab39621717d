"""Functions of a program that the model calls while it answers."""

import asyncio
import enum
import json
from typing import Annotated, Any, Literal

import pytest

import sightline
from sightline.tools import MOST_CALLS, Tools
from sightline.v1 import gateway_pb2 as pb
from tests.eventually import eventually
from tests.unit.test_sdk_async import client, gateway, session

__all__ = ["client", "gateway", "session"]  # fixtures


class Room(enum.Enum):
    HALL = "hall"
    KITCHEN = "kitchen"


def stock(
    name: Annotated[str, "of the article"],
    shelf: int = 1,
    rooms: list[Room] | None = None,
    unit: Literal["kg", "pieces"] = "pieces",
) -> dict[str, Any]:
    """How many there are."""
    return {"name": name, "count": 3 * shelf}


async def weather() -> str:
    """What it is like outside."""
    await asyncio.sleep(0)
    return "rain"


def _call(function: str, number: int = 1, /, **arguments: Any) -> pb.ToolCall:
    return pb.ToolCall(id=f"call_{number}", name=function, arguments=json.dumps(arguments))


def test_functions_are_described_by_their_types() -> None:
    told, other = Tools([stock, weather]).messages()
    assert (told.name, told.description) == ("stock", "How many there are.")
    rooms = {"type": "array", "items": {"enum": ["hall", "kitchen"]}}
    assert json.loads(told.parameters) == {
        "type": "object",
        "properties": {
            "name": {"type": "string", "description": "of the article"},
            "shelf": {"type": "integer"},
            "rooms": {"anyOf": [rooms, {"type": "null"}]},
            "unit": {"enum": ["kg", "pieces"]},
        },
        "required": ["name"],
    }
    assert json.loads(other.parameters) == {"type": "object", "properties": {}, "required": []}


def _starred(*names: str) -> None: ...
def _bytes(data: bytes) -> None: ...


@pytest.mark.parametrize("function", [_starred, _bytes])
def test_a_function_that_no_model_can_call_is_refused(function: Any) -> None:
    with pytest.raises(sightline.InvalidArgumentError, match=function.__name__):
        Tools([function]).messages()


async def test_what_a_model_calls_is_called_and_the_answer_goes_on(gateway, session) -> None:
    gateway.tool_calls = [
        [_call("stock", name="red circles", shelf=2), _call("weather", 2)],
        [_call("stock", 3, colour="red"), _call("nothing", 4)],
    ]
    result = await session.ask("How many are left?", tools=[stock, weather]).result()
    assert [(each.name, each.output) for each in result.called[:2]] == [
        ("stock", '{"name": "red circles", "count": 6}'),
        ("weather", "rain"),
    ]
    assert result.called[0].arguments == {"name": "red circles", "shelf": 2}
    assert [each.output[:5] for each in result.called[2:]] == ["error"] * 2
    first, second, third = gateway.asked
    assert len({each.turn for each in gateway.asked}) == 3
    assert {each.text for each in gateway.asked} == {"How many are left?"}
    assert [len(each.called) for each in (first, second, third)] == [0, 2, 4]
    assert [each.name for each in third.tools] == ["stock", "weather"]
    assert result.text


async def test_a_model_that_only_calls_is_told_to_answer(gateway, session) -> None:
    gateway.tool_calls = [[_call("weather", n)] for n in range(MOST_CALLS)]
    result = await session.ask("And now?", tools=[weather]).result()
    assert len(result.called) == MOST_CALLS
    assert [each.tool_choice for each in gateway.asked[-2:]] == ["", "none"]


async def test_an_answer_is_cancelled_while_a_function_runs(gateway, session) -> None:
    begun = asyncio.Event()

    async def endless() -> str:
        begun.set()
        await asyncio.Event().wait()
        return ""

    gateway.tool_calls = [[_call("endless")]]
    answer = session.ask("q", tools=[endless])
    await begun.wait()
    result = await answer.cancel()
    assert result.finish_reason == sightline.FinishReason.CANCELLED
    assert len(gateway.asked) == 1
    assert (await session.ask("q").result()).called == ()


async def test_a_line_that_breaks_while_a_function_runs_calls_nothing_twice(
    gateway, session
) -> None:
    go_on, calls = asyncio.Event(), 0

    async def slow() -> str:
        nonlocal calls
        calls += 1
        await go_on.wait()
        return "done"

    gateway.tool_calls = [[_call("slow")]]
    answer = session.ask("q", tools=[slow])
    await eventually(lambda: calls)
    gateway.break_lines.set()
    await eventually(lambda: len(gateway.starts) > 1)
    gateway.break_lines.clear()
    go_on.set()
    assert [each.output for each in (await answer.result()).called] == ["done"]
    assert calls == 1
