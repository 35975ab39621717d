"""What benchmarks conclude from what they measured, and what they write about it."""

import io
import json
import os
import random
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console
from torch.nn.functional import scaled_dot_product_attention

from benchmarks import engine, engine_result, rows_result
from benchmarks.askers import Burst
from benchmarks.askers import Measured as AskersMeasured
from benchmarks.chaos import ChaosConfig, drawn
from benchmarks.chaos_load import Asked, Asker, Differences, Watcher
from benchmarks.chaos_result import CALM, Fault, Storm
from benchmarks.chaos_result import result as chaos_result
from benchmarks.crowd import Answers
from benchmarks.floor import Rates, Work, attention_flops, kv_bytes, tower_flops
from benchmarks.growth import Growth
from benchmarks.machine import CpuMeter, Machine
from benchmarks.overload import LOADED_STEP_S, Phases
from benchmarks.overload import Measured as OverloadMeasured
from benchmarks.paced_worker import Understood
from benchmarks.questions import Measured as QuestionsMeasured
from benchmarks.report import Result, Table, Target, show, told, write
from benchmarks.rules_score import Score, Told, runs_of
from benchmarks.samples import Histogram, Latency, Ratio, chunk_medians, percentile, slope, total_of
from services.inference_worker.model.decoder import DecoderConfig

EXPOSITION = """\
# HELP sightline_frame_latency_seconds A frame's way.
# TYPE sightline_frame_latency_seconds histogram
sightline_frame_latency_seconds_bucket{le="0.01"} 10.0
sightline_frame_latency_seconds_bucket{le="0.045"} 90.0
sightline_frame_latency_seconds_bucket{le="0.12"} 99.0
sightline_frame_latency_seconds_bucket{le="+Inf"} 100.0
sightline_frame_latency_seconds_count 100.0
sightline_frame_latency_seconds_sum 3.0
# HELP other_seconds Something else.
# TYPE other_seconds histogram
other_seconds_bucket{kind="a",le="1.0"} 1.0
other_seconds_bucket{kind="a",le="+Inf"} 1.0
other_seconds_bucket{kind="b",le="1.0"} 2.0
other_seconds_bucket{kind="b",le="+Inf"} 5.0
"""
MACHINE = Machine(
    cpu="a processor",
    cores=2,
    memory_gib=16.0,
    instructions=("avx2",),
    gpu="",
    system="a system",
    python="3.11",
    torch="2.13",
    commit="abc",
    date="2026-11-22T10:00:00+00:00",
    load_average=(0.1, 0.2, 0.3),
    busy_before=0.02,
    settings={"WORKER_THREADS": "1"},
)


class TestSamples:
    def test_percentile_is_the_nearest_rank(self) -> None:
        samples = [float(n) for n in range(100, 0, -1)]
        assert percentile(samples, 0.50) == 50
        assert percentile(samples, 0.95) == 95
        assert percentile([7.0], 0.95) == 7
        assert percentile([1.0, 9.0], 0.51) == 9

    def test_percentile_of_nothing_is_refused(self) -> None:
        with pytest.raises(ValueError, match="no samples"):
            percentile([], 0.5)

    def test_latency_of_nothing_counts_none(self) -> None:
        assert Latency.of_ms([]).count == 0
        assert Latency.of_ms([3.0, 1.0, 2.0]) == Latency(3, 2.0, 3.0, 3.0)

    def test_ratio_is_the_median_of_the_turns_own_ratios(self) -> None:
        """One slow turn hits both sides; the ratio of medians would see 20 / 10."""
        ratio = Ratio.of([20.0, 200.0, 6.0], [10.0, 100.0, 2.0])
        assert (ratio.median, ratio.low, ratio.high) == (2.0, 2.0, 3.0)

    def test_ratio_needs_both_halves_of_every_turn(self) -> None:
        with pytest.raises(ValueError, match="shorter"):
            Ratio.of([1.0, 2.0], [1.0])

    def test_chunk_medians_leave_an_unfinished_chunk_out(self) -> None:
        assert chunk_medians([1, 2, 9, 4, 4, 4, 100], 3) == [2, 4]

    def test_slope_is_per_unit(self) -> None:
        assert slope([0, 100, 200], [5.0, 5.5, 6.0]) == pytest.approx(0.005)


