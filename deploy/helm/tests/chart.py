"""The chart, and helm to render it."""

import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
CHART = HERE.parent / "sightline"
BIN = Path(sys.executable).parent
Values = dict[str, Any]


def helm(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [str(BIN / "helm"), *arguments], capture_output=True, text=True, timeout=60
    )


def merged(values: Values, over: Values) -> Values:
    """`over` laid on `values`, as helm does it."""
    result = copy.deepcopy(values)
    for key, value in over.items():
        mergeable = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = merged(result[key], value) if mergeable else value
    return result
