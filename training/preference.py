"""The preference stage: answers that are preferred become likelier than those that are not (DPO,
Rafailov et al., 2023), against a frozen copy of the model that went into the stage.

Pairs come from two sources. Of generated clips the world knows the truth: what the frozen model
says there by chance and is wrong is the worse answer, what is true the better one. People's pairs
are a JSONL, one line a pair:

    {"video": "shop.mp4", "at": 8.0, "question": "What is shown?",
     "chosen": "a red bag", "rejected": "a bag"}
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor
from torch.nn import functional

from services.inference_worker.model.builtin import BuiltinModel
from training.batches import Batch
from training.layout import NO_TARGET, Branch, Row, pack
from training.objectives import final_states
from training.pieces import answer_tokens
from training.recordings import Fields, Recording, Turn, frame_size, read_footage, read_lines
from training.world.captions import score

_DESCRIPTIONS = ("scene", "story")
_WINDOWS = 1.5  # of a person's clip: what was evicted long before is left out


Laid = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]  # tokens to branches, as in `Pairs`


@dataclass(frozen=True, slots=True)
class Pairs:
    """Clips in the served layout, [clips, …] as in `layout.Row`. Branch 2k is the better answer to
    a question and 2k + 1 the worse; `count` of pairs in all clips together."""

    pixels: Tensor
    tokens: Tensor
    targets: Tensor
    positions: Tensor
    frames: Tensor
    branches: Tensor
    count: int


@dataclass(frozen=True, slots=True)
class Judgement:
    """Judgement that a step of preference yields. margin: mean advantage of the better answer over
    the reference, in nats; sure: share of pairs whose better answer gained more."""

    loss: Tensor
    margin: float
    sure: float


# What the loss is


def log_probabilities(model: BuiltinModel, pairs: Pairs, vision: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities of each whole answer, better and worse: [pairs] each."""
    final = final_states(model, pairs, vision)
    asked = pairs.targets != NO_TARGET
    said = functional.log_softmax(model.decoder.logits(final[asked]).float(), -1)
    of_token = said.gather(1, pairs.targets[asked][:, None])[:, 0]
    rows = torch.arange(len(asked), device=asked.device)[:, None].expand_as(asked)
    most = int(pairs.branches.max()) + 1
    owner = (rows * most + pairs.branches)[asked]
    total = said.new_zeros(len(asked) * most).index_add(0, owner, of_token)
    used = torch.zeros_like(total, dtype=torch.bool).index_fill(0, owner, True)
    better, worse = total.view(-1, 2).unbind(1)
    kept = used.view(-1, 2).all(1)
    return better[kept], worse[kept]


def judge(
    policy: BuiltinModel,
    reference: BuiltinModel,
    pairs: Pairs,
    vision: Tensor,
    beta: float,
    anchor: float,
) -> Judgement:
    """−log σ(β · margin), and `anchor` times the better answers' cross-entropy, which keeps them
    likely in themselves."""
    better, worse = log_probabilities(policy, pairs, vision)
    with torch.no_grad():
        was_better, was_worse = log_probabilities(reference, pairs, vision)
    margin = (better - worse) - (was_better - was_worse)
    loss = -functional.logsigmoid(beta * margin).mean() - anchor * better.mean()
    gained = margin.detach()
    return Judgement(loss, float(gained.mean()), float((gained > 0).float().mean()))


# Where pairs come from