class TestHistogram:
    def test_reads_one_family_of_a_metrics_page(self) -> None:
        histogram = Histogram.read(EXPOSITION, "sightline_frame_latency_seconds")
        assert histogram.bounds == (0.01, 0.045, 0.12, float("inf"))
        assert histogram.counts == (10, 80, 9, 1)
        assert histogram.total == 100

    def test_adds_label_sets_up(self) -> None:
        assert Histogram.read(EXPOSITION, "other_seconds").counts == (3, 3)

    def test_unknown_name(self) -> None:
        with pytest.raises(KeyError):
            Histogram.read(EXPOSITION, "nothing_seconds")

    def test_difference_is_what_came_since(self) -> None:
        now = Histogram((1.0, float("inf")), (7, 3))
        assert (now - Histogram((1.0, float("inf")), (5, 3))).counts == (2, 0)
        with pytest.raises(ValueError, match="buckets"):
            _ = now - Histogram((2.0, float("inf")), (5, 3))

    def test_share_within_is_exact_at_bounds_and_never_too_good_between(self) -> None:
        histogram = Histogram.read(EXPOSITION, "sightline_frame_latency_seconds")
        assert histogram.share_within(0.045) == 0.90
        assert histogram.share_within(0.119) == 0.90
        assert histogram.share_within(0.12) == 0.99

    def test_quantile_lies_in_the_bucket_that_holds_it(self) -> None:
        histogram = Histogram.read(EXPOSITION, "sightline_frame_latency_seconds")
        assert histogram.quantile(0.50) == pytest.approx(0.01 + 0.035 * 40 / 80)
        assert 0.045 < histogram.quantile(0.95) < 0.12
        assert histogram.quantile(0.90) == pytest.approx(0.045)
        assert histogram.quantile(1.0) == 0.12  # at least: the last bucket has no upper end
        shares = [0.05, 0.1, 0.3, 0.9, 0.95, 0.99]
        quantiles = [histogram.quantile(share) for share in shares]
        assert all(low <= high for low, high in pairwise(quantiles))

    def test_agrees_with_the_target_at_a_bound(self) -> None:
        """p95 ≤ bound exactly when 95 % of the samples are within it."""
        for fast in (94, 95, 96):
            histogram = Histogram((0.045, 0.12, float("inf")), (fast, 100 - fast, 0))
            assert (histogram.quantile(0.95) <= 0.045) == (histogram.share_within(0.045) >= 0.95)

    def test_of_nothing(self) -> None:
        empty = Histogram((1.0, float("inf")), (0, 0))
        assert (empty.quantile(0.95), empty.share_within(1.0)) == (0.0, 0.0)


class TestReport:
    def result(self, *targets: Target) -> Result:
        return Result(
            name="example",
            tables=[Table("A table", ("", "ms"), [("one", "1.0"), ("two", "2.0")])],
            targets=list(targets),
            figures={"ratio": Ratio(2.0, 1.0, 3.0), "samples": [1.0, 2.0]},
            draw=lambda figure: figure.add_subplot().plot([1, 2]),
            dtype="bfloat16",
            device="cpu",
            notes=["a note"],
        )

    def test_targets_know_their_direction(self) -> None:
        assert Target("latency", 45.0, 45.0, "ms").met
        assert not Target("latency", 45.1, 45.0, "ms").met
        assert Target("ratio", 2.5, 2.5, at_least=True).met
        assert not Target("ratio", 2.4, 2.5, at_least=True).met
        missed = Target("ratio", 2.4, 2.5, at_least=True)
        assert self.result(Target("latency", 1.0, 2.0), missed).missed == [missed]

    def test_writes_json_and_a_plot(self, tmp_path: Path) -> None:
        path = write(self.result(Target("latency", 46.0, 45.0, "ms")), MACHINE, tmp_path / "new")
        assert path.name == "example.json"
        found = json.loads(path.read_text())
        assert found["machine"]["cpu"] == "a processor"
        assert found["machine"]["dtype"] == "bfloat16"
        assert found["figures"]["ratio"] == {"median": 2.0, "low": 1.0, "high": 3.0}
        assert found["targets"][0]["met"] is False
        assert found["tables"][0]["rows"] == [["one", "1.0"], ["two", "2.0"]]
        assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")

    def test_long_rows_of_numbers_are_told_in_short(self) -> None:
        figures = {"steps_s": [float(number) for number in range(1, 101)], "sizes": [1, 2, 3]}
        assert told({"part": figures}) == {
            "part": {
                "steps_s": {"count": 100, "least": 1.0, "p50": 50.0, "p95": 95.0, "most": 100.0},
                "sizes": [1, 2, 3],
            }
        }

    def test_shows_every_row_target_and_note(self) -> None:
        console = Console(record=True, width=100, file=io.StringIO())
        show(self.result(Target("latency", 46.0, 45.0, "ms"), Target("drops", 0.0, 0.001)), console)
        text = console.export_text()
        for expected in ("A table", "two", "2.0", "missed", "latency: 46 ≤ 45 ms", "a note"):
            assert expected in text
        assert "met    drops: 0 ≤ 0.001" in " ".join(text.split("\n"))


