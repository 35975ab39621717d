"""Clips and questions as the engine serves them: sink, frames, branches, in one row of tokens.

A row is [sink][frame 0]…[frame T−1][branch, branch, …, padding]. What sees what is the served rule:
a token that belongs to frame f (or to a branch asked after frame f) sees the sink, every token of
frames f−window+1…f, and the earlier tokens of its own branch. Branches never see each other and
nothing in the trunk sees a branch.
"""

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from services.inference_worker.model.builtin import BuiltinModel
from services.inference_worker.model.family import Round, prompt_of
from services.inference_worker.model.layout import VISION
from training.world.question import DONT_KNOW, Question

NO_TARGET = -100
SINK, PADDING = -1, -2
TRUNK = -1
PRONOUNS = ("it", "its")


@dataclass(frozen=True, slots=True)
class Branch:
    """A question asked after frame `frame`, as tokens: the prompt, of which `before` tokens stand
    before the cursor, then what must be said. refers: places in the prompt that stand for a thing,
    where its name stands, and the tokens of its noun and of its colour (NO_TARGET for none)."""

    frame: int
    kind: str
    prompt: list[int]
    answer: list[int]
    before: int = 0
    refers: tuple[tuple[int, int, int, int], ...] = field(default=(), repr=False)

    @property
    def size(self) -> int:
        """Tokens it takes in a row: the last answer token is predicted, never read."""
        return len(self.prompt) + len(self.answer) - 1


@dataclass(frozen=True, slots=True)
class Row:
    """A clip's tokens. Those of pictures hold 0 (`pack`) or VISION (`arrange`): the encoder's
    output takes their place.

    tokens, targets, frames, branches: [length] int64. `frames` is the frame a token belongs to
    (SINK, PADDING); `branches` the index of its branch (TRUNK). positions: [length, 3] int64.
    refers: [length, 3] int64, of what a token stands for the name's place in the row, its noun and
    its colour, else NO_TARGET.
    """

    tokens: NDArray[np.int64]
    targets: NDArray[np.int64]
    positions: NDArray[np.int64]
    frames: NDArray[np.int64]
    branches: NDArray[np.int64]
    refers: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Span:
    """A segment at its place: tokens [size], VISION where the picture goes, positions [size, 3],
    and the cursor behind it."""

    tokens: list[int]
    positions: NDArray[np.int64]
    after: int


def branch_of(model: BuiltinModel, frame: int, question: Question) -> Branch:
    if question.is_watch:
        answer = [model.yes_token if question.answer == "yes" else model.no_token]
        return Branch(frame, question.kind, model.watch_tokens(question.text), answer)
    history = [Round(asked, answered) for asked, answered in question.history]
    prompt = prompt_of(model, history, question.text)
    answer = [*model.tokenizer.encode(question.answer).ids, *model.stop_tokens]
    refers = _references(model, question, history, prompt.tokens)
    return Branch(frame, question.kind, prompt.tokens, answer, prompt.before, refers)


def _references(
    model: BuiltinModel, question: Question, history: list[Round], prompt: list[int]
) -> tuple[tuple[int, int, int, int], ...]:
    """Places where a prompt says "it" and means what the question refers to, from its naming round
    on, and the prompt's end, where the answer begins."""
    if not question.refers:
        return ()
    *colour, noun = (model.tokenizer.token_to_id(word) for word in question.refers.split())
    words = {model.tokenizer.token_to_id(word) for word in PRONOUNS}
    places = [len(prompt) - 1]
    end = len(prompt)
    for first in range(len(history), -1, -1):
        start = len(prompt) - len(model.question_tokens(history[first:], question.text))
        of_round = range(max(start, 0), end)
        names = [place for place in of_round if prompt[place] == noun]
        if names:
            painted = colour[0] if colour else None
            marked = (names[-1], prompt[names[-1]], NO_TARGET if painted is None else painted)
            return tuple((place, *marked) for place in sorted(places))
        if first == len(history) or history[first].answer != DONT_KNOW:  # "what time is it"
            places += [place for place in of_round if prompt[place] in words]
        end = start
    return ()  # the round that named it is not among those that are read


