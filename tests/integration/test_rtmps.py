"""RTMP with TLS: a real publisher comes in, one without TLS does not, and certificates change."""

import asyncio
import socket
import ssl
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from services.common.certificate import Certificate
from services.common.config import ConfigError
from services.gateway.api.addresses import Addresses
from services.gateway.config import GatewayConfig
from services.gateway.sources.rtmp.server import RtmpServer
from tests.certificates import Authority
from tests.eventually import eventually, wait_until
from tests.processes import REPOSITORY
from tests.rtmp_peer import RtmpPeer
from tests.sources import KEY, OneKeyGate, write_clip


@dataclass(slots=True)
class Encrypted:
    """A server with a certificate, and what signed that."""

    server: RtmpServer
    gate: OneKeyGate
    authority: Authority
    folder: Path

    def serial(self) -> int:
        context = ssl.create_default_context(cafile=str(self.authority.ca))
        with (
            socket.create_connection(("localhost", self.server.port), 5) as raw,
            context.wrap_socket(raw, server_hostname="localhost") as peer,
        ):
            shown = peer.getpeercert()
        assert shown is not None
        return int(str(shown["serialNumber"]), 16)


@pytest.fixture
async def encrypted(tmp_path: Path) -> AsyncIterator[Encrypted]:
    authority = Authority(tmp_path)
    authority.sign(tmp_path / "crt", tmp_path / "key")
    gate = OneKeyGate()
    certificate = Certificate(tmp_path / "crt", tmp_path / "key")
    server = RtmpServer(gate, port=0, encryption=certificate.context)
    await server.start()
    yield Encrypted(server, gate, authority, tmp_path)
    await server.aclose()


async def test_ffmpegs_publisher_comes_in_encrypted(encrypted: Encrypted, tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", seconds=1)
    url = f"rtmps://localhost:{encrypted.server.port}/live/{KEY}"
    publisher = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.local.publish", str(path), url, cwd=REPOSITORY
    )
    try:
        await eventually(lambda: encrypted.gate.sinks, timeout_s=30)
        sink = encrypted.gate.sinks[0]
        await eventually(lambda: len(sink.pictures) > 3, timeout_s=30)
    finally:
        publisher.kill()
        await publisher.wait()


async def test_who_does_not_encrypt_is_not_let_in(encrypted: Encrypted) -> None:
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        async with asyncio.timeout(10), await RtmpPeer.open(encrypted.server.port) as peer:
            await peer.connect()
    assert encrypted.gate.sinks == []


async def test_a_new_certificate_is_shown_without_a_restart(encrypted: Encrypted) -> None:
    before = await asyncio.to_thread(encrypted.serial)
    made = encrypted.authority.sign(encrypted.folder / "crt", encrypted.folder / "key")
    assert made.serial_number != before
    await asyncio.to_thread(wait_until, lambda: encrypted.serial() == made.serial_number)


def test_publishers_are_told_the_encrypted_address_where_there_is_one() -> None:
    config = GatewayConfig(public_host="video.example")
    assert Addresses(config, 1935).rtmp == "rtmp://video.example/live"
    assert Addresses(config, 1935, 1936).rtmp == "rtmps://video.example:1936/live"
    with pytest.raises(ConfigError, match="GATEWAY_RTMPS_PORT needs GATEWAY_TLS_CERT"):
        GatewayConfig.from_env({"GATEWAY_RTMPS_PORT": "1936"})
