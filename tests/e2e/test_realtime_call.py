"""Chromium calls a session as OpenAI's clients in browsers do, and talks with it."""

import asyncio

import pytest
from aioice.ice import get_host_addresses

from tests.calling import called
from tests.e2e.browser import Driver, Page
from tests.eventually import eventually

pytestmark = pytest.mark.skipif(
    not get_host_addresses(True, True), reason="ICE needs a network address besides loopback"
)
# Its microphone is a tone, which is on while somebody speaks.
CALL = """
const context = new AudioContext();
const out = context.createMediaStreamDestination();
const tone = new OscillatorNode(context, {frequency: 440});
window.voice = new GainNode(context, {gain: 0});
tone.connect(voice).connect(out);
tone.start();
window.events = [];
const peer = window.peer = new RTCPeerConnection();
peer.addTrack(out.stream.getTracks()[0]);
const channel = peer.createDataChannel("oai-events");
channel.onmessage = ({data}) => events.push(JSON.parse(data));
await peer.setLocalDescription();
const headers = {"Content-Type": "application/sdp"};
const {sdp: body} = peer.localDescription;
const reply = await fetch("/v1/realtime/calls?session=kitchen", {method: "POST", headers, body});
const answer = await reply.text();
if (reply.status !== 201) throw new Error(answer);
await peer.setRemoteDescription({type: "answer", sdp: answer});
return reply.headers.get("Location");
"""
KINDS = "return events.map(({type}) => type)"
HEARD = """
let packets = 0;
for (const one of (await peer.getStats()).values())
  if (one.type === "inbound-rtp" && one.kind === "audio") packets += one.packetsReceived;
return packets;
"""


async def test_chromium_asks_aloud_is_answered_and_interrupts(driver: Driver) -> None:
    async with called("What is there?", "Stop!", word_s=3.0, addresses=()) as (http, worker):
        page: Page = driver.page()

        async def run(script: str) -> object:
            return await asyncio.to_thread(page.run, script)

        async def until(kind: str, count: int = 1) -> None:
            for _ in range(300):
                kinds = await run(KINDS)
                assert isinstance(kinds, list)
                if kinds.count(kind) >= count:
                    return
                await asyncio.sleep(0.1)
            raise AssertionError(f"no {kind} among {kinds}")

        try:
            await asyncio.to_thread(page.goto, str(http.make_url("/api/info")))
            location = await run(CALL)
            assert str(location).startswith("/v1/realtime/calls/rtc_")
            await until("session.created")
            await run("voice.gain.value = 0.8")
            await until("input_audio_buffer.speech_started")
            await run("voice.gain.value = 0")
            await until("output_audio_buffer.started")
            assert worker.asked[0].question.text == "What is there?"
            await run("voice.gain.value = 0.8")
            await until("input_audio_buffer.speech_started", 2)
            await run("voice.gain.value = 0")
            await until("output_audio_buffer.cleared")  # with its words
            await until("conversation.item.truncated")
            await until("output_audio_buffer.started", 2)
            await eventually(lambda: len(worker.asked) == 2)
            assert await run(HEARD)
        finally:
            await asyncio.to_thread(page.close)
