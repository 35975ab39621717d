"""Where a server is and how it is entered: its address, encryption, and the caller's token."""

import ipaddress
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import grpc

from sightline.errors import InvalidArgumentError

__all__ = ["TOKEN_VARIABLE", "Access", "SignedStub"]

TOKEN_VARIABLE = "SIGHTLINE_TOKEN"
HTTPS_PORT = 443


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """The way to one server. Without `credentials` it is not encrypted."""

    address: str  # as gRPC takes it
    credentials: grpc.ChannelCredentials | None = None
    token: str = field(default="", repr=False)

    @classmethod
    def of(
        cls,
        address: str,
        *,
        token: str | None = None,
        insecure_token: bool = False,
        tls: bool = False,
        ca: str | Path | None = None,
        credentials: grpc.ChannelCredentials | None = None,
    ) -> "Access":
        """The access that `connect` is asked for; `sightline.aio.connect` says what each is.

        Raises InvalidArgumentError for a token that others could read on its way, and for what is
        none; FileNotFoundError where there is no `ca`.
        """
        token = os.environ.get(TOKEN_VARIABLE, "") if token is None else token
        if not all("!" <= character <= "~" for character in token):
            raise InvalidArgumentError("a token has no spaces and no letters beyond ASCII")
        scheme, separator, _ = address.partition("://")
        if separator and scheme in ("http", "https"):
            tls = tls or scheme == "https"
            address = _host_and_port(address)
        if credentials is None and (tls or ca is not None):
            roots = None if ca is None else Path(ca).expanduser().read_bytes()
            credentials = grpc.ssl_channel_credentials(roots)
        if token and credentials is None and not insecure_token and not _is_here(address):
            raise InvalidArgumentError(
                f"the connection to {address} is not encrypted, and others could read the token: "
                "use https:// (tls=True), or say insecure_token=True"
            )
        return cls(address=address, credentials=credentials, token=token)


class SignedStub:
    """A stub whose calls bring a token."""

    def __init__(self, stub: Any, token: str) -> None:
        self._stub = stub
        self._metadata = (("authorization", f"Bearer {token}"),)

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._stub, name)

        def call(*arguments: Any, **options: Any) -> Any:
            return method(*arguments, metadata=self._metadata, **options)

        return call


def _host_and_port(url: str) -> str:
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError:
        port = 0
    if not parts.hostname or port == 0 or parts.path.strip("/") or parts.query:
        raise InvalidArgumentError(f"{url} is not https://host:port")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{host}:{port or (HTTPS_PORT if parts.scheme == 'https' else 80)}"


def _is_here(address: str) -> bool:
    """Whether what is sent there stays on this machine."""
    if address.startswith("unix:"):
        return True
    host = address.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
