"""Objectives of training: answers, dense truth about every cell, and what "it" stands for.

The auxiliary heads read the encoder's tokens (what a single picture shows), the trunk's hidden
states after an early decoder layer (what only time shows: motion and change) and those of words
that refer to an earlier round's, early so that the layers above can read the result. They are not
part of the shipped model.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from services.inference_worker.model.attention import DenseAttention
from services.inference_worker.model.builtin import BuiltinModel
from services.inference_worker.model.rotary import angles
from training.batches import Batch, Pictures
from training.layout import NO_TARGET, visibility
from training.withheld import Withheld
from training.worlds import IGNORE, World

_AS_BEFORE = 6.0  # weight of tokens like the tower's before this one, whose decoder it takes over
_FEWEST_KNOWN = 4  # pictures of which that can be said
REFERENCE_LAYER = 1  # what is meant is known there, and looked for in the frames above


@dataclass(frozen=True, slots=True)
class Losses:
    """Scalars of one step, and what they were read from."""

    total: Tensor
    parts: dict[str, float]


class CellHead(nn.Module):
    """Reads those of the world's channels that are `read`, and the first of truth's measures,
    named `measures`, of every cell."""

    def __init__(
        self,
        hidden: int,
        channels: Mapping[str, int],
        read: tuple[str, ...],
        measures: tuple[str, ...],
    ) -> None:
        super().__init__()
        self.columns = {name: list(channels).index(name) for name in read}
        self.measures = measures
        self.sizes = [channels[name] for name in read]
        self.norm = nn.LayerNorm(hidden)
        self.linear = nn.Linear(hidden, sum(self.sizes) + 2 * len(measures))

    def guess(self, hidden: Tensor) -> Sequence[Tensor]:
        """Scores of each channel that is read, then each measure, [..., its size]."""
        with torch.autocast(hidden.device.type, enabled=False):
            scores: Tensor = self.linear(self.norm(hidden.float()))
        sizes = [*self.sizes, *(2 for _ in self.measures)]
        parts: Sequence[Tensor] = torch.split(scores, sizes, -1)
        return parts

    def forward(self, hidden: Tensor, labels: Tensor, measures: Tensor) -> Losses:
        """hidden: [cells, hidden]; labels: [cells, all channels]; measures: [cells, all]."""
        pieces = self.guess(hidden)
        total = pieces[0].new_zeros(())
        parts: dict[str, float] = {}
        for (name, column), logits in zip(self.columns.items(), pieces, strict=False):
            wanted = labels[:, column]
            known = wanted != IGNORE
            if not bool(known.any()):
                continue
            logits, wanted = logits[known], wanted[known]
            total = total + (4.0 if name == "present" else 1.0) * _loss(name, logits, wanted)
            guessed = logits.argmax(-1)
            if name in ("present", "change"):  # nothing is the rule there: count the exceptions
                some = (wanted != 0) | (guessed != 0)
                guessed, wanted = guessed[some], wanted[some]
            if len(wanted):
                parts[name] = float((guessed == wanted).float().mean())
        for index, (name, guess) in enumerate(
            zip(self.measures, pieces[len(self.columns) :], strict=True)
        ):
            wanted = measures[:, 2 * index : 2 * index + 2]
            known = ~wanted.isnan().any(-1)
            if bool(known.any()):
                error = guess[known] - wanted[known]
                total = total + 4.0 * functional.smooth_l1_loss(
                    guess[known], wanted[known], beta=0.1
                )
                parts[name] = float(error.detach().abs().mean())
        return Losses(total, parts)


class Pointing(DenseAttention):
    """Attention that keeps how surely, in one layer, words look at the names of what they stand
    for. refers: [batch, length, 3] as in `layout.Row`."""

    def __init__(self, mask: Tensor, refers: Tensor) -> None:
        super().__init__(mask)
        self.rows, self.places = (refers[..., 0] != NO_TARGET).nonzero(as_tuple=True)
        self.names = refers[self.rows, self.places, 0]
        self.log_share = torch.zeros(0)  # [words]

    def __call__(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        if layer == REFERENCE_LAYER:
            self.log_share = self._log_share(queries, keys)
        return super().__call__(layer, queries, keys, values)

    def _log_share(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Log of a name's share of the attention, averaged over heads: one that points is enough,
        and that which points best learns most."""
        found: list[Tensor] = []
        for row in range(len(queries)):
            mine = self.rows == row
            asking = queries[row, self.places[mine]].float()  # [words, heads, dim]
            scores = torch.einsum("whd,lhd->whl", asking, keys[row].float())
            seen = self.mask[row, 0, self.places[mine]][:, None]
            shares = (scores * asking.shape[-1] ** -0.5).masked_fill(~seen, -torch.inf)
            shares = shares.log_softmax(-1)
            names = self.names[mine][:, None, None].expand(-1, shares.shape[1], 1)
            of_heads = shares.gather(-1, names)[..., 0]
            found.append(of_heads.logsumexp(-1) - math.log(of_heads.shape[-1]))
        return torch.cat(found)


