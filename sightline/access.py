"""Access to a server: its address, encryption, and the caller's token."""

import contextlib
import ipaddress
import os
import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import grpc

from sightline.errors import InvalidArgumentError, UnavailableError

__all__ = ["DEFAULT_ADDRESS", "TOKEN_VARIABLE", "Access", "SignedStub", "default_address"]

DEFAULT_ADDRESS = "localhost:50051"
SERVER_VARIABLE = "SIGHTLINE_SERVER"
TOKEN_VARIABLE = "SIGHTLINE_TOKEN"
HTTPS_PORT = 443
_MAX_MESSAGE_BYTES = 64 * 1024 * 1024
OPTIONS: tuple[tuple[str, Any], ...] = (
    ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", _MAX_MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    # A server that was replaced under the same name is found after seconds, not half a minute.
    ("grpc.dns_min_time_between_resolutions_ms", 500),
    ("grpc.use_local_subchannel_pool", 1),  # a new channel is a new connection
    ("grpc.enable_retries", 0),  # ours know what may be retried
)


def default_address() -> str:
    """The server of whoever names none: $SIGHTLINE_SERVER, else this machine's."""
    return os.environ.get(SERVER_VARIABLE) or DEFAULT_ADDRESS


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """The way to one server. Without `credentials` it is not encrypted."""

    address: str  # host:port; of several, which lead to the same sessions, comma separated
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
        addresses = [each.strip() for each in address.split(",") if each.strip()] or [address]
        for number, each in enumerate(addresses):
            scheme, separator, _ = each.partition("://")
            if separator and scheme in ("http", "https"):
                tls = tls or scheme == "https"
                addresses[number] = _host_and_port(each)
        if len(addresses) > 1 and not all(map(_is_host_and_port, addresses)):
            raise InvalidArgumentError(f"{address} is not host:port, comma separated")
        address = ",".join(addresses)
        if credentials is None and (tls or ca is not None):
            roots = None if ca is None else Path(ca).expanduser().read_bytes()
            credentials = grpc.ssl_channel_credentials(roots)
        here = all(map(_is_here, addresses))
        if token and credentials is None and not insecure_token and not here:
            raise InvalidArgumentError(
                f"the connection to {address} is not encrypted, and others could read the token: "
                "use https:// (tls=True), or say insecure_token=True"
            )
        return cls(address=address, credentials=credentials, token=token)

    def channel(self, turn: int = 0) -> grpc.aio.Channel:
        """A channel to whichever address answers, those that come first first; every `turn` begins
        with the next of them, on a connection of its own."""
        addresses = self.address.split(",")
        first = turn % len(addresses)
        addresses = addresses[first:] + addresses[:first]
        target, options = addresses[0], OPTIONS
        if len(addresses) > 1:
            target = _target(addresses)
            options = (*OPTIONS, ("grpc.default_authority", addresses[0]))
        if self.credentials is None:
            return grpc.aio.insecure_channel(target, options=options)
        return grpc.aio.secure_channel(target, self.credentials, options=options)


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


def _target(addresses: list[str]) -> str:
    """What gRPC calls several addresses: numbers, of one kind. Raises UnavailableError where none
    of their names is known."""
    found: dict[int, list[str]] = {}
    for address in addresses:
        host, _, port = address.rpartition(":")
        with contextlib.suppress(OSError):
            for family, _, _, _, place in socket.getaddrinfo(
                host.strip("[]"), int(port), type=socket.SOCK_STREAM
            ):
                number = f"[{place[0]}]" if family is socket.AF_INET6 else str(place[0])
                found.setdefault(family, []).append(f"{number}:{port}")
    if not found:
        raise UnavailableError(f"cannot reach {','.join(addresses)}: none of them is known")
    most = max(found, key=lambda each: (len(found[each]), each == socket.AF_INET))
    kind = "ipv6" if most == socket.AF_INET6 else "ipv4"
    return f"{kind}:{','.join(dict.fromkeys(found[most]))}"


def _is_host_and_port(address: str) -> bool:
    host, _, port = address.rpartition(":")
    return bool(host) and port.isdecimal() and not address.startswith("unix:")


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
