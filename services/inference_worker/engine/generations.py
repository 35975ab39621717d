"""Answers under way: each token goes to who waits for it, until one is the last."""

from collections.abc import Callable

from services.inference_worker.engine.jobs import FinishReason, Generation
from services.inference_worker.engine.step_health import StepHealth
from services.inference_worker.kv.trunk import SessionPages
from services.inference_worker.model.errors import NotFiniteError
from services.inference_worker.model.family import StreamingModel
from services.inference_worker.runner.batch import RunOutput
from services.inference_worker.runner.runner import Runner


class Generations:
    """The answers under way of every session, on the device thread."""

    def __init__(
        self,
        model: StreamingModel,
        cache: SessionPages,
        runner: Runner,
        health: StepHealth,
        clock: Callable[[], float],
    ) -> None:
        self._model = model
        self._cache = cache
        self._runner = runner
        self._health = health
        self._clock = clock

    def advance(self, job: Generation, output: RunOutput | Exception | None) -> None:
        """Take what a step gave to a job."""
        if output is None:  # more of the prompt to come
            return
        if isinstance(output, RunOutput) and not output.finite:
            output = NotFiniteError("the model produced no valid scores")
        if isinstance(output, Exception):
            self.drop(job, clear=self._health.failure is None)
            job.sink.failed(output)
            return
        if job.num_answered == 0:
            job.sink.started(job.judged)
        if job.score_only:
            self.drop(job)
            job.undecided = output.token not in (self._model.yes_token, self._model.no_token)
            job.sink.scored(output.score)  # after that, for whoever hears of it looks
            return
        if output.token in self._model.stop_tokens:
            self.drop(job)
            job.sink.finished(FinishReason.STOP)
            return
        job.surprise -= output.log_probability  # before the sink hears of the token
        job.sink.token(output.token)
        job.num_answered += 1
        job.pending = [output.token]
        job.said.append(output.token)
        if job.held is not None:
            job.held.take(output.token)
            if job.held.complete:  # only the end could follow
                self.drop(job)
                job.sink.finished(FinishReason.STOP)
                return
        if job.num_answered >= job.max_tokens:
            self.drop(job)
            job.sink.finished(FinishReason.LENGTH)

    def cancel(self, job: Generation) -> None:
        """End a job before its time, if it has not ended."""
        if job.branch is not None:
            if job.branch.closed:
                return
            self.drop(job, clear=not job.num_answered)
        elif job.session is not None and job in job.session.waiting:
            job.session.withdraw(job)
        else:
            return
        job.sink.finished(FinishReason.CANCELLED)

    def drop(self, job: Generation, clear: bool = False) -> None:
        """Take a running job off its session and give its pages back. `clear`: they may hold what
        is no number, and the session's next steps read over them."""
        assert job.branch is not None
        assert job.session is not None
        if clear:
            self._runner.clear(job.branch.pages)
        job.session.running.remove(job)
        job.session.active_s = self._clock()
        self._cache.close_branch(job.branch)
