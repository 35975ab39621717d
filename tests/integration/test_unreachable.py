"""What somebody is told who has given the wrong address of a gateway, or the wrong kind of it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
from aiohttp import web

import sightline
from sightline import aio
from tests.certificates import Authority
from tests.processes import free_port

QUICK = sightline.Timeouts(connect_s=0.2)


async def _told(address: str, **options: object) -> str:
    with pytest.raises(sightline.UnavailableError, match="cannot reach localhost:") as caught:
        async with aio.connect(address, timeouts=QUICK, **options):  # type: ignore[arg-type]
            pass
    return str(caught.value)


@asynccontextmanager
async def _grpc(folder: Path | None = None) -> AsyncIterator[int]:
    """The port of a gRPC server; folder: where the certificate lies that it has."""
    server = grpc.aio.server()
    if folder is None:
        port = server.add_insecure_port("127.0.0.1:0")
    else:
        Authority(folder).sign(folder / "its.pem", folder / "key.pem")
        pair = ((folder / "key.pem").read_bytes(), (folder / "its.pem").read_bytes())
        port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair]))
    await server.start()
    try:
        yield port
    finally:
        await server.stop(None)


async def test_the_address_of_the_page_is_not_that_of_grpc() -> None:
    runner = web.AppRunner(web.Application())
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        _, port = runner.addresses[0][:2]
        for address in (f"localhost:{port}", f"http://localhost:{port}/"):
            assert "HTTP is spoken there, no gRPC" in await _told(address)
        assert "not encrypted: leave out https://" in await _told(f"https://localhost:{port}")
    finally:
        await runner.cleanup()


async def test_encryption_on_one_side_alone_is_named(tmp_path: Path) -> None:
    async with _grpc() as port:
        assert "not encrypted: leave out https://" in await _told(f"https://localhost:{port}")
    async with _grpc(tmp_path) as port:
        assert "encrypted: write https://" in await _told(f"localhost:{port}")
        assert "certificate is believed" in await _told(f"https://localhost:{port}")
        ca = tmp_path / "authority.pem"
        client = aio.connect(f"https://localhost:{port}", ca=ca)
        async with client:  # and with what was missing it is reached
            pass


async def test_nobody_there_and_somebody_else_are_told_apart(tmp_path: Path) -> None:
    nobody = free_port()
    for scheme in ("", "https://"):
        assert "nothing has listened there for 0.2 s" in await _told(f"{scheme}localhost:{nobody}")

    async def leave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail\r\n")
        writer.close()

    async with await asyncio.start_server(leave, "127.0.0.1", 0) as other:
        port = other.sockets[0].getsockname()[1]
        assert "speaks no gRPC" in await _told(f"localhost:{port}")


async def test_who_accepts_and_says_nothing_is_not_waited_for(monkeypatch) -> None:
    monkeypatch.setattr("sightline.unreachable.LOOK_S", 0.2)
    silent = asyncio.Event()

    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await silent.wait()
        writer.close()

    async with await asyncio.start_server(hold, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        assert "nobody answered in 0.2 s" in await _told(f"localhost:{port}")
        silent.set()


async def test_a_proxy_that_knows_no_grpc_is_no_earlier_version(monkeypatch) -> None:
    """It answers HTTP/2, with a page that is not there: gRPC calls that UNIMPLEMENTED."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(bytes((0, 0, 0, 4, 0, 0, 0, 0, 0)))  # settings
        async for stream in _streams(reader, writer):
            status = b"\x8d"  # :status 404, of HPACK's static table
            head = len(status).to_bytes(3, "big") + b"\x01\x05" + stream
            writer.write(head + status)  # the headers, and the end of the stream
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as proxy:
        port = proxy.sockets[0].getsockname()[1]
        client = aio.connect(f"localhost:{port}", timeouts=sightline.Timeouts(call_s=20))
        async with client:
            with pytest.raises(sightline.UnavailableError, match="speaks HTTP, and no gRPC"):
                await client.info()


async def _streams(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> AsyncIterator[bytes]:
    """Ids of the streams that an HTTP/2 client opens; its settings and pings are answered."""
    try:
        await reader.readexactly(24)  # the preface
        while True:
            head = await reader.readexactly(9)
            body = await reader.readexactly(int.from_bytes(head[:3], "big"))
            kind, flags, stream = head[3], head[4], head[5:]
            if kind == 4 and not flags & 1:
                writer.write(bytes((0, 0, 0, 4, 1, 0, 0, 0, 0)))
            elif kind == 6 and not flags & 1:
                writer.write(bytes((0, 0, 8, 6, 1, 0, 0, 0, 0)) + body)
            elif kind == 1:
                yield stream
    except (asyncio.IncompleteReadError, ConnectionError):
        return
