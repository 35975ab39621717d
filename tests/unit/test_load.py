"""What a worker says of its load is about now."""

from services.inference_worker import metrics
from services.inference_worker.assembly import _tell
from services.inference_worker.config import WorkerConfig
from services.inference_worker.engine.snapshot import EngineSnapshot
from services.inference_worker.serving.servicer import _since
from tests.unit.tiny import Bench, tiny_model


def test_frames_that_waited_long_ago_are_not_its_load() -> None:
    samples = [(1.0, 9.0), (6.0, 0.2), (9.0, 0.1)]
    assert _since(5.0, samples) == [0.2, 0.1]
    assert _since(10.0, samples) == []


def test_endpoint_pickers_and_autoscalers_read_what_the_engine_tells() -> None:
    bench = Bench(tiny_model(window=2))
    bench.open("s")
    engine = bench.engine
    _tell(engine, WorkerConfig())
    now = engine.snapshot()
    gauges = {
        gauge._name: next(iter(gauge.collect())).samples[0].value
        for gauge in (
            metrics.REQUESTS_RUNNING,
            metrics.REQUESTS_WAITING,
            metrics.KV_CACHE_USAGE,
            metrics.CAPACITY,
        )
    }
    assert gauges == {
        "sightline_num_requests_running": 0,
        "sightline_num_requests_waiting": 0,
        "sightline_kv_cache_usage_perc": now.pages_promised / now.pages_total,
        "sightline_worker_session_capacity": 1 + now.num_admissible,
    }
    assert 0 < now.session_pages <= now.pages_promised < now.pages_total


def test_shares_are_of_what_there_is() -> None:
    assert EngineSnapshot().promised_share == 0
    full = EngineSnapshot(sessions=frozenset("ab"), pages_promised=30, pages_total=30)
    assert (full.promised_share, full.capacity) == (1, 2)
    assert EngineSnapshot(sessions=frozenset("a"), num_admissible=3).capacity == 4
