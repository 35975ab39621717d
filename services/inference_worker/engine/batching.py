"""Making of a step: frames and answers as runs of new tokens, with pages and positions."""

from collections.abc import Iterable
from itertools import islice

import torch

from services.inference_worker import metrics
from services.inference_worker.engine.jobs import (
    EngineSession,
    FrameJob,
    Generation,
    PastPicture,
)
from services.inference_worker.engine.stillness import largest_change
from services.inference_worker.kv.pool import NULL_PAGE
from services.inference_worker.kv.trunk import Branch, SessionPages, Trunk
from services.inference_worker.model.family import StreamingModel
from services.inference_worker.model.layout import VISION
from services.inference_worker.runner.batch import Run, Tubelet
from services.inference_worker.runner.runner import Runner


class BatchBuilder:
    """Maker of a step's runs: takes what is next off a session's queues and finds pages for it.
    Raises ResourceExhaustedError where there are none.

    reuse_below: a tubelet that changed less since the last encoded one is not encoded; 0: all are.
    """

    def __init__(
        self, model: StreamingModel, cache: SessionPages, runner: Runner, reuse_below: float
    ) -> None:
        self._model = model
        self._cache = cache
        self._runner = runner
        self._reuse_below = reuse_below
        self._sink_tokens = model.sink_tokens()

    def of_sink(self, trunk: Trunk) -> Run:
        return Run(
            group=0,
            seen=[],
            own_pages=trunk.sink.pages,
            own_start=0,
            slots=self._cache.slots(trunk.sink.pages, 0, trunk.sink.num_tokens),
            positions=[(n, n, n) for n in range(trunk.sink.num_tokens)],
            tokens=self._sink_tokens,
            row=trunk.reservation.row,
        )

    def of_nothing(self) -> Run:
        """The smallest step there is, on the page that nobody reads."""
        return Run(
            group=0,
            seen=[],
            own_pages=[NULL_PAGE],
            own_start=0,
            slots=[0],
            positions=[(0, 0, 0)],
            tokens=self._sink_tokens[:1],
        )

    def of_tubelet(self, session: EngineSession, frames: list[FrameJob]) -> Run:
        for _ in frames:
            session.frames.popleft()
        session.frames_taken += len(frames)
        layout = frames[0].layout
        captured_ns = (frames[0].capture_ns, frames[-1].capture_ns)
        if session.first_capture_ns is None:
            session.first_capture_ns = captured_ns[0]
        since_s = max(0.0, (sum(captured_ns) / 2 - session.first_capture_ns) / 1e9)
        session.trunk.cursor += self._held(session, frames)
        words = self._model.segment(layout, session.trunk.cursor, since_s)
        segment = self._cache.append_segment(
            session.trunk, len(words.tokens), words.advance, captured_ns
        )
        segment.words = frozenset(words.tokens)
        # A window that fills the model's range all by itself is not moved with every frame.
        least = session.trunk.shape.sink_tokens + (
            2 * session.trunk.shape.window_segments * layout.segment_advance
        )
        horizon = max(self._model.spec.position_horizon, least)
        session.rebase_due |= session.trunk.cursor + layout.segment_advance >= horizon
        session.tubelet = self._encoded(session.tubelet, self._tubelet(frames))
        segment.look = session.tubelet.look
        return Run(
            group=session.number,
            seen=session.trunk.resident()[:-1],
            own_pages=segment.pages,
            own_start=0,
            slots=self._cache.slots(segment.pages, 0, segment.num_tokens),
            positions=words.positions,
            tokens=words.tokens,
            row=session.trunk.reservation.row,
            tubelet=session.tubelet,
            causal=self._model.spec.causal_segments,
        )

    def _held(self, session: EngineSession, frames: list[FrameJob]) -> int:
        """Positions that pass for the frames missing before these ones, in which the last one's
        tokens stand for them: no more than leave the window in half of the model's range."""
        spec, trunk = self._model.spec, session.trunk
        missing = sum(frame.missing for frame in frames) // spec.tubelet
        if not (missing and spec.time_by_position and trunk.segments):
            return 0
        room = spec.position_horizon // 2 - (trunk.cursor - trunk.segments[0].cursor)
        held = max(0, min(missing, room // frames[0].layout.segment_advance))
        return held * frames[0].layout.segment_advance

    def of_picture(self, job: Generation, picture: PastPicture) -> Run:
        """The next picture of a branch, which is the branch's own as its words are."""
        branch = job.branch
        assert branch is not None
        assert job.session is not None
        cursor = branch.cursor + job.shift + branch.num_tokens
        since_ns = picture.capture_ns - (job.session.first_capture_ns or 0)
        words = self._model.segment(picture.layout, cursor, max(0.0, since_ns / 1e9))
        run = self._behind(job, branch, words.tokens, words.positions)
        tubelet = Tubelet(picture.layout, [picture.pixels] * self._model.spec.tubelet)
        job.looks.append(tubelet.look)
        job.pictures_read += 1
        job.shift += words.advance - len(words.tokens)
        run.tubelet, run.causal = tubelet, self._model.spec.causal_segments
        return run

    def of_branch(self, job: Generation, count: int) -> Run:
        branch = job.branch
        assert branch is not None
        if (picture := job.next_picture) is not None:
            return self.of_picture(job, picture)
        start = branch.num_tokens
        first = branch.cursor - job.before + job.shift
        positions = [(first + n,) * 3 for n in range(start, start + count)]
        run = self._behind(job, branch, job.pending[:count], positions)
        job.pending = job.pending[count:]
        if job.sampling.drawn and job.generator is None:
            generator = torch.Generator(self._runner.device)
            job.generator = generator.manual_seed(job.sampling.seed)
        run.want_output = not job.pending
        run.sampling, run.generator = job.sampling, job.generator
        run.said, run.answered = self._said(job, branch), job.said[job.prompt_tokens :]
        if job.held is not None and not job.pending:
            run.allowed = job.held.allowed()
        return run

    def _behind(
        self,
        job: Generation,
        branch: Branch,
        tokens: list[int],
        positions: list[tuple[int, int, int]],
    ) -> Run:
        """New tokens behind those that a branch has, on pages of its own."""
        assert job.session is not None
        start = branch.num_tokens
        return Run(
            group=job.session.number,
            seen=branch.seen,
            own_pages=branch.pages,
            own_start=start,
            slots=self._cache.extend(branch, len(tokens)),
            positions=positions,
            tokens=tokens,
            row=branch.trunk.reservation.row,
        )

    def _said(self, job: Generation, branch: Branch) -> list[int]:
        """Tokens that stand before the next one, as `generate` of transformers looks at it."""
        if job.sampling.repetition_penalty == 1.0:
            return []
        seen = {word for segment in branch.seen[1:] for word in segment.words}
        vision = self._model.vision_token
        words = [vision if word == VISION else word for word in seen]
        return [*self._sink_tokens, *(word for word in words if word is not None), *job.said]

    def waiting_tubelets(self, sessions: Iterable[EngineSession]) -> list[Tubelet]:
        """The next whole tubelet of every session that has one left, for a device that can encode
        them while this step's decoder runs. Not where some might turn out not to be needed."""
        if not self._runner.overlaps or self._reuse_below:
            return []
        size = self._model.spec.tubelet
        tubelets = []
        for session in sessions:
            frames = list(islice(session.frames, size))
            if len(frames) == size:
                frames[0].tubelet = self._tubelet(frames)
                tubelets.append(frames[0].tubelet)
        return tubelets

    def _tubelet(self, frames: list[FrameJob]) -> Tubelet:
        """The tubelet of these frames, of which the last is repeated where some are missing. The
        same again if it was made when the frames waited."""
        pixels = [frame.pixels for frame in frames]
        pixels += pixels[-1:] * (self._model.spec.tubelet - len(pixels))
        waited = frames[0].tubelet
        if waited is not None and all(a is b for a, b in zip(waited.pixels, pixels, strict=True)):
            return waited  # type: ignore[no-any-return]
        return Tubelet(frames[0].layout, pixels)

    def _encoded(self, last: Tubelet | None, new: Tubelet) -> Tubelet:
        """`last` again where `new` hardly differs. `last` is always one that was encoded, so that
        a slow drift is noticed once it adds up."""
        below = self._reuse_below
        if (
            below
            and last is not None
            and last.layout == new.layout
            and largest_change(last.pixels, new.pixels, new.layout) < below
        ):
            metrics.PICTURES.labels("reused").inc()
            return last
        metrics.PICTURES.labels("encoded").inc()
        return new
