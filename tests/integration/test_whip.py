"""WHIP with a real WebRTC publisher: ICE, DTLS and SRTP over this machine's own network."""

import asyncio
import random
import re
import socket
import sys
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import cast

import av
import pytest
from aiohttp import ClientResponse, ClientSession, web
from aioice.ice import get_host_addresses
from aiortc import (
    RTCConfiguration,
    RTCPeerConnection,
    RTCRtpSender,
    RTCSessionDescription,
)
from aiortc.mediastreams import AudioStreamTrack, VideoStreamTrack

from benchmarks.lossy_link import Conditions, LossyLink
from services.gateway.sources.whip.connection import WhipLimits
from services.gateway.sources.whip.server import WhipServer
from services.gateway.webrtc.datagrams import Datagrams
from services.gateway.webrtc.demultiplexer import Demultiplexer
from services.gateway.webrtc.port import WebRtcPort
from tests.eventually import eventually, until_threads_end
from tests.ffmpeg_whip import NUM_PICTURES
from tests.sources import KEY, OneKeyGate, RecordingSink

pytestmark = pytest.mark.skipif(
    not get_host_addresses(True, True), reason="ICE needs a network address besides loopback"
)
SDP = {"Content-Type": "application/sdp"}
FRAGMENT = {"Content-Type": "application/trickle-ice-sdpfrag"}


@dataclass
class Whip:
    """A running endpoint, and publishers made for it."""

    gate: OneKeyGate
    endpoint: WhipServer
    port: WebRtcPort
    http: ClientSession
    base: str
    peers: list[RTCPeerConnection] = field(default_factory=list)
    tag: str = ""  # of the newest connection

    async def offer(self, codec: str = "video/VP8", audio: bool = False) -> RTCPeerConnection:
        """A peer connection with its offer made and its candidates gathered."""
        peer = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self.peers.append(peer)
        video = peer.addTransceiver(VideoStreamTrack(), direction="sendonly")
        known = RTCRtpSender.getCapabilities("video").codecs
        video.setCodecPreferences([item for item in known if item.mimeType == codec])
        if audio:
            peer.addTransceiver(AudioStreamTrack(), direction="sendonly")
        await peer.setLocalDescription(await peer.createOffer())
        return peer

    async def post(self, body: str | bytes, key: str = KEY, **headers: str) -> ClientResponse:
        path = f"/whip/{key}" if key else "/whip"
        async with self.http.post(self.base + path, data=body, headers=SDP | headers) as response:
            await response.read()
            return response

    async def publish(
        self, codec: str = "video/VP8", audio: bool = False
    ) -> tuple[RTCPeerConnection, str]:
        """A publisher on its way, and the Location it got."""
        peer = await self.offer(codec, audio)
        response = await self.post(peer.localDescription.sdp)
        assert response.status == 201
        answer = await response.text()
        await peer.setRemoteDescription(RTCSessionDescription(answer, "answer"))
        self.tag = response.headers["ETag"]
        return peer, response.headers["Location"]


@pytest.fixture
async def whip(request: pytest.FixtureRequest) -> AsyncIterator[Whip]:
    """An endpoint; parametrize indirectly for other options. Nothing may be left at the end."""
    options = getattr(request, "param", {})
    threads = set(threading.enumerate())
    gate = OneKeyGate()
    port = WebRtcPort(0)
    await port.start()
    endpoint = WhipServer(gate, port, **options)
    app = web.Application()
    endpoint.add_to(app)
    await endpoint.start()
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    async with ClientSession() as http:
        http_port = runner.addresses[0][1]
        harness = Whip(gate, endpoint, port, http, f"http://127.0.0.1:{http_port}")
        yield harness
        for peer in harness.peers:
            await peer.close()
    await endpoint.aclose()
    await runner.cleanup()
    assert endpoint.num_publishers == 0
    assert (port.num_connections, port.num_addresses, port.num_streams) == (0, 0, 0)
    await port.aclose()
    assert len(gate.released_keys) == len(gate.sinks)
    assert all(len(sink.reasons) == 1 for sink in gate.sinks)
    await until_threads_end(threads)


