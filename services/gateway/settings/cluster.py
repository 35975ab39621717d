"""Settings of gateways that share a Redis."""

from dataclasses import dataclass

from services.common.config import ConfigError, setting
from services.common.redis_config import REDIS_URLS, RedisConfig

MIN_SECRET_CHARACTERS = 32  # of what gateways sign with


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterSettings(RedisConfig):
    """The Redis that gateways share, and how they know and reach each other."""

    redis_url: str | None = setting(
        None,
        "Redis, in which several gateways note whose session is whose; empty: there is one "
        f"gateway, and its sessions end with it. It is {REDIS_URLS}",
        secret=True,
    )
    rules_redis_url: str | None = setting(
        None,
        "Redis, in which standing rules and their events are kept; empty: that of "
        "GATEWAY_REDIS_URL; without one there are no rules.",
        secret=True,
    )
    cluster_secret: str | None = setting(
        None,
        "What gateways that share a Redis know each other by and webhooks are signed with, the "
        "same for all, of at least 32 characters.",
        secret=True,
    )
    peer_host: str | None = setting(
        None,
        "Name or address at which other gateways reach this one; empty: that of GATEWAY_HOST, or "
        "this machine's name.",
    )
    peer_port: int = setting(
        50052,
        "gRPC port for other gateways, where GATEWAY_REDIS_URL is set; 0 picks a free one.",
        minimum=0,
        maximum=65535,
    )
    lease_s: float = setting(
        3.0,
        "Seconds after its last sign of life in which a gateway's sessions are still its own.",
        minimum=1,
        maximum=60,
    )

    def check_cluster(self) -> None:
        """Raise ConfigError where a Redis is shared without a secret."""
        for name in ("redis_url", "rules_redis_url"):
            if (
                getattr(self, name) is not None
                and len(self.cluster_secret or "") < MIN_SECRET_CHARACTERS
            ):
                raise ConfigError(
                    "GATEWAY_CLUSTER_SECRET must have at least "
                    f"{MIN_SECRET_CHARACTERS} characters: GATEWAY_{name.upper()} is set"
                )
