"""The gateway's settings, one environment variable each."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Self
from urllib.parse import urlsplit

from services.common.config import ConfigError, setting
from services.common.hosts import host_name, is_private, netloc_of
from services.common.redis_config import RedisConfig
from services.gateway.settings.addresses import AddressSettings
from services.gateway.settings.cluster import ClusterSettings
from services.gateway.settings.conversation import ConversationSettings
from services.gateway.settings.delegates import DelegateSettings
from services.gateway.settings.pictures import PictureSettings
from services.gateway.settings.rules import RuleSettings
from services.gateway.settings.sessions import SessionSettings
from services.gateway.settings.sign_in import SignInSettings
from services.gateway.settings.sources import SourceSettings
from services.gateway.settings.workers import WorkerSettings
from services.gateway.sources.whip.ice import parse_ice_server


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayConfig(  # from the last to the first, as fields are listed
    DelegateSettings,
    RuleSettings,
    SessionSettings,
    PictureSettings,
    ClusterSettings,
    SignInSettings,
    AddressSettings,
    SourceSettings,
    ConversationSettings,
    WorkerSettings,
    RedisConfig,
):
    """The settings. Limits are counts unless a name ends in a unit. Of what viewers share (places,
    watches, asks and speaks) one address may have half of what the others leave."""

    prefix: ClassVar[str] = "GATEWAY_"

    max_calls: int = setting(64, "Realtime conversations by WebRTC at once.", minimum=1)
    max_speaks: int = setting(
        16, "Texts that are spoken for callers at once, and as many recordings heard.", minimum=1
    )
    pending_events: int = setting(
        1024, "Events that may wait for one slow viewer before it is cut off.", minimum=16
    )
    replay_events: int = setting(
        1024, "Events kept per viewer to be sent again on resume.", minimum=0
    )
    replay_bytes: int = setting(
        8 * 1024 * 1024, "Bytes of events kept or waiting per viewer.", minimum=65536
    )
    answer_timeout_s: float = setting(
        120.0, "Longest time one answer may take.", minimum=1, maximum=3600
    )
    open_timeout_s: float = setting(
        10.0, "Longest time to open a source or to be admitted by a worker.", minimum=1, maximum=120
    )

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Self:
        """Raises ConfigError for bad values, also for those that only make sense together."""
        config = super(GatewayConfig, cls).from_env(environ)
        config.check_workers()
        config.check_sources()
        config.check_webhooks()
        config.check_time_zone()
        config.check_sign_in(config.host)
        config.check_delegate()
        config.check_cluster()
        config.check_addresses()
        if config.edge:
            config._check_edge()
        if config.rtmps_port is not None and config.tls_cert is None:
            raise ConfigError("GATEWAY_RTMPS_PORT needs GATEWAY_TLS_CERT and GATEWAY_TLS_KEY")
        return config

    def _check_edge(self) -> None:
        """Raise ConfigError for settings that lead to the public internet, or might: of a name
        nobody knows where it leads without asking."""
        for server in self.ice_servers:
            host = parse_ice_server(server)["urls"].partition(":")[2].partition("?")[0]
            if not is_private(host_name(host)):
                raise ConfigError(f"GATEWAY_ICE_SERVERS: {host!r} leaves the site (GATEWAY_EDGE)")
        for name in ("auth_jwks_url", "auth_http_url"):
            url = getattr(self, name)
            if url is not None and not is_private(host_name(netloc_of(url))):
                raise ConfigError(
                    f"GATEWAY_{name.upper()} leaves the site (GATEWAY_EDGE): name it by a private "
                    "address"
                )
        try:
            broker = urlsplit(self.mqtt_url or "mqtt://localhost").hostname or ""
        except ValueError:
            broker = ""
        if not is_private(broker):  # the address may hold a password
            raise ConfigError(
                "GATEWAY_MQTT_URL leaves the site (GATEWAY_EDGE): name it by a private address"
            )

    def of_rules(self) -> "GatewayConfig | None":
        """These settings with the Redis of rules; None where there is none."""
        if self.rules_redis_url is None:
            return self if self.redis_url is not None else None
        return replace(self, redis_url=self.rules_redis_url)