@pytest.mark.parametrize("codec", ["video/VP8", "video/H264"])
async def test_a_publisher_from_offer_to_delete(whip: Whip, codec: str) -> None:
    peer, location = await whip.publish(codec, audio=True)
    await eventually(
        lambda: (
            len(whip.gate.sinks[0].pictures) >= 30
            and whip.gate.sinks[0].pictures[-1].clock_source == "sender_report"
        )
    )
    (sink,) = whip.gate.sinks
    first = sink.pictures[0]
    assert (first.width, first.height) == (640, 480)
    # Until the first sender report there is nothing but the RTP timestamps.
    assert first.clock_source == "stream"
    times = [picture.capture_ns for picture in sink.pictures]
    assert times == sorted(times)
    for picture in sink.pictures:
        assert 0 <= (picture.at_ns - picture.capture_ns) / 1e9 < 10
    assert sink.notes["keyframe_requested"] >= 1
    assert sink.sounds[0].codec == "opus"
    ages_s = [(sink.pictures[-1].at_ns - sound.capture_ns) / 1e9 for sound in sink.sounds]
    assert -1 < min(ages_s) <= max(ages_s) < 10
    async with whip.http.delete(whip.base + location) as response:
        assert response.status == 200
    assert sink.reasons == ["publisher_left"]
    assert whip.gate.released_keys == [KEY]
    async with whip.http.delete(whip.base + location) as response:
        assert response.status == 404
    await peer.close()
    # The same key may publish again.
    await whip.publish(codec)
    await eventually(lambda: len(whip.gate.sinks[1].pictures) >= 5)


def changed(offer: str, change: Callable[[str], str | None]) -> str:
    """The offer with every line changed, or left out where that gives None."""
    lines = [change(line) for line in offer.splitlines()]
    return "\r\n".join(line for line in lines if line is not None) + "\r\n"


@pytest.mark.parametrize("profile", ["42e01f", "4d0028", "640c29", "64002a", ""])
@pytest.mark.parametrize("mode", ["1", "0", ""])
async def test_every_h264_of_an_encoder_is_taken(whip: Whip, profile: str, mode: str) -> None:
    """High and Main, one packet a unit, or nothing said at all."""
    offer = (await whip.offer("video/H264")).localDescription.sdp
    first = re.search(r"m=video \d+ \S+ (\d+)", offer)
    assert first is not None
    line_of_one, number = first.group(0, 1)
    said = [f"profile-level-id={profile}"] * bool(profile) + [f"packetization-mode={mode}"] * bool(
        mode
    )

    def one_codec(line: str) -> str | None:
        if line.startswith("m=video "):
            return line_of_one
        found = re.match(r"a=(?:rtpmap|fmtp|rtcp-fb):(\d+)", line)
        if found and (found[1] != number or line.startswith("a=fmtp")):
            return None
        if line.startswith(f"a=rtpmap:{number}") and said:
            return f"{line}\r\na=fmtp:{number} {';'.join(said)}"
        return line

    response = await whip.post(changed(offer, one_codec))
    assert response.status == 201, await response.text()
    assert f"a=rtpmap:{number} H264/90000" in await response.text()


@pytest.mark.parametrize("codec", ["VP9", "AV1", "H265"])
async def test_what_aiortc_does_not_know_is_answered_as_it_was_offered(
    whip: Whip, codec: str
) -> None:
    """With its profile, and its payload type where that is one of the lower ones."""
    offer = (await whip.offer("video/VP8")).localDescription.sdp
    number = re.search(r"a=rtpmap:(\d+) VP8", offer)
    assert number is not None
    offer = offer.replace("VP8/90000", f"{codec}/90000\r\na=fmtp:{number[1]} profile-id=2")
    offer = re.sub(rf"(a=[a-z-]+:|apt=|m=video .*){number[1]}\b", r"\g<1>45", offer)
    response = await whip.post(offer)
    assert response.status == 201, await response.text()
    answer = await response.text()
    assert f"a=rtpmap:45 {codec}/90000\r\n" in answer
    assert "a=fmtp:45 profile-id=2\r\n" in answer


async def test_video_that_is_not_taken_is_named(whip: Whip) -> None:
    offer = (await whip.offer("video/VP8")).localDescription.sdp
    response = await whip.post(offer.replace("VP8/90000", "H263-1998/90000"))
    assert response.status == 406
    told = (await response.json())["message"]
    assert (
        told == "the offer's video is H263-1998; this server takes H.264, VP8, VP9, AV1 and H.265"
    )
    assert not whip.gate.sinks


