"""A worker whose device fails: `python -m tests.failing_worker`, for tests that watch it end.

Everything is the service's own but the model, which is tiny and random, and the runner: it raises
with every step once the file exists that the variable BROKEN names.
"""

import os
import time
from pathlib import Path
from typing import Any

from services.inference_worker import __main__ as worker_main
from services.inference_worker import assembly
from services.inference_worker.engine.thread import Engine
from services.inference_worker.runner.batch import Run
from tests.unit.tiny import Bench, tiny_model


def failing_engine(broken: Path) -> Engine:
    """An engine that works until the file `broken` exists."""
    bench = Bench(tiny_model(), num_pages=2048, clock=time.monotonic)
    execute = bench.runner.execute

    def fail_when_told(runs: list[Run], *rest: Any) -> Any:
        if broken.exists():
            raise RuntimeError("a fault on the device")
        return execute(runs, *rest)

    bench.runner.execute = fail_when_told  # type: ignore[method-assign]
    return bench.engine


if __name__ == "__main__":
    broken = Path(os.environ["BROKEN"])
    assembly.build_engine = lambda config, progress: failing_engine(broken)  # type: ignore[assignment]
    worker_main.main()
