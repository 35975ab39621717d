"""Realtime conversations by WebRTC: aiortc is the client, and talks."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import FormData
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError

from tests.calling import Client, called
from tests.eventually import eventually
from tests.microphone import Microphone
from tests.unit.fake_worker import ANSWER, FakeWorker

PATH = "/v1/realtime/calls"


class Caller:
    """One call, from its client's side."""

    def __init__(self, http: Client) -> None:
        self.http = http
        self.peer = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self.microphone = Microphone()
        self.events: list[dict[str, Any]] = []
        self.heard_s = 0.0
        self.location = ""
        self.closed = asyncio.Event()
        self._listening: asyncio.Task[None] | None = None
        self.peer.addTrack(self.microphone)
        self.channel = self.peer.createDataChannel("oai-events")
        self.channel.on("message", lambda text: self.events.append(json.loads(text)))
        self.channel.on("close", self.closed.set)
        self.peer.on("track", self._heard)

    async def call(self, session: dict[str, Any] | None = None) -> int:
        """Connect; the status of the reply."""
        await self.peer.setLocalDescription(await self.peer.createOffer())
        offer = self.peer.localDescription.sdp
        if session is None:
            data: Any = offer
            headers = {"Content-Type": "application/sdp"}
        else:
            data, headers = FormData(default_to_multipart=True), {}
            data.add_field("sdp", offer, content_type="application/sdp")
            data.add_field("session", json.dumps(session), content_type="application/json")
        reply = await self.http.post(f"{PATH}?session=kitchen", data=data, headers=headers)
        if reply.status == 201:
            assert reply.content_type == "application/sdp"
            self.location = reply.headers["Location"]
            answer = RTCSessionDescription(await reply.text(), "answer")
            await self.peer.setRemoteDescription(answer)
        return reply.status

    def send(self, kind: str, **fields: Any) -> None:
        self.channel.send(json.dumps({"type": kind, **fields}))

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["type"] == kind]

    async def until(self, kind: str, count: int = 1) -> dict[str, Any]:
        await eventually(lambda: len(self.of(kind)) >= count, kind, timeout_s=20)
        return self.of(kind)[count - 1]

    def kinds(self) -> list[str]:
        return [event["type"] for event in self.events]

    async def speak(self, count: int = 1) -> None:
        """Until it is heard, and then no more."""
        self.microphone.loud = True
        await self.until("input_audio_buffer.speech_started", count)
        self.microphone.loud = False

    def _heard(self, track: Any) -> None:
        async def listen() -> None:
            with contextlib.suppress(MediaStreamError):
                while True:
                    frame = await track.recv()
                    self.heard_s += frame.samples / frame.sample_rate

        self._listening = asyncio.create_task(listen())

    async def aclose(self) -> None:
        await self.peer.close()
        if self._listening is not None:
            self._listening.cancel()


@contextlib.asynccontextmanager
async def _calling(
    *words: str, word_s: float = 0.1, **settings: Any
) -> AsyncIterator[tuple[Caller, FakeWorker]]:
    async with called(*words, word_s=word_s, **settings) as (http, worker):
        caller = Caller(http)
        try:
            yield caller, worker
        finally:
            await caller.aclose()


async def test_a_spoken_question_is_answered_by_the_track() -> None:
    async with _calling("What is there?") as (caller, worker):
        assert await caller.call({"type": "realtime", "instructions": "Be brief."}) == 201
        created = await caller.until("session.created")
        assert created["session"]["instructions"] == "Be brief."
        await caller.speak()
        done = await caller.until("response.done")
        assert done["response"]["status"] == "completed"
        assert worker.asked[0].question.text == "What is there?"
        assert worker.asked[0].speech
        await caller.until("output_audio_buffer.stopped")
        kinds = caller.kinds()
        assert "response.output_audio.delta" not in kinds
        assert "response.output_audio_transcript.delta" in kinds
        started = caller.of("output_audio_buffer.started")
        assert [event["response_id"] for event in started] == [done["response"]["id"]]
        spoken_s = 0.1 * len(worker.answer.split())
        await eventually(lambda: caller.heard_s >= spoken_s - 0.1)
        # A typed question in the same call, answered in words alone.
        content = [{"type": "input_text", "text": "and now?"}]
        item = {"type": "message", "role": "user", "content": content}
        caller.send("conversation.item.create", item=item)
        caller.send("response.create", response={"output_modalities": ["text"]})
        done = await caller.until("response.done", 2)
        assert done["response"]["output_modalities"] == ["text"]
        caller.send("no.such.event")
        assert (await caller.until("error"))["error"]["type"] == "invalid_request_error"
        reply = await caller.http.post(f"{caller.location}/hangup")
        assert reply.status == 200
        assert (await caller.http.post(f"{caller.location}/hangup")).status == 404
        await asyncio.wait_for(caller.closed.wait(), 10)


