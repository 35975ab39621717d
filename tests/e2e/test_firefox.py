"""The page in Firefox, and what Firefox publishes."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests import tools
from tests.e2e.firefox import Firefox, firefox
from tests.eventually import eventually
from tests.suite import Suite

pytestmark = pytest.mark.option

# From a canvas, for which nobody was asked for leave: its addresses stay hidden behind names.
PUBLISH = """
const canvas = document.body.appendChild(document.createElement('canvas'));
const context = canvas.getContext('2d');
let turn = 0;
setInterval(() => {
  context.fillStyle = ++turn % 2 ? 'red' : 'blue';
  context.fillRect(turn % 200, 20, 90, 90);
}, 40);
const peer = window.peer = new RTCPeerConnection();
const [track] = canvas.captureStream(25).getTracks();
const sender = peer.addTransceiver(track, {direction: 'sendonly'});
const known = RTCRtpSender.getCapabilities('video').codecs;
sender.setCodecPreferences(known.filter((codec) => codec.mimeType === CODEC));
await peer.setLocalDescription();
await new Promise((done) => {
  peer.onicecandidate = ({candidate}) => candidate ?? done();
});
const reply = await fetch(URL, {
  method: 'POST', body: peer.localDescription.sdp, headers: {'Content-Type': 'application/sdp'},
});
if (reply.status !== 201) throw new Error(await reply.text());
await peer.setRemoteDescription({type: 'answer', sdp: await reply.text()});
return peer.localDescription.sdp;
"""


@pytest.fixture
async def browser(tmp_path: Path, suite: Suite) -> AsyncIterator[Firefox]:
    tools.require("firefox")
    async with firefox(tmp_path / "firefox") as started:
        await started.goto(suite.url)
        yield started
    await asyncio.to_thread(suite.delete_sessions)


def sessions(suite: Suite) -> list[dict[str, Any]]:
    return list(suite.api("GET", "api/sessions").get("sessions", []))


def understood(suite: Suite) -> int:
    return sum(int(each["stats"].get("frames_processed", 0)) for each in sessions(suite))


async def test_the_camera_is_published_and_asked_about(browser: Firefox, suite: Suite) -> None:
    await browser.wait("document.querySelector('#camera').textContent.includes('Use my camera')")
    await browser.run("document.querySelector('#camera').click()")
    await eventually(lambda: understood(suite) >= 10)
    (session,) = sessions(suite)
    assert session["source_kind"] == "whip"
    await browser.wait("document.querySelector('#line-state').textContent === 'connected'")
    await browser.run("""
        const field = document.querySelector('#question');
        field.value = 'What is in the scene?';
        field.form.requestSubmit();
    """)
    await browser.wait("document.querySelectorAll('.answer[data-state=done]').length")


async def test_whose_addresses_are_hidden_is_heard(browser: Firefox, suite: Suite) -> None:
    for codec in ("video/VP8", "video/VP9", "video/AV1"):
        session = await asyncio.to_thread(suite.api, "POST", "api/sessions", {"push": {}})
        path = urlsplit(session["whip_url"]).path
        script = PUBLISH.replace("CODEC", repr(codec)).replace("URL", repr(path))
        offer = await browser.run(f"{{ {script} }}")
        assert ".local" in offer
        await eventually(lambda: understood(suite) >= 10, codec)
        await asyncio.to_thread(suite.delete_sessions)
