"""Batch of a step: runs of new tokens, and what comes of them."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from services.inference_worker.kv.look import Look
from services.inference_worker.kv.trunk import Segment
from services.inference_worker.model.family import Encoded
from services.inference_worker.model.layout import FrameLayout
from services.inference_worker.model.sampling import GREEDY, Sampling


@dataclass(slots=True, eq=False)
class Tubelet:
    """One tubelet: its frames' pixels and, once a step has run, what the encoder made of them.

    Segments may share one. `encoded`: tokens [vision_tokens, hidden], and deep ones likewise.
    `ready`: on CUDA, the event after which they may be read on another stream than the encoder's.
    `look`: filled in once a step has run.
    """

    layout: FrameLayout
    pixels: list[bytes]
    encoded: Encoded | None = None
    ready: Any = None
    look: Look = field(default_factory=Look)


@dataclass(slots=True, eq=False)
class Run:
    """Consecutive new tokens: words, and `VISION` in the places of `tubelet`'s tokens.

    `group`: the session, whose runs read its pages together. `seen`: whole segments visible to
    every token. `own_pages`, `own_start`: the run's own sequence, of which its tokens are numbers
    `own_start` … ; each sees that sequence up to itself, or all of it when `causal` is False.
    `row`: every page of the session's, if they lie in a row, none of them with another's numbers.
    `want_output`: sample after the last token; `said`, `answered`: what penalties look at, see
    `choice`; `allowed`: of the next token, see `Constraint`; None: any.
    """

    group: int
    seen: list[Segment]
    own_pages: list[int]
    own_start: int
    slots: list[int]
    positions: list[tuple[int, int, int]]
    tokens: list[int]
    row: range | None = None
    tubelet: Tubelet | None = None
    causal: bool = True
    want_output: bool = False
    sampling: Sampling = GREEDY
    said: list[int] = field(default_factory=list)
    answered: list[int] = field(default_factory=list)
    generator: torch.Generator | None = None
    allowed: NDArray[np.int32] | None = None


@dataclass(frozen=True, slots=True)
class RunOutput:
    """The next token, its log probability, and the probability of yes against no."""

    token: int
    score: float
    finite: bool
    log_probability: float = 0.0


def rounded(count: int) -> int:
    """The next size that a batch is padded to: 1, 2, 3, 4, 6, 8, 12, 16, then multiples of 16.

    CPU kernels are generated for every new shape, which costs a millisecond and half a megabyte
    each time; ragged steps would meet new shapes for ever. A GPU records a graph for each.
    """
    if count > 16:
        return -(-count // 16) * 16
    return next(size for size in (1, 2, 3, 4, 6, 8, 12, 16) if size >= count)
