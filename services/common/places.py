"""Places of callers: the unit that limits per address count in.

A place is an IPv4 address or an IPv6 /64, because whoever has one IPv6 address has all of those.
"""

import ipaddress
from collections.abc import Sequence
from urllib.parse import unquote

_Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Trusted:
    """Networks of proxies: they are no place themselves, and say whom they speak for."""

    def __init__(self, networks: Sequence[str] = ()) -> None:
        """Raises ValueError for what is neither an address nor a network in CIDR notation."""
        self._networks: list[_Network] = [
            ipaddress.ip_network(network, strict=False) for network in networks
        ]

    def __contains__(self, host: str) -> bool:
        address = _address(host)
        return address is not None and any(
            address.version == network.version and address in network for network in self._networks
        )

    def place(self, host: str, forwarded_for: str = "") -> str:
        """The place of a caller at `host`; "" where limits per address do not hold.

        `forwarded_for` is an X-Forwarded-For header. It counts only where `host` is trusted, and
        is read from its end: the first address that no trusted proxy has is the caller's.
        """
        if host not in self:
            return place_of(host)
        for hop in reversed(forwarded_for.split(",")):
            hop = hop.strip().strip("[]")
            if hop and hop not in self:
                return place_of(hop)
        return ""


def place_of(host: str) -> str:
    """The place of an address; "" for what is none, as with a Unix socket."""
    address = _address(host)
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((address, 64), strict=False))
    return "" if address is None else str(address)


def plain_host(host: str) -> str:
    """An address as it is always written, an IPv4 one without its IPv6 clothes."""
    address = _address(host)
    return host if address is None else str(address)


def split_peer(peer: str) -> tuple[str, int]:
    """Address and port of what gRPC calls a peer: "ipv4:10.0.0.1:5" or "ipv6:%5B::1%5D:5"; an
    empty one for a Unix socket.
    """
    kind, _, rest = peer.partition(":")
    if kind not in ("ipv4", "ipv6"):
        return "", 0
    host, _, port = unquote(rest).rpartition(":")
    return plain_host(host.strip("[]")), int(port) if port.isdecimal() else 0


def _address(host: str) -> _Address | None:
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address