def measured(row: rows_result.Row, **changes: Any) -> rows_result.Measured:
    """A row as it should be."""
    fast = Latency(100, 10.0, 20.0, 30.0)
    answers = rows_result.Answers(fast, fast, fast, 4.0, 9.0, [], 0) if row.dialogue else None
    values: dict[str, Any] = {
        "row": row,
        "seconds": 200.0 / row.users,
        "frames": 1000,
        "frame_p50_ms": 10.0,
        "frame_p95_ms": 20.0,
        "frame_share_within_article": 1.0,
        "worst_session_p95_ms": 25.0,
        "queue_p95_ms": 5.0,
        "step_p50_ms": 8.0,
        "steps_per_s": 30.0,
        "capture_to_understood": fast,
        "fps_offered": row.fps,
        "fps_processed": row.fps,
        "sampled": 10_000,
        "dropped": {},
        "kv_hit_ratio": 1.0,
        "answers": answers,
        "cores": dict.fromkeys(
            ("worker", "gateway", "dialogue", "publisher", "viewers", "others"), 0.1
        ),
        "rss_mib": {"worker": 500.0, "gateway": 90.0},
        "sent": [],
    }
    return rows_result.Measured(**{**values, **changes})


class TestRows:
    def missed(self, found: rows_result.Measured) -> list[str]:
        return [t.what.partition(": ")[2] for t in rows_result.targets(found) if not t.met]

    def test_are_the_articles(self) -> None:
        seen = [(row.users, row.fps, row.dialogue, row.article_ms) for row in rows_result.ROWS]
        assert seen == [
            (1, 30, False, 45),
            (1, 30, True, 120),
            (10, 15, False, 210),
            (10, 10, True, 380),
        ]

    @pytest.mark.parametrize("row", rows_result.ROWS, ids=lambda row: row.title)
    def test_a_good_row_misses_nothing(self, row: rows_result.Row) -> None:
        assert self.missed(measured(row)) == []

    def test_ten_drops_of_ten_thousand_are_the_most(self) -> None:
        good = measured(rows_result.ROWS[2], dropped={"ring_full": 6, "decoder_overrun": 4})
        assert good.drop_ratio == 0.001
        assert self.missed(good) == []
        assert self.missed(measured(rows_result.ROWS[2], dropped={"ring_full": 11})) == [
            "frames dropped"
        ]

    def test_every_latency_has_its_own_verdict(self) -> None:
        row, slow = rows_result.ROWS[1], Latency(100, 50.0, 121.0, 300.0)
        fast = Latency(100, 10.0, 20.0, 30.0)
        assert self.missed(measured(row, frame_p95_ms=121.0)) == ["frame latency p95"]
        late = measured(row, capture_to_understood=slow)
        assert self.missed(late) == ["capture to understood p95"]
        slow_answers = rows_result.Answers(fast, slow, fast, 4.0, 9.0, [], 0)
        assert self.missed(measured(row, answers=slow_answers)) == ["whole answer p95"]

    def test_answers_that_never_came_are_not_fast_ones(self) -> None:
        none = Latency.of_ms([])
        silent = rows_result.Answers(none, none, none, 0.0, 0.0, ["no answer in time"], 12)
        seen = self.missed(measured(rows_result.ROWS[3], answers=silent))
        assert seen == ["answers of those due", "failed answers"]

    def test_a_camera_that_is_not_kept_up_with(self) -> None:
        slow = measured(rows_result.ROWS[0], fps_processed=29.0)
        assert self.missed(slow) == ["frames processed of those offered"]


