"""Tunes a model on users' own video: the built-in one whole, published ones by LoRA.

A clip is trained on as a session is served: sink, segments in a sliding window, and each question
a branch off the trunk at its moment, with the rounds before it in its prompt. One forward holds a
trunk and all of its branches.
"""

import contextlib
import csv
import hashlib
import json
import shutil
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from services.inference_worker.assembly import fast_dtype, find_device
from services.inference_worker.config import WorkerConfig
from services.inference_worker.model.attention import DenseAttention
from services.inference_worker.model.builtin import BuiltinModel
from services.inference_worker.model.decoder import Deep
from services.inference_worker.model.errors import ModelError
from services.inference_worker.model.family import Encoded, StreamingModel, StreamSpec
from services.inference_worker.model.layout import VISION
from services.inference_worker.model.registry import load_model, model_folder
from training.batches import with_words
from training.layout import NO_TARGET, arrange, visibility
from training.learning import cosine, write_checkpoint
from training.pieces import Piece, cut
from training.recordings import Recording, frame_size, read_footage, read_recordings
from training.train import replace_folder

ENCODED_TOGETHER = 8  # tubelets
WARMUP_STEPS = 10
CLIP_NORM = 1.0
SAVE_EVERY = 25  # steps
LEARNING_RATES = {"built-in": 1e-4, "published": 2e-4}


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """Settings that a run depends on. `model`: `builtin`, a folder, or a model of the hub. `batch`:
    clips of an optimiser step. `fps`: None is what the model streams at. `learning_rate`: None is
    the kind's own. `rank` and `tower` (adapt the vision tower too) are for published models."""

    model: str
    data: Path
    output: Path
    folder: Path
    steps: int = 200
    learning_rate: float | None = None
    rank: int = 16
    tower: bool = False
    batch: int = 4
    fps: float | None = None
    frame_pixels: int = 200_704
    seed: int = 1
    device: str = "auto"

    def identity(self) -> str:
        """Identity of a run, the same wherever a checkpoint may be continued."""
        kept = asdict(self)
        for name in ("output", "folder", "device"):
            del kept[name]
        kept["data"] = hashlib.sha256(self.data.read_bytes()).hexdigest()
        return json.dumps(kept)


