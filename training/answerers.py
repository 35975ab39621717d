"""Answerers that can be examined: the model in one dense forward per question, or the running
engine."""

import itertools
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from typing import Self, cast

import numpy as np
import torch

from services.inference_worker.assembly import build_engine
from services.inference_worker.config import WorkerConfig
from services.inference_worker.engine.jobs import (
    FinishReason,
    FrameJob,
    FrameReceipt,
    Generation,
    Seen,
)
from services.inference_worker.engine.thread import Engine
from services.inference_worker.model.attention import DenseAttention
from services.inference_worker.model.builtin import BuiltinModel
from services.inference_worker.model.family import Round, prompt_within
from training.layout import Branch, branch_of, pack, visibility
from training.rendering import Pixels
from training.world.question import Question

ANSWER_TOKENS = 96
_TIMEOUT_S = 120.0


class DenseAnswerer:
    """The reference: every question is one forward over all frames so far. Slow and simple."""

    def __init__(self, model: BuiltinModel) -> None:
        self.model = model
        self._frames: list[Pixels] = []
        self._vision: torch.Tensor | None = None

    def open(self) -> None:
        self._frames = []

    def push(self, frame: Pixels, capture_time_ns: int) -> None:
        self._frames.append(frame)
        self._vision = None

    def close(self) -> None:
        self._frames = []

    @property
    def newest(self) -> int:
        """Number of the newest frame."""
        return len(self._frames) - 1

    def ask(self, text: str, history: tuple[tuple[str, str], ...]) -> str:
        question = Question("", text, "", history)
        branch = branch_of(self.model, self.newest, question)
        said: list[int] = []
        while len(said) < self.model.spec.max_answer_tokens:
            token = int(self.scores(branch.prompt + said, branch.before).argmax())
            if token in self.model.stop_tokens:
                break
            said.append(token)
        return self.model.text(said)

    def watch(self, condition: str) -> bool:
        scores = self.scores(self.model.watch_tokens(condition))
        return bool(scores[self.model.yes_token] > scores[self.model.no_token])

    @torch.no_grad()
    def scores(self, prompt: list[int], before: int = 0) -> torch.Tensor:
        """Vocabulary scores after `prompt`, asked after the newest frame; `before` as of a
        `Branch`."""
        model = self.model
        if self._vision is None:
            pixels = torch.from_numpy(np.stack(self._frames))
            self._vision = model.encode(pixels[:, None]).tokens.flatten(0, 1)
        frame = len(self._frames) - 1
        branch = Branch(frame, "", prompt, [0], before)
        row = pack(model, frame + 1, [branch], 0, len(prompt))
        hidden = model.decoder.embedding(torch.from_numpy(row.tokens))
        start = len(model.sink_tokens())
        hidden[start : start + len(self._vision)] = self._vision
        frames, branches = torch.from_numpy(row.frames), torch.from_numpy(row.branches)
        mask = visibility(frames[None], branches[None], model.spec.window_segments)
        positions = torch.from_numpy(row.positions)
        final = model.decoder(hidden[None], positions[None], DenseAttention(mask))
        return model.decoder.logits(final[0, -1])


class _Heard:
    """A branch's sink: the whole answer, or the score of a check, as a future."""

    def __init__(self) -> None:
        self.result: Future[float | list[int]] = Future()
        self._tokens: list[int] = []
        self.seen = Seen(0, 0, 0)

    def started(self, seen: Seen) -> None:
        self.seen = seen

    def token(self, token: int) -> None:
        self._tokens.append(token)

    def scored(self, score: float) -> None:
        self.result.set_result(score)

    def finished(self, reason: FinishReason) -> None:
        self.result.set_result(self._tokens)

    def failed(self, error: Exception) -> None:
        self.result.set_exception(error)