def test_questions_compare_adjacent_blocks() -> None:
    def blocks(*p95s: float) -> list[Latency]:
        return [Latency(10, p95 / 2, p95, p95) for p95 in p95s]

    found = QuestionsMeasured(1, 30, blocks(10, 100, 10), blocks(15, 150, 30))
    assert found.ratio == Ratio(1.5, 1.5, 3.0)
    assert found.title == "1 session at 30 fps"


def test_a_burst_is_as_far_out_of_order_as_95_of_100() -> None:
    in_order = Burst(Answers(places=list(range(100))), {})
    assert in_order.overtaken == 0.0
    # One waits for all; 99 each gain a place.
    one_late = Burst(Answers(places=[99, *range(99)]), {})
    assert one_late.overtaken == 0.01
    reversed_ = Burst(Answers(places=list(range(99, -1, -1))), {})
    assert reversed_.overtaken > 0.9
    assert Burst(Answers(), {}).overtaken == 1.0  # nobody was answered


def test_askers_count_the_worst_burst_and_frames_with_and_without() -> None:
    bursts = [Burst(Answers(answered=number), {}) for number in (10, 9)]
    found = AskersMeasured("worker", 10, bursts=bursts)
    assert found.answered == 0.9
    found.count(False, 100, 0)
    found.count(True, 60, 20)
    found.count(True, 20, 0)
    assert (found.lost("without"), found.lost("with")) == (0.0, 0.2)


def test_cpu_meter_names_what_it_was_given() -> None:
    meter = CpuMeter([("me", os.getpid())])
    meter.start()
    cores = meter.cores()
    assert set(cores) == {"me", "others"}
    assert cores["others"] >= 0.0
    assert meter.rss_mib()["me"] > 1.0


class TestFloor:
    config = DecoderConfig(
        vocab_size=10,
        hidden_size=8,
        num_layers=3,
        num_heads=4,
        num_kv_heads=2,
        head_dim=2,
        mlp_size=16,
    )

    def test_attention_counts_the_pairs_that_are_seen(self) -> None:
        """Two tokens after five: 6 + 7 pairs, two products of 2 multiplications and additions."""
        assert attention_flops(self.config, 2, 5) == 4 * 13 * 4 * 2 * 3

    def test_keys_and_values_of_every_layer(self) -> None:
        assert kv_bytes(self.config, 5, 2) == 2 * 5 * 2 * 2 * 3 * 2

    def test_a_towers_attention_counts_on_a_cpu_too(self) -> None:
        queries = torch.zeros(2, 4, 8, 16)
        model: Any = SimpleNamespace(
            spec=SimpleNamespace(tubelet=1, layout=SimpleNamespace(height=1, width=1)),
            decoder=SimpleNamespace(embedding=torch.nn.Embedding(1, 1)),
            encode=lambda _: scaled_dot_product_attention(queries, queries, queries),
        )
        assert tower_flops(model, 1) == 4 * queries.numel() * 8

    def test_the_slower_resource_is_the_floor(self) -> None:
        rates = Rates(flops=1e9, frame_flops=5e8, bytes=1e6, size=(8, 8, 8))
        assert Work(flops=2e9, bytes=1e6).floor_s(rates) == 2.0
        assert Work(flops=1e9, bytes=3e6).floor_s(rates) == 3.0


