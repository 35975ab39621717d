"""A short storm: some faults of a whole suite under load, and nothing is lost.

`make chaos` is the long one.
"""

from pathlib import Path

import pytest

from benchmarks import chaos
from benchmarks.chaos import ChaosConfig, storm_over
from benchmarks.chaos_faults import KINDS, Kind
from tests import tools

pytestmark = pytest.mark.option

FAULTS = ("worker hung", "link cut", "dialogue killed", "redis full")


def _kind(name: str) -> Kind:
    return next(kind for kind in KINDS if kind.name == name)


async def test_a_short_storm_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tools.require("redis")
    for name in ("WORKER_THREADS", "GATEWAY_MEDIA_ROOT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(chaos, "HOLD_S", 0.3)
    config = ChaosConfig(seed=7)
    kinds = [_kind(name) for name in FAULTS]
    storm = await storm_over(tmp_path, config, len(kinds), lambda doing, done: None, kinds)
    assert storm.counts == dict.fromkeys(storm.counts, 0), (storm.unanswered, storm.watches_gone)
    assert [fault.kind for fault in storm.faults[1::2]] == list(FAULTS)
    assert storm.questions > 4 * len(FAULTS)
    assert storm.events > 0
