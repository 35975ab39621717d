"""Uploads that are cut on the way, over real HTTP: nothing of them is left."""

import asyncio
import os
import socket
import struct
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from tests.eventually import eventually
from tests.integration.test_whep import House, running_house
from tests.sources import write_clip

ROUNDS = 12  # more than there may be at once


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    async with running_house(tmp_path, GATEWAY_UPLOADS=str(tmp_path / "uploads")) as running:
        yield running


def files(house: House) -> list[Path]:
    return [path for path in (house.media / "uploads").rglob("*") if path.is_file()]


def descriptors(house: House) -> set[str]:
    """What the gateway holds open below its folder of uploads, and its connections by HTTP."""
    assert house.gateway.process is not None
    folder = Path(f"/proc/{house.gateway.process.pid}/fd")
    names = set()
    for each in folder.iterdir():
        try:
            name = os.readlink(each)
        except OSError:  # it was closed meanwhile
            continue
        if name.startswith("socket:") or "/uploads/" in name:
            names.add(f"{each.name} {name}")
    return names


def request(clip: bytes, *headers: str) -> bytes:
    lines = ["POST /api/uploads HTTP/1.1", "Host: 127.0.0.1", "Content-Type: video/mp4", *headers]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


def with_length(clip: bytes) -> bytes:
    return request(clip, f"Content-Length: {len(clip)}") + clip


def by_surprise(clip: bytes) -> bytes:
    """Without a word of how long it is: not taken at all."""
    return request(clip, "Transfer-Encoding: chunked") + chunk(clip)


def with_both(clip: bytes) -> bytes:
    headers = ("Transfer-Encoding: chunked", f"Content-Length: {len(clip)}")
    return request(clip, *headers) + chunk(clip)


def closed(connection: socket.socket) -> None:
    connection.close()


def reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def half_closed(connection: socket.socket) -> None:
    """And still listening for the answer."""
    connection.shutdown(socket.SHUT_WR)
    connection.settimeout(20)
    while connection.recv(4096):
        pass
    connection.close()


async def upload(house: House, clip: bytes) -> None:
    async with house.http.post(house.base + "/api/uploads", data=clip) as reply:
        assert reply.status == 201, await reply.text()
        await house.delete(await reply.json())


@pytest.mark.parametrize("sent", [with_length, by_surprise, with_both])
async def test_an_upload_that_is_cut_leaves_nothing(
    house: House, sent: Callable[[bytes], bytes]
) -> None:
    clip = write_clip(house.media / "clip.mp4", seconds=2).read_bytes()
    await upload(house, clip)
    before = await asyncio.to_thread(descriptors, house)

    def break_off(cut: Callable[[socket.socket], None], part: float) -> None:
        connection = socket.create_connection(("127.0.0.1", house.gateway.http_port), 20)
        whole = sent(clip)
        head = whole.index(b"\r\n\r\n") + 4
        connection.sendall(whole[: head + int(part * len(clip))])
        cut(connection)

    for cut in (closed, reset, half_closed):
        for part in (0.0, 0.5, 0.99):
            for _ in range(ROUNDS):
                await asyncio.to_thread(break_off, cut, part)
    await eventually(lambda: not files(house))
    await eventually(lambda: descriptors(house) <= before)
    async with house.http.get(house.base + "/api/sessions") as reply:
        assert not (await reply.json()).get("sessions")
    await upload(house, clip)
    assert "Traceback" not in house.gateway.log()


async def test_an_upload_that_trickles_is_cut_and_leaves_nothing(house: House) -> None:
    """Its sender leaves after a few drops; others are taken meanwhile."""
    clip = write_clip(house.media / "clip.mp4", seconds=2).read_bytes()
    await upload(house, clip)
    before = await asyncio.to_thread(descriptors, house)
    reader, writer = await asyncio.open_connection("127.0.0.1", house.gateway.http_port)
    for byte in with_length(clip)[:400]:
        writer.write(bytes((byte,)))
        await writer.drain()
    await eventually(lambda: files(house))
    await upload(house, clip)
    writer.close()
    await writer.wait_closed()
    assert await reader.read() == b""
    await eventually(lambda: not files(house))
    await eventually(lambda: descriptors(house) <= before)
    await upload(house, clip)