async def test_a_publisher_whose_address_is_hidden_is_found(whip: Whip) -> None:
    """Browsers name their candidates at random and say that no others follow."""
    peer = await whip.offer()

    def hidden(line: str) -> str:
        line = re.sub(r"^(a=candidate:\S+ \d+ \S+ \d+) \S+", r"\1 5f0c-11.local", line)
        return re.sub(r"^(c=|a=rtcp:\d+ )IN IP4 \S+", r"\1IN IP4 5f0c-11.local", line)  # Firefox

    offer = changed(peer.localDescription.sdp, hidden)
    assert ".local" in offer
    assert "a=end-of-candidates" in offer
    response = await whip.post(offer)
    assert response.status == 201
    answer = RTCSessionDescription(await response.text(), "answer")
    await peer.setRemoteDescription(answer)
    await eventually(lambda: len(whip.gate.sinks[0].pictures) >= 5)


async def test_a_rejected_section_of_sound_does_no_harm(whip: Whip) -> None:
    peer = await whip.offer(audio=True)
    lines = peer.localDescription.sdp.splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith("m=audio"))
    end = next((n for n in range(at + 1, len(lines)) if lines[n].startswith("m=")), len(lines))
    lines[at] = re.sub(r"^m=audio \d+", "m=audio 0", lines[at])
    mid = next(line[6:] for line in lines[at:end] if line.startswith("a=mid:"))
    lines = [
        re.sub(rf"^(a=group:BUNDLE.*?) {mid}\b", r"\1", line)
        for number, line in enumerate(lines)
        if not (at < number < end and line.startswith(("a=candidate", "a=end-of")))
    ]
    response = await whip.post("\r\n".join(lines) + "\r\n")
    assert response.status == 201, await response.text()


@pytest.mark.parametrize("whip", [{"limits": WhipLimits(connect_s=1.0)}], indirect=True)
async def test_a_publisher_who_cannot_be_reached_is_given_up(whip: Whip) -> None:
    offer = (await whip.offer()).localDescription.sdp
    assert (await whip.post(offer)).status == 201
    await eventually(lambda: whip.gate.released_keys)
    assert whip.gate.sinks[0].reasons == ["idle"]
    assert whip.gate.sinks[0].notes["ice_failed"] == 1


async def test_a_publisher_that_closes_is_noticed(whip: Whip) -> None:
    peer, _ = await whip.publish()
    await eventually(lambda: whip.gate.sinks[0].pictures)
    await peer.close()
    await eventually(lambda: whip.gate.released_keys)
    assert whip.gate.sinks[0].reasons == ["publisher_left"]


@pytest.mark.parametrize("whip", [{"limits": WhipLimits(idle_s=1.5)}], indirect=True)
async def test_a_publisher_that_falls_silent_is_given_up(whip: Whip) -> None:
    peer, _ = await whip.publish()
    await eventually(lambda: whip.gate.sinks[0].pictures)
    peer.getSenders()[0].replaceTrack(None)
    await eventually(lambda: whip.gate.released_keys)
    assert whip.gate.sinks[0].reasons == ["idle"]


@pytest.mark.parametrize("whip", [{"limits": WhipLimits(connect_s=0.5)}], indirect=True)
async def test_a_publisher_that_never_connects_is_given_up(whip: Whip) -> None:
    peer = await whip.offer()
    response = await whip.post(peer.localDescription.sdp)
    assert response.status == 201
    await eventually(lambda: whip.gate.released_keys)
    assert whip.gate.sinks[0].reasons == ["idle"]


async def test_an_offer_without_candidates_connects(whip: Whip) -> None:
    """As OBS sends it: the answer holds all of ours, and our side learns the peer's from its
    checks."""
    peer = await whip.offer()
    lines = peer.localDescription.sdp.splitlines(keepends=True)
    kept = [line for line in lines if not line.startswith(("a=candidate", "a=end-of-candidates"))]
    assert len(kept) < len(lines)
    response = await whip.post("".join(kept))
    answer = await response.text()
    assert "a=candidate" in answer
    assert "a=end-of-candidates" in answer
    await peer.setRemoteDescription(RTCSessionDescription(answer, "answer"))
    await eventually(lambda: len(whip.gate.sinks[0].pictures) >= 5)


async def test_a_packet_lost_for_good_holds_up_nothing_for_long(whip: Whip) -> None:
    peer, _ = await whip.publish()
    (sink,) = whip.gate.sinks
    await eventually(lambda: len(sink.pictures) >= 10)
    transport = peer.getSenders()[0].transport
    send, lost = transport._send_rtp, []

    async def lossy(data: bytes) -> None:
        if not 192 <= data[1] <= 223:  # RTP, not RTCP
            lost[:] = lost or [data[2:4]]
            if data[2:4] == lost[0]:  # every time it is sent again, too
                return
        await send(data)

    transport._send_rtp = lossy
    await eventually(lambda: sink.drops["packet_lost"])
    before = len(sink.pictures)
    await eventually(lambda: len(sink.pictures) >= before + 10, timeout_s=20)
    assert sink.notes["keyframe_requested"] >= 2


