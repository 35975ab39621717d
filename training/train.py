"""The training loop: schedule, averaging, checkpoints, held-out checks, curve."""

import copy
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import distributed, nn

from services.inference_worker.assembly import fast_dtype
from services.inference_worker.model.builtin import BuiltinModel
from services.inference_worker.model.lite0 import PhotoEncoder
from training import curve
from training.batches import Batch, Pictures, make_batch, new_model, world_of
from training.distillation import Lessons
from training.layout import NO_TARGET
from training.learning import average, cosine, write_checkpoint
from training.objectives import Losses, Objectives, encode, final_states, score
from training.pools import Pools
from training.preference import Pairs, judge, mine
from training.recipe import HELD_OUT_SEEDS, Recipe, Stage
from training.schedule import Made, Share, stream


class Trainer:
    """Trainer of one run of a recipe. `folder` keeps its checkpoint and curve, `output` gets the
    model."""

    def __init__(
        self,
        recipe: Recipe,
        folder: Path,
        output: Path,
        device: torch.device,
        share: Share | None = None,
    ) -> None:
        torch.manual_seed(recipe.seed)
        self.recipe = recipe
        self.folder = folder
        self.output = output
        self.device = device
        self.share = share or Share()
        self.pools = Pools(folder / "pools", recipe)
        self.seen: dict[int, torch.Tensor] = {}  # tokens of pooled frames, by their clips' length
        self.step = 0
        self.dtype = fast_dtype(device)
        self.world = world_of(recipe)
        model = new_model(recipe, output.name)
        self.objectives = Objectives(model, self.world, recipe.trunk_layer).to(device)
        if recipe.teacher is not None:
            self.objectives.lessons = Lessons(recipe.teacher, model).to(device)
        self.reference: BuiltinModel | None = None  # what went into a stage of preference
        self.objectives.model.encoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.averaged = copy.deepcopy(self.objectives).requires_grad_(False)
        self.optimiser = torch.optim.AdamW(self._groups(), lr=0.0, betas=(0.9, 0.98))
        self.curve: list[dict[str, float]] = []

    def _groups(self) -> list[dict[str, Any]]:
        """Matrices decay; norms, biases, embeddings and Ω do not; heads and Ω learn slower."""
        groups: dict[tuple[str, bool], list[nn.Parameter]] = {}
        for name, parameter in self.objectives.named_parameters():
            role = "omega" if name.endswith("omega") else "other"
            role = "head" if "_head." in name else role
            decays = parameter.ndim >= 2 and "embedding" not in name and role != "omega"
            decays = decays and not name.endswith("places")
            groups.setdefault((role, decays), []).append(parameter)
        decay = self.recipe.weight_decay
        return [
            {"params": parameters, "role": role, "weight_decay": decay if decays else 0.0}
            for (role, decays), parameters in groups.items()
        ]

    # Steps

    def rate(self, step: int) -> float:
        """Learning rate at a step: warm-up, then cosine, anew in every stage."""
        recipe = self.recipe
        stage, step = recipe.stage_at(step)
        if stage is None:
            top = recipe.picture_learning_rate
            return cosine(step, recipe.picture_steps, 50, top, top / 10)
        top, floor = stage.learning_rate, stage.final_learning_rate
        return cosine(step, stage.steps, stage.warmup_steps, top, floor)

    def learn(self, batch: Made) -> Losses:
        """Take one optimiser step. The encoder learns from pictures alone and is finished after
        them."""
        rate = self.rate(self.step)
        stage, number = self.recipe.stage_at(self.step)
        scales = {"omega": self.recipe.omega_scale, "head": self.recipe.head_scale, "other": 1.0}
        for group in self.optimiser.param_groups:
            group["lr"] = rate * scales[group["role"]]
        self.objectives.train()
        if stage is None and self.pools.pictures is not None:
            self._freeze_trunk()
        if stage is not None:
            self._finish_encoder(from_average=stage is self.recipe.stages[0] and number == 0)
        if stage is not None and stage.learns == "preference" and number == 0:
            self._begin_preference()
        batch = to_device(self._with_vision(batch), self.device)
        with self._arithmetic():
            losses = self._losses(batch, stage)
        self.optimiser.zero_grad(set_to_none=True)
        losses.total.backward()
        self._share_gradients()
        nn.utils.clip_grad_norm_(self.objectives.parameters(), self.recipe.clip_norm)
        self.optimiser.step()
        self.step += 1
        keep = min(self.recipe.ema_decay, self.step / (self.step + 20.0))
        average(self.averaged, self.objectives, keep)
        return losses

    def _with_vision(self, batch: Made) -> Made:
        """A batch of pooled clips with the finished encoder's tokens of them."""
        if not isinstance(batch, Batch) or batch.shown is None:
            return batch
        frames = batch.labels.shape[1]
        if frames not in self.seen:
            encoder = copy.deepcopy(self.objectives.model.encoder).cpu()
            assert isinstance(encoder, PhotoEncoder)
            self.seen[frames] = self.pools.tokens(frames, encoder)
        return replace(batch, vision=self.seen[frames][batch.shown].flatten(1, 2))

    def _losses(self, batch: Made, stage: Stage | None) -> Losses:
        objectives, recipe = self.objectives, self.recipe
        if isinstance(batch, Pictures):
            return objectives.pictures(batch)
        assert stage is not None
        if isinstance(batch, Pairs) or stage.learns == "preference":
            return self._preference(batch, stage)
        if stage.learns == "trunk":
            return objectives.trunk(batch)
        lessons = objectives.lessons
        return objectives.answers(
            batch,
            recipe.trunk_weight,
            recipe.consistency_weight,
            stage.references,
            lessons.losses if isinstance(lessons, Lessons) else None,
        )

    def _begin_preference(self) -> None:
        """The average of what was learnt so far is both where the stage begins and what it is
        compared with."""
        self.objectives.load_state_dict(self.averaged.state_dict())
        self.reference = copy.deepcopy(self.averaged.model).eval()

    def _preference(self, batch: Batch | Pairs, stage: Stage) -> Losses:
        """Losses from people's pairs, or from the mistakes that the reference makes in a batch.
        Where it makes none, only what is true is learnt."""
        assert self.reference is not None
        policy = self.objectives.model
        vision = encode(policy, batch.pixels)
        pairs: Pairs | None
        if isinstance(batch, Batch):
            seed = (self.recipe.seed, 6, self.step, self.share.index)
            pairs = mine(self.reference, batch, vision, np.random.default_rng(seed))
        else:
            pairs = batch
        if pairs is None:
            assert isinstance(batch, Batch)
            asked = batch.targets != NO_TARGET
            scores = policy.decoder.logits(final_states(policy, batch, vision)[asked]).float()
            said = nn.functional.cross_entropy(scores, batch.targets[asked])
            return Losses(stage.anchor * said, {"pairs": 0.0})
        judged = judge(policy, self.reference, pairs, vision, stage.beta, stage.anchor)
        parts = {"preference": float(judged.loss.detach()), "pairs": float(pairs.count)}
        return Losses(judged.loss, parts | {"margin": judged.margin, "surer": judged.sure})

    def _arithmetic(self) -> torch.autocast:
        """bfloat16 where the device computes in it: elsewhere it is far slower than float32."""
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)

    def _freeze_trunk(self) -> None:
        """What has looked at the pools already must stay as it was."""
        encoder = self.objectives.model.encoder
        assert isinstance(encoder, PhotoEncoder)
        encoder.trunk.requires_grad_(False).eval()

    def _finish_encoder(self, from_average: bool) -> None:
        encoder = self.objectives.model.encoder
        if from_average:
            encoder.load_state_dict(self.averaged.model.encoder.state_dict())
        encoder.requires_grad_(False).eval()

    def _share_gradients(self) -> None:
        """Average gradients over the processes of this run."""
        if self.share.total == 1:
            return
        gradients = [p.grad for p in self.objectives.parameters() if p.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients]) / self.share.total
        distributed.all_reduce(flat)
        for gradient, part in zip(
            gradients, torch.split(flat, [gradient.numel() for gradient in gradients]), strict=True
        ):
            gradient.copy_(part.view_as(gradient))

    def run(self, console: Console, workers: int = 1, steps: int | None = None) -> None:
        """Train to the end of the recipe, or `steps` further steps."""
        end = self.recipe.total_steps
        end = end if steps is None else min(end, self.step + steps)
        if self.share.index == 0:
            self.pools.fill(console, workers)
        if self.share.total > 1:
            distributed.barrier()  # what is drawn from must be there
        columns = (
            TextColumn("[bold]{task.fields[stage]}"),
            BarColumn(),
            TextColumn("{task.completed}/{task.total}  {task.fields[news]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        smooth: dict[str, float] = {}
        with Progress(*columns, console=console, refresh_per_second=1) as progress:
            bar = progress.add_task("", total=end, completed=self.step, stage="", news="")
            for batch in stream(self.recipe, self.step, self.share, self.pools.folder, workers):
                losses = self.learn(batch)
                parts = {"loss": float(losses.total.detach()), **losses.parts}
                for name, value in parts.items():
                    smooth[name] = 0.95 * smooth.get(name, value) + 0.05 * value
                stage = self.recipe.stage_at(self.step - 1)[0]
                name = stage.name if stage else "pictures"
                loss = smooth.get("answer", smooth["loss"])
                progress.update(bar, completed=self.step, stage=name, news=f"loss {loss:.3f}")
                if self.share.index == 0:
                    self._report(smooth, end, console)
                if self.step >= end:
                    break

    def _report(self, smooth: dict[str, float], end: int, console: Console) -> None:
        """Log, save, check and publish when it is time to."""
        if self.step % 50 == 0:
            self._log(smooth)
        if self.step % self.recipe.save_every == 0 or self.step >= end:
            self.save()
        if self.step % self.recipe.check_every == 0 or self.step >= end:
            stage = self.recipe.stage_at(self.step - 1)[0]
            if stage is None or stage.learns == "trunk":
                console.print(f"step {self.step}: {_summary(smooth)}")
                return
            accuracies = self.check()
            self._log({**smooth, **{f"held-out/{name}": v for name, v in accuracies.items()}})
            console.print(f"step {self.step}: {_summary(accuracies)}")
            curve.draw(self.curve, self.folder)
            publish(self.averaged.model, self.output)

    # Measures

    @torch.no_grad()
    def check(self) -> dict[str, float]:
        """Accuracy per kind of the averaged model on held-out clips, and of its trunk head."""
        self.averaged.eval()
        right: dict[str, list[bool]] = {}
        trunk: dict[str, float] = {}
        for index, mix in enumerate(self.recipe.held_out):
            seed, weights = HELD_OUT_SEEDS + 1000 * index, self.recipe.kinds
            model = self.averaged.model
            batch = make_batch(model, self.world, mix, seed, weights, "held_out")
            with self._arithmetic():
                by_kind, losses = score(self.averaged, to_device(batch, self.device))
            for kind, answers in by_kind.items():
                right.setdefault(kind, []).extend(answers)
            everything = [answer for answers in by_kind.values() for answer in answers]
            trunk[f"{mix.frames}-frames"] = sum(everything) / len(everything)
            trunk |= {f"trunk/{name}": value for name, value in losses.parts.items()}
        everything = [answer for answers in right.values() for answer in answers]
        result = {"all": sum(everything) / len(everything)}
        result |= {
            kind: sum(right[kind]) / len(right[kind]) for kind in self.world.kinds if kind in right
        }
        return result | trunk

    def _log(self, row: dict[str, float]) -> None:
        self.curve.append({"step": self.step, **row})
        curve.write(self.curve, self.folder)

    # Checkpoints

    def save(self) -> None:
        """Write everything a resumed run needs."""
        self.folder.mkdir(parents=True, exist_ok=True)
        state = {
            "step": self.step,
            "recipe": json.dumps(asdict(self.recipe)),
            "objectives": self.objectives.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "reference": None if self.reference is None else self.reference.state_dict(),
            "curve": self.curve,
        }
        write_checkpoint(self.folder / "checkpoint.pt", state)

    def resume(self) -> bool:
        """Continue from this folder's checkpoint if there is one of the same recipe."""
        path = self.folder / "checkpoint.pt"
        if not path.exists():
            return False
        state = torch.load(path, map_location=self.device, weights_only=True)
        if state["recipe"] != json.dumps(asdict(self.recipe)):
            return False
        self.objectives.load_state_dict(state["objectives"])
        self.averaged.load_state_dict(state["averaged"])
        self.optimiser.load_state_dict(state["optimiser"])
        if state["reference"] is not None:
            self.reference = copy.deepcopy(self.averaged.model).eval()
            self.reference.load_state_dict(state["reference"])
        self.step, self.curve = state["step"], state["curve"]
        return True

    def compile(self) -> None:
        """Fuse each decoder layer; shapes stay dynamic because batches differ in length."""
        for layer in self.objectives.model.decoder.layers:
            layer.compile(dynamic=True)


def to_device(batch: Any, device: torch.device) -> Any:
    """A batch with its tensors on `device`."""
    moved: dict[str, Any] = {
        name: getattr(batch, name).to(device)
        for name in type(batch).__dataclass_fields__
        if isinstance(getattr(batch, name), torch.Tensor)
    }
    if maps := getattr(batch, "maps", ()):
        moved["maps"] = tuple(each.to(device) for each in maps)
    return replace(batch, **moved)


def publish(model: BuiltinModel, output: Path) -> None:
    """Write the model's folder."""
    replace_folder(output, model.save)


def replace_folder(output: Path, write: Callable[[Path], None]) -> None:
    """Fill `output` with what `write` writes into a folder, file by file, each replaced whole:
    someone may be reading it. Weights that were there before and are not written again go."""
    partial = output.parent / f".{output.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    write(partial)
    output.mkdir(parents=True, exist_ok=True)
    written = {path.name for path in partial.iterdir()}
    for path in partial.iterdir():
        path.chmod(0o644)
        os.replace(path, output / path.name)
    partial.rmdir()
    for path in output.glob("*.safetensors*"):
        if path.name not in written:
            path.unlink()


def _summary(values: dict[str, float]) -> str:
    return "  ".join(f"{name} {value:.2f}" for name, value in values.items())
