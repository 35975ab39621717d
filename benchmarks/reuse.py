"""Steps of still footage that leave the encoder out, as WORKER_REUSE_BELOW allows, against steps
that encode every frame.
"""

import os
from unittest.mock import patch

from benchmarks.report import Report, Result
from benchmarks.variants import Variant, compare
from services.inference_worker.engine import batching


def run(report: Report, *, quick: bool) -> Result:
    with patch.dict(os.environ, WORKER_REUSE_BELOW="1.0"):
        return compare(REUSE, report, quick=quick)


REUSE = Variant(
    name="reuse",
    headings=("reused", "encoded"),
    without=lambda: patch.object(batching, "largest_change", lambda *_: 255.0),
    check=lambda engine: None,
    still=True,
)
