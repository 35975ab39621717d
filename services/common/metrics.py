"""Metrics every service has. Labels come from bounded sets, never from ids."""

from prometheus_client import Counter, Gauge, Histogram

RPC_SECONDS = Histogram(
    "sightline_rpc_seconds",
    "Duration of gRPC calls, streams included.",
    ["method", "code"],
    buckets=(0.001, 0.005, 0.02, 0.1, 0.5, 2, 10, 60, 600),
)

REFUSED = Counter(
    "sightline_refused_total",
    "Connections, calls and requests that were refused or cut off at a port, before their work.",
    ["port", "reason"],
)

TASKS = Gauge("sightline_tasks", "asyncio's tasks of a service: what is under way, and waits.")

# What is promised lies exactly on an edge, so that the share within it is counted, not guessed:
# 0.2 s for a frame, 2 s for a first token, and the four rows of the article.
LATENCY_BUCKETS = (
    0.002,
    0.005,
    0.01,
    0.02,
    0.03,
    0.045,
    0.06,
    0.09,
    0.12,
    0.16,
    0.2,
    0.21,
    0.3,
    0.38,
    0.5,
    1,
    2,
    5,
)
