"""A step on the device, and what becomes of its parts when it fails. Device thread only."""

import logging

from services.inference_worker import metrics
from services.inference_worker.engine.step_health import StepHealth
from services.inference_worker.runner.batch import Run, RunOutput, Tubelet
from services.inference_worker.runner.runner import Runner
from sightline.errors import InternalError

log = logging.getLogger(__name__)


class Execution:
    """Runs steps on a runner, whose health it tells."""

    def __init__(self, runner: Runner, health: StepHealth) -> None:
        self._runner = runner
        self._health = health

    def run(self, runs: list[Run], ahead: list[Tubelet]) -> list[RunOutput | Exception | None]:
        """Run a step; if it raises, run each part alone so that one failure hurts one caller."""
        if not runs:
            return []
        try:
            outputs = list[RunOutput | Exception | None](self._runner.execute(runs, ahead))
        except Exception:
            metrics.STEP_FAILURES.labels("batch").inc()
            log.exception("step failed; running its parts alone", extra={"runs": len(runs)})
            self._runner.release_cached()  # the parts may fit where the whole did not
            outputs = self._alone(runs)
        else:
            self._health.succeeded()
        return outputs

    def _alone(self, runs: list[Run]) -> list[RunOutput | Exception | None]:
        outputs: list[RunOutput | Exception | None] = []
        failure: Exception | None = None
        for run in runs:
            if not self._health.check():
                outputs.append(self._health.failure)
                continue
            try:
                outputs += self._runner.execute([run])
            except Exception as error:
                metrics.STEP_FAILURES.labels("run").inc()
                log.exception("part of a step failed")
                failure = error
                outputs.append(InternalError("the model failed on this input"))
        if len(runs) > sum(isinstance(output, Exception) for output in outputs):
            self._health.succeeded()
        elif failure is not None:
            questions = not any(run.tubelet for run in runs)
            self._health.failed("step", failure, ask_device=questions)
        if self._health.failure is not None:
            return [self._health.failure] * len(runs)
        return outputs
