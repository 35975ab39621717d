"""Policy of where sources may be read from: addresses are checked and pinned before a
connection."""

import fnmatch
import ipaddress
import re
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Resolve = Callable[[str, int], Sequence[str]]

# Addresses that count as global and still lead to a cloud's own services.
_METADATA = frozenset({ipaddress.ip_address("168.63.129.16")})
_SIX_TO_FOUR = ipaddress.ip_network("2002::/16")
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_NOT_GLOBAL = (
    ipaddress.ip_network("64:ff9b:1::/48"),  # NAT64 of one's own network
    ipaddress.ip_network("::/96"),  # IPv4-compatible
    ipaddress.ip_network("fec0::/10"),  # site-local, of old
    ipaddress.ip_network("100.64.0.0/10"),
    ipaddress.ip_network("192.88.99.0/24"),
    ipaddress.ip_network("192.0.0.0/24"),  # in part global to some versions of Python
    ipaddress.ip_network("2001::/23"),
)
_GLOB = re.compile(r"[A-Za-z0-9_*?-]+(?:\.[A-Za-z0-9_*?-]+)*")


class UnreachableError(OSError):
    """A source's address cannot be reached or must not be. The text is for the log: a caller who
    could tell these apart would have a port scanner."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One entry of what is allowed: a network or a pattern of host names, perhaps with a port."""

    network: Network | None
    pattern: str
    port: int | None

    @classmethod
    def parse(cls, text: str) -> Self:
        """`10.0.0.0/8`, `10.1.2.3:554`, `camera.lan`, `*.cam.lan:554`, `[fd00::1]:554`.

        Raises ValueError.
        """
        text = text.strip()
        network = _network(text)
        if network is not None:
            return cls(network, "", None)
        bracketed = re.fullmatch(r"\[([^\]]+)\](?::([0-9]{1,5}))?", text)
        place, port = (bracketed[1], bracketed[2]) if bracketed else _with_port(text)
        if port is not None and not 0 < int(port) < 65536:
            raise ValueError(f"{text!r} has no valid port")
        number = None if port is None else int(port)
        network = _network(place)
        if network is not None:
            return cls(network, "", number)
        if bracketed or not _GLOB.fullmatch(place) or place.rpartition(".")[2].isdigit():
            raise ValueError(f"{text!r} is neither a network nor a host name")
        return cls(None, place.lower(), number)

    def admits(self, host: str, address: Address, port: int) -> bool:
        if self.port is not None and self.port != port:
            return False
        if self.network is None:
            return fnmatch.fnmatchcase(host.lower(), self.pattern)
        return any(
            form.version == self.network.version and form in self.network
            for form in (address, _inner(address))
        )


class EgressPolicy:
    """Policy of what sources may connect to: addresses of the public internet, and what `rules`
    add; with `public` False, what `rules` say alone.

    `resolve` gives a host's addresses. Everything blocks: source threads call it.
    """

    def __init__(
        self,
        rules: Sequence[str] = (),
        *,
        public: bool = True,
        resolve: Resolve | None = None,
    ) -> None:
        """Raises ValueError for a rule that is none."""
        self._rules = [Rule.parse(rule) for rule in rules]
        self._public = public
        self._resolve = resolve or _resolve

    def connect(self, host: str, port: int, timeout_s: float) -> socket.socket:
        """A connection to the first address of `host` that may be reached and answers.

        A name is resolved once, and the connection goes to the address that was looked at: what
        the name resolves to a moment later does not matter. Raises UnreachableError.
        """
        end_s = time.monotonic() + timeout_s
        failure: Exception | None = None
        for address in self.addresses(host, port):
            try:
                left_s = max(0.1, end_s - time.monotonic())
                connection = socket.create_connection((str(address), port), left_s)
            except OSError as error:
                failure = error
                continue
            own = connection.getsockname()[0] == connection.getpeername()[0]
            if own and not self.allows(host, address, port):
                connection.close()
                raise UnreachableError("an address of this machine's own")
            return connection
        raise UnreachableError(f"no connection: {type(failure).__name__}") from failure

    def addresses(self, host: str, port: int) -> list[Address]:
        """Addresses of `host` that may be reached. Raises UnreachableError when there are none."""
        try:
            found = [ipaddress.ip_address(host)]
        except ValueError:
            if not (self._public or self._rules):  # whoever resolves it may be outside
                raise UnreachableError("nothing is allowed by GATEWAY_URL_ALLOW") from None
            try:
                found = [ipaddress.ip_address(text) for text in self._resolve(host, port)]
            except (OSError, UnicodeError, ValueError) as error:
                raise UnreachableError("the host has no address") from error
        allowed = [
            address
            for address in found
            if (self._public and is_public(address)) or self.allows(host, address, port)
        ]
        if not allowed:
            shown = ", ".join(map(str, found[:4]))
            raise UnreachableError(f"not allowed by GATEWAY_URL_ALLOW: {host}:{port} ({shown})")
        return allowed

    def allows(self, host: str, address: Address, port: int) -> bool:
        """Whether the operator named this address or this host."""
        return any(rule.admits(host, address, port) for rule in self._rules)


def is_public(address: Address) -> bool:
    """Whether an address belongs to the public internet, whatever form it is written in."""
    inner = _inner(address)
    if inner in _METADATA or inner.is_multicast or not inner.is_global:
        return False
    return not any(
        form in network
        for form in (address, inner)
        for network in _NOT_GLOBAL
        if network.version == form.version
    )


def _inner(address: Address) -> Address:
    """The IPv4 address that an IPv6 one stands for, or the address itself."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if address in _SIX_TO_FOUR:
            return ipaddress.IPv4Address(int(address) >> 80 & 0xFFFFFFFF)
        if address in _NAT64:
            return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address


def _network(text: str) -> Network | None:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        return None


def _with_port(text: str) -> tuple[str, str | None]:
    place, colon, port = text.rpartition(":")
    return (place, port) if colon and re.fullmatch(r"[0-9]{1,5}", port) else (text, None)


def _resolve(host: str, port: int) -> list[str]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]).partition("%")[0] for entry in found))
