"""LiveKit's agents on the Realtime wire: URL SESSION CONDITION [WAV], what came as JSON."""

import asyncio
import json
import sys
import wave
from typing import Any

import aiohttp
from livekit import rtc
from livekit.plugins import openai

PATIENCE_S = 60
PIECE = 2400  # samples of 24 kHz


async def speak(line: Any, path: str) -> None:
    """Say what a recording says, as fast as a person, and be silent then."""
    with wave.open(path) as recording:
        spoken = recording.readframes(recording.getnframes())
    silence = bytes(2 * PIECE)
    pieces = [spoken[at : at + 2 * PIECE] for at in range(0, len(spoken), 2 * PIECE)]
    for piece in [silence] * 3 + pieces + [silence] * 15:
        line.push_audio(rtc.AudioFrame(piece, 24_000, 1, len(piece) // 2))
        await asyncio.sleep(0.1)


async def converse(url: str, session: str, condition: str, wav: str = "") -> dict[str, Any]:
    told: dict[str, Any] = {"errors": []}
    fired: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    done: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    cut: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    def heard(event: dict[str, Any]) -> None:
        if event["type"] == "sightline.watch.event":
            fired.put_nowait(event)
        if event["type"] == "conversation.item.truncated":
            cut.put_nowait(event)
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

        # Somebody speaks into it: LiveKit says how much was heard.
        heard_of = line.chat_ctx.messages()[-1].id
        line.truncate(message_id=heard_of, modalities=["audio", "text"], audio_end_ms=100)
        told["cut"] = (await cut.get())["audio_end_ms"]

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

        if wav:
            answers: asyncio.Queue[Any] = asyncio.Queue()
            words: asyncio.Queue[Any] = asyncio.Queue()
            line.on("generation_created", answers.put_nowait)
            line.on("input_audio_transcription_completed", words.put_nowait)
            speaking = asyncio.create_task(speak(line, wav))
            told["heard"] = (await words.get()).transcript
            said = ""
            async for message in (await answers.get()).message_stream:
                said += "".join([word async for word in message.text_stream])
            told["answer to it"] = said
            await speaking
        await line.aclose()
        await model.aclose()
    return told


async def look(url: str) -> dict[str, Any]:
    """Show frames of a camera instead of naming a session."""
    async with aiohttp.ClientSession() as http:
        model = openai.realtime.RealtimeModel(
            base_url=f"{url}v1", api_key="nobody asks", modalities=["text"], http_session=http
        )
        line = model.session()
        grey = bytes([128, 128, 128, 255]) * 64 * 64
        for _ in range(3):
            line.push_video(rtc.VideoFrame(64, 64, rtc.VideoBufferType.RGBA, grey))
        context = line.chat_ctx.copy()
        context.add_message(role="user", content="Is there a circle?")
        await line.update_chat_ctx(context)
        said = ""
        async for message in (await line.generate_reply()).message_stream:
            said += "".join([word async for word in message.text_stream])
        await line.aclose()
        await model.aclose()
    return {"pictures": said}


async def main() -> None:
    async with asyncio.timeout(PATIENCE_S):
        told = await converse(*sys.argv[1:])
        print(json.dumps(told | await look(sys.argv[1])))


asyncio.run(main())
