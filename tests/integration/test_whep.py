"""WHEP: real gateways, real publishers of every kind, and a real WebRTC viewer."""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aiohttp import ClientSession
from aioice.ice import get_host_addresses
from aiortc import RTCConfiguration, RTCPeerConnection, RTCRtpSender, RTCSessionDescription
from aiortc.mediastreams import VideoStreamTrack

from services.gateway.auth.keys import new_key
from sightline.aio import connect
from tests.eventually import eventually
from tests.processes import ServiceProcess, free_port
from tests.publish import RtmpPublisher
from tests.sources import TONE_HZ, write_clip
from tests.unit.fake_worker import FakeWorker
from tests.watcher import SDP, RefusedError, Watcher

FRAGMENT = {"Content-Type": "application/trickle-ice-sdpfrag"}
pytestmark = pytest.mark.skipif(
    not get_host_addresses(True, True), reason="ICE needs a network address besides loopback"
)


@dataclass
class House:
    """A gateway with a worker of few lines."""

    gateway: ServiceProcess
    media: Path
    rtmp_port: int
    http: ClientSession

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.gateway.http_port}"

    async def open(self, source: str = "", **options: Any) -> dict[str, Any]:
        wanted: dict[str, Any] = {"options": options}
        wanted |= {"source": source} if source else {"push": {}}
        async with self.http.post(self.base + "/api/sessions", json=wanted) as response:
            assert response.status == 201, await response.text()
            return dict(await response.json())

    async def delete(self, session: dict[str, Any]) -> None:
        async with self.http.delete(f"{self.base}/api/sessions/{session['id']}") as response:
            assert response.status == 204

    async def figures(self) -> dict[str, float]:
        address = f"http://127.0.0.1:{self.gateway.metrics_port}/metrics"
        async with self.http.get(address) as response:
            lines = (await response.text()).splitlines()
        return {
            name: float(value)
            for name, _, value in (line.rpartition(" ") for line in lines if line[:1] != "#")
        }


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    async with running_house(tmp_path) as running:
        yield running


@contextlib.asynccontextmanager
async def running_house(tmp_path: Path, key: str = "", **settings: str) -> AsyncIterator[House]:
    worker = FakeWorker(max_sessions=8)
    worker.address = f"127.0.0.1:{free_port()}"
    await worker.start()
    rtmp_port = free_port()
    gateway = ServiceProcess(
        "gateway",
        {
            "GATEWAY_WORKERS": worker.address,
            "GATEWAY_MEDIA_ROOT": str(tmp_path),
            "GATEWAY_RTMP_PORT": str(rtmp_port),
            "GATEWAY_MAX_VIEWERS": "3",
            **settings,
        },
        tmp_path,
    )
    await asyncio.to_thread(gateway.start)
    async with ClientSession(headers=_bearer(key)) as http:
        yield House(gateway, tmp_path, rtmp_port, http)
    if gateway.process is not None:
        await asyncio.to_thread(gateway.stop)
    await worker.stop()


async def test_rtmp_is_forwarded_and_shown_at_once(house: House) -> None:
    clip = write_clip(house.media / "plain.mp4", seconds=4, gop=60, tone=1)
    session = await house.open()
    url = f"rtmp://127.0.0.1:{house.rtmp_port}/live/{session['key']}"
    with RtmpPublisher(clip, url):
        await live(house, session)
        async with Watcher(house.base) as first, Watcher(house.base) as second:
            await first.watch(session["id"], sound=True)
            assert len(re.findall(r"^a=sendonly", first.answer, re.MULTILINE)) == 2
            await eventually(lambda: len(first.pictures) > 10)
            await second.watch(session["name"])  # names do as well
            await eventually(lambda: len(second.pictures) > 10)
            assert first.pictures[-1][1:] == (160, 120)
            await eventually(lambda: len(first.sounds) > 60)
            assert _pitch(first.sounds[-40:]) == pytest.approx(TONE_HZ, abs=10)
            assert not second.sounds  # it did not ask
            figures = await house.figures()
            assert figures["sightline_whep_soundtracks"] == 1
            assert figures["sightline_whep_viewers"] == 2
            assert figures["sightline_whep_transcodes"] == 0
            assert figures["sightline_whep_bytes_total"] > 0
            # In the middle of four seconds without a keyframe.
            assert second.first_s < 2
            async with house.http.delete(house.base + first.location) as response:
                assert response.status == 200
            await eventually(lambda: first.ended)
            async with house.http.delete(house.base + first.location) as response:
                assert response.status == 404
    await _nobody(house)
    figures = await house.figures()
    assert figures['sightline_whep_closed_total{reason="left"}'] == 2