def pack(
    model: BuiltinModel, num_frames: int, branches: list[Branch], offset: int, text_size: int
) -> Row:
    """Lay out one row with exactly `text_size` tokens after the frames; branches must fit.

    offset: how far the cursor already was when frame 0 came.
    """
    sink = model.sink_tokens()
    segment = model.segment(model.spec.layout, len(sink) + offset, 0.0)
    positions = np.array(segment.positions)
    spans = []
    for frame in range(num_frames):
        moved = frame * segment.advance
        after = len(sink) + offset + moved + segment.advance
        spans.append(Span(segment.tokens, positions + moved, after))
    row = arrange(sink, spans, branches, text_size)
    row.tokens[row.tokens == VISION] = 0
    return row


def arrange(sink: list[int], spans: list[Span], branches: list[Branch], text_size: int) -> Row:
    """Lay out the segments of a trunk in order, then branches in exactly `text_size` tokens.

    A branch's `frame` is the number of the last segment it sees. Raises ValueError for branches
    that do not fit.
    """
    text_start = len(sink) + sum(len(span.tokens) for span in spans)
    length = text_start + text_size
    tokens = np.zeros(length, np.int64)
    targets = np.full(length, NO_TARGET, np.int64)
    positions = np.zeros((length, 3), np.int64)
    frames = np.full(length, PADDING, np.int64)
    owners = np.full(length, TRUNK, np.int64)
    refers = np.full((length, 3), NO_TARGET, np.int64)

    tokens[: len(sink)] = sink
    positions[: len(sink)] = np.arange(len(sink))[:, None]
    frames[: len(sink)] = SINK
    at = len(sink)
    for number, segment in enumerate(spans):
        span = slice(at, at + len(segment.tokens))
        tokens[span], positions[span], frames[span] = segment.tokens, segment.positions, number
        at = span.stop
    for index, branch in enumerate(branches):
        size = branch.size
        if at + size > length:
            raise ValueError(f"{len(branches)} branches do not fit into {text_size} tokens")
        span = slice(at, at + size)
        tokens[span] = (branch.prompt + branch.answer)[:size]
        targets[at + len(branch.prompt) - 1 : at + size] = branch.answer
        first = spans[branch.frame].after - branch.before
        positions[span] = (first + np.arange(size))[:, None]
        frames[span] = branch.frame
        owners[span] = index
        for place, name, noun, colour in branch.refers:
            refers[at + place] = at + name, noun, colour
        at += size
    return Row(tokens, targets, positions, frames, owners, refers)


def visibility(frames: Tensor, branches: Tensor, window: int, causal: bool = False) -> Tensor:
    """Mask of who sees whom, [batch, 1, length, length] boolean, from [batch, length] labels of
    rows.

    causal: a segment's tokens see only earlier ones of it, as published models have it.
    """
    length = frames.shape[-1]
    order = torch.arange(length, device=frames.device)
    earlier = order[None, :] <= order[:, None]
    of_query, of_key = frames[:, :, None], frames[:, None, :]
    branch_query, branch_key = branches[:, :, None], branches[:, None, :]
    sink_key = (of_key == SINK) & (earlier | (of_query >= 0))
    trunk_key = (of_key >= 0) & (branch_key == TRUNK)
    in_window = (of_key <= of_query) & (of_key > of_query - window)
    if causal:  # branches stand behind the trunk: all of it is earlier
        in_window &= earlier
    own = (branch_key != TRUNK) & (branch_query == branch_key) & earlier
    itself = torch.eye(length, dtype=torch.bool, device=frames.device)
    return ((sink_key & (of_query != PADDING)) | (trunk_key & in_window) | own | itself)[:, None]
