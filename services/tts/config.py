"""Configuration of the TTS service."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from services.common.config import ServiceConfig, setting


@dataclass(frozen=True, slots=True, kw_only=True)
class TtsConfig(ServiceConfig):
    """Settings of TTS: which engine speaks, and how much at once."""

    prefix: ClassVar[str] = "TTS_"

    grpc_port: int = setting(50054, "gRPC port; 0 picks a free one.", minimum=0, maximum=65535)
    engine: str = setting(
        "auto",
        "What speaks; auto: a Piper voice where one is named or installed, else espeak-ng.",
        choices=("auto", "espeak-ng", "piper"),
    )
    voice: str = setting("en-us", "espeak-ng's default voice, an id that Voices lists.")
    piper_voice: Path | None = setting(
        None,
        "A Piper voice (.onnx, its .onnx.json beside it) to speak with; empty: one that is "
        "installed. Needs services/tts/requirements-piper.txt.",
    )
    max_streams: int = setting(32, "Texts spoken at once; further ones are refused.", minimum=1)
    max_text_bytes: int = setting(64 * 1024, "Longest text of one call, UTF-8.", minimum=1)
    max_sentence_chars: int = setting(
        240,
        "Longer sentences are spoken in parts, cut between clauses or words.",
        minimum=40,
        maximum=2000,
    )
    chunk_ms: int = setting(60, "Length of one chunk of audio.", minimum=20, maximum=1000)
    idle_s: float = setting(
        60.0, "A call whose text pauses for this long is ended.", minimum=0.1, maximum=3600
    )
