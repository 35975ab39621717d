"""The page over HTTPS, for phones: browsers give a camera to nobody else.

A certificate that this machine signs for itself, which phones ask about once, and a key, because
with it the gateway listens on all addresses. Both stay in a folder of the user's.
"""

import datetime
import ipaddress
import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from services.common.config import ConfigError
from services.local.process import ROOT

DAYS = 365
LEAST_LEFT = datetime.timedelta(days=14)  # of one that is used again


@dataclass(frozen=True, slots=True)
class Https:
    """Encryption of the gateway, who may come in, and the address of this machine."""

    certificate: Path
    key: Path
    keys: Path
    token: str
    host: str

    def environment(self) -> dict[str, str]:
        """Variables of a gateway whose page and API the whole network reaches, with the token. Its
        figures and RTMP, which is not encrypted, stay on this machine."""
        return {
            "GATEWAY_HOST": "0.0.0.0",
            "GATEWAY_METRICS_HOST": "127.0.0.1",
            "GATEWAY_RTMP_HOST": "127.0.0.1",
            "GATEWAY_PUBLIC_HOST": self.host,
            "GATEWAY_AUTH": "keys",
            "GATEWAY_AUTH_KEYS": str(self.keys),
            "GATEWAY_TLS_CERT": str(self.certificate),
            "GATEWAY_TLS_KEY": str(self.key),
        }


def make_https(folder: Path) -> Https:
    """A certificate for this machine, the one of last time where it still fits, and a new token.
    Raises ConfigError."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    host = own_address()
    certificate, key = folder / "self-signed.crt", folder / "self-signed.key"
    if not _fits(certificate, key, host):
        _sign(certificate, key, host)
    command = ["-m", "services.gateway.auth", "--name", "you", "--permissions", "admin"]
    made = subprocess.run(
        [sys.executable, *command], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if made.returncode != 0:
        raise ConfigError(f"--https: no key could be made: {made.stderr}")
    keys = folder / "keys.jsonl"
    keys.write_text(made.stdout)
    return Https(certificate, key, keys, made.stderr.strip(), host)


def own_address() -> str:
    """This machine's address in its network; connecting a UDP socket sends nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
            return str(probe.getsockname()[0])
        except OSError:
            return "127.0.0.1"


def _fits(certificate: Path, key: Path, host: str) -> bool:
    """Whether a certificate is there that is for this address, and for a while yet."""
    try:
        made = x509.load_pem_x509_certificate(certificate.read_bytes())
        names = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (OSError, ValueError, x509.ExtensionNotFound):
        return False
    left = made.not_valid_after_utc - datetime.datetime.now(datetime.UTC)
    addresses = names.get_values_for_type(x509.IPAddress)
    return key.exists() and left > LEAST_LEFT and ipaddress.ip_address(host) in addresses


def _sign(certificate: Path, key: Path, host: str) -> None:
    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"Sightline on {host}")])
    now = datetime.datetime.now(datetime.UTC)
    addresses = sorted({ipaddress.ip_address(each) for each in ("127.0.0.1", host)}, key=str)
    names = [x509.DNSName("localhost"), *(x509.IPAddress(each) for each in addresses)]
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=DAYS))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(private, hashes.SHA256())
    )
    with open(os.open(key, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as output:
        output.write(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    certificate.write_bytes(made.public_bytes(Encoding.PEM))
