"""A worker's first steps, so that no user pays for first-use costs."""

import contextlib

import torch

from services.inference_worker.engine.core import EngineCore
from services.inference_worker.engine.jobs import (
    FinishReason,
    FrameJob,
    FrameReceipt,
    Generation,
    Seen,
)
from services.inference_worker.model.errors import ModelError
from sightline.errors import ResourceExhaustedError, UnavailableError

MOST_SESSIONS = 16


def warm_up(core: EngineCore) -> None:
    """Run every batch bucket once: frames of 1, 2, 4 … sessions together, a prompt, a decode step,
    a rebase. Device thread only. Raises ModelError for weights that give no numbers."""
    with core.never_parking():
        results = _Discard()
        names = _show_frames(core, results)
        _ask(core, results)
        for name in names[:1]:
            core.rebase(name)
        for name in names:
            core.end_session(name, UnavailableError("warm-up is over"))
    core.forget_totals()
    core.cache.check_integrity()


def _show_frames(core: EngineCore, results: "_Discard") -> list[str]:
    """Blank frames of ever more sessions in one step. Gives the sessions, which stay open."""
    spec = core.model.spec
    blank = bytes(spec.layout.frame_bytes)
    count, names = 1, list[str]()
    while count <= min(MOST_SESSIONS, core.num_admissible() + len(names)):
        with contextlib.suppress(ResourceExhaustedError):
            while len(names) < count:
                core.open_session(f"warm-up {len(names)}")
                names.append(f"warm-up {len(names)}")
        for session in core.sessions.values():
            session.frames.extend(
                FrameJob(blank, spec.layout, 0, 0, core.clock(), done=results.understood)
                for _ in range(spec.tubelet)
            )
        core.run_step()
        results.check(spec.name, core.runner.dtype)
        count *= 2
    return names


def _ask(core: EngineCore, results: "_Discard") -> None:
    sessions = list(core.sessions.values())
    for session in sessions:
        session.enqueue(Generation(core.model.question_tokens([], "warm up"), 2, results))
    while any(session.waiting or session.running for session in sessions):
        core.prepare()
        core.run_step()
    results.check(core.model.spec.name, core.runner.dtype)


class _Discard:
    """A sink for results nobody wants, but for the first failure."""

    def __init__(self) -> None:
        self.error: Exception | None = None

    def check(self, name: str, dtype: torch.dtype) -> None:
        """Raise ModelError where something failed."""
        if self.error is not None:
            kind = str(dtype).removeprefix("torch.")
            raise ModelError(
                f"{name} cannot answer: {self.error}. Its weights are spoilt, or do not fit into "
                f"{kind}: WORKER_DTYPE chooses another"
            )

    def understood(self, receipt: FrameReceipt | Exception) -> None:
        if isinstance(receipt, Exception):
            self.failed(receipt)

    def started(self, seen: Seen) -> None: ...
    def token(self, token: int) -> None: ...
    def scored(self, score: float) -> None: ...
    def finished(self, reason: FinishReason) -> None: ...

    def failed(self, error: Exception) -> None:
        self.error = self.error or error