async def test_a_tenth_of_the_packets_lost_behind_a_nat_stops_nothing(whip: Whip) -> None:
    """Each way: also the answers to checks, the requests for what was lost, and keyframes."""
    link = LossyLink(Conditions(loss=0.1, delay_s=0.01, jitter_s=0.03), seed=3)
    host, port = await link.start(get_host_addresses(True, False)[0])
    link.target = (host, whip.port.port)
    try:
        peer = await whip.offer("video/H264")
        hidden = re.sub("a=candidate:.*\r\n", "", peer.localDescription.sdp)
        answer = await (await whip.post(hidden)).text()
        first = re.findall(f"a=candidate:.* udp .* {host} .*\r\n", answer)[0]
        behind = first.replace(f"{host} {whip.port.port}", f"{host} {port}")
        answer = re.sub("a=candidate:.*\r\n", "", answer).replace(
            "a=end-of-candidates\r\n", f"{behind}a=end-of-candidates\r\n"
        )
        await peer.setRemoteDescription(RTCSessionDescription(answer, "answer"))
        await eventually(
            lambda: whip.gate.sinks and len(whip.gate.sinks[0].pictures) >= 90, timeout_s=60
        )
    finally:
        await link.aclose()
    times = [picture.at_ns for picture in whip.gate.sinks[0].pictures]
    # How soon it goes on is measured by the benchmark `loss`; longer than that, it had stopped.
    assert max(later - sooner for sooner, later in pairwise(times)) < 8_000_000_000
    assert link.lost > 10


@pytest.mark.skipif("whip" not in av.formats_available, reason="FFmpeg without WHIP")
async def test_ffmpeg_publishes_with_an_rsa_certificate(whip: Whip, tmp_path: Path) -> None:
    url = f"{whip.base}/whip/{KEY}"
    encoder = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.ffmpeg_whip", url, str(tmp_path)),
        stderr=asyncio.subprocess.PIPE,
    )
    _, said = await encoder.communicate()
    assert encoder.returncode == 0, said
    await eventually(lambda: whip.gate.released_keys)
    (sink,) = whip.gate.sinks
    assert len(sink.pictures) == NUM_PICTURES
    assert not sink.drops
    assert len(sink.sounds) > 50
    assert sink.reasons == ["publisher_left"]


class _Somewhere:
    """A demultiplexer that nobody has joined."""

    def __init__(self) -> None:
        self.num_packets = 0

    def route(self, lane: str, data: bytes, address: tuple[str, int]) -> None:
        self.num_packets += 1


async def test_what_was_not_read_in_time_is_counted() -> None:
    somewhere, lost = _Somewhere(), []
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.setblocking(False)
    udp.bind(("127.0.0.1", 0))
    udp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16_384)
    datagrams = Datagrams(udp, "udp4", cast("Demultiplexer", somewhere), lost.append)
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: datagrams, sock=udp
    )
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as publisher:
        publisher.connect(udp.getsockname())
        for _ in range(200):  # while nobody reads
            publisher.send(bytes(1000))
        await eventually(lambda: somewhere.num_packets)
        publisher.send(bytes(1000))
        publisher.send(bytes(1000))
        await eventually(lambda: lost)
        await eventually(lambda: somewhere.num_packets + sum(lost) == 202)
    transport.close()


# --- HTTP -----------------------------------------------------------------------------------------


async def test_who_is_refused_and_how(whip: Whip) -> None:
    peer = await whip.offer()
    offer = peer.localDescription.sdp
    response = await whip.post(offer, key="wrong")
    assert response.status == 401
    assert response.headers["WWW-Authenticate"] == "Bearer"
    assert (await response.json())["code"] == "UNAUTHENTICATED"
    assert not whip.gate.sinks
    assert (await whip.post(offer)).status == 201
    assert (await whip.post(offer)).status == 409
    assert len(whip.gate.sinks) == 1


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff\xfe\xfd",
        b"v=0 m=video",
        b"v=0\r\nm=video x y z\r\n",
        b"v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\nm=video 9 UDP/TLS/RTP/SAVPF 96\r\n",
    ],
    ids=["empty", "no text", "no lines", "broken line", "no codec"],
)
async def test_bad_offers(whip: Whip, body: bytes) -> None:
    response = await whip.post(body)
    assert response.status == 400
    assert (await response.json())["code"] == "INVALID_ARGUMENT"
    assert not whip.gate.busy


