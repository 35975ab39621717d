"""Who can be examined: the model in one dense forward per question, or the running engine."""

import itertools
import time
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Self

import numpy as np
import torch

from services.inference_worker.assembly import build_engine
from services.inference_worker.config import WorkerConfig
from services.inference_worker.engine import Engine
from services.inference_worker.model.attention import DenseAttention
from services.inference_worker.model.builtin import BuiltinModel
from services.inference_worker.model.family import Round
from services.inference_worker.scheduler import (
    BranchJob,
    FinishReason,
    FrameJob,
    FrameReceipt,
    Seen,
)
from training.layout import Branch, branch_of, pack, visibility
from training.questions import Question
from training.rendering import Pixels

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

    def ask(self, text: str, history: tuple[tuple[str, str], ...]) -> str:
        question = Question("", text, "", history)
        prompt = branch_of(self.model, len(self._frames) - 1, question).prompt
        said: list[int] = []
        while len(said) < self.model.spec.max_answer_tokens:
            token = int(self._scores(prompt + said).argmax())
            if token in self.model.stop_tokens:
                break
            said.append(token)
        return self.model.text(said)

    def watch(self, condition: str) -> bool:
        scores = self._scores(self.model.watch_tokens(condition))
        return bool(scores[self.model.yes_token] > scores[self.model.no_token])

    @torch.no_grad()
    def _scores(self, prompt: list[int]) -> torch.Tensor:
        """Vocabulary scores after `prompt`, asked after the newest frame."""
        model = self.model
        if self._vision is None:
            pixels = torch.from_numpy(np.stack(self._frames))
            self._vision = model.encode(pixels[:, None]).tokens.flatten(0, 1)
        frame = len(self._frames) - 1
        row = pack(model, frame + 1, [Branch(frame, "", prompt, [0])], 0, len(prompt))
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

    def started(self, seen: Seen) -> None: ...

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

    Everything is done as the worker does it except gRPC. Raises what the engine raises.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._numbers = itertools.count()
        self._session = ""
        self._sequence = 0

    @classmethod
    def start(cls, model: Path | str = "builtin") -> Self:
        """Build the engine as the worker would, with few sessions, and wait until it is warm."""
        config = replace(
            WorkerConfig.from_env(), model=str(model), max_sessions=2, batch_wait_ms=0.0
        )
        engine = build_engine(config)
        engine.start().result(_TIMEOUT_S)
        return cls(engine)

    def stop(self) -> None:
        self.engine.stop()

    def open(self) -> None:
        self._session = f"examination {next(self._numbers)}"
        self._sequence = 0
        self.engine.open_session(self._session).result(_TIMEOUT_S)

    def push(self, frame: Pixels, capture_time_ns: int) -> None:
        receipt: Future[FrameReceipt] = Future()

        def done(result: FrameReceipt | Exception) -> None:
            if isinstance(result, Exception):
                receipt.set_exception(result)
            else:
                receipt.set_result(result)

        arrived_s = time.monotonic()
        layout = self.engine.model.spec.layout
        pixels = frame.tobytes()
        job = FrameJob(pixels, layout, capture_time_ns, self._sequence, arrived_s, done)
        self._sequence += 1
        self.engine.submit_frame(self._session, job)
        receipt.result(_TIMEOUT_S)

    def ask(self, text: str, history: tuple[tuple[str, str], ...]) -> str:
        model = self.engine.model
        tokens = model.question_tokens([Round(*past) for past in history], text)
        heard = _Heard()
        job = BranchJob(tokens, model.spec.max_answer_tokens, heard)
        self.engine.submit_branch(self._session, job)
        said = heard.result.result(_TIMEOUT_S)
        assert isinstance(said, list)
        return model.text(said)

    def watch(self, condition: str) -> bool:
        heard = _Heard()
        tokens = self.engine.model.watch_tokens(condition)
        self.engine.submit_branch(self._session, BranchJob(tokens, 1, heard, score_only=True))
        score = heard.result.result(_TIMEOUT_S)
        assert isinstance(score, float)
        return score > 0.5

    def close(self) -> None:
        self.engine.close_session(self._session).result(_TIMEOUT_S)