@torch.no_grad()
def mine(
    reference: BuiltinModel,
    batch: Batch,
    vision: Tensor,
    rng: Generator,
    temperature: float = 1.0,
    longest: int = 24,
) -> Pairs | None:
    """Pairs of the truth and what `reference` said instead; None where it was right throughout."""
    asked = [branches_of(reference, batch, row) for row in range(len(batch.tokens))]
    said = _sample(reference, batch, asked, vision, rng, temperature, longest)
    found: list[list[Branch]] = []
    for right, answers in zip(asked, said, strict=True):
        wrong = [(b, a) for b, a in zip(right, answers, strict=True) if _is_wrong(reference, b, a)]
        found.append([branch for b, a in wrong for branch in (b, replace(b, answer=a))])
    count = sum(len(branches) // 2 for branches in found)
    if not count:
        return None
    laid = _lay(reference, batch, found)
    return Pairs(batch.pixels, *laid, count)


def branches_of(model: BuiltinModel, batch: Batch, row: int) -> list[Branch]:
    """The questions of one clip with their right answers, read back from its row."""
    owners, targets = batch.branches[row].cpu(), batch.targets[row].cpu()
    tokens, frames = batch.tokens[row].cpu(), batch.frames[row].cpu()
    times = batch.positions[row, :, 0].cpu()
    found: list[Branch] = []
    for index, kind in enumerate(batch.kinds[row]):
        at = (owners == index).nonzero()[:, 0]
        answered = at[targets[at] != NO_TARGET]
        prompt = tokens[int(at[0]) : int(answered[0]) + 1].tolist()
        answer, frame = targets[answered].tolist(), int(frames[at[0]])
        newest = int((frames == frame).nonzero()[0])  # the first token of the frame itself
        after = int(times[newest]) + model.spec.layout.segment_advance
        found.append(Branch(frame, kind, prompt, answer, after - int(times[at[0]])))
    return found


def _is_wrong(model: BuiltinModel, right: Branch, said: list[int]) -> bool:
    """Facts of a description may come in any order."""
    if right.kind in _DESCRIPTIONS:
        return score(model.text(said), model.text(right.answer)) != (1.0, 1.0)
    return said != right.answer


def _lay(model: BuiltinModel, batch: Batch, branches: list[list[Branch]]) -> Laid:
    """Rows of these branches on the clips of `batch`, at their places in a session's life."""
    size = max(sum(branch.size for branch in mine) for mine in branches)
    sink, device = len(model.sink_tokens()), batch.tokens.device
    offsets = [int(first[0]) - sink for first in batch.positions[:, sink].cpu()]
    frames = batch.pixels.shape[1]
    rows = [pack(model, frames, m, o, size) for m, o in zip(branches, offsets, strict=True)]
    return stacked(rows, device)


def stacked(rows: list[Row], device: torch.device | str = "cpu") -> Laid:
    """Tensors of rows of one length, as `Pairs` has them."""
    names = ("tokens", "targets", "positions", "frames", "branches")
    tokens, targets, positions, frames, branches = (
        torch.from_numpy(np.stack([getattr(row, name) for row in rows])).to(device)
        for name in names
    )
    return tokens, targets, positions, frames, branches


def _sample(
    model: BuiltinModel,
    batch: Batch,
    asked: list[list[Branch]],
    vision: Tensor,
    rng: Generator,
    temperature: float,
    longest: int,
) -> list[list[list[int]]]:
    """An answer to every question, all of them a token further with each forward."""
    limits = {
        branch.kind: 1 if branch.answer[-1] not in model.stop_tokens else longest
        for mine in asked
        for branch in mine
    }
    room = [[replace(b, answer=[0] * limits[b.kind]) for b in mine] for mine in asked]
    rows = Pairs(batch.pixels, *_lay(model, batch, room), 0)
    places = [
        (row, int((rows.branches[row] == index).nonzero()[0]) + len(branch.prompt) - 1)
        for row, mine in enumerate(room)
        for index, branch in enumerate(mine)
    ]
    limit = torch.tensor([limits[branch.kind] for mine in room for branch in mine])
    row, at = (torch.tensor(column) for column in zip(*places, strict=True))
    answers: list[list[int]] = [[] for _ in places]
    going = torch.ones(len(places), dtype=torch.bool)
    for step in range(longest):
        final = final_states(model, rows, vision)
        newest = (at + step).clamp(max=final.shape[1] - 1)  # who has ended is not read
        scores = model.decoder.logits(final[row, newest]).float().cpu() / temperature
        noise = torch.from_numpy(rng.gumbel(size=tuple(scores.shape))).float()
        drawn = (scores + noise).argmax(-1)
        for number in going.nonzero()[:, 0].tolist():
            answers[number].append(int(drawn[number]))
        stopped = torch.isin(drawn, torch.tensor(sorted(model.stop_tokens)))
        going &= ~stopped & (step + 1 < limit)
        if not going.any():
            break
        more = going.nonzero()[:, 0]
        rows.tokens[row[more], at[more] + step + 1] = drawn[more].to(rows.tokens.device)
    told = iter(answers)
    return [[next(told) for _ in mine] for mine in asked]


@dataclass(frozen=True, slots=True)
class Preference:
    """A clip with one question whose answer is the better one, and a worse one."""

    recording: Recording
    rejected: str


def read_preferences(path: Path, before_s: float) -> list[Preference]:
    """People's pairs; each one's clip is the `before_s` seconds before its question. Raises
    DataError."""
    found: list[Preference] = []
    for where, value in read_lines(path):
        fields = Fields(f"{where}: ", value, ("video", "at", "question", "chosen", "rejected"))
        at_s = fields.seconds("at")
        turn = Turn(where, at_s, fields.text("question"), fields.text("chosen"))
        video = fields.file("video", path.parent)
        recording = Recording(where, video, max(at_s - before_s, 0.0), at_s, (turn,))
        found.append(Preference(recording, fields.text("rejected")))
    return found


class PeoplesPairs:
    """Pairs of a JSONL; their frames wait in `folder`. Raises DataError for what cannot be read."""

    def __init__(self, model: BuiltinModel, path: Path, folder: Path) -> None:
        self.model = model
        before_s = _WINDOWS * model.spec.window_segments / model.spec.preferred_fps
        self.preferences = read_preferences(path, before_s)
        recordings = [preference.recording for preference in self.preferences]
        size = frame_size(model.spec)
        self.footage = read_footage(recordings, model.spec.preferred_fps, size, folder)

    def draw(self, seed: int, step: int, count: int) -> Pairs:
        """The `count` pairs of a step, by seed and number alone; of each clip the newest frames, as
        many as the shortest has."""
        rng = np.random.default_rng((seed, 5, step))
        chosen = rng.integers(len(self.preferences), size=count)
        length = min(len(self.footage[int(index)].pixels) for index in chosen)
        rows, pixels = list[Row](), []
        branches = [list(self._branches(int(index), length)) for index in chosen]
        size = max(sum(branch.size for branch in mine) for mine in branches)
        for index, mine in zip(chosen, branches, strict=True):
            offset = int(rng.integers(self.model.spec.position_horizon - 128))
            rows.append(pack(self.model, length, mine, offset, size))
            pixels.append(np.array(self.footage[int(index)].pixels[-length:]))
        return Pairs(torch.from_numpy(np.stack(pixels)), *stacked(rows), count)

    def _branches(self, index: int, length: int) -> Iterator[Branch]:
        preference = self.preferences[index]
        turn = preference.recording.turns[0]
        prompt = self.model.question_tokens([], turn.question)
        for text in (turn.answer, preference.rejected):
            yield Branch(length - 1, "person", prompt, answer_tokens(self.model, text))
