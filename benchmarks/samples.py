"""Statistics of what was measured. Latencies are milliseconds where a name says `_ms`."""

import math
import statistics
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Self

from prometheus_client.parser import text_string_to_metric_families


def percentile(samples: Sequence[float], share: float) -> float:
    """Nearest rank: the smallest sample that at least `share` of all do not exceed."""
    if not samples:
        raise ValueError("no samples")
    ordered = sorted(samples)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


@dataclass(frozen=True, slots=True)
class Latency:
    """Percentiles of `count` samples; all zero for none."""

    count: int
    p50_ms: float
    p95_ms: float
    max_ms: float

    @classmethod
    def of_ms(cls, samples_ms: Sequence[float]) -> Self:
        if not samples_ms:
            return cls(0, 0.0, 0.0, 0.0)
        return cls(
            len(samples_ms),
            percentile(samples_ms, 0.50),
            percentile(samples_ms, 0.95),
            max(samples_ms),
        )


@dataclass(frozen=True, slots=True)
class Ratio:
    """Ratio of one thing to another, measured in turns: the median of the turns' own ratios,
    because what else the machine does changes slowly and hits both halves of a turn."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, numerators: Sequence[float], denominators: Sequence[float]) -> Self:
        ratios = [a / b for a, b in zip(numerators, denominators, strict=True)]
        return cls(statistics.median(ratios), min(ratios), max(ratios))

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f}…{self.high:.2f})"


@dataclass(frozen=True, slots=True)
class Histogram:
    """A Prometheus histogram: `counts[n]` samples lie in (bounds[n-1], bounds[n]]; the last bound
    is infinite."""

    bounds: tuple[float, ...]
    counts: tuple[int, ...]

    @classmethod
    def read(cls, exposition: str, name: str) -> Self:
        """Read a histogram from the text of a /metrics page; several label sets are added up.

        Raises KeyError when there is no such histogram.
        """
        totals: dict[float, float] = {}
        for family in text_string_to_metric_families(exposition):
            if family.name != name:
                continue
            for sample in family.samples:
                if sample.name == f"{name}_bucket":
                    bound = float(sample.labels["le"])
                    totals[bound] = totals.get(bound, 0.0) + sample.value
        if not totals:
            raise KeyError(name)
        bounds = tuple(sorted(totals))
        cumulative = [0, *(round(totals[bound]) for bound in bounds)]
        counts = [after - before for before, after in pairwise(cumulative)]
        return cls(bounds, tuple(counts))

    def __sub__(self, earlier: "Histogram") -> "Histogram":
        """Samples that came since `earlier`."""
        if self.bounds != earlier.bounds:
            raise ValueError("histograms with other buckets")
        counts = zip(self.counts, earlier.counts, strict=True)
        return Histogram(self.bounds, tuple(now - before for now, before in counts))

    @property
    def total(self) -> int:
        return sum(self.counts)

    def share_within(self, bound: float) -> float:
        """Share of samples that do not exceed `bound`. Exact for a bucket's bound; otherwise that
        of the next lower one, so never too good."""
        if not self.total:
            return 0.0
        inside = sum(n for b, n in zip(self.bounds, self.counts, strict=True) if b <= bound)
        return inside / self.total

    def quantile(self, share: float) -> float:
        """Interpolated within its bucket; for what lies in the last one, that one's lower bound."""
        if not self.total:
            return 0.0
        cumulative, running = list[int](), 0
        for count in self.counts:
            running += count
            cumulative.append(running)
        wanted = share * self.total
        index = bisect_left(cumulative, wanted)
        low = self.bounds[index - 1] if index else 0.0
        if math.isinf(self.bounds[index]):
            return low
        below = cumulative[index - 1] if index else 0
        return low + (self.bounds[index] - low) * (wanted - below) / self.counts[index]


def total_of(exposition: str, name: str, **labels: str) -> float:
    """A counter of a /metrics page, all label sets together that hold `labels`; 0 for one that has
    not counted."""
    return sum(
        sample.value
        for family in text_string_to_metric_families(exposition)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


def slope(xs: Sequence[float], ys: Sequence[float]) -> float:
    """Least squares: how much y grows per x."""
    return statistics.linear_regression(xs, ys).slope


def chunk_medians(samples: Iterable[float], size: int) -> list[float]:
    """Medians of consecutive chunks; a last chunk that is not full is left out."""
    values = list(samples)
    return [
        statistics.median(values[start : start + size])
        for start in range(0, len(values) - size + 1, size)
    ]
