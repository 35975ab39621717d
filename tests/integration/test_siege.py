"""A gateway under siege by strangers who have no key: its memory, its log, and others' waits.

Each figure was first measured without the limits; the comments say what it was.
"""

import asyncio
import contextlib
import http.client
import os
import re
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from aiohttp import ClientSession

from sightline.v1 import gateway_pb2 as pb
from sightline.v1 import gateway_pb2_grpc
from tests.eventually import PATIENCE_S
from tests.processes import ServiceProcess

Code = grpc.StatusCode
MIB = 1024 * 1024
HANDSHAKE = b"\x03" + bytes(1536)


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    """A gateway without a worker, with 1,024 descriptors and no more."""
    environment = {"GATEWAY_WORKERS": "127.0.0.1:9", "GATEWAY_RTMP_PORT": "0"}
    process = ServiceProcess("gateway", environment, tmp_path_factory.mktemp("siege"))
    process.wrapper = ["sh", "-c", 'ulimit -n 1024; exec "$@"', "sh"]
    process.start()
    yield process
    process.stop()


def _rss_mib(process: ServiceProcess) -> float:
    assert process.process is not None
    status = Path(f"/proc/{process.process.pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) / 1024


def _rtmp_port(process: ServiceProcess) -> int:
    return next(int(entry["rtmp"]) for entry in process.log_entries() if "rtmp" in entry)


@contextlib.contextmanager
def _bystander(process: ServiceProcess) -> Iterator[list[float]]:
    """How long requests of somebody else take meanwhile, in seconds; from a thread of its own."""
    waits: list[float] = []
    over = threading.Event()

    def ask() -> None:
        while not over.wait(0.05):
            began_s = time.monotonic()
            connection = http.client.HTTPConnection("127.0.0.1", process.http_port, timeout=30)
            connection.request("GET", "/api/info")
            assert connection.getresponse().status == 200
            connection.close()
            waits.append(time.monotonic() - began_s)

    with ThreadPoolExecutor(1) as threads:
        asking = threads.submit(ask)
        try:
            yield waits
            time.sleep(0.2)
        finally:
            over.set()
        asking.result()
    assert waits


async def _rtmp(port: int, wire: bytes) -> asyncio.StreamWriter | None:
    """A peer that shakes hands and sends; None when it was cut off."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
        writer.write(HANDSHAKE)
        await reader.readexactly(1 + 2 * 1536)
        writer.write(bytes(1536))
        writer.write(wire)
        async with asyncio.timeout(PATIENCE_S):
            await writer.drain()
        return writer
    writer.close()
    return None


async def test_long_messages_before_the_key_take_no_memory(gateway: ServiceProcess) -> None:
    """100 peers with a message of 16 MB each: 1,600 MiB."""
    port, before = _rtmp_port(gateway), _rss_mib(gateway)
    wire = b"\x02" + bytes(3) + (4).to_bytes(3) + b"\x01" + bytes(4) + (1 << 24).to_bytes(4)
    wire += b"\x03" + bytes(3) + (15 * MIB).to_bytes(3) + b"\x14" + bytes(4) + bytes(4 * MIB)
    with _bystander(gateway) as waits:
        for _ in range(5):
            writers = await asyncio.gather(*(_rtmp(port, wire) for _ in range(20)))
            for writer in writers:
                if writer is not None:
                    writer.close()
        grown = _rss_mib(gateway) - before
    assert grown < 64
    assert max(waits) < 6


async def test_tiny_chunks_delay_nobody(gateway: ServiceProcess) -> None:
    """8 senders of chunks of one byte: answers of others came 14 s late."""
    port = _rtmp_port(gateway)
    wire = b"\x02" + bytes(3) + (4).to_bytes(3) + b"\x01" + bytes(4) + (1).to_bytes(4)
    wire += b"\x03" + bytes(3) + (15 * MIB).to_bytes(3) + b"\x14" + bytes(4) + b"\x00"
    wire += b"\xc3\x00" * (MIB // 2)
    with _bystander(gateway) as waits:
        writers = await asyncio.gather(*(_rtmp(port, wire) for _ in range(8)))
        await asyncio.sleep(0.3)
    for writer in writers:
        if writer is not None:
            writer.close()
    assert max(waits) < 5


async def test_held_sockets_shut_no_port(gateway: ServiceProcess) -> None:
    """1,200 idle sockets: no port took anybody, and the log had 230 MB after a minute."""
    ports = (gateway.http_port, _rtmp_port(gateway), gateway.grpc_port)
    held = []
    for number in range(1200):
        connection = socket.socket()
        # Several addresses, so that it is not the limit of one that helps.
        connection.bind((f"127.0.1.{number % 16 + 1}", 0))
        connection.settimeout(PATIENCE_S)
        connection.connect(("127.0.0.1", ports[number % 3]))
        held.append(connection)
        if number % 50 == 0:
            await asyncio.sleep(0.01)
    with _bystander(gateway) as waits:
        writer = await _rtmp(ports[1], b"")
        assert writer is not None
        writer.close()
        async with grpc.aio.insecure_channel(gateway.address) as channel:
            stub = gateway_pb2_grpc.SightlineServiceStub(channel)
            reply = await stub.ListSessions(
                pb.ListSessionsRequest(), timeout=15, wait_for_ready=True
            )
            assert not reply.sessions
        await asyncio.sleep(2)
    for connection in held:
        connection.close()
    assert max(waits) < 6
    assert gateway.log_path.stat().st_size < 64 * 1024
    assert gateway.process is not None
    descriptors = len(os.listdir(f"/proc/{gateway.process.pid}/fd"))
    assert descriptors < 1024


async def test_long_requests_are_refused_before_they_are_read(gateway: ServiceProcess) -> None:
    """24 questions of 60 MB: 2,200 MiB. And many of what is allowed take turns."""
    before = _rss_mib(gateway)
    options = (("grpc.max_send_message_length", 64 * MIB),)
    with _bystander(gateway) as waits:
        async with grpc.aio.insecure_channel(gateway.address, options=options) as channel:
            ask = channel.unary_unary("/sightline.v1.SightlineService/Ask")
            for size, number in ((60 * MIB, 24), (MIB, 200)):
                raw = b"\x0a" + bytes(size)
                calls = [ask(raw, timeout=30) for _ in range(number)]
                codes = {await call.code() for call in calls}
                assert codes <= {Code.RESOURCE_EXHAUSTED, Code.INVALID_ARGUMENT}
        grown = _rss_mib(gateway) - before
    assert grown < 300
    assert max(waits) < 6


async def test_slow_headers_are_given_up(gateway: ServiceProcess) -> None:
    """Requests that trickle in hold their connections for ever, and others' places."""
    writers = []
    for _ in range(100):
        _, writer = await asyncio.open_connection("127.0.0.1", gateway.http_port)
        writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Slow: ")
        writers.append(writer)
    with _bystander(gateway) as waits:
        for _ in range(5):
            for writer in writers:
                writer.write(b"x")
            await asyncio.sleep(0.1)
    for writer in writers:
        writer.close()
    assert max(waits) < 5
    async with ClientSession() as client:
        url = f"http://127.0.0.1:{gateway.metrics_port}/metrics"
        figures = await (await client.get(url)).text()
    assert 'sightline_refused_total{port="http",reason="evicted"}' in figures