async def test_an_offer_that_is_too_long(whip: Whip) -> None:
    response = await whip.post(b"v=0\r\nm=video\r\n" + b"a=x\r\n" * 20_000)
    assert response.status == 413
    assert (await response.json())["message"] == "the offer is too long"
    assert not whip.gate.busy


async def test_mixed_up_offers_never_hurt(whip: Whip) -> None:
    """Lines doubled, left out, cut and changed, as no browser makes them: aiortc fails of some when
    it negotiates and of others when it closes."""
    random.seed(14)
    lines = (await whip.offer(audio=True)).localDescription.sdp.splitlines()
    odd = [
        "",
        "0",
        "-1",
        "a=mid:0",
        "a=candidate:x",
        "a=setup:passive",
        "a=inactive",
        "a=rid:1 send",
    ]
    for _ in range(60):
        mixed = list(lines)
        for _ in range(random.randint(1, 3)):
            at = random.randrange(len(mixed))
            words = mixed[at].split(" ")
            words[random.randrange(len(words))] = random.choice(odd)
            mixed[at : at + 1] = random.choice(
                [[], [mixed[at]] * 2, [mixed[at][:-1]], [" ".join(words)], [random.choice(odd)]]
            )
        response = await whip.post("\r\n".join(mixed) + "\r\n")
        assert response.status in (201, 400, 406)
        if response.status == 201:
            async with whip.http.delete(whip.base + response.headers["Location"]) as deleted:
                assert deleted.status == 200
    assert not whip.gate.busy


async def test_offers_that_send_no_video(whip: Whip) -> None:
    receiver = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    whip.peers.append(receiver)
    receiver.addTransceiver("video", direction="recvonly")
    await receiver.setLocalDescription(await receiver.createOffer())
    speaker = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    whip.peers.append(speaker)
    speaker.addTrack(AudioStreamTrack())
    await speaker.setLocalDescription(await speaker.createOffer())
    for peer in (receiver, speaker):
        assert (await whip.post(peer.localDescription.sdp)).status == 400
    assert not whip.gate.busy


async def test_cut_offers_never_hurt(whip: Whip) -> None:
    """A good offer cut off or with a line left out: refused or answered, never an error of ours."""
    lines = (await whip.offer()).localDescription.sdp.splitlines(keepends=True)
    for number in range(0, len(lines), 3):
        for body in ("".join(lines[:number]), "".join(lines[:number] + lines[number + 1 :])):
            response = await whip.post(body)
            assert response.status in (201, 400, 406)
            if response.status == 201:
                async with whip.http.delete(whip.base + response.headers["Location"]) as deleted:
                    assert deleted.status == 200
    assert not whip.gate.busy


async def _in_parts() -> AsyncIterator[bytes]:
    yield b"a=candidate:1 1 udp 1 192.0.2.1 9 typ host\r\n"
    await asyncio.sleep(0.05)  # so that the first is read alone
    yield b"a=candidate:broken\r\n"


async def test_the_other_verbs(whip: Whip) -> None:
    async with whip.http.options(f"{whip.base}/whip/{KEY}") as response:
        assert response.status == 204
        assert response.headers["Accept-Post"] == "application/sdp"
    async with whip.http.post(f"{whip.base}/whip/{KEY}", data="v=0") as response:
        assert response.status == 415
    peer, location = await whip.publish()
    for place, allowed in ((f"/whip/{KEY}", "OPTIONS, POST"), (location, "DELETE, OPTIONS, PATCH")):
        for method in ("GET", "HEAD"):
            async with whip.http.request(method, whip.base + place) as response:
                assert response.status == 405
                assert response.headers["Allow"] == allowed
    async with whip.http.options(whip.base + location) as response:
        assert response.status == 204
        assert response.headers["Accept-Patch"] == FRAGMENT["Content-Type"]
    for body, status in (
        ("a=candidate:1 1 udp 1 192.0.2.1 9 typ host\r\na=end-of-candidates\r\n", 204),
        ("a=candidate:1 1 udp 1 0b1c.local 9 typ host\r\n", 204),
        ("a=candidate:broken\r\n", 400),
        ("a=candidate:1 1 udp 1 192.0.2.1 9 typ host\r\n" * 100, 400),
        ("a=ice-ufrag:anew\r\na=ice-pwd:0123456789012345678901\r\n", 422),
        ("a=x" * 20_000, 413),
    ):
        async with whip.http.patch(whip.base + location, data=body, headers=FRAGMENT) as response:
            assert response.status == status, body[:60]
    async with whip.http.patch(
        whip.base + location, data=_in_parts(), headers=FRAGMENT
    ) as response:
        assert response.status == 400  # for what the second part says
    async with whip.http.patch(whip.base + location, data="{}") as response:
        assert response.status == 415
    for tag, status in (('"another"', 412), (f'"another", {whip.tag}', 204), ("*", 204)):
        headers = FRAGMENT | {"If-Match": tag}
        async with whip.http.patch(whip.base + location, data="", headers=headers) as response:
            assert response.status == status, tag
    for method in ("PATCH", "DELETE"):
        stranger = f"{whip.base}/whip/{KEY}/someone-elses"
        async with whip.http.request(method, stranger) as response:
            assert response.status == 404
    assert peer.connectionState != "closed"


