"""Google's own client on the Gemini wires: URL SESSION CONDITION [WAV], what came as JSON. It
believes the authority in SSL_CERT_FILE."""

import asyncio
import json
import sys
import urllib.request
import wave
from typing import Any

from google import genai
from google.genai import types

PATIENCE_S = 60
TEXT, AUDIO = ["TEXT"], ["AUDIO"]
PIECE = 1600  # samples of 16 kHz


async def turn(line: Any) -> dict[str, Any]:
    """The model's turn: its words, how much speech, and what else was said in it."""
    told: dict[str, Any] = {"text": "", "audio": 0, "heard": "", "spoken": "", "kinds": []}
    async for message in line.receive():
        content = message.server_content
        if message.session_resumption_update:
            told["handle"] = message.session_resumption_update.new_handle
        if message.usage_metadata:
            told["tokens"] = message.usage_metadata.total_token_count
        if content is None:
            continue
        for part in (content.model_turn.parts if content.model_turn else None) or []:
            told["text"] += part.text or ""
            told["audio"] += len(part.inline_data.data) if part.inline_data else 0
        if content.input_transcription:
            told["heard"] += content.input_transcription.text or ""
        if content.output_transcription:
            told["spoken"] += content.output_transcription.text or ""
        for kind in ("interrupted", "generation_complete", "turn_complete"):
            if getattr(content, kind):
                told["kinds"].append(kind)
    return told


async def ask(line: Any, text: str) -> dict[str, Any]:
    await line.send_client_content(turns={"role": "user", "parts": [{"text": text}]})
    return await turn(line)


async def speak(line: Any, path: str) -> None:
    """Say what a recording says, as fast as a person, and be silent then."""
    with wave.open(path) as recording:
        rate = recording.getframerate()
        spoken = recording.readframes(recording.getnframes())
    size = 2 * rate // 10
    silence = bytes(size)
    pieces = [spoken[at : at + size] for at in range(0, len(spoken), size)]
    for piece in [silence] * 3 + pieces + [silence] * 15:
        blob = types.Blob(data=piece, mime_type=f"audio/pcm;rate={rate}")
        await line.send_realtime_input(audio=blob)
        await asyncio.sleep(0.1)


async def converse(
    client: genai.Client, session: str, condition: str, wav: str = ""
) -> dict[str, Any]:
    told: dict[str, Any] = {}
    live = client.aio.live
    model = f"sightline://{session}"

    config: dict[str, Any] = {"response_modalities": TEXT, "session_resumption": {}}
    async with live.connect(model=model, config=config) as line:
        first = await ask(line, "Is there a circle?")
        told["answer"], told["tokens"], told["kinds"] = (
            first["text"],
            first["tokens"],
            first["kinds"],
        )
        # It comes after the turn, so that the next one holds it.
        handle = (await ask(line, "Is there a square?"))["handle"]

    config = {"response_modalities": TEXT, "session_resumption": {"handle": handle}}
    async with live.connect(model="any", config=config) as line:
        told["resumed"] = (await ask(line, "Is there a circle?"))["text"]

    config = {"response_modalities": AUDIO, "output_audio_transcription": {}}
    async with live.connect(model=model, config=config) as line:
        said = await ask(line, "What is there?")
        told["spoken"], told["audio"] = said["spoken"], said["audio"]
        await line.send_client_content(turns={"parts": [{"text": "What is happening?"}]})
        async for message in line.receive():
            if message.data:
                break
        cut = await ask(line, "Is there a circle?")
        told["interrupted"] = cut["kinds"]
        told["after it"] = (await turn(line))["spoken"]

    config = {
        "response_modalities": TEXT,
        "system_instruction": f"Be brief. Tell me when {condition}.",
        "proactivity": {"proactive_video": True},
    }
    async with live.connect(model=model, config=config) as line:
        told["watch"] = (await turn(line))["text"]

    if wav:
        config = {"response_modalities": TEXT, "input_audio_transcription": {}}
        async with live.connect(model=model, config=config) as line:
            speaking = asyncio.create_task(speak(line, wav))
            said = await turn(line)
            told["heard"], told["answer to it"] = said["heard"], said["text"]
            await speaking
    return told


async def look(client: genai.Client, picture: bytes) -> dict[str, Any]:
    """Ask about a picture instead of a session."""
    config = {"response_modalities": TEXT}
    async with client.aio.live.connect(model="gemini-live", config=config) as line:
        video = types.Blob(data=picture, mime_type="image/jpeg")
        await line.send_realtime_input(video=video)
        return {"picture": (await ask(line, "Is there a circle?"))["text"]}


async def generate(
    client: genai.Client, session: str, picture: bytes, other: str
) -> dict[str, Any]:
    """The same without a connection that stays. other: a model for pictures."""
    models = client.aio.models
    model = f"sightline://{session}"
    said = await models.generate_content(model=model, contents="Is there a circle?")
    streamed = ""
    async for chunk in await models.generate_content_stream(model=model, contents="What is there?"):
        streamed += chunk.text or ""
    shown = types.Part.from_bytes(data=picture, mime_type="image/jpeg")
    seen = await models.generate_content(model=other, contents=[shown, "Is there a circle?"])
    return {
        "generated": said.text,
        "counted": said.usage_metadata.total_token_count,
        "streamed": streamed,
        "seen": seen.text,
    }


def picture_of(url: str, session: str) -> bytes:
    with urllib.request.urlopen(f"{url}api/sessions/{session}/preview.jpg") as reply:
        picture: bytes = reply.read()
    return picture


async def main(url: str, session: str, *more: str) -> None:
    picture = await asyncio.to_thread(picture_of, url, session)
    client = genai.Client(api_key="nobody asks", http_options=types.HttpOptions(base_url=url))
    async with asyncio.timeout(PATIENCE_S):
        told = await converse(client, session, *more)
        told |= await look(client, picture)
        options = types.HttpOptions(base_url=url, api_version="v1beta")
        older = genai.Client(api_key="nobody asks", http_options=options)
        names = [each.name async for each in await older.aio.models.list()]
        told["models"] = names
        [other] = [name for name in names if "://" not in name]
        told |= await generate(client, session, picture, other)
        print(json.dumps(told))


asyncio.run(main(*sys.argv[1:]))
