"""Steps of frames with the kernels that were built for a worker's CPU, against PyTorch's operators
in their place.
"""

from unittest.mock import patch

from benchmarks.report import Report, Result
from benchmarks.variants import Variant, compare
from services.inference_worker.device import ops as kernels
from services.inference_worker.engine.thread import Engine


def run(report: Report, *, quick: bool) -> Result:
    """Raises RuntimeError where nothing was built, and on GPUs, where steps are replayed as
    they were recorded."""
    return compare(KERNELS, report, quick=quick)


def _check(engine: Engine) -> None:
    if engine.device.type != "cpu" or kernels.built(engine.core.runner.dtype) is None:
        raise RuntimeError("no kernels were built here for a CPU (WORKER_DEVICE=cpu)")


KERNELS = Variant(
    name="kernels",
    headings=("kernels", "PyTorch"),
    without=lambda: patch.object(kernels, "built", lambda dtype: None),
    check=_check,
)
