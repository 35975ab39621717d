"""Settings of where a gateway listens, and how others reach it."""

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from services.common.config import ConfigError, setting
from services.common.hosts import Hosts, host_name, netloc_of
from services.common.places import Trusted

_ICE_SERVER = re.compile(
    r"(stuns?:|turns?:(?:[^@\s]*:.*@)?)(\[[0-9A-Fa-f:.]+\]|[^\s@:?/\[\]]+)(:[0-9]{1,5})?"
    r"(\?transport=(udp|tcp))?"
)


@dataclass(frozen=True, kw_only=True)
class AddressSettings:
    """The ports of publishers and browsers, the addresses that they are told, and who may ask."""

    rtmp_host: str | None = setting(None, "Address of the RTMP port; empty: that of GATEWAY_HOST.")
    rtmp_port: int | None = setting(
        1935, "RTMP port; 0 picks a free one, empty: no RTMP.", minimum=0, maximum=65535
    )
    rtmps_port: int | None = setting(
        None,
        "Port of RTMP with TLS, by GATEWAY_TLS_CERT; 0 picks a free one, empty: none.",
        minimum=0,
        maximum=65535,
    )
    srt_port: int | None = setting(
        None,
        "UDP port of SRT, at the address of RTMP; needs libsrt. 0 picks a free one, empty: none.",
        minimum=0,
        maximum=65535,
    )
    srt_passphrase: str | None = setting(
        None,
        "What SRT publishers need besides their key, of 10 to 79 characters: all is encrypted.",
        secret=True,
    )
    public_host: str = setting(
        "localhost", "Host name in the addresses given to publishers.", filled=True
    )
    public_http_url: str | None = setting(
        None, "Where browsers reach the HTTP port, e.g. https://sightline.example; empty: derived."
    )
    public_rtmp_port: int | None = setting(
        None,
        "RTMP port in the addresses given to publishers, where another one leads here; empty: "
        "that of GATEWAY_RTMP_PORT.",
        minimum=1,
        maximum=65535,
    )
    public_grpc_port: int | None = setting(
        None,
        "gRPC port that clients are told, where another one leads here; empty: GATEWAY_GRPC_PORT.",
        minimum=1,
        maximum=65535,
    )
    webrtc_port: int = setting(
        8189,
        "Port of all WebRTC: UDP, and TCP of the same number where UDP is blocked; 0 picks a free "
        "one.",
        minimum=0,
        maximum=65535,
    )
    webrtc_addresses: tuple[str, ...] = setting(
        (),
        "Addresses or names by which others reach GATEWAY_WEBRTC_PORT, where they are not this "
        "machine's own: the public one of a NAT, of a container's host, of a load balancer; with "
        "a port, host:port, where another one leads here.",
    )
    ice_servers: tuple[str, ...] = setting(
        (),
        "STUN and TURN URLs for WHIP, stun:host:port or turn:user:password@host:port.",
        secret=True,
    )
    allowed_origins: tuple[str, ...] = setting(
        (), "Other sites whose pages may use the HTTP API (CORS), e.g. https://app.example."
    )
    allowed_hosts: tuple[str, ...] = setting(
        (),
        "Further names that browsers may reach the HTTP port by, e.g. *.example.org; those of "
        "GATEWAY_PUBLIC_HOST and GATEWAY_PUBLIC_HTTP_URL, localhost and the address itself are.",
    )
    trusted_proxies: tuple[str, ...] = setting(
        (),
        "Addresses and networks (CIDR) of reverse proxies: no limit per address holds for them, "
        "and their X-Forwarded-For says whose it is.",
    )

    def check_addresses(self) -> None:
        """Raise ConfigError for what is no address, name or password of its kind."""
        if self.srt_passphrase is not None and not 10 <= len(self.srt_passphrase) <= 79:
            raise ConfigError("GATEWAY_SRT_PASSPHRASE has 10 to 79 characters")
        for number, server in enumerate(self.ice_servers, 1):
            if not _ICE_SERVER.fullmatch(server):  # it may hold a password
                raise ConfigError(
                    f"GATEWAY_ICE_SERVERS: the entry {number} is no stun:host:port and no "
                    "turn:user:password@host:port"
                )
        for origin in self.allowed_origins:
            parts = urlsplit(origin)
            if not (parts.scheme and parts.netloc) or parts.path:
                raise ConfigError(f"GATEWAY_ALLOWED_ORIGINS: {origin!r} is not scheme://host")
        try:
            self.hosts()
        except ValueError as error:
            raise ConfigError(f"GATEWAY_ALLOWED_HOSTS: {error}") from None
        try:
            self.trusted()
        except ValueError as error:
            raise ConfigError(f"GATEWAY_TRUSTED_PROXIES: {error}") from None

    def hosts(self) -> Hosts:
        """The names that browsers may know this gateway by. Raises ValueError."""
        public = (self.public_host, netloc_of(self.public_http_url or ""))
        return Hosts([*self.allowed_hosts, *(name for name in public if host_name(name))])

    def trusted(self) -> Trusted:
        """Raises ValueError."""
        return Trusted(self.trusted_proxies)