def published(**changes: Any) -> engine_result.Measured:
    """A family as it should be."""
    work = Work(1e9, 1e6)
    steps = [
        engine_result.Step(name, work, [0.07], [0.1])
        for name in ("one", "eight", "token", "tokens")
    ]
    values: dict[str, Any] = {
        "family": "a family",
        "dtype": "bfloat16",
        "device": "cpu",
        "parameters": {"decoder": 2_000_000, "tower": 1_000_000, "embedding": 1_000_000},
        "segment_tokens": 66,
        "tubelet": 2,
        "question_tokens": 20,
        "window_tokens": 2000,
        "sessions": 100,
        "session_mib": 12.0,
        "rates": Rates(1e12, 5e11, 3e10, (8, 8, 8)),
        "streamed_s": [0.1, 0.2],
        "reencoded_s": [3.0, 5.0],
        "one_tokens_per_s": [20.0],
        "all_tokens_per_s": [80.0],
        "steps": steps,
        "growth": Growth([0.1] * 60, [0.1, 0.1], [0.1, 0.11], [0.1, 0.4], [2, 400]),
    }
    return engine_result.Measured(**{**values, **changes})


class TestEngine:
    def missed(self, found: engine_result.Measured) -> list[str]:
        return [t.what.partition(": ")[2] for t in engine_result.targets(found) if not t.met]

    def test_every_promise_has_its_own_verdict(self) -> None:
        assert self.missed(published()) == []
        slow = published(reencoded_s=[1.0, 2.0])
        assert self.missed(slow) == ["first token, re-encoding against streaming"]
        ageing = published(growth=Growth([], [0.1], [0.12], [], []))
        assert self.missed(ageing) == ["step, an old stream against a young one"]
        steps = [
            engine_result.Step("", Work(1.0, 1.0), [floor], [1.0]) for floor in (0.9, 0.5, 0.9, 0.9)
        ]
        wasteful = published(steps=steps)
        assert self.missed(wasteful) == ["share of the floor, 8 sessions' frames"]

    def test_a_growing_cache_is_read_around_an_age(self) -> None:
        growth = Growth(theirs_s=[n / 100 for n in range(100)], theirs_frames=list(range(100)))
        assert growth.theirs_at(50) == 0.5
        assert growth.theirs_at(1000) == 0.95

    def test_tells_of_every_family(self, tmp_path: Path) -> None:
        of_two = engine_result.result(
            [published(), published(family="another")],
            old=engine.QUICK.old,
            growing_s=engine.QUICK.growing_s,
        )
        assert [len(table.rows) for table in of_two.tables] == [2, 2, 8, 2]
        assert len(of_two.targets) == 6
        assert write(of_two, MACHINE, tmp_path).with_suffix(".png").exists()