async def test_speech_into_an_answer_ends_it_where_it_was_heard() -> None:
    async with _calling("What is there?", "Stop, how many?", word_s=1.5) as (caller, worker):
        assert await caller.call() == 201
        await caller.speak()
        await caller.until("output_audio_buffer.started")
        first = (await caller.until("response.done"))["response"]  # long before it is played
        await eventually(lambda: caller.heard_s > 1.8)
        await caller.speak(2)
        cleared = await caller.until("output_audio_buffer.cleared")
        assert cleared["response_id"] == first["id"]
        truncated = await caller.until("conversation.item.truncated")
        assert truncated["item_id"] == first["output"][0]["id"]
        assert 300 < truncated["audio_end_ms"] < 1500 * len(worker.answer.split())
        await caller.until("output_audio_buffer.started", 2)
        second = worker.asked[1]
        assert second.question.text == "Stop, how many?"
        assert 0 < len(second.history[0].answer) < len(worker.answer)
        caller.send("output_audio_buffer.clear")
        await caller.until("output_audio_buffer.cleared", 2)


async def test_its_own_voice_in_the_microphone_is_no_question_and_ends_nothing() -> None:
    async with _calling("What is there?", ANSWER, word_s=1.0) as (caller, worker):
        assert await caller.call() == 201
        await caller.speak()
        await caller.until("output_audio_buffer.started")
        await caller.speak(2)
        heard = await caller.until("conversation.item.input_audio_transcription.completed", 2)
        assert heard["transcript"] == ""
        await caller.until("output_audio_buffer.stopped")
        assert not caller.of("output_audio_buffer.cleared")
        assert not caller.of("conversation.item.truncated")
        assert len(worker.asked) == 1
        spoken_s = len(worker.answer.split())
        await eventually(lambda: caller.heard_s > spoken_s - 0.3)


async def test_what_is_no_call_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    async with _calling(max_calls=1) as (caller, _):
        post = caller.http.post
        assert (await post(PATH, json={"sdp": "v=0"})).status == 415
        sdp = {"Content-Type": "application/sdp"}
        for offer in ("", "v=0\r\n", "v=0\r\nm=video 9 UDP/TLS/RTP/SAVPF 96\r\n", "nonsense"):
            reply = await post(PATH, data=offer, headers=sdp)
            assert (reply.status, (await reply.json())["error"]["type"]) == (
                400,
                "invalid_request_error",
            )
        form = FormData(default_to_multipart=True)
        form.add_field("session", "{}")
        assert (await post(PATH, data=form)).status == 400
        unknown = FormData(default_to_multipart=True)
        unknown.add_field("sdp", "v=0")
        unknown.add_field("session", '{"type": "transcription"}')
        assert (await post(PATH, data=unknown)).status == 400
        assert (await post(f"{PATH}/rtc_none/hangup")).status == 404
        assert await caller.call() == 201
        await caller.until("session.created")
        other = Caller(caller.http)
        assert await other.call() == 429
        await other.aclose()


async def test_a_call_about_a_session_that_goes_is_over() -> None:
    async with _calling() as (caller, _):
        assert await caller.call() == 201
        await caller.until("session.created")
        assert (await caller.http.delete("/api/sessions/kitchen")).status == 204
        await asyncio.wait_for(caller.closed.wait(), 10)
