"""A viewer's microphone in its WebRTC connection: WHEP's, or that of the camera it publishes."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from aiortc import (
    RTCConfiguration,
    RTCPeerConnection,
    RTCSessionDescription,
    VideoStreamTrack,
)

from services.gateway.api.guard import Guard
from services.gateway.api.whep import WhepApi
from services.gateway.sessions.key_gate import KeyGate
from services.gateway.sources.whip.server import WhipServer
from services.gateway.webrtc.port import WebRtcPort
from tests.microphone import Microphone
from tests.unit.fake_worker import FakeWorker
from tests.unit.gateway_parts import KEY, Parts, running
from tests.unit.test_gateway_viewers import Viewer
from tests.unit.test_gateway_voice import EarsOf
from tests.unit.voices import Hearsay, Loud

Client = TestClient[web.Request, web.Application]


class _Ears(EarsOf):
    configured = True

    def activity(self) -> Any:
        return Loud()


@contextlib.asynccontextmanager
async def _house(*words: str) -> AsyncIterator[tuple[Parts, Client, Viewer, str]]:
    """Parts, their HTTP side, and a viewer with the handle of its line."""
    port = WebRtcPort(0, ("127.0.0.1",))
    await port.start()
    async with running(FakeWorker()) as parts:
        session = await parts.push_session(seen=True, name="kitchen")
        parts.viewers.ears = _Ears(Hearsay(*words))
        whep = WhepApi(parts.config, parts.sessions, parts.viewers, parts.callers, port)
        microphone_of = parts.viewers.microphone_of
        whip = WhipServer(KeyGate(parts.sessions, "whip"), port, microphone_of=microphone_of)
        app = web.Application()
        Guard(parts.config).add_to(app)
        whep.add_to(app)
        whip.add_to(app)
        viewer = Viewer(parts, session.id)
        started = await viewer.begin()
        async with TestClient(TestServer(app)) as http:
            try:
                yield parts, http, viewer, started.resume_handle
            finally:
                await asyncio.gather(whep.aclose(), whip.aclose())
    await port.aclose()


@contextlib.asynccontextmanager
async def _connected(http: Client, path: str, *, sends: bool) -> AsyncIterator[Microphone]:
    """A microphone that is connected there, with video one way or the other."""
    peer, microphone = RTCPeerConnection(RTCConfiguration(iceServers=[])), Microphone()
    if sends:
        peer.addTransceiver(VideoStreamTrack(), direction="sendonly")
    else:
        peer.addTransceiver("video", direction="recvonly")
    peer.addTrack(microphone)
    await peer.setLocalDescription(await peer.createOffer())
    headers = {"Content-Type": "application/sdp"}
    reply = await http.post(path, data=peer.localDescription.sdp, headers=headers)
    assert reply.status == 201, await reply.text()
    await peer.setRemoteDescription(RTCSessionDescription(await reply.text(), "answer"))
    try:
        yield microphone
    finally:
        await peer.close()


async def _ask(viewer: Viewer, microphone: Microphone) -> str:
    """Speak until it is heard, and then no more; the words."""
    microphone.loud = True
    await asyncio.sleep(0.6)
    microphone.loud = False
    while not (transcript := (await viewer.until("transcript")).transcript).final:
        pass
    await viewer.until("answer_done")
    return transcript.text


async def test_a_viewer_speaks_by_the_connection_that_it_watches_by() -> None:
    async with _house("What is there?") as (parts, http, viewer, handle):
        path = f"/whep/kitchen?handle={handle}"
        async with _connected(http, path, sends=False) as microphone:
            assert await _ask(viewer, microphone) == "What is there?"
        refused = await http.post("/whep/kitchen?handle=nobody", data="v=0")
        assert refused.status in (404, 415)
        assert parts.viewers.of_handle(handle, parts.sessions.all()[0])


async def test_a_publisher_s_sound_is_the_microphone_of_its_viewer() -> None:
    async with _house("What is there?") as (parts, http, viewer, handle):
        path = f"/whip/{KEY}?handle={handle}"
        async with _connected(http, path, sends=True) as microphone:
            assert await _ask(viewer, microphone) == "What is there?"
            [session] = parts.sessions.all()
            assert session.message().sound
        headers = {"Content-Type": "application/sdp"}
        refused = await http.post(f"/whip/{KEY}?handle=nobody", data="v=0", headers=headers)
        assert refused.status == 400
