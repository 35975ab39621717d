"""The official `openai` package against a gateway: prints what it got, as JSON.

Arguments: the gateway's address, a session, a picture's file.
"""

import base64
import json
import sys
from pathlib import Path

import openai


def main(address: str, session: str, picture: str) -> None:
    client = openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)
    video = {"type": "video_url", "video_url": {"url": f"sightline://{session}"}}
    asked = {"role": "user", "content": [{"type": "text", "text": "what is in the scene"}, video]}
    found = {"models": [model.id for model in client.models.list()]}
    whole = client.chat.completions.create(model="shapes", messages=[asked], temperature=0)
    found["whole"] = whole.choices[0].message.content
    found["finish"] = whole.choices[0].finish_reason
    found["tokens"] = whole.usage.completion_tokens
    deltas = client.chat.completions.create(
        model=f"sightline://{session}",
        messages=[{"role": "user", "content": "what is in the scene"}],
        stream=True,
        max_tokens=1,
        stream_options={"include_usage": True},
    )
    chunks = list(deltas)
    found["streamed"] = "".join(
        chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices
    )
    found["stream_finish"] = chunks[-2].choices[0].finish_reason
    found["stream_tokens"] = chunks[-1].usage.completion_tokens
    data = base64.b64encode(Path(picture).read_bytes()).decode()
    image = {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{data}"}}
    shown = {"role": "user", "content": [{"type": "text", "text": "what is in the scene"}, image]}
    seen = client.chat.completions.create(model="shapes", messages=[shown])
    found["picture"] = seen.choices[0].message.content
    wanted = [{"type": "predicate", "instructions": "a red circle is there"}] * 399
    levels = [{"label": "red"}, {"label": "blue"}]
    wanted.append({"type": "score", "instructions": "a {} circle is there", "levels": levels})
    decided = client.decisions.create(
        model="shapes", input=f"sightline://{session}", questions=wanted
    )
    found["decisions"] = len(decided.answers)
    found["probability"] = decided.answers[0].probability
    found["score"] = decided.answers[-1].score
    try:
        client.chat.completions.create(model="shapes", messages=[asked], tool_choice="required")
    except openai.BadRequestError as error:
        found["refusal"] = [error.param, error.type]
    video["video_url"]["url"] = "sightline://nowhere"
    try:
        client.chat.completions.create(model="shapes", messages=[asked])
    except openai.NotFoundError as error:
        found["code"] = error.code
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
