"""`/v1/audio`: recordings of many formats to words, texts to recordings of many formats."""

import asyncio
import contextlib
import io
import json
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import av
import numpy as np
import pytest
from aiohttp import FormData, web
from aiohttp.test_utils import TestClient, TestServer

from services.gateway.api.audio.encoder import CONTENT_TYPES, SpeechFile
from services.gateway.api.audio.recording import MAX_RECORDING_BYTES, Recording
from services.gateway.api.audio.speech import SpeechApi
from services.gateway.api.audio.transcript import Spoken, subtitles
from services.gateway.api.audio.transcriptions import TranscriptionsApi
from services.gateway.api.guard import Guard
from services.gateway.api.operations import add_operations
from services.gateway.voice.passages import PassageCutter
from sightline.errors import InvalidArgumentError, ResourceExhaustedError, UnavailableError
from sightline.v1 import gateway_pb2
from tests.eventually import PATIENCE_S
from tests.unit.fake_worker import FakeWorker
from tests.unit.gateway_parts import running
from tests.unit.http_parts import events_of
from tests.unit.test_gateway_voice import EarsOf
from tests.unit.voices import SILENCE, SPEECH, Hearsay, Loud, Told, audio

HZ = 24_000


class _Ears(EarsOf):
    def activity(self) -> Any:
        return Loud()


