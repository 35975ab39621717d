"""LiveKit's agents let a model call a function: URL SESSION, what came as JSON."""

import asyncio
import json
import sys
from typing import Any

import aiohttp
from livekit.agents import llm
from livekit.plugins import openai

PATIENCE_S = 90


@llm.function_tool
async def ring() -> str:
    """Ring the bell."""
    return "it rang"


async def converse(url: str, session: str) -> dict[str, Any]:
    told: dict[str, Any] = {"errors": []}
    async with aiohttp.ClientSession() as http:
        model = openai.realtime.RealtimeModel(
            base_url=f"{url}v1?session={session}",
            api_key="nobody asks",
            modalities=["text"],
            http_session=http,
        )
        line = model.session()
        line.on("error", lambda error: told["errors"].append(str(error)))
        await line.update_tools([ring])
        context = line.chat_ctx.copy()
        context.add_message(role="user", content="Ring, please.")
        await line.update_chat_ctx(context)
        generation = await line.generate_reply(tool_choice="required")
        calls = [each async for each in generation.function_stream]
        told["calls"] = [[call.name, json.loads(call.arguments)] for call in calls]
        context = line.chat_ctx.copy()
        for call in calls:
            output = llm.FunctionCallOutput(
                call_id=call.call_id, name=call.name, output=await ring(), is_error=False
            )
            context.items.append(output)
        await line.update_chat_ctx(context)
        brief = {"type": "realtime", "max_output_tokens": 5}
        line.send_event({"type": "session.update", "session": brief})
        said = ""
        generation = await line.generate_reply(tool_choice="none")
        async for message in generation.message_stream:
            said += "".join([word async for word in message.text_stream])
        told["answered"] = bool(said)
        await line.aclose()
        await model.aclose()
    return told


async def main() -> None:
    async with asyncio.timeout(PATIENCE_S):
        print(json.dumps(await converse(*sys.argv[1:])))


asyncio.run(main())