async def test_the_key_as_a_bearer_token(whip: Whip) -> None:
    peer = await whip.offer()
    offer = peer.localDescription.sdp
    assert (await whip.post(offer, key="")).status == 401
    assert (await whip.post(offer, key="", Authorization="Bearer wrong")).status == 401
    response = await whip.post(offer, key="", Authorization=f"Bearer {KEY}")
    assert response.status == 201
    assert response.headers["ETag"].startswith('"')


@pytest.mark.parametrize(
    "whip",
    [{"ice_servers": ("stun:127.0.0.1:9", "turn:alice:secret@127.0.0.1:9")}],
    indirect=True,
)
async def test_configured_ice_servers_are_told_to_publishers_only(whip: Whip) -> None:
    peer = await whip.offer()
    response = await whip.post(peer.localDescription.sdp, key="wrong")
    assert "Link" not in response.headers
    response = await whip.post(peer.localDescription.sdp)
    assert response.status == 201
    assert response.headers.getall("Link") == [
        '<stun:127.0.0.1:9>; rel="ice-server"',
        '<turn:127.0.0.1:9>; rel="ice-server"; username="alice"; credential="secret"; '
        'credential-type="password"',
    ]


@pytest.mark.parametrize("whip", [{"limits": WhipLimits(publishers=0)}], indirect=True)
async def test_too_many_publishers(whip: Whip) -> None:
    peer = await whip.offer()
    assert (await whip.post(peer.localDescription.sdp)).status == 503
    assert not whip.gate.sinks


class AnyKeyGate(OneKeyGate):
    """Lets everybody in at once."""

    async def accept(
        self, key: str, peer: str, evict: Callable[[], None] | None = None
    ) -> RecordingSink:
        self.sinks.append(RecordingSink())
        return self.sinks[-1]

    async def check(self, key: str) -> None: ...


async def test_several_publishers_and_noise_share_the_port(whip: Whip) -> None:
    """Noise from an address of its own, and from none that any of them has."""
    whip.gate.__class__ = AnyKeyGate
    chance = random.Random(8)
    over = threading.Event()

    def make_noise() -> None:
        binding = b"\0\1\0\0\x21\x12\xa4\x42" + bytes(12)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as own:
            while not over.wait(0.002):
                kind = chance.choice((b"", b"\x80\x60", b"\x16\xfe\xfd", binding, b"\x80\xc8"))
                noise = kind + chance.randbytes(chance.randrange(200))
                own.sendto(noise, ("127.0.0.1", whip.port.port))

    thread = threading.Thread(target=make_noise)
    thread.start()
    try:
        peers = [await whip.publish(codec) for codec in ("video/VP8", "video/H264", "video/VP8")]
        await eventually(lambda: all(len(sink.pictures) >= 15 for sink in whip.gate.sinks))
    finally:
        over.set()
        thread.join()
    assert len(whip.gate.sinks) == whip.port.num_connections == 3
    assert not any(sink.drops for sink in whip.gate.sinks)
    assert whip.port.num_addresses <= 3 * 16
    await peers[1][0].close()
    await eventually(lambda: whip.gate.sinks[1].reasons == ["publisher_left"])
    seen = len(whip.gate.sinks[2].pictures)
    await eventually(lambda: len(whip.gate.sinks[2].pictures) > seen + 5)
