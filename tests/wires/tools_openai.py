"""The official `openai` package calls functions and asks for JSON: prints what it got, as JSON.

Arguments: the gateway's address, a session whose model knows calls. Its weights are random: what it
says means nothing, and fits all the same.
"""

import asyncio
import json
import sys
import time
from typing import Any, Literal

import openai
from pydantic import BaseModel

PATIENCE_S = 90
RING = {"type": "object", "properties": {}, "additionalProperties": False}
LAMP = {
    "type": "object",
    "properties": {"colour": {"enum": ["red", "blue"]}, "level": {"enum": [1, 2, 3]}},
    "required": ["colour", "level"],
    "additionalProperties": False,
}
TOOLS = [
    {"type": "function", "function": {"name": "ring", "parameters": RING}},
    {"type": "function", "function": {"name": "set_lamp", "parameters": LAMP}},
]


class Scene(BaseModel):
    """What an answer is to be."""

    colour: Literal["red", "green"]
    open: bool


def chat(address: str, session: str) -> dict[str, Any]:
    client = openai.OpenAI(base_url=f"{address}v1", api_key="none", max_retries=0)
    messages: list[Any] = [{"role": "user", "content": "Light, please."}]
    model = f"sightline://{session}"
    found: dict[str, Any] = {}
    parsed = client.chat.completions.parse(
        model=model, messages=messages, response_format=Scene, temperature=1.5
    )
    found["parsed"] = isinstance(parsed.choices[0].message.parsed, Scene)
    with client.chat.completions.stream(
        model=model, messages=messages, response_format=Scene
    ) as stream:
        deltas = [event.delta for event in stream if event.type == "content.delta"]
        found["stream parsed"] = isinstance(
            stream.get_final_completion().choices[0].message.parsed, Scene
        )
    found["pieces"] = len(deltas)
    made = client.chat.completions.create(
        model=model,
        messages=messages,
        tools=TOOLS,
        tool_choice={"type": "function", "function": {"name": "set_lamp"}},
        parallel_tool_calls=False,
    ).choices[0]
    found["finish"] = made.finish_reason
    [call] = made.message.tool_calls
    found["called"] = [call.function.name, sorted(json.loads(call.function.arguments))]
    with client.chat.completions.stream(
        model=model,
        messages=messages,
        tools=TOOLS,
        tool_choice="required",
        parallel_tool_calls=False,
    ) as stream:
        for _ in stream:
            pass
        streamed = stream.get_final_completion().choices[0]
    found["streamed"] = [streamed.finish_reason, len(streamed.message.tool_calls)]
    json.loads(streamed.message.tool_calls[0].function.arguments)
    messages += [made.message, {"role": "tool", "tool_call_id": call.id, "content": "it is on"}]
    last = client.chat.completions.create(
        model=model, messages=messages, tools=TOOLS, tool_choice="none", max_tokens=5
    )
    found["answer"] = [last.choices[0].finish_reason, bool(last.choices[0].message.content)]
    return found


async def realtime(address: str, session: str) -> dict[str, Any]:
    owner = openai.AsyncOpenAI(base_url=f"{address}v1", api_key="none")
    wishes = {"type": "realtime", "output_modalities": ["text"], "tool_choice": "required"}
    tools = [{"type": "function", **tool["function"]} for tool in TOOLS]
    secret = await owner.realtime.client_secrets.create(
        expires_after={"anchor": "created_at", "seconds": 60},
        session={**wishes, "tools": tools},
    )
    found: dict[str, Any] = {"expires": 0 < secret.expires_at - time.time() < 90}
    client = openai.AsyncOpenAI(base_url=f"{address}v1", api_key=secret.value)
    about = {"session": session}
    async with client.realtime.connect(model="gpt-realtime", extra_query=about) as line:
        events = aiter(line)

        async def until(kind: str) -> Any:
            while (event := await anext(events)).type != kind:
                assert event.type != "error", event
            return event

        created = await until("session.created")
        found["tools"] = [tool.name for tool in created.session.tools]
        content = [{"type": "input_text", "text": "Ring, please."}]
        said = {"type": "message", "role": "user", "content": content}
        await line.conversation.item.create(item=said)
        await line.response.create(response={"tool_choice": {"type": "function", "name": "ring"}})
        arguments = await until("response.function_call_arguments.done")
        done = (await until("response.done")).response
        found["call"] = [done.status, done.output[0].type, done.output[0].name]
        found["same call"] = done.output[0].call_id == arguments.call_id
        await line.conversation.item.create(
            item={
                "type": "function_call_output",
                "call_id": arguments.call_id,
                "output": json.dumps({"rang": True}),
            }
        )
        await line.response.create(response={"tool_choice": "none", "max_output_tokens": 5})
        done = (await until("response.done")).response
        found["after"] = [done.output[0].type, done.output[0].role]
    return found


async def main(address: str, session: str) -> None:
    async with asyncio.timeout(PATIENCE_S):
        found = await asyncio.to_thread(chat, address, session)
        print(json.dumps(found | await realtime(address, session)))


asyncio.run(main(*sys.argv[1:]))
