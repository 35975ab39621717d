"""LiveKit's agents on the Realtime wire: URL SESSION CONDITION, what came as JSON."""

import asyncio
import json
import sys
from typing import Any

import aiohttp
from livekit.plugins import openai

PATIENCE_S = 60


async def converse(url: str, session: str, condition: str) -> dict[str, Any]:
    told: dict[str, Any] = {"errors": []}
    fired: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    done: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    def heard(event: dict[str, Any]) -> None:
        if event["type"] == "sightline.watch.event":
            fired.put_nowait(event)
        if event["type"] == "response.done":
            done.put_nowait(event["response"])

    async with aiohttp.ClientSession() as http:
        model = openai.realtime.RealtimeModel(
            base_url=f"{url}v1?session={session}", api_key="nobody asks", http_session=http
        )
        line = model.session()
        line.on("openai_server_event_received", heard)
        line.on("error", lambda error: told["errors"].append(str(error)))
        await line.update_instructions("You are a kind assistant.")

        async def ask(text: str) -> tuple[str, float]:
            context = line.chat_ctx.copy()
            context.add_message(role="user", content=text)
            await line.update_chat_ctx(context)
            generation = await line.generate_reply()
            said, heard_s = "", 0.0
            async for message in generation.message_stream:
                said += "".join([word async for word in message.text_stream])
                async for frame in message.audio_stream:
                    heard_s += frame.duration
            return said, heard_s

        told["answer"], told["heard_s"] = await ask("Is there a circle?")
        told["status"] = (await done.get())["status"]
        told["history"] = [message.role for message in line.chat_ctx.messages()]

        watch = {"id": "w1", "condition": condition, "interval_s": 0.2}
        line.send_event({"type": "sightline.watch.create", "watch": watch})
        event = await fired.get()
        told["watch"] = {"id": event["watch_id"], "active": event["active"]}

        reply = line.generate_reply(instructions="What is happening?")
        await asyncio.sleep(0)
        line.interrupt()
        await reply
        told["cancelled"] = (await done.get())["status"]
        told["again"], _ = await ask("Is there a circle?")
        await line.aclose()
        await model.aclose()
    return told


async def main() -> None:
    async with asyncio.timeout(PATIENCE_S):
        print(json.dumps(await converse(*sys.argv[1:])))


asyncio.run(main())
