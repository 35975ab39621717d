"""OpenAI's own client on the Realtime wire: URL SESSION CONDITION [WAV], what came as JSON."""

import asyncio
import base64
import json
import sys
import urllib.request
import wave
from typing import Any

from openai import AsyncOpenAI

PATIENCE_S = 60
PIECE = 2400  # samples of 24 kHz


async def speak(line: Any, path: str) -> None:
    """Say what a recording says, as fast as a person, and be silent then."""
    with wave.open(path) as recording:
        spoken = recording.readframes(recording.getnframes())
    silence = bytes(2 * PIECE)
    pieces = [spoken[at : at + 2 * PIECE] for at in range(0, len(spoken), 2 * PIECE)]
    for piece in [silence] * 3 + pieces + [silence] * 15:
        await line.input_audio_buffer.append(audio=base64.b64encode(piece).decode())
        await asyncio.sleep(0.1)


async def converse(url: str, session: str, condition: str, wav: str = "") -> dict[str, Any]:
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

        if wav:
            speaking = asyncio.create_task(speak(line, wav))
            kinds = []
            while (event := await anext(events)).type != "response.done":
                kinds.append(event.type)
                if event.type == "conversation.item.input_audio_transcription.completed":
                    told["heard"] = event.transcript
            told["answer to it"] = event.response.output[0].content[0].text
            told["kinds"] = kinds
            await speaking
    return told


def picture_of(url: str, session: str) -> str:
    with urllib.request.urlopen(f"{url}api/sessions/{session}/preview.jpg") as reply:
        return base64.b64encode(reply.read()).decode()


async def look(url: str, picture: str) -> dict[str, Any]:
    """Ask about a picture instead of a session."""
    client = AsyncOpenAI(api_key="nobody asks", base_url=f"{url}v1")
    async with client.realtime.connect(model="gpt-realtime") as line:
        content = [
            {"type": "input_image", "image_url": f"data:image/jpeg;base64,{picture}"},
            {"type": "input_text", "text": "Is there a circle?"},
        ]
        said = {"type": "message", "role": "user", "content": content}
        await line.conversation.item.create(item=said)
        await line.response.create(response={"output_modalities": ["text"]})
        async for event in line:
            assert event.type != "error", event
            if event.type == "response.done":
                return {"picture": event.response.output[0].content[0].text}
    raise AssertionError("the line ended")


async def main() -> None:
    async with asyncio.timeout(PATIENCE_S):
        told = await converse(*sys.argv[1:])
        print(json.dumps(told | await look(sys.argv[1], picture)))


picture = picture_of(*sys.argv[1:3])
asyncio.run(main())
