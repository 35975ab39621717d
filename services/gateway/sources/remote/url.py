"""Addresses of video that callers name: one strict spelling, so that every reader of it agrees."""

import re
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address
from typing import Self
from urllib.parse import quote, unquote, urljoin, urlsplit

from sightline.errors import InvalidArgumentError

PORTS = {
    "http": 80,
    "https": 443,
    "rtsp": 554,
    "rtsps": 322,
    "rtmp": 1935,
    "rtmps": 443,
    "srt": 0,  # which has no usual one, …
    "udp": 0,  # … nor has this
}
MAX_CHARACTERS = 2048

# RFC 3986 without what only escapes may hold; brackets are common in queries.
_ALLOWED = re.compile(r"[A-Za-z0-9\-._~:/?\[\]@!$&'()*+,;=%]+")
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})|%[01][0-9A-Fa-f]|%7[Ff]")
# Schemes by which programs name a way of transport, which here is found out.
_SCHEMES = {"rtspt://": "rtsp://", "rtspu://": "rtsp://", "rtp://": "udp://"}
_OTHER_NAMES = re.compile(r"\A(?:rtsp[tu]|rtp)://", re.IGNORECASE)
# How players write "whatever is sent to this port, or to this group".
_LISTENING = re.compile(r"\Audp://@?((?=:[0-9]))?", re.IGNORECASE)
# A password up to the last @ that a host, perhaps a port, and perhaps a path follow.
_RAW_PASSWORD = re.compile(
    r"(rtsps?://[^:@/?#\s]*:)(.+)(@(?:[A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]+)?(?:/[^@]*)?)",
    re.IGNORECASE,
)
_KEPT = "!$&'()*+,;=%"  # in a password; escapes stay escapes
_LABEL = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)")
_NUMBER = re.compile(r"[0-9]+|0[xX][0-9A-Fa-f]*")
_PORT = re.compile(r"[1-9][0-9]{0,4}")


@dataclass(frozen=True, slots=True)
class SourceUrl:
    """A URL's parts. `host`: a name or an address, without brackets; `port`: also where the URL
    names none; `target`: path and query as they were written; user and password are decoded."""

    scheme: str
    host: str
    port: int
    target: str
    user: str | None = None
    password: str | None = None

    @classmethod
    def typed(cls, text: str) -> Self:
        """URL as a person types it: a camera's password may hold @, / and # as they are, a port to
        listen on may lack its address, and a scheme may be one that other programs have.

        Raises InvalidArgumentError.
        """
        text = _OTHER_NAMES.sub(lambda found: _SCHEMES[found[0].lower()], text)
        text = _LISTENING.sub(lambda found: "udp://" + ("0.0.0.0" * (found[1] is not None)), text)
        try:
            return cls.parse(text)
        except InvalidArgumentError:
            if len(text) > MAX_CHARACTERS or not (found := _RAW_PASSWORD.fullmatch(text)):
                raise
            start, password, rest = found.groups()
            return cls.parse(start + quote(password, safe=_KEPT) + rest)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises InvalidArgumentError, without the URL in its text, for an unknown scheme and for
        every spelling that two programs might read differently."""
        scheme = text.partition("://")[0].lower()
        if scheme not in PORTS:
            known = ", ".join(PORTS)
            raise InvalidArgumentError(f"cannot read this kind of URL; known are {known}")
        if len(text) > MAX_CHARACTERS:
            raise InvalidArgumentError(f"a URL has at most {MAX_CHARACTERS} characters")
        if not _ALLOWED.fullmatch(text) or _BAD_ESCAPE.search(text):
            raise InvalidArgumentError(
                "a URL is written in ASCII without spaces and control characters, and has no "
                "fragment; escape others as %XX"
            )
        try:
            parts = urlsplit(text)
            same = parts.geturl() == scheme + text[len(scheme) :]
        except ValueError:
            same = False
        if not same:
            raise InvalidArgumentError("the URL is malformed")
        user, password, place = _user_of(parts.netloc)
        host, port = _place_of(place, PORTS[scheme])
        if not port:
            raise InvalidArgumentError(f"{scheme}:// needs a port")
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        return cls(scheme, host, port, target, user, password)

    def joined(self, location: str) -> "SourceUrl":
        """Address to which a redirect or a playlist of this one leads. Raises
        InvalidArgumentError."""
        try:
            joined = urljoin(f"{self.scheme}://{self.place}{self.target}", location)
        except ValueError:
            raise InvalidArgumentError("the URL is malformed") from None
        url = SourceUrl.parse(joined)
        if url.user is None and url.origin == self.origin:
            return replace(url, user=self.user, password=self.password)
        return url

    @property
    def origin(self) -> tuple[str, str, int]:
        """Whom credentials may be shown to."""
        return self.scheme, self.host.lower(), self.port

    @property
    def place(self) -> str:
        """Host and port as they stand in a URL; a port that the scheme implies is left out."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == PORTS[self.scheme] else f"{host}:{self.port}"


def _user_of(netloc: str) -> tuple[str | None, str | None, str]:
    credentials, at, place = netloc.rpartition("@")
    if not at:
        return None, None, place
    if "@" in credentials or not credentials:
        raise InvalidArgumentError("escape @ in a user or password as %40")
    user, colon, password = credentials.partition(":")
    return unquote(user), unquote(password) if colon else None, place


def _place_of(place: str, default_port: int) -> tuple[str, int]:
    bracketed = re.fullmatch(r"\[([0-9A-Fa-f:.]+)\](?::(.*))?", place)
    if bracketed:
        host, port = bracketed[1], bracketed[2]
        try:
            IPv6Address(host)
        except ValueError:
            raise InvalidArgumentError("the URL's host is no IPv6 address") from None
    else:
        host, colon, rest = place.partition(":")
        port = rest if colon else None
        check_host(host)
    if port is None:
        return host, default_port
    if not _PORT.fullmatch(port) or int(port) > 65535:
        raise InvalidArgumentError("the URL's port is not between 1 and 65535")
    return host, int(port)


def check_host(host: str) -> None:
    """Raise InvalidArgumentError for what is neither a name nor an IPv4 address in its usual form:
    0x7f.1, 2130706433 and 0177.0.0.1 are numbers to some programs and names to others."""
    labels = host.split(".")
    if len(host) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise InvalidArgumentError("the URL has no valid host name")
    if _NUMBER.fullmatch(labels[-1]):
        try:
            IPv4Address(host)
        except ValueError:
            raise InvalidArgumentError("an IPv4 address is written as four numbers") from None
