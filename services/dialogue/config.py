"""Configuration of the dialogue service."""

from dataclasses import MISSING, dataclass
from typing import ClassVar

from services.common.config import setting
from services.common.redis_config import REDIS_URLS, RedisConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class DialogueConfig(RedisConfig):
    """Settings of dialogue: where Redis is, how much of a conversation is kept for how long."""

    prefix: ClassVar[str] = "DIALOGUE_"

    grpc_port: int = setting(50053, "gRPC port; 0 picks a free one.", minimum=0, maximum=65535)
    redis_url: str = setting(
        MISSING,
        f"Where Redis is: {REDIS_URLS}",
        secret=True,
    )
    redis_replicas: int = setting(
        0,
        "Replicas that must have a round before it counts as kept: with 1 a failover loses none.",
        minimum=0,
        maximum=10,
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
    memory_s: int = setting(
        24 * 3600,
        "Seconds of a session's video that are remembered, and how long that is kept after the "
        "last of it.",
        minimum=60,
        maximum=90 * 24 * 3600,
    )
    memory_bytes_per_hour: int = setting(
        4 * 1024 * 1024,
        "Bytes that an hour of one session's memory may take; pictures are left out first.",
        minimum=4096,
        maximum=1024**3,
    )
