"""A gateway with a certificate: both doors, rotation, and what is refused."""

import http.client
import socket
import ssl
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import grpc
import pytest

import sightline
from services.gateway.auth.keys import new_key
from tests.certificates import Authority
from tests.eventually import PATIENCE_S, wait_until
from tests.processes import ServiceProcess

pytestmark = pytest.mark.option

LOOKED_AGAIN_S = 1.2


@dataclass(slots=True)
class Encrypted:
    """A gateway, its authority, and its files."""

    gateway: ServiceProcess
    authority: Authority
    certificate: Path
    key: Path
    token: str

    def context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.authority.ca))

    def serial(self) -> int:
        """Of the certificate that a new HTTP connection is shown."""
        address = ("localhost", self.gateway.http_port)
        with (
            socket.create_connection(address, 5) as raw,
            self.context().wrap_socket(raw, server_hostname="localhost") as encrypted,
        ):
            shown = encrypted.getpeercert()
        assert shown is not None
        return int(str(shown["serialNumber"]), 16)

    def connect(self, ca: Path | None = None) -> sightline.Client:
        return sightline.connect(
            f"https://localhost:{self.gateway.grpc_port}",
            ca=ca or self.authority.ca,
            token=self.token,
            timeouts=sightline.Timeouts(connect_s=5),
        )


@pytest.fixture
def encrypted(tmp_path: Path) -> Iterator[Encrypted]:
    authority = Authority(tmp_path)
    certificate, key = tmp_path / "tls.crt", tmp_path / "tls.key"
    authority.sign(certificate, key)
    token, line = new_key("alice", ["view"])
    (tmp_path / "keys").write_text(line)
    environment = {
        "GATEWAY_WORKERS": "127.0.0.1:1",
        "GATEWAY_RTMP_PORT": "",
        "GATEWAY_TLS_CERT": str(certificate),
        "GATEWAY_TLS_KEY": str(key),
        "GATEWAY_AUTH": "keys",
        "GATEWAY_AUTH_KEYS": str(tmp_path / "keys"),
    }
    gateway = ServiceProcess("gateway", environment, tmp_path)
    gateway.credentials = grpc.ssl_channel_credentials(authority.ca.read_bytes())
    gateway.start()
    yield Encrypted(gateway, authority, certificate, key, token)
    gateway.stop()


async def test_both_doors_are_encrypted(encrypted: Encrypted) -> None:
    url = f"https://localhost:{encrypted.gateway.http_port}"
    async with aiohttp.ClientSession(url) as client:
        async with client.get("/", ssl=encrypted.context()) as page:
            assert page.status == 200
            assert "Sightline" in await page.text()
        headers = {"Authorization": f"Bearer {encrypted.token}"}
        async with client.get("/api/info", headers=headers, ssl=encrypted.context()) as reply:
            info = await reply.json()
        assert info["whip_url"].startswith(f"https://localhost:{encrypted.gateway.http_port}/")
        with pytest.raises(aiohttp.WSServerHandshakeError) as caught:  # it speaks, and knows none
            await client.ws_connect(
                "/api/sessions/none/converse", headers=headers, ssl=encrypted.context()
            )
        assert caught.value.status == 404


def test_the_client_comes_in_with_the_right_authority_alone(
    encrypted: Encrypted, tmp_path: Path
) -> None:
    with encrypted.connect() as client:
        assert client.sessions() == []
    stranger = Authority(tmp_path / "stranger", "stranger")
    with pytest.raises(sightline.UnavailableError):
        encrypted.connect(stranger.ca)
    plain = f"localhost:{encrypted.gateway.grpc_port}"
    with pytest.raises(sightline.UnavailableError):
        sightline.connect(plain, timeouts=sightline.Timeouts(connect_s=2))


