"""The names this gateway answers to.

A page of another site can have its own name resolve to our address, and is then, for a browser, a
page of ours (DNS rebinding). What it cannot do is send a Host that is one of our names.
"""

import ipaddress
import re
from collections.abc import Iterable
from urllib.parse import urlsplit

_HOST = re.compile(r"[\w.*:%\[\]-]{1,300}")
OWN = ("localhost", "127.0.0.1", "[::1]")


class Hosts:
    """Patterns of host names, with `*` for any part; ports do not matter."""

    def __init__(self, patterns: Iterable[str]) -> None:
        """Raises ValueError for what is no host name."""
        names = {pattern: host_name(pattern) for pattern in (*OWN, *patterns)}
        for pattern, name in names.items():
            if not name:
                raise ValueError(f"{pattern!r} is not a host name")
        parts = [re.escape(name).replace(r"\*", ".*") for name in names.values()]
        self._allowed = re.compile("|".join(parts))

    def allow(self, host: str, local_address: str = "") -> bool:
        """Whether a Host header is a name of ours, or the very address that was connected to."""
        name = host_name(host)
        if not name:
            return False
        address = _address(name)
        if address is not None and address == _address(local_address):
            return True
        return self._allowed.fullmatch(name) is not None


def may_probe(host: str) -> bool:
    """Whether a Host header is one that probes and scrapes send: an address, or a name without a
    dot, as services have within a cluster. Nobody can have those resolve to where they like.
    """
    name = host_name(host)
    return bool(name) and (_address(name) is not None or "." not in name)


def is_loopback(host: str) -> bool:
    """Whether an address to listen on or to connect to is this machine's own alone."""
    address = _address(host)
    return host == "localhost" or (address is not None and address.is_loopback)


def is_private(name: str) -> bool:
    """Whether a host name is an address of this machine or of a private network."""
    address = _address(name)
    return name == "localhost" or (address is not None and not address.is_global)


def host_name(host: str) -> str:
    """The name in a Host header, in small letters, an IPv6 address in brackets; "" for nonsense."""
    if _HOST.fullmatch(host) is None:
        return ""
    try:
        parts = urlsplit(f"//{host}")
        name, _ = parts.hostname, parts.port
    except ValueError:
        return ""
    if not name:
        return ""
    return _normal(f"[{name}]" if ":" in name else name)


def netloc_of(url: str) -> str:
    """Host and port of a URL; "" for what is none."""
    try:
        return urlsplit(url).netloc.lower()
    except ValueError:
        return ""


def _normal(name: str) -> str:
    return name.strip().lower().removesuffix(".")


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(name.strip("[]").partition("%")[0])
    except ValueError:
        return None
