"""Settings of what the model is shown, and of when pictures are bad."""

from dataclasses import dataclass

from services.common.config import setting


@dataclass(frozen=True, kw_only=True)
class PictureSettings:
    """How many frames a model is shown, and from when a source is dark, covered or frozen."""

    fps: float = setting(
        0.0, "Frames per second shown to the model; 0: what it prefers.", minimum=0, maximum=120
    )
    adaptive_rate: bool = setting(
        True,
        "Whether a live session is shown fewer frames for as long as its worker falls behind.",
    )
    fill: str = setting(
        "hold",
        "What stands for frames that a model is not sent, lost or left out for the load. hold: the "
        "one before, for as long as they would have taken, at no cost; with models that know time "
        "by the order of frames alone. none: nothing, so that later ones seem to follow at once.",
        choices=("hold", "none"),
    )
    dark_level: float = setting(
        0.1,
        "Share of white that a picture must not exceed, but for 2 % of it, to be dark.",
        minimum=0,
        maximum=1,
    )
    dark_s: float = setting(
        3.0, "Seconds until dark pictures are told; 0: never.", minimum=0, maximum=3600
    )
    covered_level: float = setting(
        0.015,
        "Share of white that the brightness of a picture may vary (its standard deviation) for a "
        "covered lens.",
        minimum=0,
        maximum=1,
    )
    covered_s: float = setting(
        3.0, "Seconds until a covered lens is told; 0: never.", minimum=0, maximum=3600
    )
    frozen_s: float = setting(
        20.0,
        "Seconds until a picture that stays the same is told: more than from one keyframe to the "
        "next, between which codecs leave nothing of a camera's noise. 0: never.",
        minimum=0,
        maximum=86400,
    )
    repeating_s: float = setting(
        20.0,
        "Seconds until pictures that come again in the same order are told; 0: never.",
        minimum=0,
        maximum=86400,
    )
    ring_frames: int = setting(
        16, "Sampled frames that wait for a worker, per session.", minimum=1, maximum=1024
    )