class EngineAnswerer:
    """The worker's own engine in this process: its device thread, paged cache and scheduler.

    Everything is done as the worker does it except gRPC. A question sees whole tubelets only, as
    one does that comes while the next frame is on its way. Raises what the engine raises.
    """

    def __init__(self, engine: Engine, max_tokens: int) -> None:
        """`max_tokens` of an answer, where the model's own bound is not less."""
        self.engine = engine
        self._max_tokens = min(max_tokens, engine.model.spec.max_answer_tokens)
        self._numbers = itertools.count()
        self._session = ""
        self._window = 0
        self._sequence = 0
        self._partial: list[tuple[Pixels, int, int]] = []
        self._pending: deque[Future[FrameReceipt]] = deque()
        self.seen: list[Seen] = []
        """The video that each of the last questions or conditions was put to."""

    @classmethod
    def start(cls, config: WorkerConfig, max_tokens: int = ANSWER_TOKENS) -> Self:
        """Build the engine as the worker would, with few sessions, and wait until it is warm.
        Raises ConfigError and ModelError."""
        engine = build_engine(
            replace(config, max_sessions=2, batch_wait_ms=0.0, step_question_tokens=512)
        )
        engine.start().result(_TIMEOUT_S)
        return cls(engine, max_tokens)

    def stop(self) -> None:
        self.engine.stop()

    def open(self, window_segments: int = 0) -> None:
        self._session = f"examination {next(self._numbers)}"
        self._window = window_segments
        self._sequence = 0
        self._partial.clear()

    def push(self, frame: Pixels, capture_time_ns: int, missing: int = 0) -> None:
        self._partial.append((frame, capture_time_ns, missing))
        if len(self._partial) == self.engine.model.spec.tubelet:
            self._submit()

    def settle(self) -> None:
        self._submit()
        while self._pending:
            self._pending.popleft().result(_TIMEOUT_S)

    def _submit(self) -> None:
        """Hand over the frames that wait; never more in flight than its credit."""
        for frame, capture_ns, missing in self._partial:
            layout = self.engine.model.layout(frame.shape[1], frame.shape[0])
            if not self._sequence:
                pixels = layout.width * layout.height if self.engine.model.spec.size_factor else 0
                opening = self.engine.open_session(self._session, self._window, pixels)
                opening.result(_TIMEOUT_S)
            while len(self._pending) >= self.engine.limits.frame_queue:
                self._pending.popleft().result(_TIMEOUT_S)
            receipt: Future[FrameReceipt] = Future()
            job = FrameJob(
                frame.tobytes(),
                layout,
                capture_ns,
                self._sequence,
                time.monotonic(),
                partial(_settle, receipt),
                missing=missing,
            )
            self._pending.append(receipt)
            self._sequence += 1
            self.engine.submit_frame(self._session, job)
        self._partial.clear()

    def ask(self, questions: Sequence[Question]) -> list[str]:
        model = self.engine.model
        heard: list[_Heard] = []
        for question in questions:
            rounds = kept_rounds(question, model.spec.history_rounds)
            room = self.engine.limits.branch_tokens - self._max_tokens
            prompt = prompt_within(room, model, rounds, question.text)
            heard.append(self._branch(prompt.tokens, self._max_tokens, before=prompt.before))
        said = [model.text(cast(list[int], each.result.result(_TIMEOUT_S))) for each in heard]
        self.seen = [each.seen for each in heard]
        return said

    def scores(self, conditions: Sequence[str]) -> list[float]:
        model = self.engine.model
        heard = [self._branch(model.watch_tokens(c), 1, score_only=True) for c in conditions]
        scores = [cast(float, each.result.result(_TIMEOUT_S)) for each in heard]
        self.seen = [each.seen for each in heard]
        return scores

    def _branch(
        self, tokens: list[int], limit: int, *, score_only: bool = False, before: int = 0
    ) -> _Heard:
        if not self._sequence:  # nobody is asked before there is a picture
            self._submit()
        heard = _Heard()
        job = Generation(tokens, limit, heard, score_only=score_only, before=before)
        self.engine.submit_branch(self._session, job)
        return heard

    def change_worker(self) -> None:
        raise NotImplementedError("only a worker behind gRPC can be changed")

    def close(self) -> None:
        if self._sequence:
            while self._pending:
                self._pending.popleft().result(_TIMEOUT_S)
            self.engine.close_session(self._session).result(_TIMEOUT_S)


def kept_rounds(question: Question, most: int) -> list[Round]:
    """The last `most` rounds of a question's history."""
    return [Round(*past) for past in question.history[max(len(question.history) - most, 0) :]]


def _settle(receipt: Future[FrameReceipt], result: FrameReceipt | Exception) -> None:
    if isinstance(result, Exception):
        receipt.set_exception(result)
    else:
        receipt.set_result(result)
