"""Pieces of clips, which one forward trains on: a session's trunk, and questions about it."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.inference_worker.config import WorkerConfig
from services.inference_worker.model.builtin import BuiltinModel
from services.inference_worker.model.errors import ModelError
from services.inference_worker.model.family import Round, StreamingModel, prompt_within
from training.layout import Branch, Span
from training.recordings import TOLERANCE_S, DataError, Footage, Recording, Turn

PIECE_TOKENS = 4096  # of questions and answers in one forward


@dataclass(frozen=True, slots=True)
class Piece:
    """A trunk of at most two windows and questions about it; one forward.

    Segments `first` … of a clip, their positions from the clip's beginning; `branches` count
    segments from `first` on. What a running session would still carry of segments before that
    (through the layers, long evicted) is left out.
    """

    footage: Footage
    first: int
    spans: tuple[Span, ...]
    branches: tuple[Branch, ...]

    @property
    def num_targets(self) -> int:
        return sum(len(branch.answer) for branch in self.branches)

    def frames(self, tubelet: int) -> NDArray[np.uint8]:
        """[segments, tubelet, height, width, 3]; a last tubelet that lacks frames repeats its
        last one, as when it is served."""
        pixels = self.footage.pixels
        wanted = np.arange(self.first * tubelet, (self.first + len(self.spans)) * tubelet)
        taken = pixels[np.minimum(wanted, len(pixels) - 1)]
        return taken.reshape(-1, tubelet, *taken.shape[1:])


def cut(
    model: StreamingModel, config: WorkerConfig, recording: Recording, footage: Footage
) -> list[Piece]:
    """A clip's questions, with the trunks they are asked about. Raises DataError."""
    tubelet, window = model.spec.tubelet, model.spec.window_segments
    spans, complete_s = trunk_of(model, footage)
    branches: list[Branch] = []
    rounds: list[Round] = []
    for turn in recording.turns:
        seen = int(np.searchsorted(complete_s, turn.at_s + TOLERANCE_S, side="right"))
        if not seen:
            raise DataError(
                f"{turn.where}.at: at {turn.at_s:g} s the model has seen nothing; the first "
                f"{tubelet} frame{'s' if tubelet > 1 else ''} are complete at {complete_s[0]:.2f} s"
            )
        branches.append(_branch(model, config, seen - 1, turn, rounds))
        rounds.append(Round(turn.question, turn.answer))
    pieces: list[Piece] = []
    while branches:
        taken, size = 0, 0
        for branch in branches:
            size += branch.size
            too_late = branch.frame > branches[0].frame + window
            if taken and (too_late or size > PIECE_TOKENS):
                break
            taken += 1
        chosen, branches = branches[:taken], branches[taken:]
        last = chosen[-1].frame
        first = max(0, last + 1 - 2 * window)
        moved = tuple(replace(branch, frame=branch.frame - first) for branch in chosen)
        pieces.append(Piece(footage, first, tuple(spans[first : last + 1]), moved))
    return pieces


def trunk_of(model: StreamingModel, footage: Footage) -> tuple[list[Span], NDArray[np.float64]]:
    """A clip's segments from its beginning, and when each is complete."""
    tubelet, times_s = model.spec.tubelet, footage.times_s
    _, height, width, _ = footage.pixels.shape
    layout = model.layout(width, height)
    spans, complete_s = [], []
    cursor = len(model.sink_tokens())
    for first in range(0, len(times_s), tubelet):
        mine = times_s[first : first + tubelet]
        since_s = float((mine[0] + mine[-1]) / 2 - times_s[0])
        segment = model.segment(layout, cursor, since_s)
        cursor += segment.advance
        spans.append(Span(segment.tokens, np.array(segment.positions), cursor))
        complete_s.append(mine[-1])
    return spans, np.array(complete_s)


def _branch(
    model: StreamingModel, config: WorkerConfig, frame: int, turn: Turn, rounds: list[Round]
) -> Branch:
    """A turn as the worker would put it to the model, its limits included."""
    alone = len(model.question_tokens([], turn.question))
    if alone > config.question_tokens:
        raise DataError(
            f"{turn.where}.question: has {alone} tokens; a worker takes {config.question_tokens}"
        )
    answer = answer_tokens(model, turn.answer)
    if len(answer) == 1:
        raise DataError(f"{turn.where}.answer: has no word that the model could say")
    if len(answer) > model.spec.max_answer_tokens:
        raise DataError(
            f"{turn.where}.answer: has {len(answer)} tokens; "
            f"the model says at most {model.spec.max_answer_tokens}"
        )
    wanted = min(config.history_rounds, model.spec.history_rounds)
    room = config.branch_tokens - model.spec.max_answer_tokens
    prompt = prompt_within(room, model, rounds[-wanted:] if wanted else [], turn.question)
    return Branch(frame, "", prompt.tokens, answer, prompt.before)


def answer_tokens(model: Any, answer: str) -> list[int]:
    """Tokens that the model is to say: as it would stand in its prompt as an earlier round, up to
    the token that stops it. Raises ModelError for a chat template that writes answers otherwise."""
    if isinstance(model, BuiltinModel):
        words = model.tokenizer.encode(answer, add_special_tokens=False).ids
        return [*words, *model.stop_tokens]
    chat = model.chat
    asked = chat.after_video([], "?")
    written = chat.after_video([Round("?", answer)], "?")
    tokens = chat.tokens(written.removeprefix(asked))
    stops = [number for number, token in enumerate(tokens) if token in model.stop_tokens]
    if not written.startswith(asked) or not stops:
        raise ModelError("the chat template does not end an answer where the model stops")
    return list(tokens[: stops[0] + 1])
