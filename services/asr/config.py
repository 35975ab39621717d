"""Configuration of the ASR service."""

from dataclasses import dataclass
from typing import ClassVar

from services.common.config import ServiceConfig, setting


@dataclass(frozen=True, slots=True, kw_only=True)
class AsrConfig(ServiceConfig):
    """Settings of ASR: which model hears, and how much at once."""

    prefix: ClassVar[str] = "ASR_"

    grpc_port: int = setting(50055, "gRPC port; 0 picks a free one.", minimum=0, maximum=65535)
    model: str = setting(
        "base",
        "Whisper model: a name (tiny, base, small, medium, large-v3, turbo), a repository of the "
        "hub in CTranslate2's format, or a folder.",
    )
    language: str = setting(
        "en", "Language that is spoken, of two letters; auto: the model finds out, every time."
    )
    threads: int = setting(
        0,
        "Threads of the model; 0: as many as there are processors, at most 4.",
        minimum=0,
        maximum=1024,
    )
    compute: str = setting(
        "int8",
        "Numbers that the model computes with.",
        choices=("int8", "int8_float16", "float16", "float32"),
    )
    device: str = setting("cpu", "Where the model runs.", choices=("cpu", "cuda"))
    max_streams: int = setting(16, "Recordings heard at once; more are refused.", minimum=1)
    max_audio_s: float = setting(
        600.0, "Longest recording of one call, in seconds.", minimum=1, maximum=7200
    )
    partial_s: float = setting(
        0.6,
        "Seconds of new audio until partial words are looked for; at least thrice what that takes.",
        minimum=0.1,
        maximum=10,
    )
    idle_s: float = setting(
        60.0, "A call whose audio pauses for this long is ended.", minimum=0.1, maximum=3600
    )