class ReferenceHead(nn.Module):
    """Reads the noun and the colour of what a word stands for: words of the vocabulary."""

    def __init__(self, hidden: int, words: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(hidden)
        self.linear = nn.Linear(hidden, 2 * words)

    def forward(self, hidden: Tensor, refers: Tensor) -> Losses:
        """hidden: [words, hidden]; refers: [words, 3] as in `layout.Row`."""
        with torch.autocast(hidden.device.type, enabled=False):
            guesses = self.linear(self.norm(hidden.float())).chunk(2, -1)
        total = hidden.new_zeros((), dtype=torch.float32)
        parts: dict[str, float] = {}
        for name, guess, wanted in zip(
            ("noun", "colour"), guesses, refers.unbind(-1)[1:], strict=True
        ):
            known = wanted != NO_TARGET
            if bool(known.any()):
                total = total + functional.cross_entropy(guess[known], wanted[known])
                right = guess[known].argmax(-1) == wanted[known]
                parts[name] = float(right.float().mean())
        return Losses(total, parts)


def _named(where: str, losses: Losses) -> dict[str, float]:
    return {f"{where}/{name}": value for name, value in losses.parts.items()}


def _loss(name: str, logits: Tensor, wanted: Tensor) -> Tensor:
    """Cross-entropy; for changes, rare as they are, cells with and without one weigh the same."""
    losses = functional.cross_entropy(logits, wanted, reduction="none")
    some = wanted != 0
    if name != "change" or not bool(some.any()):
        return losses.mean()
    return losses[some].mean() + losses[~some].mean()


def _unexplained(tokens: Tensor, wanted: Tensor) -> Tensor:
    """Share of what varies from picture to picture in wanted tokens [pictures, cells, hidden] that
    these tokens miss."""
    varies = (wanted - wanted.mean(0)).square().sum()
    return (tokens - wanted).square().sum() / varies


def _divergence(one: Tensor, other: Tensor) -> Tensor:
    """Jensen-Shannon, [n] from scores [n, classes]."""
    ones, others = one.log_softmax(-1), other.log_softmax(-1)
    middle = torch.logaddexp(ones, others) - math.log(2)
    parts = ones.exp() * (ones - middle) + others.exp() * (others - middle)
    return 0.5 * parts.sum(-1)


class Rows(Protocol):
    """Tokens in the served layout, [clips, length, …] as in `layout.Row`."""

    @property
    def tokens(self) -> Tensor: ...
    @property
    def positions(self) -> Tensor: ...
    @property
    def frames(self) -> Tensor: ...
    @property
    def branches(self) -> Tensor: ...


@torch.no_grad()
def encode(model: BuiltinModel, pixels: Tensor) -> Tensor:
    """The finished encoder's tokens of clips [n, t, …], [n, t × cells, hidden]."""
    vision = model.encode(pixels.flatten(0, 1)[:, None]).tokens
    return vision.reshape(len(pixels), -1, vision.shape[-1])


def _seen(model: BuiltinModel, batch: Batch) -> Tensor:
    """A batch's tokens of pictures, made now where they are not there yet."""
    return encode(model, batch.pixels) if batch.vision is None else batch.vision


def final_states(
    model: BuiltinModel,
    rows: Rows,
    vision: Tensor,
    attention: Callable[[Tensor], DenseAttention] = DenseAttention,
) -> Tensor:
    """The decoder's last states [clips, length, hidden]. attention: made of who sees whom."""
    start = len(model.sink_tokens())
    end = start + vision.shape[1]
    words = model.decoder.embedding(rows.tokens)
    hidden = torch.cat((words[:, :start], vision.to(words.dtype), words[:, end:]), dim=1)
    mask = visibility(rows.frames, rows.branches, model.spec.window_segments)
    final: Tensor = model.decoder(hidden, rows.positions, attention(mask))
    return final


class Objectives(nn.Module):
    """The model with its auxiliary heads."""

    def __init__(self, model: BuiltinModel, world: World, trunk_layer: int) -> None:
        super().__init__()
        hidden = model.config.decoder.hidden_size
        self.model = model
        self.trunk_layer = trunk_layer
        self.lessons: nn.Module | None = None  # a teacher's, where there is one
        channels, seen = world.channels, world.picture_channels
        self.withheld = Withheld(world.withheld, model.tokenizer)
        self.picture_head = CellHead(hidden, channels, seen, ("offset",))
        self.trunk_head = CellHead(hidden, channels, tuple(channels), ("offset", "way"))
        self.reference_head = ReferenceHead(hidden, model.config.decoder.vocab_size)

    def pictures(self, batch: Pictures) -> Losses:
        """The encoder alone, on single frames."""
        if batch.maps:
            tokens = self.model.encoder.tokens([each.float() for each in batch.maps])
        else:
            tokens = self.model.encode(batch.pixels[:, None]).tokens
        losses: Losses = self.picture_head(
            tokens.flatten(0, 1), batch.labels.flatten(0, 1), batch.measures.flatten(0, 1)
        )
        known = None if batch.wanted is None else ~batch.wanted.isnan().any(-1).any(-1)
        if batch.wanted is None or known is None or known.sum() < _FEWEST_KNOWN:
            return losses
        apart = _unexplained(tokens[known].float(), batch.wanted[known].float())
        parts = losses.parts | {"unexplained": float(apart.detach())}
        return Losses(losses.total + _AS_BEFORE * apart, parts)

    def trunk(self, batch: Batch) -> Losses:
        """The decoder's early layers on frames alone, without any text."""
        model = self.model
        vision = _seen(model, batch)
        start = len(model.sink_tokens())
        end = start + vision.shape[1]
        words = model.decoder.embedding(batch.tokens[:, :start])
        hidden = torch.cat((words, vision.to(words.dtype)), dim=1)
        frames, branches = batch.frames[:, :end], batch.branches[:, :end]
        attend = DenseAttention(visibility(frames, branches, model.spec.window_segments))
        cos, sin = angles(model.decoder.omega, batch.positions[:, :end])
        for index in range(self.trunk_layer + 1):
            hidden = model.decoder.layers[index](index, hidden, cos, sin, attend)
        labels, measures = batch.labels.flatten(0, 2), batch.measures.flatten(0, 2)
        losses = self.trunk_head(hidden[:, start:].flatten(0, 1), labels, measures)
        return Losses(losses.total, _named("trunk", losses))

    def run(
        self, batch: Batch, attention: Callable[[Tensor], DenseAttention] = DenseAttention
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Early trunk states [b, t × cells, h]; of all tokens [b, length, h], those where
        references are read, and the final ones."""
        model = self.model
        vision = _seen(model, batch)
        start = len(model.sink_tokens())
        early: dict[int, Tensor] = {}
        read = {self.trunk_layer, REFERENCE_LAYER}
        hooks = [
            model.decoder.layers[index].register_forward_hook(
                lambda _m, _i, output, index=index: early.update({index: output})
            )
            for index in read
        ]
        try:
            final = final_states(model, batch, vision, attention)
        finally:
            for hook in hooks:
                hook.remove()
        trunk = early[self.trunk_layer][:, start : start + vision.shape[1]]
        return trunk, early[REFERENCE_LAYER], final

    def answers(
        self,
        batch: Batch,
        trunk_weight: float,
        consistency_weight: float,
        reference_weight: float = 0.0,
        teach: Callable[[Batch, Tensor, Tensor], Losses] | None = None,
    ) -> Losses:
        """Every question's answer, and the trunk's cells beside it. teach: what a teacher makes of
        the batch, the final states and the answers' logits."""
        pointing: list[Pointing] = []

        def attend(mask: Tensor) -> DenseAttention:
            if not reference_weight:
                return DenseAttention(mask)
            pointing.append(Pointing(mask, batch.refers))
            return pointing[0]

        early, referring, final = self.run(batch, attend)
        asked = batch.targets != NO_TARGET
        logits = self.model.decoder.logits(final[asked]).float()
        weighed = self.withheld.of_answers(logits, batch.tokens, batch.targets, batch.branches)
        said = functional.cross_entropy(weighed, batch.targets[asked])
        labels, measures = batch.labels.flatten(0, 2), batch.measures.flatten(0, 2)
        trunk = self.trunk_head(early.flatten(0, 1), labels, measures)
        total = said + trunk_weight * trunk.total
        parts = {"answer": float(said.detach()), **_named("trunk", trunk)}
        if consistency_weight:
            found = self.jumps(early, batch)
            jumps = found.sum() / max(len(found), 1)
            total = total + consistency_weight * jumps
            parts["jumps"] = float(jumps.detach())
        for pointer in pointing:
            meant = self.references(batch, referring, pointer)
            total, parts = total + reference_weight * meant.total, parts | meant.parts
        if teach is not None:
            taught = teach(batch, final, logits)
            total, parts = total + taught.total, parts | taught.parts
        return Losses(total, parts)

    def references(self, batch: Batch, hidden: Tensor, pointing: Pointing) -> Losses:
        """Whether "it" finds the name of what it stands for, and brings it along."""
        if not len(pointing.rows):
            return Losses(hidden.new_zeros((), dtype=torch.float32), {})
        chosen = pointing.rows, pointing.places
        read = self.reference_head(hidden[chosen], batch.refers[chosen])
        found = -pointing.log_share.mean()
        parts = {"it/found": float((-found.detach()).exp()), **_named("it", read)}
        return Losses(found + read.total, parts)

    def jumps(self, early: Tensor, batch: Batch) -> Tensor:
        """The temporal consistency loss (the article, section 2.2.3): how much what is understood
        of a cell changes from one frame to the next, [pairs of cells].

        A Jensen-Shannon divergence per channel of the trunk's head. Pairs count where the world
        says that nothing happened: both frames calm, and the same true of the cell in both.
        """
        count = batch.labels.shape[1]
        cells = early.unflatten(1, (count, -1))
        same = (batch.labels[:, 1:] == batch.labels[:, :-1]).all(-1)
        same &= (batch.calm[:, 1:] & batch.calm[:, :-1])[..., None]
        before = self.trunk_head.guess(cells[:, :-1][same])
        after = self.trunk_head.guess(cells[:, 1:][same])
        number = len(self.trunk_head.columns)
        return sum(
            (_divergence(*pair) for pair in zip(before[:number], after[:number], strict=True)),
            start=early.new_zeros(int(same.sum()), dtype=torch.float32),
        )


@torch.no_grad()
def score(objectives: Objectives, batch: Batch) -> tuple[dict[str, list[bool]], Losses]:
    """Whether each branch's answer is right, token for token, by kind; and the losses."""
    early, _, final = objectives.run(batch)
    asked = batch.targets != NO_TARGET
    right = torch.zeros_like(asked)
    right[asked] = objectives.model.decoder.logits(final[asked]).argmax(-1) == batch.targets[asked]
    by_kind: dict[str, list[bool]] = {}
    for row, kinds in enumerate(batch.kinds):
        for index, kind in enumerate(kinds):
            mine = asked[row] & (batch.branches[row] == index)
            by_kind.setdefault(kind, []).append(bool(right[row][mine].all()))
    labels, measures = batch.labels.flatten(0, 2), batch.measures.flatten(0, 2)
    return by_kind, objectives.trunk_head(early.flatten(0, 1), labels, measures)
