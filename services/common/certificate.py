"""The certificate of a server, from files that are read again when they change."""

import ssl
from dataclasses import dataclass
from pathlib import Path

import grpc

from services.common.fresh_file import FreshFiles


@dataclass(frozen=True, slots=True)
class _Pair:
    """One version of certificate and key, as HTTP and gRPC take it."""

    context: ssl.SSLContext
    configuration: grpc.ServerCertificateConfiguration


class Certificate:
    """A certificate chain and its key, in PEM. Connections that come after a change get the new
    one; while the two files do not fit together, the old one."""

    def __init__(self, certificate: Path, key: Path) -> None:
        """Raises OSError and ValueError for files that cannot be used."""
        self._files = FreshFiles((certificate, key), lambda: _read(certificate, key))

    def context(self) -> ssl.SSLContext:
        """TLS context of the next HTTP connection."""
        return self._files.value().context

    def credentials(self) -> grpc.ServerCredentials:
        """Credentials of a gRPC port, which asks for the newest at every handshake."""
        return grpc.dynamic_ssl_server_credentials(
            self._files.value().configuration, lambda: self._files.value().configuration
        )


def _read(certificate: Path, key: Path) -> _Pair:
    pair, context = read_pair(certificate, key)
    return _Pair(context, grpc.ssl_server_certificate_configuration([pair]))


def read_pair(certificate: Path, key: Path) -> tuple[tuple[bytes, bytes], ssl.SSLContext]:
    """Key and certificate chain as they are in the files, and a context that shows them. Raises
    OSError, and ValueError for what does not fit together."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    before = (key.read_bytes(), certificate.read_bytes())
    try:
        # An empty password, so that nobody is asked for that of an encrypted key.
        context.load_cert_chain(certificate, key, password=lambda: b"")
    except ssl.SSLError as error:
        raise ValueError(
            f"no certificate with its unencrypted key: {error.reason or 'not PEM'}"
        ) from None
    if before != (key.read_bytes(), certificate.read_bytes()):
        raise ValueError("they changed while they were read")
    return before, context
