"""A browser whose network changes: ICE restarts are refused, who connects anew is let in soon."""

import asyncio
import time
from pathlib import Path

import pytest
from aioice.ice import get_host_addresses
from aiortc import RTCConfiguration, RTCPeerConnection, RTCRtpSender, RTCSessionDescription
from aiortc.mediastreams import VideoStreamTrack

from tests.eventually import eventually
from tests.integration.test_whep import House, live, running_house
from tests.watcher import SDP, Watcher

AGAIN_S = 0.25  # between two tries of a publisher, as the page's first
MOST_S = 30.0  # from the last packet of the old connection to pictures by the new one
FRAGMENT = {"Content-Type": "application/trickle-ice-sdpfrag"}
pytestmark = pytest.mark.skipif(
    not get_host_addresses(True, True), reason="ICE needs a network address besides loopback"
)


async def offered() -> RTCPeerConnection:
    peer = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    video = peer.addTransceiver(VideoStreamTrack(), direction="sendonly")
    known = RTCRtpSender.getCapabilities("video").codecs
    video.setCodecPreferences([codec for codec in known if codec.mimeType == "video/VP8"])
    await peer.setLocalDescription(await peer.createOffer())
    return peer


async def published(house: House, peer: RTCPeerConnection, key: str) -> str:
    """Location of the publication; "" where it is refused."""
    url = f"{house.base}/whip/{key}"
    async with house.http.post(url, data=peer.localDescription.sdp, headers=SDP) as response:
        if response.status != 201:
            assert response.status == 409, await response.text()
            return ""
        answer = RTCSessionDescription(await response.text(), "answer")
        await peer.setRemoteDescription(answer)
        return response.headers["Location"]


async def leave_without_a_word(peer: RTCPeerConnection) -> None:
    """As a telephone that has another address now: nothing is sent any more, no goodbye either."""
    (sender,) = peer.getSenders()
    connection = sender.transport.transport._connection
    for protocol in connection._protocols:
        protocol.transport.sendto = lambda *packet: None


async def test_a_publisher_with_a_new_address_is_let_in_and_its_viewer_goes_on(
    tmp_path: Path,
) -> None:
    async with running_house(tmp_path) as house:
        session = await house.open()
        first, second = await offered(), await offered()
        place = await published(house, first, session["key"])
        await live(house, session)
        fragment = "a=ice-ufrag:another\r\na=ice-pwd:anotherpasswordof22chars\r\n"
        async with house.http.patch(house.base + place, data=fragment, headers=FRAGMENT) as answer:
            assert answer.status == 422  # RFC 9725, section 4.3.3: not supported
        async with Watcher(house.base) as watcher:
            await watcher.watch(session["id"])
            await eventually(lambda: len(watcher.pictures) > 5)
            await leave_without_a_word(first)
            began_s = time.monotonic()
            while not await published(  # noqa: ASYNC110 - nothing tells of it
                house, second, session["key"]
            ):
                await asyncio.sleep(AGAIN_S)
            seen = len(watcher.pictures)
            await eventually(lambda: len(watcher.pictures) > seen + 5)
            assert time.monotonic() - began_s < MOST_S
        await first.close()
        await second.close()