async def test_b_frames_are_encoded_once_for_all(house: House) -> None:
    clip = write_clip(house.media / "b.mp4", seconds=4, b_frames=2)
    session = await house.open()
    url = f"rtmp://127.0.0.1:{house.rtmp_port}/live/{session['key']}"
    with RtmpPublisher(clip, url):
        await live(house, session)
        async with Watcher(house.base) as first, Watcher(house.base) as second:
            for watcher in (first, second):
                await watcher.watch(session["id"])
            await eventually(lambda: min(len(first.pictures), len(second.pictures)) > 10)
            assert (await house.figures())["sightline_whep_transcodes"] == 1
    await _nobody(house)


async def test_a_file_is_shown_and_its_viewers_are_limited(house: House) -> None:
    write_clip(house.media / "file.mp4", "mpeg4", seconds=2, width=162, height=122, tone=1)
    session = await house.open("file.mp4", loop=True)
    async with Watcher(house.base) as first, Watcher(house.base) as second:
        await first.watch(session["id"], sound=True)
        await eventually(lambda: len(first.pictures) > 5 and len(first.sounds) > 60)
        assert first.pictures[-1][1:] == (162, 122)
        assert _pitch(first.sounds[-40:]) == pytest.approx(TONE_HZ, abs=10)
        await second.watch(session["id"], connect=False)
        async with Watcher(house.base) as third:
            with pytest.raises(RefusedError, match="TOO_MANY_VIEWERS") as refused:
                await third.watch(session["id"])
            assert refused.value.status == 429
        # A viewer who is answered and never comes does not stay.
        await eventually(lambda: "viewer could not be reached" in house.gateway.log())
        await house.delete(session)
        await eventually(lambda: first.ended)
    await _nobody(house)


async def test_whip_is_forwarded_and_pushed_pictures_are_encoded(house: House) -> None:
    session = await house.open()
    peer = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    video = peer.addTransceiver(VideoStreamTrack(), direction="sendonly")
    known = RTCRtpSender.getCapabilities("video").codecs
    video.setCodecPreferences([item for item in known if item.mimeType == "video/H264"])
    await peer.setLocalDescription(await peer.createOffer())
    path = f"{house.base}/whip/{session['key']}"
    async with house.http.post(path, data=peer.localDescription.sdp, headers=SDP) as response:
        assert response.status == 201
        answer = await response.text()
    await peer.setRemoteDescription(RTCSessionDescription(answer, "answer"))
    await live(house, session)
    async with Watcher(house.base) as watcher:
        await watcher.watch(session["id"])
        await eventually(lambda: len(watcher.pictures) > 10)
        assert watcher.pictures[-1][1:] == (640, 480)
        assert (await house.figures())["sightline_whep_transcodes"] == 0
    await peer.close()

    pushed = await house.open()
    async with (
        connect(house.gateway.address) as client,
        Watcher(house.base) as watcher,
        (await client.session(pushed["id"], key=pushed["key"])).pusher() as pusher,
    ):
        await pusher.send(np.full((120, 160, 3), 200, np.uint8))
        await watcher.watch(pushed["id"])
        async with asyncio.timeout(30):
            while not watcher.pictures:  # aiortc shows a picture when the next one has begun
                await pusher.send(np.full((120, 160, 3), 200, np.uint8))
                await asyncio.sleep(0.05)
        picture = watcher.newest
        assert picture is not None
        assert abs(int(picture.to_ndarray(format="rgb24").mean()) - 200) < 8


async def test_refusals_and_verbs(house: House) -> None:
    session = await house.open()
    path = f"{house.base}/whep/{session['id']}"
    async with house.http.options(path) as response:
        assert (response.status, response.headers["Accept-Post"]) == (204, "application/sdp")
    async with house.http.get(path) as response:
        assert (response.status, response.headers["Allow"]) == (405, "OPTIONS, POST")
    async with house.http.post(path, data="v=0", headers=SDP) as response:
        assert response.status == 400
        assert "video" in (await response.json())["message"]
    async with house.http.post(path, json={}) as response:
        assert response.status == 415
    async with house.http.post(f"{house.base}/whep/nothing", data="v=0", headers=SDP) as response:
        assert response.status == 404
    peer = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    video = peer.addTransceiver("video", direction="recvonly")
    known = RTCRtpSender.getCapabilities("video").codecs
    video.setCodecPreferences([item for item in known if item.mimeType == "video/VP8"])
    await peer.setLocalDescription(await peer.createOffer())
    offer = peer.localDescription.sdp
    async with house.http.post(path, data=offer, headers=SDP) as response:
        assert response.status == 406
        assert "H.264" in (await response.json())["message"]
    await peer.close()
    await _nobody(house)


