"""Google's own client lets a model call a function, and speaks: URL SESSION WAV, what came as JSON.
What answers there, and what hears, does as it was told to."""

import asyncio
import json
import sys
import wave
from typing import Any

from google import genai
from google.genai import types

PATIENCE_S = 60
LAMP = {
    "name": "lamp",
    "description": "Switch the lamp.",
    "parameters": {"type": "OBJECT", "properties": {"on": {"type": "BOOLEAN"}}},
}


async def call(client: genai.Client, model: str) -> dict[str, Any]:
    config: dict[str, Any] = {
        "response_modalities": ["TEXT"],
        "tools": [{"function_declarations": [LAMP]}],
    }
    told: dict[str, Any] = {"text": ""}
    async with client.aio.live.connect(model=model, config=config) as line:
        await line.send_client_content(turns={"parts": [{"text": "Light, please."}]})
        async for message in line.receive():
            told["text"] += message.text or ""
            if message.tool_call:
                [wanted] = message.tool_call.function_calls
                told["call"] = [wanted.name, wanted.args]
                output = types.FunctionResponse(
                    id=wanted.id, name=wanted.name, response={"result": "lit"}
                )
                await line.send_tool_response(function_responses=output)
        await line.send_client_content(turns={"parts": [{"text": "Light, please."}]})
        async for message in line.receive():
            if message.tool_call:
                break
        await line.send_client_content(turns={"parts": [{"text": "Never mind."}]})
        async for message in line.receive():
            if message.tool_call_cancellation:
                told["cancelled"] = len(message.tool_call_cancellation.ids)
    return told


async def interrupt(client: genai.Client, model: str, wav: str) -> dict[str, Any]:
    """Ask something, and speak into the answer while it is played."""
    with wave.open(wav) as recording:
        rate = recording.getframerate()
        spoken = recording.readframes(recording.getnframes())
    told: dict[str, Any] = {"kinds": [], "heard": "", "spoken": ""}
    config: dict[str, Any] = {
        "response_modalities": ["AUDIO"],
        "input_audio_transcription": {},
        "output_audio_transcription": {},
    }
    async with client.aio.live.connect(model=model, config=config) as line:
        await line.send_client_content(turns={"parts": [{"text": "What is there?"}]})
        async for message in line.receive():
            content = message.server_content
            if content and content.generation_complete:
                break
        sound = types.Blob(data=spoken + bytes(2 * rate), mime_type=f"audio/pcm;rate={rate}")
        await line.send_realtime_input(audio=sound)
        for _ in range(2):  # what is cut off, and the answer to what was said
            async for message in line.receive():
                content = message.server_content
                told["kinds"] += [
                    kind
                    for kind in ("interrupted", "generation_complete", "turn_complete")
                    if getattr(content, kind, None)
                ]
                if content and content.input_transcription:
                    told["heard"] += content.input_transcription.text or ""
                if content and content.output_transcription:
                    told["spoken"] += content.output_transcription.text or ""
    return told


async def main(url: str, session: str, wav: str) -> None:
    client = genai.Client(api_key="nobody asks", http_options=types.HttpOptions(base_url=url))
    model = f"sightline://{session}"
    async with asyncio.timeout(PATIENCE_S):
        called = await call(client, model)
        print(json.dumps({"call": called, "interrupt": await interrupt(client, model, wav)}))


asyncio.run(main(*sys.argv[1:]))
