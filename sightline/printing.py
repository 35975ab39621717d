"""Printing: JSON, tables, cells of spreadsheets, times of day."""

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

__all__ = ["cell", "clock", "print_json", "print_table"]

_FORMULAS = frozenset("=+@-\t\r\n")  # what one begins with


def print_json(value: Any) -> None:
    """One line, at once, for whoever reads a pipe."""
    print(json.dumps(value), flush=True)


def print_table(headings: Sequence[str], lines: Sequence[Sequence[str]]) -> None:
    rows = [headings, *lines]
    widths = [max(len(row[column]) for row in rows) for column in range(len(headings))]
    for row in rows:
        cells = (text.ljust(width) for text, width in zip(row, widths, strict=True))
        print("  ".join(cells).rstrip())


def cell(value: object) -> object:
    """A value of a table that no spreadsheet takes for a formula."""
    return f"'{value}" if isinstance(value, str) and value[:1] in _FORMULAS else value


def clock(when_ns: int, *, hundredths: bool = True) -> str:
    """The time of day here, after its date where that is not today's. A camera without a clock
    begins in 1970, which tells nobody anything."""
    moment = datetime.fromtimestamp(when_ns / 1e9)
    time = f"{moment:%H:%M:%S.%f}"[:-4] if hundredths else f"{moment:%H:%M:%S}"
    told = moment.year < 2000 or moment.date() == datetime.now().date()
    return time if told else f"{moment:%Y-%m-%d} {time}"
