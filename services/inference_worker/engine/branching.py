"""Branches of questions: when they are opened, where their pages come from, and how a window moves
back under them. Device thread only.

Pages are taken one by one as answers grow. Where none is free, what branches pin of the past beyond
a window is taken from them first, as it is the oldest; then the youngest answer pauses: it gives
its pages back, and reads its question and what it said again when there is room. An older answer
never waits for a younger one, and the oldest fits whatever the others hold (`TrunkShape.cost`). So
answers end in the order they were asked, and frames find their pages at any time.
"""

from services.inference_worker import metrics
from services.inference_worker.engine.jobs import NO_FRAME, EngineSession, Generation, Seen
from services.inference_worker.kv.look import strangeness_now
from services.inference_worker.kv.trunk import Branch, SessionPages, Trunk
from services.inference_worker.model.family import StreamingModel
from services.inference_worker.runner.runner import Runner
from sightline.errors import FailedPreconditionError
from sightline.reasons import Reason

LAST = 2**40  # the order of what runs in the background begins here: it is younger than all else


class Branching:
    """The branches of all sessions. How many tokens those of one may take together before no more
    are opened stands in its trunk's shape."""

    def __init__(self, model: StreamingModel, cache: SessionPages, runner: Runner) -> None:
        self._spec = model.spec
        self._cache = cache
        self._runner = runner
        self._num_opened = 0

    def due(self, session: EngineSession, prompt_tokens: int) -> Generation | None:
        """The job whose turn it is: of paused answers the oldest, and then of those that wait for
        their branch the first, once its frames are in. None where there is not room for what it
        brings, with a page for everybody else to grow, or where `prompt_tokens` are being read."""
        waits = bool(session.waiting)
        paused = (job for job in session.running if job.paused and not (waits and job.background))
        job = min(paused, key=lambda job: job.order, default=None)
        if job is None:
            if not session.waiting or session.frames_taken < session.waiting[0].after_frame:
                return None
            job = session.waiting[0]
            if _sees_nothing(session, job):
                return None if session.frames else job
        return job if self._has_room(session, job, prompt_tokens) else None

    def open(self, session: EngineSession, prompt_tokens: int) -> None:
        """Let paused answers go on and give waiting jobs their branch, as far as they are `due`."""
        while (job := self.due(session, prompt_tokens)) is not None:
            if job.paused:
                job.paused = False
                continue
            if _sees_nothing(session, job):
                session.dequeue()
                job.sink.failed(FailedPreconditionError(NO_FRAME, reason=Reason.NO_FRAME_YET))
                continue
            if not job.alone:
                self._stay_in_range(session, job.num_unread + job.max_tokens)
            session.dequeue()
            job.branch = self._cache.open_branch(session.trunk, alone=job.alone)
            job.seen = _seen(job.branch, self._spec.tubelet)
            self._num_opened += 1
            job.order = self._num_opened + (LAST if job.background else 0)
            session.running.append(job)

    def _has_room(self, session: EngineSession, job: Generation, prompt_tokens: int) -> bool:
        others = [other for other in session.running if not other.paused]
        if not others:
            return True
        unread = session.unread_tokens
        if unread >= prompt_tokens:
            return False
        pool, trunk = self._cache.pool, session.trunk
        # Those that are being read have taken less than they will.
        wanted = pool.pages_for(job.num_unread) + pool.pages_for(unread) + len(others)
        share = trunk.shape.branch_pages(pool.page_size)
        return trunk.branch_pages + wanted <= share and wanted <= trunk.num_free

    def find_pages(self, job: Generation, count: int) -> bool:
        """Whether a branch can take its next `count` tokens now. If not, it pauses. Younger ones
        may have had to."""
        session = job.session
        assert job.branch is not None
        assert session is not None
        wanted = self._cache.missing(job.branch, count)
        self._make_room(session, wanted, job.order)
        if session.trunk.num_free >= wanted:
            return True
        if not any(other.order < job.order for other in session.running):
            self._withdraw(session.trunk, wanted)
            return True
        self._pause(job)
        return False

    def make_room(self, session: EngineSession, num_tokens: list[int]) -> None:
        """Find pages for segments of so many tokens."""
        wanted = sum(self._cache.pool.pages_for(count) for count in num_tokens)
        self._make_room(session, wanted, self._oldest(session))
        self._withdraw(session.trunk, wanted)

    def _make_room(self, session: EngineSession, wanted: int, order: int) -> None:
        """Make so many pages free, by what may be asked of those who are younger than
        `order`."""
        trunk = session.trunk
        if trunk.num_free >= wanted:
            return
        self._withdraw(trunk, wanted, trunk.shape.window_pages(self._cache.pool.page_size))
        self._pause_younger(session, wanted, order)

    def _pause_younger(self, session: EngineSession, wanted: int, order: int) -> None:
        for job in sorted(session.running, key=lambda job: -job.order):
            if session.trunk.num_free >= wanted or job.order <= order:
                return
            if not job.paused:
                self._pause(job)

    def _withdraw(self, trunk: Trunk, wanted: int, least: int = 0) -> None:
        metrics.SEGMENTS_WITHDRAWN.inc(self._cache.withdraw(trunk, wanted, least))

    @staticmethod
    def _oldest(session: EngineSession) -> int:
        return min((job.order for job in session.running), default=0)

    def _pause(self, job: Generation) -> None:
        assert job.branch is not None
        if not job.num_answered:  # they may hold what is no number
            self._runner.clear(job.branch.pages)
        self._cache.empty_branch(job.branch)
        job.pause()
        metrics.ANSWERS_PAUSED.inc()

    # Positions

    def _stay_in_range(self, session: EngineSession, length: int) -> None:
        """A branch that would leave the model's range with its last tokens finds its window moved
        back first, unless that was done a moment ago: keys are rounded with every move."""
        trunk = session.trunk
        if not trunk.segments or not self._spec.branch_positions:
            return
        window = trunk.cursor - trunk.segments[0].cursor
        gained = trunk.segments[0].cursor - trunk.shape.sink_tokens
        most = self._spec.position_horizon + self._spec.branch_positions
        if trunk.cursor + length > most and gained >= window / 4:
            self.rebase(session)

    def rebase(self, session: EngineSession) -> None:
        """Move the window back to just after the sink, before positions leave the range the model
        was trained for. Branches go on reading the pages they have; where these are the window's
        as well, it gets others, for which answers pause before anything is taken from them."""
        wanted = self._cache.pinned_window(session.trunk)
        self._pause_younger(session, wanted, self._oldest(session))
        self._withdraw(session.trunk, wanted)
        delta, old, new = self._cache.rebase(session.trunk)
        self._runner.shift(old, new, delta)
        session.rebase_due = False
        metrics.REBASES.inc()


def _seen(branch: Branch, tubelet: int) -> Seen:
    video = branch.seen[1:]
    if not video:
        return Seen(0, 0, 0)
    return Seen(
        video[0].captured_ns[0],
        video[-1].captured_ns[1],
        tubelet * len(video),
        strangeness_now(segment.look for segment in reversed(video)),
    )


def _sees_nothing(session: EngineSession, job: Generation) -> bool:
    """Whether a job would make something up: it needs a frame, and none was understood."""
    return job.needs_frame and not session.trunk.segments