class Tuner:
    """Tuner of one run. `folder` keeps its frames, checkpoint and curve; `output` gets the model.

    Raises DataError for the data, ModelError for the model, ConfigError for the device.
    """

    def __init__(self, tuning: Tuning, console: Console) -> None:
        self.tuning = tuning
        self.console = console
        self.device = find_device(tuning.device, f"--device {tuning.device}")
        self.dtype = fast_dtype(self.device)
        self.step = 0
        self.curve: list[dict[str, float]] = []
        tuning.folder.mkdir(parents=True, exist_ok=True)
        recordings = read_recordings(tuning.data)
        self._identity = tuning.identity()
        self.model: Any = self._load()
        if isinstance(self.model, BuiltinModel):
            turns = [turn for recording in recordings for turn in recording.turns]
            texts = [text for turn in turns for text in (turn.question, turn.answer)]
            self.model, new = with_words(self.model, texts, tuning.seed)
            if new:
                console.print(f"words the model learns: {', '.join(new)}", markup=False)
        self._source = model_folder(tuning.model)
        if tuning.output.exists() and tuning.output.samefile(self._source):
            raise ModelError(f"{tuning.output} holds the model itself: choose another --output")
        self.adapters = self._unfreeze()
        self.pieces = self._read(recordings)
        self.trained = {n: p for n, p in self.model.named_parameters() if p.requires_grad}
        self.optimiser = torch.optim.AdamW(self.trained.values(), lr=0.0, weight_decay=0.0)

    @property
    def spec(self) -> StreamSpec:
        spec: StreamSpec = self.model.spec
        return spec

    def _load(self) -> StreamingModel:
        def load(dtype: torch.dtype) -> StreamingModel:
            return load_model(self.tuning.model, dtype, self.device, self.tuning.frame_pixels)

        model = load(self.dtype)
        if isinstance(model, BuiltinModel) and self.dtype != torch.float32:
            model = load(torch.float32)  # all of it trains: small steps must not be rounded away
        return model

    def _read(self, recordings: list[Recording]) -> list[Piece]:
        config = WorkerConfig.from_env()
        size = frame_size(self.spec)
        fps = self.tuning.fps or self.spec.preferred_fps
        with Progress(console=self.console, transient=True) as progress:
            bar = progress.add_task("reading clips", total=len(recordings))
            footage = read_footage(
                recordings, fps, size, self.tuning.folder / "frames", lambda: progress.advance(bar)
            )
        pieces = zip(recordings, footage, strict=True)
        return [
            piece for recording, its in pieces for piece in cut(self.model, config, recording, its)
        ]

    def _unfreeze(self) -> Any:
        torch.manual_seed(self.tuning.seed)
        if isinstance(self.model, BuiltinModel):
            self.model.requires_grad_(True)  # batch norm keeps its statistics: it stays in eval
            return None
        from training.adapters import Adapters

        adapters = Adapters(self.model, self._source, self.tuning.rank, self.tuning.tower)
        for layer in self.model.decoder.layers:
            # Only what enters a layer is kept for the backward pass.
            layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)
        return adapters

    # Steps

    def rate(self, step: int) -> float:
        kind = "built-in" if self.adapters is None else "published"
        top = self.tuning.learning_rate or LEARNING_RATES[kind]
        warmup = min(WARMUP_STEPS, self.tuning.steps // 4)
        return cosine(step, self.tuning.steps, warmup, top, top / 10)

    def draw(self, step: int) -> list[tuple[Piece, int]]:
        """The pieces of a step and how far along each one's session is, by seed and step alone."""
        drawn = []
        for number in range(step * self.tuning.batch, (step + 1) * self.tuning.batch):
            epoch, index = divmod(number, len(self.pieces))
            order = np.random.default_rng((self.tuning.seed, 1, epoch)).permutation(
                len(self.pieces)
            )
            piece = self.pieces[int(order[index])]
            drawn.append(
                (piece, self._age(piece, np.random.default_rng((self.tuning.seed, 2, number))))
            )
        return drawn

    def _age(self, piece: Piece, rng: np.random.Generator) -> int:
        """Offset to add to a piece's positions: nothing half the time, and else what puts it
        anywhere before the model's horizon, since sessions that run for long are served there."""
        sink = len(self.model.sink_tokens())
        own = int(piece.spans[0].positions.min()) - sink
        room = max(1, self.spec.position_horizon - sink - (piece.spans[-1].after - own - sink))
        if own < room and rng.random() < 0.5:
            return 0
        return int(rng.integers(room)) - own

    def learn(self) -> dict[str, float]:
        """Take one optimiser step, a piece at a time. Returns the mean loss of an answer's token
        and the share of answers that are right token for token."""
        drawn = self.draw(self.step)
        rate = self.rate(self.step)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.zero_grad(set_to_none=True)
        num_targets = sum(piece.num_targets for piece, _ in drawn)
        loss, right = 0.0, list[bool]()
        for piece, age in drawn:
            lost, mine = self.answer(piece, age)
            (lost / num_targets).backward()
            loss += float(lost.detach()) / num_targets
            right += mine
        nn.utils.clip_grad_norm_(self.trained.values(), CLIP_NORM)
        self.optimiser.step()
        self.step += 1
        return {"loss": loss, "right": sum(right) / len(right), "learning_rate": rate}

    def answer(self, piece: Piece, age: int) -> tuple[Tensor, list[bool]]:
        """The summed cross-entropy of a piece's answers, stop tokens included, and which of them
        are right token for token."""
        logits = self.scores(piece, age)
        wanted = torch.tensor([t for branch in piece.branches for t in branch.answer])
        hits = logits.detach().argmax(-1).cpu() == wanted
        of_branch = hits.split([len(branch.answer) for branch in piece.branches])
        lost = functional.cross_entropy(logits, wanted.to(self.device), reduction="sum")
        return lost, [bool(part.all()) for part in of_branch]

    def scores(self, piece: Piece, age: int) -> Tensor:
        """Logits [answer tokens, vocabulary] where each token of the piece's answers is said,
        branch after branch; its session's positions are moved by `age`."""
        model, device = self.model, self.device
        text_size = sum(branch.size for branch in piece.branches)
        spans = [replace(s, positions=s.positions + age, after=s.after + age) for s in piece.spans]
        row = arrange(model.sink_tokens(), spans, list(piece.branches), text_size)
        tokens = torch.from_numpy(row.tokens).to(device)
        places = (tokens == VISION).nonzero()[:, 0]
        said = (torch.from_numpy(row.targets) != NO_TARGET).nonzero()[:, 0].to(device)
        mask = visibility(
            torch.from_numpy(row.frames)[None].to(device),
            torch.from_numpy(row.branches)[None].to(device),
            self.spec.window_segments,
            causal=self.spec.causal_segments,
        )
        with self._arithmetic():
            seen = self._encode(piece.frames(self.spec.tubelet))
            hidden = model.decoder.embedding(tokens.clamp(min=0))
            hidden = hidden.index_copy(0, places, seen.tokens.to(hidden.dtype).flatten(0, 1))
            layers = [layer.to(hidden.dtype).flatten(0, 1) for layer in seen.deep]
            final: Tensor = model.decoder(
                hidden,
                torch.from_numpy(row.positions).to(device),
                RowAttention(mask),
                Deep(places, layers) if layers else None,
            )
            logits: Tensor = model.decoder.logits(final.index_select(0, said))
        return logits.float()

    def _arithmetic(self) -> contextlib.AbstractContextManager[Any]:
        if self.adapters is None and self.dtype == torch.bfloat16:
            return torch.autocast(self.device.type, torch.bfloat16)
        return contextlib.nullcontext()  # weights have the type already

    def _encode(self, frames: NDArray[np.uint8]) -> Encoded:
        """A few tubelets at a time: a tower's activations are large."""
        trains = self.adapters is None or self.tuning.tower
        parts: list[Encoded] = []
        for start in range(0, len(frames), ENCODED_TOGETHER):
            some = torch.from_numpy(frames[start : start + ENCODED_TOGETHER]).to(self.device)
            with contextlib.nullcontext() if trains else torch.no_grad():
                parts.append(checkpoint(self.model.encode, some, use_reentrant=False))
        deep = zip(*(part.deep for part in parts), strict=True)
        return Encoded(
            torch.cat([part.tokens for part in parts]), tuple(torch.cat(layer) for layer in deep)
        )

    def run(self, until: int | None = None) -> None:
        """Learn to the end, or to step `until`."""
        end = self.tuning.steps if until is None else min(until, self.tuning.steps)
        columns = (
            TextColumn("[bold]tuning"),
            BarColumn(),
            TextColumn("{task.completed}/{task.total}  {task.fields[news]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self.console, refresh_per_second=1) as progress:
            bar = progress.add_task("", total=self.tuning.steps, completed=self.step, news="")
            while self.step < end:
                self.curve.append({"step": self.step + 1, **self.learn()})
                newest = self.curve[-1]
                news = f"loss {newest['loss']:.3f}, {newest['right']:.0%} of answers right"
                progress.update(bar, completed=self.step, news=news)
                if self.step % SAVE_EVERY == 0 or self.step == end:
                    self.save()

    # Files

    def publish(self) -> None:
        """Write the tuned model's folder."""
        write = self.model.save if self.adapters is None else self.adapters.write
        replace_folder(self.tuning.output, write)

    def save(self) -> None:
        """Write everything a resumed run needs, and the curve; an interrupted write leaves the old
        checkpoint."""
        state = {
            "identity": self._identity,
            "step": self.step,
            "trained": {name: parameter.detach() for name, parameter in self.trained.items()},
            "optimiser": self.optimiser.state_dict(),
            "curve": self.curve,
        }
        path = self.tuning.folder / "checkpoint.pt"
        write_checkpoint(path, state)
        with (self.tuning.folder / "curve.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(self.curve[0]))
            writer.writeheader()
            writer.writerows(self.curve)

    @torch.no_grad()
    def resume(self) -> bool:
        """Continue from this folder's checkpoint if there is one of the same run."""
        path = self.tuning.folder / "checkpoint.pt"
        if not path.exists():
            return False
        state = torch.load(path, map_location=self.device, weights_only=True)
        if state["identity"] != self._identity:
            return False
        for name, parameter in self.trained.items():
            parameter.copy_(state["trained"][name])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.curve = state["step"], state["curve"]
        return True

    def draw_curve(self) -> None:
        """Plot the curve beside its CSV."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(figsize=(8, 4), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        steps = [row["step"] for row in self.curve]
        axes.plot(steps, [row["loss"] for row in self.curve], color="tab:blue")
        axes.set_yscale("log")
        axes.set_xlabel("step")
        axes.set_ylabel("loss of an answer's token")
        share = axes.twinx()
        share.plot(steps, [row["right"] for row in self.curve], color="tab:orange", linewidth=0.8)
        share.set_ylim(0, 1.02)
        share.set_ylabel("answers right, token for token")
        figure.savefig(self.tuning.folder / "curve.png", dpi=110)


class RowAttention(DenseAttention):
    """Attention in one row of tokens, without the dimension of a batch that DeepStack excludes."""

    def __call__(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        return super().__call__(layer, queries[None], keys[None], values[None])[0]


def tune(tuning: Tuning, console: Console, resume: bool) -> None:
    """Run to the end and write the model. Raises what `Tuner` does."""
    tuner = Tuner(tuning, console)
    if resume and tuner.resume():
        console.print(f"resuming at step {tuner.step}")
    tuner.run()
    tuner.publish()
    tuner.draw_curve()
    shutil.rmtree(tuning.folder / "frames")
    console.print(f"written to {tuning.output}; curve in {tuning.folder}", markup=False)
