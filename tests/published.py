"""What transformers computes of a stream that the engine has seen: the oracle of published models.

Everything that was ever shown goes through one forward of transformers' own class, with explicit
positions and a mask in which i sees j iff j was resident when i was computed.
"""

import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from services.inference_worker.model.layout import VISION
from services.inference_worker.model.published.model import PublishedModel
from services.inference_worker.model.registry import load_model
from tests.checkpoints import FAMILY, write_checkpoint

SMALL_PIXELS = 12_544  # 112 × 112


@dataclass(repr=False)
class Pair:
    """One checkpoint, read by us and by transformers."""

    ours: PublishedModel
    theirs: Any
    folder: Path

    @classmethod
    def of(cls, family: str, folder: Path, **overrides: Any) -> "Pair":
        write_checkpoint(family, folder, shards=2, **overrides)
        return cls.read(folder)

    @classmethod
    def read(cls, folder: Path) -> "Pair":
        """A folder that is there already, in float32."""
        import transformers

        ours = load_model(str(folder), torch.float32, torch.device("cpu"), SMALL_PIXELS)
        assert isinstance(ours, PublishedModel)
        theirs = transformers.AutoModelForImageTextToText.from_pretrained(
            folder, dtype=torch.float32
        ).eval()
        return cls(ours, theirs, folder)


@dataclass
class Transcript:
    """A session as one sequence. `steps`: when each token was computed; -1 for the sink."""

    pair: Pair
    tokens: list[int] = field(default_factory=list)
    positions: list[tuple[int, int, int]] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    tubelets: list[np.ndarray] = field(default_factory=list)
    cursor: int = 0

    def __post_init__(self) -> None:
        self.write(self.pair.ours.sink_tokens(), -1)

    def asked(self, words: list[int]) -> "Transcript":
        """A copy in which `words` are asked now."""
        other = copy.copy(self)
        other.tokens, other.positions = list(self.tokens), list(self.positions)
        other.steps = list(self.steps)
        other.write(words, len(self.tubelets))
        return other

    def write(self, words: list[int], step: int) -> None:
        self.tokens += words
        self.positions += [(self.cursor + n,) * 3 for n in range(len(words))]
        self.steps += [step] * len(words)
        self.cursor += len(words)

    def show(self, frames: list[np.ndarray], seconds: float) -> None:
        """One tubelet."""
        model = self.pair.ours
        height, width, _ = frames[0].shape
        segment = model.segment(model.layout(width, height), self.cursor, seconds)
        self.tokens += segment.tokens
        self.positions += segment.positions
        self.steps += [len(self.tubelets)] * len(segment.tokens)
        self.cursor += segment.advance
        self.tubelets.append(np.stack(frames))

    def mask(self, window: int) -> torch.Tensor:
        """[tokens, tokens]: i sees j. The last `window` tubelets are resident at any step."""
        steps = torch.tensor(self.steps)
        order = torch.arange(len(steps))
        query, key = steps[:, None], steps[None, :]
        newest = torch.minimum(query, torch.tensor(len(self.tubelets) - 1))
        words = (key < 0) | (key >= len(self.tubelets))
        resident = words | (key > newest - window)
        return resident & (order[None, :] <= order[:, None])

    def inputs(self) -> dict[str, Any]:
        """As transformers' classes take them, but for positions and mask."""
        model, config = self.pair.ours, self.pair.ours.config
        ids = torch.tensor([self.tokens])
        vision = ids == VISION
        token = config.image_token_id if model.tubelet == 1 else config.video_token_id
        inputs: dict[str, Any] = {"input_ids": ids.masked_fill(vision, token)}
        if not self.tubelets:
            return inputs
        kind = FAMILY[config.model_type]
        mean, std = np.array(kind.mean), np.array(kind.std)
        pixels = [(tubelet / 255 - mean) / std for tubelet in self.tubelets]
        if model.tubelet == 1:
            stacked = np.stack(pixels)[:, 0].transpose(0, 3, 1, 2)
            videos = stacked[None] if config.model_type == "smolvlm" else stacked
            return inputs | {"pixel_values": torch.tensor(videos).float()}
        rows, grids = [], []
        for tubelet in pixels:
            patches, grid = _patches(tubelet, config.vision_config.patch_size)
            rows.append(torch.tensor(patches).float())
            grids.append(grid)
        return inputs | {
            "pixel_values_videos": torch.cat(rows),
            "video_grid_thw": torch.tensor(grids),
            "mm_token_type_ids": vision.int() * 2,
        }

    def logits(self, window: int = 10**6) -> torch.Tensor:
        """[tokens, vocabulary] of transformers, with our positions and the mask of residency."""
        positions = torch.tensor(self.positions).T[:, None]
        if self.pair.ours.tubelet == 1:
            positions = positions[0]
        visible = self.mask(window)[None, None]
        mask = torch.zeros(visible.shape).masked_fill(~visible, torch.finfo(torch.float32).min)
        with torch.inference_mode():
            out = self.pair.theirs(**self.inputs(), position_ids=positions, attention_mask=mask)
        return out.logits[0]


def _patches(tubelet: np.ndarray, patch: int) -> tuple[np.ndarray, list[int]]:
    """[2, height, width, 3] as rows of patches, four of a merged cell after each other."""
    _, height, width, _ = tubelet.shape
    rows, columns = height // patch, width // patch
    split = tubelet.transpose(0, 3, 1, 2)
    split = split.reshape(2, 3, rows // 2, 2, patch, columns // 2, 2, patch)
    flat = split.transpose(2, 5, 3, 6, 1, 0, 4, 7).reshape(rows * columns, -1)
    return flat, [1, rows, columns]