async def test_who_watches_is_asked_for_a_token_and_sent_away_when_it_ends(tmp_path: Path) -> None:
    """Sign-in, candidates that come later, a keyframe on demand and a gateway that ends."""
    keys = {}
    lines = []
    for name, permissions, tenant in (
        ("admin", ["admin"], ""),
        ("viewer", ["view"], ""),
        ("asker", ["ask"], ""),
        ("stranger", ["view"], "elsewhere"),
    ):
        keys[name], line = new_key(name, permissions, ("*",), tenant)
        lines.append(line + "\n")
    file = tmp_path / "keys"
    file.write_text("".join(lines))
    clip = write_clip(tmp_path / "long.mp4", seconds=20, gop=300)
    signed = {"GATEWAY_AUTH": "keys", "GATEWAY_AUTH_KEYS": str(file)}
    async with running_house(tmp_path, keys["admin"], **signed) as house, ClientSession() as nobody:
        session = await house.open()
        url = f"rtmp://127.0.0.1:{house.rtmp_port}/live/{session['key']}"
        with RtmpPublisher(clip, url):
            await live(house, session)
            for name, status in (("", 401), ("asker", 403), ("stranger", 404)):
                async with Watcher(house.base) as refused:
                    with pytest.raises(RefusedError) as error:
                        await refused.watch(session["id"], headers=_bearer(keys.get(name, "")))
                    assert error.value.status == status
            viewer = _bearer(keys["viewer"])
            async with Watcher(house.base) as first, Watcher(house.base) as second:
                await first.watch(session["id"], headers=viewer)
                await eventually(lambda: len(first.pictures) > 5)
                assert first.num_keyframes == 1
                await first.ask_for_keyframe()  # there is none for many seconds: the last one
                await eventually(lambda: first.num_keyframes == 2)

                place = house.base + first.location
                fragment = FRAGMENT | viewer
                candidate = "a=mid:0\r\na=candidate:1 1 udp 2130706431 192.0.2.1 9 typ host\r\n"
                for headers, text, status in (
                    (FRAGMENT, candidate, 401),
                    (viewer | SDP, candidate, 415),
                    (fragment, candidate, 204),
                    (fragment, "a=mid:0\r\na=candidate:nonsense\r\n", 400),
                    (fragment, "a=ice-ufrag:another\r\n" + candidate, 422),
                ):
                    async with nobody.patch(place, data=text, headers=headers) as response:
                        assert response.status == status, text
                async with nobody.delete(place) as response:
                    assert response.status == 401

                file.write_text("".join(lines[:1]))  # the viewer's key holds no longer
                await eventually(lambda: first.ended)
                await second.watch(session["id"], headers=_bearer(keys["admin"]))
                await eventually(lambda: len(second.pictures) > 5)
                await asyncio.to_thread(house.gateway.stop)
                await eventually(lambda: second.ended)


async def live(house: House, session: dict[str, Any]) -> None:
    async with asyncio.timeout(60):
        while True:
            async with house.http.get(f"{house.base}/api/sessions/{session['id']}") as response:
                if (await response.json())["state"] == "SESSION_STATE_LIVE":
                    return
            await asyncio.sleep(0.05)


async def _nobody(house: House) -> None:
    """Wait until nobody watches and nothing is encoded."""
    async with asyncio.timeout(60):
        while True:
            figures = await house.figures()
            names = ("viewers", "transcodes", "soundtracks")
            if not sum(figures[f"sightline_whep_{name}"] for name in names):
                return
            await asyncio.sleep(0.05)


def _pitch(sounds: list[np.ndarray]) -> float:
    """The loudest frequency."""
    samples = np.concatenate(sounds)[:, 0].astype(float)
    return float(np.argmax(np.abs(np.fft.rfft(samples)))) * 48_000 / len(samples)


def _bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"} if key else {}
