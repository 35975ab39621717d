"""MPEG-TS sent to a UDP port of the gateway's, by real sockets of this machine."""

import asyncio
import contextlib
import io
import random
import socket
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import cast

import av
import pytest

from services.gateway.sources.file import FileLimits, FileSource
from services.gateway.sources.remote.egress_policy import EgressPolicy
from services.gateway.sources.remote.transport_stream import payload_of
from services.gateway.sources.source_opener import NOT_OPENED
from services.gateway.sources.srt.server import _Publication
from services.gateway.sources.srt.stream import SrtStream
from sightline.errors import InvalidArgumentError
from tests.eventually import eventually
from tests.sources import TONE_RATE, RecordingSink, tone, write_clip

LIMITS = FileLimits(open_timeout_s=8.0, read_timeout_s=1.0, backoff_s=0.02, max_backoff_s=0.05)
DATAGRAM_BYTES = 7 * 188
GROUP = "239.255.77.1"


@pytest.fixture(scope="module")
def stream(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """Datagrams of a second of video."""
    return datagrams_of(
        write_clip(tmp_path_factory.mktemp("ts") / "clip.ts", seconds=1).read_bytes()
    )


def datagrams_of(data: bytes) -> list[bytes]:
    return [data[at : at + DATAGRAM_BYTES] for at in range(0, len(data), DATAGRAM_BYTES)]


@pytest.fixture
def port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextlib.contextmanager
def sender(
    stream: list[bytes],
    place: tuple[str, int],
    change: Callable[[bytes], bytes] = bytes,
    pause_s: float | None = None,
) -> Iterator[None]:
    """Sends the stream, all of it in a second or with a pause between two datagrams, again and
    again; each datagram changed."""
    over = threading.Event()
    pause_s = 1 / len(stream) if pause_s is None else pause_s

    def send() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as own:
            own.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 0)
            while not over.is_set():
                for datagram in stream:
                    own.sendto(change(datagram), place)
                    over.wait(pause_s)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@contextlib.asynccontextmanager
async def web_server(current: Callable[[], list[bytes]]) -> AsyncIterator[str]:
    """The address of a live stream by HTTP: what is current, all of it in a second, again and
    again."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.0 200 OK\r\nContent-Type: video/mp2t\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            while True:
                stream = current()
                for datagram in stream:
                    writer.write(datagram)
                    await writer.drain()
                    await asyncio.sleep(1 / len(stream))

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/live"


def sound_alone(path: Path) -> list[bytes]:
    """Datagrams of a second of sound, in a programme that has no video yet."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=TONE_RATE)
        container.mux(stream.encode(tone(0, TONE_RATE)))
        container.mux(stream.encode(None))
    return datagrams_of(path.read_bytes())


def source_of(url: str, sink: RecordingSink, rule: str) -> FileSource:
    return FileSource(url, sink, limits=LIMITS, egress=EgressPolicy([rule]))


@pytest.mark.parametrize("host", ["127.0.0.1", "", GROUP])
async def test_what_is_sent_to_a_port_is_played(stream: list[bytes], port: int, host: str) -> None:
    """Of a sender who comes back, too; whoever else finds the port is not heard."""
    sink = RecordingSink()
    source = source_of(f"udp://{host}:{port}", sink, f"{host or '0.0.0.0'}:{port}")
    place = (host or "127.0.0.1", port)
    with sender(stream, place):
        await source.start()
        with sender([random.Random(5).randbytes(188)], place, lambda noise: b"\x47" + noise):
            await asyncio.to_thread(sink.wait_for_pictures, 20)
    assert not sink.drops
    if host != "127.0.0.1":
        await source.aclose()
        return
    await asyncio.to_thread(sink.wait_for_note, "reconnect", 1)
    before = len(sink.pictures)
    with sender(stream, place):
        await asyncio.to_thread(sink.wait_for_pictures, before + 5)
    await source.aclose()
    assert sink.reasons == ["closed"]


async def test_a_damaged_stream_goes_on_and_says_so(stream: list[bytes], port: int) -> None:
    chance = random.Random(3)

    def damaged(datagram: bytes) -> bytes:
        if chance.random() < 0.2:
            changed = bytearray(datagram)
            for _ in range(chance.choice((1, 40))):
                changed[chance.randrange(len(changed))] = chance.randrange(256)
            return bytes(changed[: chance.randrange(1, len(changed))])
        return datagram

    sink = RecordingSink()
    source = source_of(f"udp://127.0.0.1:{port}", sink, "127.0.0.1")
    with sender(stream, ("127.0.0.1", port)):
        await source.start()
    with sender(stream, ("127.0.0.1", port), damaged):
        await asyncio.to_thread(sink.wait_for_pictures, len(sink.pictures) + 30)
    await source.aclose()
    assert sink.notes["damaged"] > 0
    assert sink.reasons == ["closed"]


