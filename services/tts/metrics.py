"""Metrics of the TTS service."""

from prometheus_client import Counter, Gauge, Histogram

FIRST_AUDIO_SECONDS = Histogram(
    "sightline_tts_first_audio_seconds",
    "First complete sentence in hand to its first audio sent.",
    buckets=(0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5),
)
SENTENCE_SECONDS = Histogram(
    "sightline_tts_sentence_seconds",
    "Time the engine took for one sentence.",
    buckets=(0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5),
)
SENTENCES = Counter(
    "sightline_tts_sentences_total",
    "Sentences by what became of them.",
    ["outcome"],  # spoken, cancelled (its caller left), failed (the engine did)
)
AUDIO_SECONDS = Counter("sightline_tts_audio_seconds_total", "Length of the audio synthesised.")
STREAMS = Gauge("sightline_tts_streams", "Texts being spoken now.")
STREAMS_ENDED = Counter(
    "sightline_tts_streams_ended_total",
    "Texts by how they ended.",
    ["reason"],  # done, cancelled, refused, full, idle, failed, draining
)
