"""Metrics of the worker. Names are shared with the dashboard, the alerts and the autoscaler."""

from prometheus_client import Counter, Gauge, Histogram, Info

from services.common.dialogue_client import RoundMetrics
from services.common.metrics import LATENCY_BUCKETS

WORKER = Info(
    "sightline_worker",
    "What runs here: model, device, dtype, kv_dtype and quantization.",
)
FRAME_LATENCY = Histogram(
    "sightline_worker_frame_latency_seconds",
    "A frame's arrival at the engine to the session's state updated.",
    buckets=LATENCY_BUCKETS,
)
FRAME_QUEUE = Histogram(
    "sightline_frame_queue_seconds",
    "How long a frame waited for the engine.",
    buckets=LATENCY_BUCKETS,
)
FRAMES = Counter("sightline_worker_frames_total", "Frames by what became of them.", ["outcome"])
UNFAMILIAR_FRAMES = Counter(
    "sightline_worker_unfamiliar_frames_total",
    "Understood frames from when the newest pictures were unlike those of the model's training.",
)
WITHHELD = Counter(
    "sightline_worker_withheld_total",
    "Answers that were not given, as their pictures were unlike those of the model's training.",
)
PICTURES = Counter(
    "sightline_worker_pictures_total",
    "Pictures (tubelets) by what gave their visual tokens: encoded, or reused as hardly changed.",
    ["outcome"],
)
SEGMENTS_READ = Counter(
    "sightline_kv_segments_total",
    "Historical segments a frame's step needed: reused from the cache or recomputed.",
    ["kind"],
)
SEGMENTS_WITHDRAWN = Counter(
    "sightline_kv_segments_withdrawn_total",
    "Evicted segments taken from answers that outlived the window by another window.",
)
FIRST_TOKEN = Histogram(
    "sightline_worker_first_token_seconds",
    "Question at the engine to first token.",
    buckets=LATENCY_BUCKETS,
)
ANSWERS = Counter("sightline_worker_answers_total", "Answers by how they ended.", ["finish"])
QUESTIONS = Gauge(
    "sightline_worker_questions",
    "Questions and checks of watches: running, or waiting for room or for their session.",
    ["state"],
)
RELAY_REQUESTS = Counter(
    "sightline_worker_relay_requests_total",
    "Requests to the server of a relayed model by what became of them: answered, away, busy, "
    "silent, cut, or refused.",
    ["outcome"],
)
WATCH_CHECKS = Counter("sightline_watch_checks_total", "Checks of standing questions.", ["answer"])
STEP_SECONDS = Histogram(
    "sightline_step_seconds", "Duration of one engine step.", buckets=LATENCY_BUCKETS
)
STEP_TOKENS = Histogram(
    "sightline_step_tokens",
    "New tokens in one engine step.",
    buckets=(1, 4, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096),
)
STEP_SEGMENTS = Histogram(
    "sightline_step_segments", "Segments in one engine step.", buckets=(0, 1, 2, 4, 8, 16, 32)
)
DEVICE_STEPS = Counter(
    "sightline_worker_device_steps_total",
    "Steps on a GPU with block tables: replayed from a graph, captured into one, or eager.",
    ["how"],
)
# The three gauges of the model server protocol of Kubernetes' Gateway API inference extension
# (proposal 003), by which endpoint pickers choose: TotalQueuedRequests, TotalRunningRequests and
# KVCacheUtilization, named after vLLM's. The last is a share, 0 to 1, as theirs is.
REQUESTS_WAITING = Gauge(
    "sightline_num_requests_waiting", "Questions and checks that wait for a branch of their own."
)
REQUESTS_RUNNING = Gauge(
    "sightline_num_requests_running", "Questions and checks that are being answered."
)
KV_CACHE_USAGE = Gauge(
    "sightline_kv_cache_usage_perc",
    "Share of the KV pages that is promised; 1: a further session would be refused.",
)
CAPACITY = Gauge(
    "sightline_worker_session_capacity",
    "Sessions that fit: those that are open and as many of the default window as still would.",
)
SESSIONS = Gauge("sightline_worker_sessions", "Sessions that are open, parked ones included.")
PARKED_SESSIONS = Gauge(
    "sightline_worker_parked_sessions", "Sessions whose KV pages are in host memory."
)
PARKED_BYTES = Gauge("sightline_worker_parked_bytes", "Host memory of parked sessions.")
PARKS = Counter(
    "sightline_worker_parks_total",
    "Sessions parked: because they were idle, or to make room for another.",
    ["reason"],
)
RETURNS = Counter(
    "sightline_worker_returns_total",
    "Parked sessions that were wanted: returned, refused for want of room, or failed.",
    ["outcome"],
)
KV_PAGES_USED = Gauge("sightline_kv_pages_used", "KV pages in use.")
KV_PAGES_PROMISED = Gauge(
    "sightline_kv_pages_promised", "KV pages that sessions on the device may come to hold."
)
KV_PAGES_TOTAL = Gauge("sightline_kv_pages_total", "KV pages of the pool.")
KV_BYTES_PER_SESSION = Gauge("sightline_kv_bytes_per_session", "KV bytes promised to a session.")
ENGINE_BUSY = Gauge(
    "sightline_engine_busy_ratio", "Share of time the device thread is within steps."
)
DEVICE_UTILISATION = Gauge(
    "sightline_device_utilisation_ratio",
    "Mean of 15 s. nvml: share of time a kernel ran on the GPU; process: of the cores it may use.",
    ["source"],
)
DEVICE_MEMORY_USED = Gauge(
    "sightline_device_memory_used_bytes",
    "nvml: of the GPU, by anybody; process: of it.",
    ["source"],
)
DEVICE_MEMORY_TOTAL = Gauge(
    "sightline_device_memory_total_bytes",
    "nvml: of the GPU; process: what it may take.",
    ["source"],
)
MEMORY_SHARE = Gauge(
    "sightline_worker_memory_share_ratio",
    "Share that is used of the KV pages, of the device's memory beside them, of the host's.",
    ["of"],
)
MEMORY_SHORT = Gauge(
    "sightline_worker_memory_short",
    "1 from above 90 % of a memory until below 80 %: sessions remember less meanwhile.",
    ["of"],
)
MEMORY_MEASURES = Counter(
    "sightline_worker_memory_measures_total",
    "Sessions that forgot their oldest half, whose window shrank, or grew again.",
    ["measure"],
)
REBASES = Counter("sightline_rebases_total", "Sessions moved back before the position horizon.")
ANSWERS_PAUSED = Counter(
    "sightline_worker_answers_paused_total",
    "Times that an answer gave its KV pages to an older one or to frames, to go on later.",
)
STEP_FAILURES = Counter(
    "sightline_step_failures_total", "Steps that raised, by what failed.", ["part"]
)
SPEECHES = Counter("sightline_worker_speeches_total", "Answers spoken, by outcome.", ["outcome"])
ROUNDS = RoundMetrics(
    Counter(
        "sightline_worker_rounds_total",
        "Finished rounds by what became of them: written, duplicate, or dropped and why.",
        ["outcome"],
    ),
    Gauge("sightline_worker_rounds_waiting", "Rounds not yet written to dialogue."),
    Counter(
        "sightline_worker_contexts_total", "Histories asked of dialogue, by outcome.", ["outcome"]
    ),
)

ANOMALIES = Counter(
    "sightline_worker_anomalies_total", "Unhealthy answers of the model by symptom.", ["symptom"]
)
DEGRADED_SESSIONS = Gauge(
    "sightline_worker_degraded_sessions",
    "Sessions whose answers degenerated: the fallback model answers, where there is one.",
)
PROBES = Counter(
    "sightline_worker_probes_total",
    "Probes of a model that degenerated, by what its answer was like.",
    ["answer"],
)
FALLBACK_READY = Gauge(
    "sightline_worker_fallback_ready", "1 while the fallback model can answer, 0 while it cannot."
)
FALLBACK_ANSWERS = Counter(
    "sightline_worker_fallback_answers_total", "Answers of the fallback model.", ["outcome"]
)


def forget_device(source: str) -> None:
    """Figures that are no longer read are not shown as if they were."""
    for gauge in (DEVICE_UTILISATION, DEVICE_MEMORY_USED, DEVICE_MEMORY_TOTAL):
        gauge.remove(source)
