"""Settings of services that keep something in Redis."""

from dataclasses import dataclass
from pathlib import Path

from services.common.config import ServiceConfig, setting

REDIS_URLS = (
    "redis://[user:password@]host:port/database, rediss:// for TLS, or unix:///path/of/socket. "
    "Several, comma separated: a primary and its replicas, of which the one that takes writes is "
    "used."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisConfig(ServiceConfig):
    """Settings of how a service reaches its Redis."""

    redis_url: str | None = setting(None, f"Where Redis is: {REDIS_URLS}", secret=True)
    redis_sentinel: str | None = setting(
        None,
        "Name of the primary, as Sentinels know it, which …_REDIS_URL then names; user, "
        "password and database there are those of the primary.",
    )
    redis_password_file: Path | None = setting(
        None, "File with the password of Redis, where the URL holds none."
    )
    redis_timeout_s: float = setting(
        1.0, "Longest one answer of Redis may take, connecting included.", minimum=0.05, maximum=60
    )
    redis_connections: int = setting(
        32, "Connections to Redis at most; further calls wait.", minimum=1, maximum=10_000
    )

    @property
    def redis_urls(self) -> list[str]:
        """The URLs, where Redis is used."""
        return [url.strip() for url in (self.redis_url or "").split(",")]
