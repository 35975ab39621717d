"""Everything a training run depends on, in one frozen place."""

from dataclasses import dataclass, field
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent / ".cache" / "training"
TRAIN_SEEDS = 1 << 40
HELD_OUT_SEEDS = 1 << 20
EVALUATION_SEEDS = 1 << 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Mix:
    """One shape of batch: `batch` clips of `frames` frames with `text_size` branch tokens each."""

    frames: int
    batch: int
    text_size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """`steps` optimiser steps over batches drawn from `mixes` in turn.

    `trunk_only`: frames without questions, through the decoder's early layers alone.
    """

    name: str
    steps: int
    mixes: tuple[Mix, ...]
    learning_rate: float
    final_learning_rate: float
    warmup_steps: int = 50
    trunk_only: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A run from nothing. Sizes in clips, frames and tokens, rates per optimiser step."""

    seed: int = 1
    picture_steps: int = 300
    picture_batch: int = 192
    picture_learning_rate: float = 2e-3
    stages: tuple[Stage, ...] = field(
        default=(
            Stage(
                name="motion",
                steps=300,
                mixes=(
                    Mix(frames=7, batch=40, text_size=0),
                    Mix(frames=9, batch=40, text_size=0),
                ),
                learning_rate=8e-4,
                final_learning_rate=5e-4,
                trunk_only=True,
            ),
            Stage(
                name="short",
                steps=600,
                mixes=(
                    Mix(frames=8, batch=24, text_size=176),
                    Mix(frames=6, batch=24, text_size=160),
                    Mix(frames=11, batch=20, text_size=192),
                ),
                learning_rate=8e-4,
                final_learning_rate=6e-4,
            ),
            Stage(
                name="long",
                steps=650,
                mixes=(
                    Mix(frames=16, batch=12, text_size=256),
                    Mix(frames=30, batch=8, text_size=288),
                    Mix(frames=6, batch=24, text_size=160),
                    Mix(frames=44, batch=6, text_size=320),
                ),
                learning_rate=6e-4,
                final_learning_rate=2e-5,
                warmup_steps=1,
            ),
            Stage(
                name="polish",
                steps=300,
                mixes=(
                    Mix(frames=12, batch=16, text_size=240),
                    Mix(frames=30, batch=8, text_size=304),
                    Mix(frames=20, batch=12, text_size=288),
                    Mix(frames=42, batch=6, text_size=336),
                ),
                learning_rate=4e-4,
                final_learning_rate=1e-5,
                warmup_steps=15,
            ),
        )
    )
    weight_decay: float = 0.02
    clip_norm: float = 1.0
    omega_scale: float = 0.3
    head_scale: float = 0.5
    trunk_weight: float = 0.5
    trunk_layer: int = 2
    ema_decay: float = 0.995
    held_out: tuple[Mix, ...] = (
        Mix(frames=8, batch=32, text_size=200),
        Mix(frames=30, batch=12, text_size=300),
        Mix(frames=44, batch=6, text_size=300),
    )
    check_every: int = 250
    save_every: int = 100

    @property
    def total_steps(self) -> int:
        return self.picture_steps + sum(stage.steps for stage in self.stages)

    def stage_at(self, step: int) -> tuple[Stage | None, int]:
        """The stage of an optimiser step, None for pictures, and the step's number within it."""
        if step < self.picture_steps:
            return None, step
        step -= self.picture_steps
        for stage in self.stages:
            if step < stage.steps:
                return stage, step
            step -= stage.steps
        raise ValueError("past the end of the recipe")