class TestChaos:
    def test_a_seed_gives_the_same_faults_each_kind_by_its_share(self) -> None:
        names = [kind.name for kind in drawn(ChaosConfig(seed=1), 40)]
        assert names == [kind.name for kind in drawn(ChaosConfig(seed=1), 40)]
        assert names != [kind.name for kind in drawn(ChaosConfig(seed=2), 40)]
        assert names.count("worker hung") == 6
        assert not [name for name in names if name.startswith("gateway")]
        gateways = [kind.name for kind in drawn(ChaosConfig(gateway=True), 46)]
        assert gateways.count("gateway killed") == 4

    @pytest.mark.parametrize(
        ("history", "found"),
        [
            (["a:x", "b:y", "c:z whole"], Differences()),
            (["a:x", "c:z"], Differences(lost=1)),
            (["a:x", "b:y", "a:x", "c:z"], Differences(doubled=1, different=1)),
            (["b:y", "a:x", "c:z"], Differences(different=1)),
            (["a:x", "b:other", "c:z"], Differences(different=1)),
            (["a:x", "b:y", "c:another"], Differences(different=1)),
        ],
    )
    async def test_histories_are_held_against_what_was_read(
        self, history: list[str], found: Differences, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The third was cancelled: its worker may have been further."""
        monkeypatch.setattr("benchmarks.chaos_load.STORED_S", 0.0)
        asker = Asker(SimpleNamespace(), random.Random(0))  # type: ignore[arg-type]
        for turn, text in (("a", "x"), ("b", "y"), ("c", "z")):
            asked = Asked(turn, "q", 0.0, 1.0, "talk", text, cancelled=turn == "c")
            asker.asked.append(asked)
        asker.asked.append(Asked("d", "q", 2.0, 3.0, error="UNAVAILABLE"))

        async def read(conversation: str) -> list[Any]:
            rounds = (each.split(":") for each in history)
            return [SimpleNamespace(turn=t, question="q", answer=text) for t, text in rounds]

        client: Any = SimpleNamespace(history=read)
        differences = await asker.differences(client)
        assert differences == found
        assert bool(differences.told) == (found != Differences())

    def test_a_watch_tells_each_change_once_and_of_a_still_scene_none(self) -> None:
        session: Any = None
        assert Watcher(session, still=False, events=[True, False, True]).false_events == 0
        assert Watcher(session, still=False, events=[True, True]).false_events == 1
        assert Watcher(session, still=True, events=[True]).false_events == 0
        assert Watcher(session, still=True, events=[True, False]).false_events == 1

    def test_a_report_misses_what_is_not_zero_or_too_late(self, tmp_path: Path) -> None:
        faults = [Fault(CALM, 0.1), Fault("worker killed", 1.0), Fault("redis full", 9.0)]
        storm = Storm(3, faults=faults, questions=7, unanswered=["UNAVAILABLE: gone"])
        found = chaos_result(storm)
        assert [target.what for target in found.missed] == ["questions without an answer"]
        assert found.notes == ["1 × UNAVAILABLE: gone"]
        assert [row[0] for row in found.tables[0].rows] == [CALM, "worker killed", "redis full"]
        storm.faults.append(Fault("worker killed", 2.5))
        assert "worker killed" in chaos_result(storm).missed[-1].what
        assert write(found, MACHINE, tmp_path).with_suffix(".png").stat().st_size > 1000


def test_an_overload_is_judged_by_the_rate_of_each_moment() -> None:
    rates = {"s": [(0.0, 30.0), (11.0, 5.0), (15.0, 10.0), (17.0, 5.0), (61.0, 10.0)]}
    measured = OverloadMeasured(Phases(10, 50, 10), rates=rates)
    assert [measured.rate("s", at_s) for at_s in (0.5, 12.0, 16.0, 70.0)] == [30, 5, 10, 10]
    assert measured.falls(10, 60) == {"s": 1}, "the first fall left no rate that had been tried"
    assert measured.falls(18, 60) == {"s": 0}
    most_s = 2 / 5 + LOADED_STEP_S
    frame = Understood("s", round(12e9), round(12e9 - most_s * 1e9))
    assert measured.excess(frame) == pytest.approx(1.0)
    measured.frames = [frame]
    assert measured.within(10, 13) == [frame]
    assert measured.within(10, 12) == []


def test_a_rule_is_scored_by_what_it_told_and_when() -> None:
    cup, bowl = ["a cup"] * 16, ["a bowl"] * 16
    truth = (
        ["nothing"] * 8 + cup + [""] * 2 + ["nothing"] * 4 + bowl + ["a gun"] * 8 + ["a pen"] * 4
    )
    runs = runs_of(truth, "nothing")
    assert runs == [(8, 23, "a cup"), (30, 45, "a bowl"), (46, 53, "a gun")]  # not a short pen
    score = Score()
    states = [""] * 12 + ["a cup"] * 18 + ["a bowl"] * 28
    score.add(runs, Told(states, [(12, "a cup"), (24, ""), (30, "a bowl"), (40, "a pen")], 7))
    assert (score.changes, score.found, score.events, score.right) == (2, 2, 3, 2)
    assert score.f1 == pytest.approx(4 / 5)
    assert score.pauc == pytest.approx((12 / 16 + 1) / 2)  # half a second late, and at once
    assert score.error_s == pytest.approx(0.25)
    assert score.delays_s == [0.5, 0.0]
    silent = Score()
    silent.add(runs, Told([""] * 58))
    assert (silent.found, silent.f1, silent.pauc) == (0, 0.0, 0.0)


def test_counters_are_added_up_over_their_labels() -> None:
    page = '# TYPE a counter\na_total{kind="x"} 2\na_total{kind="y"} 3\n'
    assert total_of(page, "a_total") == 5
    assert total_of(page, "c_total") == 0