async def test_a_video_that_becomes_another_is_read_anew(
    stream: list[bytes], port: int, tmp_path: Path
) -> None:
    other = write_clip(tmp_path / "other.ts", "mpeg2video", seconds=1, width=96, height=64)
    sink = RecordingSink()
    source = source_of(f"udp://127.0.0.1:{port}", sink, "127.0.0.1")
    with sender(stream, ("127.0.0.1", port)):
        await source.start()
        await asyncio.to_thread(sink.wait_for_pictures, 10)
    with sender(datagrams_of(other.read_bytes()), ("127.0.0.1", port)):
        await eventually(lambda: sink.pictures[-1].width == 96)
    await source.aclose()
    assert sink.notes["reconnect"] == 1
    assert sink.reasons == ["closed"]


async def test_so_is_what_comes_by_http(stream: list[bytes], tmp_path: Path) -> None:
    other = write_clip(tmp_path / "other.ts", "mpeg2video", seconds=1, width=96, height=64)
    now = stream
    sink = RecordingSink()
    async with web_server(lambda: now) as url:
        source = source_of(url, sink, "127.0.0.1")
        await source.start()
        await asyncio.to_thread(sink.wait_for_pictures, 10)
        now = datagrams_of(other.read_bytes())
        await eventually(lambda: sink.pictures[-1].width == 96)
        await source.aclose()
    assert sink.notes["reconnect"] == 1
    assert sink.reasons == ["closed"]


async def test_sound_may_come_long_before_the_video(
    stream: list[bytes], port: int, tmp_path: Path
) -> None:
    """In a programme that says later that it has video, too."""
    alone = sound_alone(tmp_path / "sound.ts")
    now = alone
    sinks = [RecordingSink(), RecordingSink()]
    async with web_server(lambda: now) as url:
        sources = [
            source_of(url, sinks[0], "127.0.0.1"),
            source_of(f"udp://127.0.0.1:{port}", sinks[1], "127.0.0.1"),
        ]
        opening = [asyncio.create_task(source.start()) for source in sources]
        with sender(alone, ("127.0.0.1", port)):
            await asyncio.sleep(2.5)
        assert not any(each.done() for each in opening)
        now = stream
        with sender(stream, ("127.0.0.1", port)):
            await asyncio.gather(*opening)
            for sink in sinks:
                await asyncio.to_thread(sink.wait_for_pictures, 10)
        for source in sources:
            await source.aclose()


async def test_sound_alone_is_no_video(port: int, tmp_path: Path) -> None:
    source = source_of(f"udp://127.0.0.1:{port}", RecordingSink(), "127.0.0.1")
    alone = sound_alone(tmp_path / "sound.ts")
    refused = pytest.raises(InvalidArgumentError, match="has no video")
    with sender(alone, ("127.0.0.1", port)), refused:
        await source.start()


def test_so_is_what_comes_by_srt(stream: list[bytes], tmp_path: Path) -> None:
    """On the same connection."""
    other = write_clip(tmp_path / "other.ts", "mpeg2video", seconds=1, width=96, height=64)
    sink = RecordingSink()
    data = io.BytesIO(b"".join(stream) + other.read_bytes())
    _Publication(cast("SrtStream", data), sink, "somebody", Counter(), Counter())._read()
    assert sorted({(seen.width, seen.height) for seen in sink.pictures}) == [(96, 64), (160, 120)]
    assert len(sink.pictures) == 30
    assert sink.reasons == ["publisher_left"]


@pytest.mark.parametrize("rule", ["10.0.0.0/8", "127.0.0.1:1"])
async def test_nobody_listens_where_the_operator_does_not_say_so(port: int, rule: str) -> None:
    for url in (f"udp://127.0.0.1:{port}", f"udp://:{port}", f"udp://{GROUP}:{port}"):
        source = source_of(url, RecordingSink(), rule)
        with pytest.raises(InvalidArgumentError, match=NOT_OPENED[:20]):
            await source.start()
        await source.aclose()


def test_rtp_is_taken_off() -> None:
    packet = b"\x47" + bytes(187)
    header = bytes((0x80, 0xA1)) + bytes(10)
    assert payload_of(packet) == packet
    assert payload_of(header + packet) == packet
    extended = bytes((0xB1, 33)) + bytes(10 + 4) + b"\xbe\xde\0\1" + bytes(4)
    assert payload_of(extended + packet + b"\0\0\0\4") == packet
    for noise in (b"", b"\x80", header, header + b"\0", bytes((0x80, 96)) + bytes(10) + packet):
        assert payload_of(noise) == b""
