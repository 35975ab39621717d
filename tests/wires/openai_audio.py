"""The official `openai` package speaks a text and has it heard: prints what it got, as JSON.

Arguments: the gateway's address, a file with an SDP offer, which it calls with.
"""

import json
import sys
from pathlib import Path

import openai

TEXT = "How many red circles are there in the picture? Is anything moving?"


def main(address: str, offer: str) -> None:
    client = openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)
    sizes, said = {}, b""
    for form in ("mp3", "opus", "aac", "flac", "wav", "pcm"):
        speech = client.audio.speech
        with speech.with_streaming_response.create(
            model="tts-1", voice="alloy", input=TEXT, response_format=form
        ) as reply:
            data = reply.read()
        sizes[form] = len(data)
        said = data if form == "mp3" else said
    faster = client.audio.speech.create(
        model="tts-1", voice="alloy", input=TEXT, response_format="pcm", speed=1.5
    )
    found = {"text": TEXT, "sizes": sizes, "faster": len(faster.read())}
    hear = client.audio.transcriptions.create
    file = ("said.mp3", said)
    found["plain"] = hear(file=file, model="whisper-1").text
    whole = hear(file=file, model="whisper-1", response_format="verbose_json", language="en")
    found["language"] = whole.language
    found["duration"] = whole.duration
    found["segments"] = [[each.start, each.end, each.text] for each in whole.segments]
    found["srt"] = hear(file=file, model="whisper-1", response_format="srt")
    events = list(hear(file=file, model="gpt-4o-transcribe", stream=True, prompt="red circles"))
    found["deltas"] = [each.delta for each in events if each.type == "transcript.text.delta"]
    found["streamed"] = events[-1].text
    try:
        hear(file=("said.mp3", b"no sound"), model="whisper-1")
    except openai.BadRequestError as error:
        found["refusal"] = error.type
    try:
        client.audio.speech.create(model="tts-1", voice="nobody", input=TEXT)
    except openai.BadRequestError as error:
        found["voice"] = error.message
    calls = client.realtime.calls
    spoken = {"type": "realtime", "audio": {"output": {"voice": "marin"}}}
    call = calls.create(sdp=Path(offer).read_text(), session=spoken)
    found["answer"] = call.text
    calls.hangup(call.response.headers["location"].rpartition("/")[2])
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