class _Speaker:
    """Speaks tones: a tenth of a second for each word. `fails` after the first."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, float]] = []
        self.fails: Exception | None = None
        self.refuses: Exception | None = None

    async def speak(
        self, request: gateway_pb2.SpeakRequest, place: str = "", rate: float = 1.0
    ) -> AsyncGenerator[gateway_pb2.AudioChunk, None]:
        self.asked.append((request.text, request.voice, rate))
        if self.refuses is not None:
            raise self.refuses
        for _ in request.text.split():
            yield gateway_pb2.AudioChunk(sample_rate=22_050, pcm=_tone(0.1, 22_050))
            if self.fails is not None:
                raise self.fails


Client = TestClient[web.Request, web.Application]


@contextlib.asynccontextmanager
async def _served(*words: str) -> AsyncIterator[tuple[Client, Hearsay, _Speaker]]:
    hearsay, speaker = Hearsay(*words), _Speaker()
    async with running(FakeWorker()) as parts:
        parts.viewers.ears = _Ears(hearsay)
        app = web.Application()
        Guard(parts.config).add_to(app)
        said: Any = speaker
        add_operations(
            app,
            TranscriptionsApi(parts.config, parts.viewers, parts.callers),
            SpeechApi(parts.config, said, parts.callers),
        )
        async with TestClient(TestServer(app)) as client:
            yield client, hearsay, speaker


def _tone(length_s: float, hz: int = HZ) -> bytes:
    samples = 12_000 * np.sin(2 * np.pi * 440 * np.arange(round(hz * length_s)) / hz)
    return samples.astype(np.int16).tobytes()


def _file(form: str, *pcm: bytes) -> bytes:
    file = SpeechFile(form)
    written = [file.write(gateway_pb2.AudioChunk(sample_rate=HZ, pcm=each)) for each in pcm]
    return b"".join(written) + file.finish()


def _two_passages(form: str = "wav") -> bytes:
    silence = bytes(2 * HZ)
    return _file(form, _tone(1), silence, _tone(0.5), silence)


def _form(file: bytes, **fields: str) -> FormData:
    form = FormData()
    for name, value in fields.items():
        form.add_field(name, value)
    form.add_field("file", file, filename="said.wav")
    return form


async def _transcribe(client: Client, file: bytes, **fields: str) -> tuple[int, Any]:
    reply = await client.post("/v1/audio/transcriptions", data=_form(file, **fields))
    body = await reply.text()
    return reply.status, json.loads(body) if reply.content_type == "application/json" else body


# --- recordings -------------------------------------------------------------------------------


def test_passages_lie_where_they_were_said() -> None:
    cutter = PassageCutter(Told())
    sound = audio(SILENCE, 2) + audio(SPEECH, 1) + audio(SILENCE, 2) + audio(SPEECH, 0.5)
    passages = [*cutter.feed(sound[:70_001]), *cutter.feed(sound[70_001:]), *cutter.finish()]
    assert [each.start_s for each in passages] == [
        pytest.approx(1.7, abs=0.1),
        pytest.approx(4.7, abs=0.1),
    ]
    assert [each.length_s for each in passages] == [
        pytest.approx(1.6, abs=0.1),
        pytest.approx(0.8, abs=0.1),
    ]


def test_speech_without_an_end_is_cut() -> None:
    cutter = PassageCutter(Told())
    passages = [*cutter.feed(audio(SPEECH, 50)), *cutter.finish()]
    assert sum(each.length_s for each in passages) == pytest.approx(50, abs=0.1)
    assert max(each.length_s for each in passages) < 13


@pytest.mark.parametrize("form", [form for form in CONTENT_TYPES if form != "pcm"])
def test_recordings_of_every_format_that_is_written_are_read(form: str) -> None:
    recording = Recording(_two_passages(form), Loud())
    passages = []
    while not recording.over:
        passages += recording.read()
    assert [each.start_s for each in passages] == [
        pytest.approx(0, abs=0.2),
        pytest.approx(1.7, abs=0.2),
    ]
    assert recording.read_s == pytest.approx(3.5, abs=0.2)


def test_a_video_has_its_sound_heard() -> None:
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        video = container.add_stream("mpeg4", rate=10)
        video.width = video.height = 64
        sound = container.add_stream("aac", rate=HZ)
        frame = av.AudioFrame.from_ndarray(
            np.frombuffer(_tone(1), np.int16).astype(np.float32).reshape(1, -1) / 32768,
            format="fltp",
            layout="mono",
        )
        frame.sample_rate = HZ
        container.mux(video.encode(av.VideoFrame(64, 64)))
        container.mux([*sound.encode(frame), *sound.encode(None), *video.encode(None)])
    recording = Recording(file.getvalue(), Loud())
    assert len(recording.read()) == 1


def test_a_playlist_is_no_recording() -> None:
    playlist = b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile:///etc/hostname\n"
    with pytest.raises(InvalidArgumentError):
        Recording(playlist, Loud())


# --- transcriptions ---------------------------------------------------------------------------


async def test_words_come_in_the_form_that_is_wanted() -> None:
    words = ("A red circle.", "It moves.")
    async with _served(*(words * 5)) as (client, _, _speaker):
        status, plain = await _transcribe(client, _two_passages(), model="whisper-1")
        assert status == 200
        assert plain == {
            "text": "A red circle. It moves.",
            "usage": {"type": "duration", "seconds": 4},
        }
        _, text = await _transcribe(client, _two_passages(), response_format="text")
        assert text == "A red circle. It moves.\n"
        _, verbose = await _transcribe(
            client, _two_passages(), response_format="verbose_json", language="EN-us"
        )
        assert verbose["language"] == "en"
        assert verbose["duration"] == pytest.approx(3.5, abs=0.1)
        assert [each["text"] for each in verbose["segments"]] == [*words]
        assert verbose["segments"][1]["start"] == pytest.approx(1.7, abs=0.2)
        _, srt = await _transcribe(client, _two_passages(), response_format="srt")
        assert srt.startswith("1\n00:00:00,0")
        assert "\n\n2\n00:00:01," in srt
        _, vtt = await _transcribe(client, _two_passages(), response_format="vtt")
        assert vtt.startswith("WEBVTT\n\n00:00:00.0")


async def test_words_are_sent_as_they_are_heard() -> None:
    async with _served("A red circle.", "It moves.") as (client, hearsay, _):
        form = _form(_two_passages(), stream="true")
        reply = await client.post("/v1/audio/transcriptions", data=form)
        events = [event.data async for event in events_of(reply)]
        assert [event["delta"] for event in events[:2]] == ["A red circle.", " It moves."]
        assert events[2]["type"] == "transcript.text.done"
        assert events[2]["text"] == "A red circle. It moves."
        assert events[3:] == ["[DONE]"]
        assert hearsay.words == []


async def test_silence_costs_no_recognition() -> None:
    async with _served() as (client, hearsay, _):
        assert (await _transcribe(client, _file("wav", bytes(6 * HZ))))[1]["text"] == ""
        assert hearsay.heard_s == []


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"response_format": "docx"}, "response_format"),
        ({"language": "plain English"}, "language"),
        ({"stream": "perhaps"}, "stream"),
        ({"timestamp_granularities[]": "word"}, "timestamp_granularities"),
        ({"include[]": "logprobs"}, "include"),
    ],
)
async def test_what_is_not_to_be_had_is_named(fields: dict[str, str], param: str) -> None:
    async with _served() as (client, _, _speaker):
        status, body = await _transcribe(client, _two_passages(), **fields)
        assert (status, body["error"]["param"]) == (400, param)


async def test_what_is_no_recording_is_refused() -> None:
    async with _served() as (client, _, _speaker):
        status, body = await _transcribe(client, b"no sound at all, only words" * 100)
        assert (status, body["error"]["type"]) == (400, "invalid_request_error")
        assert (await _transcribe(client, b""))[0] == 400
        assert (await _transcribe(client, bytes(MAX_RECORDING_BYTES + 1)))[0] == 413
        path = "/v1/audio/transcriptions"
        assert (await client.post(path, json={"file": "said.wav"})).status == 415
        broken = {"Content-Type": "multipart/form-data; boundary=x"}
        assert (await client.post(path, data=b"--x\r\nno form", headers=broken)).status == 400
        broken = {"Content-Type": "multipart/form-data"}
        assert (await client.post(path, data=b"--x\r\nno form", headers=broken)).status == 400


async def test_a_recogniser_that_is_full_is_told_of() -> None:
    async with _served() as (client, hearsay, _):
        hearsay.fails = ResourceExhaustedError("too many recordings")
        assert (await _transcribe(client, _two_passages()))[0] == 429


def test_subtitles_cannot_be_broken_by_what_is_said() -> None:
    said = subtitles([Spoken("a --> b", 3661.5, 3662)], "srt")
    assert said == "1\n01:01:01,500 --> 01:01:02,000\na -> b\n"


# --- speech -----------------------------------------------------------------------------------


@pytest.mark.parametrize("form", CONTENT_TYPES)
async def test_a_text_is_spoken_in_the_format_that_is_wanted(form: str) -> None:
    async with _served() as (client, _, speaker):
        asked = {"input": "one two three", "voice": "alloy", "response_format": form, "speed": 1.5}
        reply = await client.post("/v1/audio/speech", json={"model": "tts-1", **asked})
        assert (reply.status, reply.content_type) == (200, CONTENT_TYPES[form])
        data = await reply.read()
        assert speaker.asked == [("one two three", "", 1.5)]
    if form == "pcm":
        assert len(data) / 2 / HZ == pytest.approx(0.3, abs=0.01)
        return
    with av.open(io.BytesIO(data)) as container:
        rate = container.streams.audio[0].rate
        length_s = sum(frame.samples for frame in container.decode(audio=0)) / rate
    assert length_s == pytest.approx(0.3, abs=0.1)


async def test_speech_comes_as_events_where_they_are_wanted() -> None:
    async with _served() as (client, _, _speaker):
        asked = {"input": "one two", "response_format": "pcm", "stream_format": "sse"}
        reply = await client.post("/v1/audio/speech", json=asked)
        events = [event.data async for event in events_of(reply)]
        kinds = [event if isinstance(event, str) else event["type"] for event in events]
        assert kinds[:2] == ["speech.audio.delta", "speech.audio.delta"]
        assert kinds[-2:] == ["speech.audio.done", "[DONE]"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": " "}, "input"),
        ({"input": 3}, "input"),
        ({"response_format": "midi"}, "response_format"),
        ({"speed": 4}, "speed"),
        ({"speed": "fast"}, "speed"),
        ({"voice": 7}, "voice"),
        ({"stream_format": "dots"}, "stream_format"),
    ],
)
async def test_what_cannot_be_spoken_is_named(fields: dict[str, Any], param: str) -> None:
    async with _served() as (client, _, speaker):
        reply = await client.post("/v1/audio/speech", json={"input": "one", **fields})
        body = await reply.json()
        assert (reply.status, body["error"]["param"]) == (400, param)
        assert speaker.asked == []


async def test_a_refusal_before_the_sound_is_an_ordinary_one_and_a_loss_cuts_it_off() -> None:
    async with _served() as (client, _, speaker):
        speaker.refuses = InvalidArgumentError("no voice 'x'")
        reply = await client.post("/v1/audio/speech", json={"input": "one", "voice": "x"})
        assert (reply.status, (await reply.json())["error"]["message"]) == (400, "no voice 'x'")
        assert speaker.asked[-1][1] == "x"
        speaker.refuses, speaker.fails = None, UnavailableError("speech is away")
        asked = {"input": "one", "response_format": "wav"}
        reply = await client.post("/v1/audio/speech", json=asked)
        assert reply.status == 200
        with pytest.raises(Exception, match=r"payload|disconnected"):
            await reply.read()


async def test_a_gateway_ends_after_the_recordings_that_it_hears() -> None:
    async with running(FakeWorker()) as parts:
        api = TranscriptionsApi(parts.config, parts.viewers, parts.callers)
        await asyncio.wait_for(api.drain(), PATIENCE_S)
