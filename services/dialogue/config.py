"""Configuration of the dialogue service."""

from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import ClassVar

from services.common.config import ServiceConfig, setting


@dataclass(frozen=True, slots=True, kw_only=True)
class DialogueConfig(ServiceConfig):
    """Settings of dialogue: where Redis is, how much of a conversation is kept for how long."""

    prefix: ClassVar[str] = "DIALOGUE_"

    grpc_port: int = setting(50053, "gRPC port; 0 picks a free one.", minimum=0, maximum=65535)
    redis_url: str = setting(
        MISSING,
        "Where Redis is: redis://[user:password@]host:port/database, rediss:// for TLS, or "
        "unix:///path/of/socket. Several, comma separated: a primary and its replicas, of which "
        "the one that takes writes is used.",
        secret=True,
    )
    redis_sentinel: str | None = setting(
        None,
        "Name of the primary, as Sentinels know it, which DIALOGUE_REDIS_URL then names; user, "
        "password and database there are those of the primary.",
    )
    redis_replicas: int = setting(
        0,
        "Replicas that must have a round before it counts as kept: with 1 a failover loses none.",
        minimum=0,
        maximum=10,
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
    redis_check_s: float = setting(
        2.0, "Seconds between looks at whether Redis is there.", minimum=0.1, maximum=600
    )
    max_rounds: int = setting(
        100, "Rounds kept per conversation; the oldest go first.", minimum=1, maximum=1000
    )
    ttl_s: int = setting(
        7 * 24 * 3600,
        "A conversation is forgotten this long after its last round or opening.",
        minimum=1,
        maximum=10 * 365 * 24 * 3600,
    )
    max_answer_bytes: int = setting(
        32 * 1024, "Longest answer that is kept, UTF-8.", minimum=256, maximum=1024 * 1024
    )

    @property
    def redis_urls(self) -> list[str]:
        """The URLs, of which there is at least one."""
        return [url.strip() for url in self.redis_url.split(",")]
