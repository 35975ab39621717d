"""OpenAI's own client on the Realtime wire: URL SESSION CONDITION, what came as JSON."""

import asyncio
import json
import sys
from typing import Any

from openai import AsyncOpenAI

PATIENCE_S = 60


async def converse(url: str, session: str, condition: str) -> dict[str, Any]:
    client = AsyncOpenAI(api_key="nobody asks", base_url=f"{url}v1")
    told: dict[str, Any] = {}
    about = {"session": session}
    async with client.realtime.connect(model="gpt-realtime", extra_query=about) as line:
        events = aiter(line)

        async def until(kind: str) -> Any:
            while (event := await anext(events)).type != kind:
                assert event.type != "error", event
            return event

        async def ask(text: str, **response: Any) -> Any:
            content = [{"type": "input_text", "text": text}]
            said = {"type": "message", "role": "user", "content": content}
            await line.conversation.item.create(item=said)
            await line.response.create(response=response)
            return (await until("response.done")).response

        await until("session.created")
        await line.session.update(session={"type": "realtime", "output_modalities": ["text"]})
        await until("session.updated")
        done = await ask("Is there a circle?", metadata={"topic": "shapes"})
        told["status"], told["metadata"] = done.status, done.metadata
        told["answer"] = done.output[0].content[0].text
        told["tokens"] = done.usage.output_tokens

        await line.response.create(
            response={"output_modalities": ["audio"], "instructions": "What is there?"}
        )
        audio = 0
        while (event := await anext(events)).type != "response.done":
            if event.type == "response.output_audio.delta":
                audio += len(event.delta)
        told["spoken"], told["audio"] = event.response.output[0].content[0].transcript, audio

        watch = {"id": "w1", "condition": condition, "interval_s": 0.2}
        await line.send({"type": "sightline.watch.create", "watch": watch})
        fired = await until("sightline.watch.event")
        told["watch"] = {"id": fired.watch_id, "active": fired.active, "score": fired.score}

        await line.conversation.item.create(
            item={
                "type": "message",
                "role": "user",
                "content": [{"type": "input_text", "text": "What is happening?"}],
            }
        )
        await line.response.create()
        await line.response.cancel()
        told["cancelled"] = (await until("response.done")).response.status
        await line.response.cancel()
        while (event := await anext(events)).type != "error":
            pass
        told["cancelled again"] = event.error.code
    return told


async def main() -> None:
    async with asyncio.timeout(PATIENCE_S):
        print(json.dumps(await converse(*sys.argv[1:])))


asyncio.run(main())
