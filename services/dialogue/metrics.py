"""Metrics of the dialogue service."""

from prometheus_client import Counter, Gauge, Histogram

from services.common.metrics import LATENCY_BUCKETS

REDIS_UP = Gauge("sightline_dialogue_redis_up", "1 while Redis answers, 0 while it is away.")
REDIS_SECONDS = Histogram(
    "sightline_dialogue_redis_seconds",
    "Time one operation on Redis took, failed ones included.",
    ["operation"],
    buckets=LATENCY_BUCKETS,
)
REDIS_ERRORS = Counter(
    "sightline_dialogue_redis_errors_total",
    "Operations that Redis did not do, by reason.",
    ["operation", "reason"],
)
ROUNDS_APPENDED = Counter(
    "sightline_dialogue_rounds_appended_total",
    "Rounds offered, by what became of them.",
    ["result"],  # stored, duplicate, replaced: by a later answer of its turn
)
ROUNDS_TRIMMED = Counter(
    "sightline_dialogue_rounds_trimmed_total",
    "Oldest rounds that gave way to newer ones.",
)
MOMENTS = Counter(
    "sightline_memory_moments_total",
    "Moments of sessions offered to be remembered, by what became of them.",
    ["outcome"],  # stored, pictures_over: without them, over: the hour's bytes, duplicate, gone
)
MOMENT_BYTES = Counter("sightline_memory_bytes_total", "Bytes of moments that were stored.")
