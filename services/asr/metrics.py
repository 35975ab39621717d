"""Metrics of the ASR service."""

from prometheus_client import Counter, Gauge, Histogram

FINAL_SECONDS = Histogram(
    "sightline_asr_final_seconds",
    "End of a recording in hand to its final words sent.",
    buckets=(0.005, 0.01, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 2, 5, 10),
)
PASS_SECONDS = Histogram(
    "sightline_asr_pass_seconds",
    "Time the model took for one look at a recording.",
    ["kind"],  # partial, pause, final, background
    buckets=(0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 2, 5, 10, 30),
)
AUDIO_SECONDS = Counter("sightline_asr_audio_seconds_total", "Length of the recordings heard.")
STREAMS = Gauge("sightline_asr_streams", "Recordings being heard now.")
STREAMS_ENDED = Counter(
    "sightline_asr_streams_ended_total",
    "Recordings by how they ended.",
    ["reason"],  # done, cancelled, refused, full, idle, failed, draining
)
