"""Spoken shop assistant: talk with a live stream by microphone, over OpenAI's Realtime protocol.

    pip install 'openai[realtime]'
    arecord -q -t raw -f S16_LE -r 24000 | python examples/shop_assistant.py demo |
        aplay -q -t raw -f S16_LE -r 24000

Sound comes in on standard input and goes out on standard output, as 16-bit mono samples at 24 kHz;
what is said is written to standard error. The suite must hear: `make voice`, then `make run`.
"""

import argparse
import asyncio
import base64
import sys

from openai import AsyncOpenAI
from openai.resources.realtime.realtime import AsyncRealtimeConnection

PIECE_BYTES = 4800  # a tenth of a second
INSTRUCTIONS = "You stand in the shop that the video shows. Answer customers in one short sentence."


async def listen(line: AsyncRealtimeConnection) -> None:
    """Send what the microphone hears, until it ends."""
    while sound := await asyncio.to_thread(sys.stdin.buffer.read, PIECE_BYTES):
        await line.input_audio_buffer.append(audio=base64.b64encode(sound).decode())


async def speak(line: AsyncRealtimeConnection, answers: int) -> None:
    """Play answers as they come, until there were so many."""
    async for event in line:
        if event.type == "session.updated" and event.session.audio.input.turn_detection is None:
            raise SystemExit("nobody hears there: `make voice`, then `make run`")
        if event.type == "response.output_audio.delta":
            sys.stdout.buffer.write(base64.b64decode(event.delta))
            sys.stdout.buffer.flush()
        elif event.type == "conversation.item.input_audio_transcription.completed":
            print(f"> {event.transcript}", file=sys.stderr)
        elif event.type == "response.output_audio_transcript.done":
            print(event.transcript, file=sys.stderr)
        elif event.type == "error":
            print(f"! {event.error.message}", file=sys.stderr)
        elif event.type == "response.done" and event.response.status == "completed":
            answers -= 1
            if not answers:
                return


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("session", help="a live session's name")
    parser.add_argument("--url", default="http://localhost:8080/v1")
    parser.add_argument("--token", default="nobody asks", help="where the server wants one")
    parser.add_argument("--answers", type=int, default=-1, help="end after so many")
    options = parser.parse_args()

    client = AsyncOpenAI(api_key=options.token, base_url=options.url)
    about = {"session": options.session}
    async with client.realtime.connect(model="sightline", extra_query=about) as line:
        session = {"type": "realtime", "output_modalities": ["audio"], "instructions": INSTRUCTIONS}
        await line.session.update(session=session)
        listening = asyncio.create_task(listen(line))
        await speak(line, options.answers)
        listening.cancel()


if __name__ == "__main__":
    asyncio.run(main())
