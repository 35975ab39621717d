"""Findings of `sightline doctor`."""

from collections.abc import Mapping
from dataclasses import dataclass

OK, WARNING, FAULT = "ok", "warning", "fault"
Environ = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Finding:
    """Finding of a check. `level`: ok, warning or fault; `advice`: what to do where it is not
    ok."""

    check: str
    level: str
    text: str
    advice: str = ""
