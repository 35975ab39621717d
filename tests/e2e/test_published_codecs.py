"""Chromium as a WebRTC publisher of codecs that libwebrtc alone packs."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from aiohttp import web
from aioice.ice import get_host_addresses

from services.gateway.sources.whip.server import WhipServer
from services.gateway.webrtc.port import WebRtcPort
from tests.e2e.browser import Driver
from tests.eventually import eventually
from tests.sources import KEY, OneKeyGate

pytestmark = pytest.mark.skipif(
    not get_host_addresses(True, True), reason="ICE needs a network address besides loopback"
)
# Publishes a painted picture; whether the browser can encode the codec at all.
PUBLISH = """
const [codec, mode, key, lane] = arguments;
const canvas = Object.assign(document.createElement("canvas"), {width: 640, height: 480});
const pen = canvas.getContext("2d");
let step = 0;
setInterval(() => {
  pen.fillStyle = `hsl(${step += 7}, 90%, 50%)`;
  pen.fillRect(0, 0, 640, 480);
  pen.fillStyle = "white";
  pen.fillRect(step % 600, 200, 40, 40);
}, 40);
const peer = window.peer = new RTCPeerConnection();
const [track] = canvas.captureStream(25).getTracks();
const sendEncodings = mode ? [{scalabilityMode: mode}] : [{}];
const video = peer.addTransceiver(track, {direction: "sendonly", sendEncodings});
const known = RTCRtpSender.getCapabilities("video").codecs;
const chosen = known.filter(one => one.mimeType === `video/${codec}`);
if (!chosen.length) return false;
video.setCodecPreferences(chosen);
await peer.setLocalDescription();
const headers = {"Content-Type": "application/sdp"};
const {sdp: body} = peer.localDescription;
const reply = await fetch(`/whip/${key}`, {method: "POST", headers, body});
const answer = await reply.text();
if (reply.status !== 201) throw new Error(answer);
const others = lane === "tcp" ? /^a=candidate.* udp / : /^$/;
const lines = answer.split("\\r\\n").filter(line => !line || !others.test(line));
await peer.setRemoteDescription({type: "answer", sdp: lines.join("\\r\\n")});
return true;
"""


@pytest.fixture
async def whip() -> AsyncIterator[tuple[OneKeyGate, str, WebRtcPort]]:
    """A gate, the address of the server in front of it, and the port of its media."""
    gate = OneKeyGate()
    port = WebRtcPort(0)
    await port.start()
    server = WhipServer(gate, port)
    app = web.Application()
    server.add_to(app)
    app.router.add_get("/", _blank)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield gate, f"http://127.0.0.1:{runner.addresses[0][1]}/", port
    await server.aclose()
    await runner.cleanup()
    await port.aclose()


async def _blank(_: web.Request) -> web.Response:
    return web.Response(text="<p>", content_type="text/html")


@pytest.mark.parametrize(
    ("codec", "mode", "lane"),
    [("VP9", "L2T2", "udp"), ("AV1", "", "udp"), ("H264", "", "tcp")],
)
async def test_every_codec_of_chromium_is_decoded(
    driver: Driver, whip: tuple[OneKeyGate, str, WebRtcPort], codec: str, mode: str, lane: str
) -> None:
    gate, address, port = whip
    page = driver.page()
    try:
        await asyncio.to_thread(page.goto, address)
        if not await asyncio.to_thread(page.run, PUBLISH, codec, mode, KEY, lane):
            pytest.skip(f"this Chromium encodes no {codec}")
        await eventually(lambda: len(gate.sinks[0].pictures) >= 30)
        (sink,) = gate.sinks
        # A browser sends the finer layer once it trusts the line.
        await eventually(lambda: any(one.width == 640 for one in list(sink.pictures)))
        sizes = {(one.width, one.height) for one in sink.pictures}
        assert sizes <= {(640, 480), (320, 240)}
        assert not sink.drops
        if lane == "tcp":  # where UDP is used, a browser tries both
            assert port.num_streams > 0
        stamps = [one.capture_ns for one in sink.pictures]
        # One picture of each time, but where the sender's own clock is first known.
        assert len(stamps) - len(set(stamps)) <= 3
    finally:
        await asyncio.to_thread(page.close)
