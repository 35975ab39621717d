"""LiveKit's agents on the Gemini Live wire: URL SESSION WAV, what came as JSON. They believe the
authority in SSL_CERT_FILE."""

import asyncio
import json
import sys
import wave
from typing import Any

from google.genai.types import HttpOptions, Modality
from livekit import rtc
from livekit.agents import llm
from livekit.plugins import google

PATIENCE_S = 60


@llm.function_tool
async def lamp(on: bool) -> str:
    """Switch the lamp."""
    return f"it is {'on' if on else 'off'}"


async def words_of(generation: Any) -> str:
    said = ""
    async for message in generation.message_stream:
        async for piece in message.text_stream:
            said += piece
    return said


async def converse(url: str, session: str, wav: str) -> dict[str, Any]:
    told: dict[str, Any] = {"errors": []}
    model = google.realtime.RealtimeModel(
        model=f"models/sightline://{session}",
        api_key="nobody asks",
        http_options=HttpOptions(base_url=url),
        modalities=[Modality.TEXT],
    )
    line = model.session()
    line.on("error", lambda error: told["errors"].append(str(error)))
    spoken_to: asyncio.Queue[Any] = asyncio.Queue()
    line.on("generation_created", spoken_to.put_nowait)
    await line.update_instructions("Be brief.")
    await line.update_tools([lamp])
    context = line.chat_ctx.copy()
    context.add_message(role="user", content="What is there?")
    await line.update_chat_ctx(context)
    told["answer"] = await words_of(await line.generate_reply())
    while not spoken_to.empty():
        spoken_to.get_nowait()
    with wave.open(wav) as recording:
        rate = recording.getframerate()
        spoken = recording.readframes(recording.getnframes()) + bytes(2 * rate)
    for at in range(0, len(spoken), rate // 5):
        piece = spoken[at : at + rate // 5]
        line.push_audio(rtc.AudioFrame(piece, rate, 1, len(piece) // 2))
        await asyncio.sleep(0.1)
    told["answer to it"] = await words_of(await spoken_to.get())
    await line.aclose()
    return told


async def main() -> None:
    async with asyncio.timeout(PATIENCE_S):
        print(json.dumps(await converse(*sys.argv[1:])))


asyncio.run(main())