def test_who_does_not_encrypt_is_refused_and_probes_are_answered(encrypted: Encrypted) -> None:
    plain = http.client.HTTPConnection("127.0.0.1", encrypted.gateway.http_port, timeout=PATIENCE_S)
    plain.request("GET", "/healthz")
    with pytest.raises((http.client.HTTPException, ConnectionError)):
        plain.getresponse()
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.load_verify_locations(encrypted.authority.ca)
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        old.maximum_version = ssl.TLSVersion.TLSv1_1
    with (
        socket.create_connection(("localhost", encrypted.gateway.http_port), 5) as raw,
        pytest.raises((ssl.SSLError, ConnectionError)),
    ):
        old.wrap_socket(raw, server_hostname="localhost")
    probe = f"http://127.0.0.1:{encrypted.gateway.metrics_port}/healthz"
    with urllib.request.urlopen(probe, timeout=PATIENCE_S) as reply:
        assert reply.status == 200


def test_a_new_certificate_is_shown_without_a_restart(encrypted: Encrypted) -> None:
    before = encrypted.serial()
    with encrypted.connect() as client:  # stays connected, with the old one
        certificate = encrypted.certificate.read_bytes()
        made = encrypted.authority.sign(encrypted.certificate, encrypted.key)
        new = encrypted.certificate.read_bytes()
        encrypted.certificate.write_bytes(certificate)  # half of the pair: the old one holds
        time.sleep(LOOKED_AGAIN_S)
        assert encrypted.serial() == before
        encrypted.certificate.write_bytes(new)
        assert before != made.serial_number
        wait_until(lambda: encrypted.serial() == made.serial_number)
        assert client.sessions() == []
    # gRPC shows it too: of another authority, the old one's clients are refused.
    other = Authority(encrypted.certificate.parent / "other", "other")
    other.sign(encrypted.certificate, encrypted.key)
    time.sleep(LOOKED_AGAIN_S)
    with encrypted.connect(other.ca) as client:
        assert client.sessions() == []
    with pytest.raises(sightline.UnavailableError):
        encrypted.connect()
    encrypted.gateway.credentials = grpc.ssl_channel_credentials(other.ca.read_bytes())
    assert encrypted.gateway.serving()


def test_an_expired_certificate_is_refused_by_clients(encrypted: Encrypted) -> None:
    encrypted.authority.sign(encrypted.certificate, encrypted.key, days=-1)
    time.sleep(LOOKED_AGAIN_S)
    with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
        encrypted.serial()
    with pytest.raises(sightline.UnavailableError):
        encrypted.connect()


@pytest.mark.parametrize("spoilt", ["missing", "nonsense", "other key", "password", "no key"])
def test_files_that_cannot_be_used_refuse_to_start(tmp_path: Path, spoilt: str) -> None:
    authority = Authority(tmp_path)
    certificate, key = tmp_path / "tls.crt", tmp_path / "tls.key"
    password = b"secret" if spoilt == "password" else None
    authority.sign(certificate, key, password=password)
    environment = {"GATEWAY_TLS_CERT": str(certificate), "GATEWAY_TLS_KEY": str(key)}
    match spoilt:
        case "missing":
            key.unlink()
        case "nonsense":
            certificate.write_text("nonsense")
        case "other key":
            authority.sign(tmp_path / "other.crt", key)
        case "no key":
            del environment["GATEWAY_TLS_KEY"]
    gateway = ServiceProcess("gateway", environment, tmp_path)
    with pytest.raises(RuntimeError, match=r"exited 2(.|\n)*GATEWAY_TLS_CERT"):
        gateway.start(30)
    assert "Traceback" not in gateway.log()


def test_handshakes_that_nobody_ends_shut_nobody_out(encrypted: Encrypted) -> None:
    held = []
    for _ in range(80):  # more than one address may have waiting
        held.append(socket.create_connection(("localhost", encrypted.gateway.http_port), 5))
        held[-1].sendall(b"\x16\x03\x01")
    assert encrypted.serial()

    def closed() -> int:
        found = 0
        for each in held:
            each.settimeout(0.01)
            try:
                found += not each.recv(1)
            except TimeoutError:
                pass
            except ConnectionError:
                found += 1
        return found

    wait_until(lambda: closed() >= 16)
    for each in held:
        each.close()
    assert encrypted.serial()
    assert "Traceback" not in encrypted.gateway.log()
