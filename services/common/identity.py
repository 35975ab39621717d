"""A service's identity among services: the certificate that it shows, and whom it believes.

With one, services speak mutual TLS: neither side talks to a peer without a certificate that the
authority has signed. The files are read again when they change, for connections that come then.
"""

from dataclasses import dataclass
from pathlib import Path

import grpc

from services.common.certificate import read_pair
from services.common.config import ConfigError, ServiceConfig
from services.common.fresh_file import FreshFiles


@dataclass(frozen=True, slots=True)
class _Version:
    """One version of the files, as gRPC takes them."""

    server: grpc.ServerCertificateConfiguration
    client: grpc.ChannelCredentials


class Identity:
    """Certificate and key of a service, and the authority of all of them, in PEM.

    name: what the certificate of every peer is for; "": the host that is dialled.
    """

    def __init__(self, authority: Path, certificate: Path, key: Path, name: str = "") -> None:
        """Raises OSError and ValueError for files that cannot be used."""
        paths = (authority, certificate, key)
        self.name = name
        self._files = FreshFiles(paths, lambda: _read(*paths))

    def server_credentials(self) -> grpc.ServerCredentials:
        """Credentials of a port for peers, which asks for the newest at every handshake."""
        return grpc.dynamic_ssl_server_credentials(
            self._files.value().server,
            lambda: self._files.value().server,
            require_client_authentication=True,
        )

    def channel_credentials(self) -> grpc.ChannelCredentials:
        """Credentials of a channel to a peer; another object once the files are others."""
        return self._files.value().client


def _read(authority: Path, certificate: Path, key: Path) -> _Version:
    pair, _ = read_pair(certificate, key)
    believed = authority.read_bytes()
    if b"-----BEGIN CERTIFICATE-----" not in believed:
        raise ValueError(f"{authority} holds no certificate in PEM")
    return _Version(
        grpc.ssl_server_certificate_configuration([pair], root_certificates=believed),
        grpc.ssl_channel_credentials(believed, *pair),
    )


def identity_of(config: ServiceConfig) -> Identity | None:
    """The identity that a service's settings name. Raises ConfigError for files that cannot be
    used, or not all of them."""
    paths = (config.peer_ca, config.peer_cert, config.peer_key)
    names = ", ".join(f"{config.prefix}PEER_{each}" for each in ("CA", "CERT", "KEY"))
    authority, certificate, key = paths
    if authority is None and certificate is None and key is None:
        return None
    if authority is None or certificate is None or key is None:
        raise ConfigError(f"{names} are set together, or none of them")
    try:
        return Identity(authority, certificate, key, config.peer_name or "")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"{names}: {reason}") from None
