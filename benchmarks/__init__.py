"""Measures what Sightline promises: `python -m benchmarks`, or `make bench`."""

from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
