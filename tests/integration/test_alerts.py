"""Every alert by `promtool test rules`, on both sides of its threshold and of its time."""

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from services.common.metrics import LATENCY_BUCKETS
from tests.processes import REPOSITORY

pytestmark = pytest.mark.option

RULES = REPOSITORY / "deploy" / "helm" / "sightline" / "monitoring" / "alerts.yaml"
MINUTES = 180  # of series; long enough for what looks back an hour and waits for another
LABELS = {"instance": "a:9090", "namespace": "video", "pod": "trial-a", "job": "sightline-a"}

Series = dict[str, str]  # name with the labels of its own: values in promtool's notation


@dataclass(frozen=True, slots=True)
class Case:
    """`fires` is just beyond the threshold, `quiet` just within it."""

    fires: Series
    quiet: Series


def held(name: str, value: float) -> Series:
    """A gauge that stays."""
    return {name: f"{value:g}x{MINUTES}"}


def rising(name: str, per_minute: float) -> Series:
    return {name: f"0+{per_minute:g}x{MINUTES}"}


def gone(name: str) -> Series:
    """A gauge that was there for a minute."""
    return {name: "1x1"}


def jumping(name: str, count: float) -> Series:
    """A counter that is there from the start and rises once, in the last minutes."""
    return {name: f"0x{MINUTES - 2} {count:g}x2"}


def latencies(name: str, threshold_s: float, late: float, labels: str = "") -> Series:
    """A histogram, of whose observations the share `late` is just over the threshold's bucket."""
    edges = [*(f"{edge:g}" for edge in LATENCY_BUCKETS), "+Inf"]
    found: Series = {}
    for edge in edges:
        within = 1 - late if float(edge) <= threshold_s else 1
        within = 0 if float(edge) < threshold_s else within
        found |= rising(f'{name}_bucket{{{labels}le="{edge}"}}', 600 * within)
    return found


def share(part: str, of: str, value: float) -> Series:
    return rising(part, 6000 * value) | rising(of, 6000)


ANSWERS = "sightline_worker_answers_total"
AGAIN = 'sightline_kv_segments_total{kind="recomputed"}'
REUSED = 'sightline_kv_segments_total{kind="reused"}'
MEMORY = "sightline_device_memory"
CASES = {
    "MemoryShort": Case(
        held('sightline_worker_memory_short{of="host"}', 1),
        held('sightline_worker_memory_short{of="host"}', 0),
    ),
    "AnswersDegenerate": Case(
        held("sightline_worker_degraded_sessions", 1),
        held("sightline_worker_degraded_sessions", 0),
    ),
    "NoWorker": Case(
        held('sightline_workers{condition="ready"}', 0),
        held('sightline_workers{condition="ready"}', 1),
    ),
    "WorkerAway": Case(
        held('sightline_worker_away{worker="10.0.0.1:50060"}', 1),
        held('sightline_workers{condition="away"}', 0),
    ),
    "GatewayWithoutWorkers": Case(
        held('sightline_workers{condition="ready"}', 0)
        | held('sightline_workers{condition="away"}', 3),
        held('sightline_workers{condition="ready"}', 1),
    ),
    "GatewaysAbsent": Case(
        held("sightline_worker_sessions", 1) | gone('sightline_sessions{state="live"}'),
        held('sightline_sessions{state="live"}', 0),
    ),
    "WorkersAbsent": Case(
        held("sightline_sessions", 1) | gone("sightline_worker_sessions"),
        held("sightline_worker_sessions", 0),
    ),
    "DialogueAbsent": Case(
        held("sightline_sessions", 1) | gone("sightline_dialogue_redis_up"),
        held("sightline_dialogue_redis_up", 0),
    ),
    "TargetDown": Case(held("up", 0), held("up", 1) | held('up{job="other"}', 0)),
    "WorkerIncompatible": Case(
        held('sightline_workers{condition="incompatible"}', 1),
        held('sightline_workers{condition="incompatible"}', 0),
    ),
    "WorkersUnheardOf": Case(
        held("sightline_discovery_current", 0),
        held("sightline_discovery_current", 1),
    ),
    "LeasesNotRenewed": Case(
        rising("sightline_leases_away_total", 13), rising("sightline_leases_away_total", 11)
    ),
    "FramesLate": Case(
        latencies("sightline_frame_latency_seconds", 0.2, 0.051, 'delivery="newest",'),
        latencies("sightline_frame_latency_seconds", 0.2, 0.049, 'delivery="newest",')
        | latencies("sightline_frame_latency_seconds", 0.2, 1.0, 'delivery="lossless",'),
    ),
    "FramesStandStill": Case(
        held('sightline_newest_frame_age_seconds{state="live",of="max"}', 15.1),
        held('sightline_newest_frame_age_seconds{state="live",of="max"}', 14.9)
        | held('sightline_newest_frame_age_seconds{state="stalled",of="max"}', 500),
    ),
    "FramesDropped": Case(
        share("sightline_frames_dropped_total", "sightline_frames_sampled_total", 0.0011),
        share("sightline_frames_dropped_total", "sightline_frames_sampled_total", 0.0009),
    ),
    "FramesRefused": Case(
        rising('sightline_worker_frames_total{outcome="refused"}', 1),
        held('sightline_worker_frames_total{outcome="refused"}', 9)
        | rising('sightline_worker_frames_total{outcome="understood"}', 99),
    ),
    "StreamsBreak": Case(
        rising("sightline_worker_streams_broken_total", 0.52),
        rising("sightline_worker_streams_broken_total", 0.48),
    ),
    "FirstTokenLate": Case(
        latencies("sightline_first_token_seconds", 2, 0.051),
        latencies("sightline_first_token_seconds", 2, 0.049),
    ),
    "AnswersFail": Case(
        rising(f'{ANSWERS}{{finish="error"}}', 51) | rising(f'{ANSWERS}{{finish="stop"}}', 949),
        rising(f'{ANSWERS}{{finish="error"}}', 49) | rising(f'{ANSWERS}{{finish="stop"}}', 951),
    ),
    "QuestionsWait": Case(
        held('sightline_worker_questions{state="waiting"}', 17),
        held('sightline_worker_questions{state="waiting"}', 16),
    ),
    "KvMemoryNearlyFull": Case(
        held("sightline_kv_pages_promised", 91) | held("sightline_kv_pages_total", 100),
        held("sightline_kv_pages_promised", 90) | held("sightline_kv_pages_total", 100),
    ),
    "ReturnsRefused": Case(
        jumping('sightline_worker_returns_total{outcome="refused"}', 1),
        jumping('sightline_worker_returns_total{outcome="returned"}', 99),
    ),
    "AnswersLoseFrames": Case(
        rising("sightline_kv_segments_withdrawn_total", 1),
        held("sightline_kv_segments_withdrawn_total", 7),
    ),
    "KvRecomputed": Case(
        rising(AGAIN, 11) | rising(REUSED, 989),
        rising(AGAIN, 9) | rising(REUSED, 991),
    ),
    "StepsFail": Case(
        jumping('sightline_step_failures_total{part="run"}', 1),
        held('sightline_step_failures_total{part="run"}', 8),
    ),
    "DeviceSaturated": Case(
        held("sightline_engine_busy_ratio", 0.96), held("sightline_engine_busy_ratio", 0.94)
    ),
    "DeviceOverused": Case(
        held('sightline_device_utilisation_ratio{source="nvml"}', 0.86),
        held('sightline_device_utilisation_ratio{source="nvml"}', 0.84),
    ),
    "DeviceUnderused": Case(
        held('sightline_device_utilisation_ratio{source="process"}', 0.69),
        held('sightline_device_utilisation_ratio{source="process"}', 0.71),
    ),
    "DeviceMemoryNearlyFull": Case(
        held(f'{MEMORY}_used_bytes{{source="nvml"}}', 91)
        | held(f'{MEMORY}_total_bytes{{source="nvml"}}', 100),
        held(f'{MEMORY}_used_bytes{{source="nvml"}}', 90)
        | held(f'{MEMORY}_total_bytes{{source="nvml"}}', 100),
    ),
    "RedisAway": Case(
        held("sightline_dialogue_redis_up", 0), held("sightline_dialogue_redis_up", 1)
    ),
    "RedisFull": Case(
        jumping('sightline_dialogue_redis_errors_total{reason="full"}', 1),
        jumping('sightline_dialogue_redis_errors_total{reason="timeout"}', 9),
    ),
    "RoundsLost": Case(
        jumping('sightline_worker_rounds_total{outcome="dropped_full"}', 1),
        jumping('sightline_worker_rounds_total{outcome="written"}', 50)
        | jumping('sightline_gateway_rounds_total{outcome="written"}', 50),
    ),
    "WebhookDeadLetters": Case(
        jumping('sightline_webhook_dead_letters_total{reason="not_kept"}', 1),
        held('sightline_webhook_dead_letters_total{reason="refused"}', 3)
        | rising('sightline_webhook_tries_total{outcome="failed"}', 9),
    ),
    "RulesNotChecked": Case(
        rising('sightline_rule_failures_total{code="UNAVAILABLE"}', 60)
        | held('sightline_rule_checks_total{kind="predicate"}', 5),
        rising('sightline_rule_failures_total{code="UNAVAILABLE"}', 60)
        | rising('sightline_rule_checks_total{kind="predicate"}', 1),
    ),
    "SpeechFails": Case(
        rising('sightline_tts_sentences_total{outcome="failed"}', 1),
        rising('sightline_tts_sentences_total{outcome="spoken"}', 1),
    ),
    "InternalErrors": Case(
        jumping('sightline_rpc_seconds_count{method="Ask",code="INTERNAL"}', 1),
        jumping('sightline_rpc_seconds_count{method="Ask",code="OK"}', 100),
    ),
}


def rules() -> dict[str, dict[str, Any]]:
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return {
        rule["alert"].removeprefix("Sightline"): rule for group in groups for rule in group["rules"]
    }


def test_every_alert_has_a_case() -> None:
    assert set(CASES) == set(rules())


def test_quantiles_are_compared_with_edges_of_buckets() -> None:
    compared = re.findall(r"histogram_quantile\(.*\) > ([\d.]+)", RULES.read_text())
    assert len(compared) >= 2
    assert {float(threshold) for threshold in compared} <= set(LATENCY_BUCKETS)


@pytest.mark.needs("promtool")
def test_alerts_fire_beyond_their_thresholds_and_only_there(tmp_path: Path) -> None:
    files = []
    for name, case in CASES.items():  # each with its own rule alone: promtool evaluates them all
        rule = tmp_path / f"{name}.rule.yaml"
        rule.write_text(yaml.safe_dump({"groups": [{"name": name, "rules": [rules()[name]]}]}))
        tests = [
            _test(name, case.fires, MINUTES, fires=True),
            _test(name, case.quiet, MINUTES, fires=False),
        ]
        if wait := rules()[name].get("for"):  # what is over sooner disturbs nobody
            early = {"1m": 0, "1h": 30}.get(wait, 1)
            tests.append(_test(name, case.fires, early, fires=False))
        files.append(tmp_path / f"{name}.yaml")
        head = {"rule_files": [str(rule)], "evaluation_interval": "1m", "tests": tests}
        files[-1].write_text(yaml.safe_dump(head, sort_keys=False))
    done = subprocess.run(
        ["promtool", "test", "rules", *files], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.needs("promtool")
def test_autoscalers_are_told_of_each_pod_what_they_ask_for(tmp_path: Path) -> None:
    adapter = yaml.safe_load((RULES.parent / "adapter.yaml").read_text())["rules"]
    queries = {
        rule["name"]["as"]: rule["metricsQuery"]
        .replace("<<.GroupBy>>", "pod")
        .replace("<<.LabelMatchers>>", 'namespace="video"')
        for rule in adapter
    }
    pods: dict[str, Series] = {
        "busy": held("sightline_worker_sessions", 48)
        | held("sightline_worker_session_capacity", 64)
        | held("sightline_engine_busy_ratio", 0.66)
        | latencies("sightline_frame_queue_seconds", 0.2, 0.06),
        "idle": held("sightline_worker_sessions", 0)
        | held("sightline_worker_session_capacity", 64)
        | held("sightline_engine_busy_ratio", 0)
        | latencies("sightline_frame_queue_seconds", 0.05, 0.0),
        "loading": held("sightline_worker_sessions", 0)
        | held("sightline_worker_session_capacity", 0)
        | {'sightline_frame_queue_seconds_bucket{le="+Inf"}': f"0x{MINUTES}"},
    }
    series = [
        {"series": name.replace("{", f'{{namespace="video",pod="{pod}",') if "{" in name
         else f'{name}{{namespace="video",pod="{pod}"}}', "values": values}
        for pod, all_of_it in pods.items()
        for name, values in all_of_it.items()
    ]  # fmt: skip

    asked = [
        (queries["sightline_worker_sessions_share"], {"busy": 0.75, "idle": 0.0}),
        (queries["sightline_worker_device_share"], {"busy": 0.66, "idle": 0.0}),
        (f"({queries['sightline_worker_frame_queue_seconds']}) > bool 0.1", {"busy": 1, "idle": 0}),
    ]
    tests = [
        {
            "expr": query,
            "eval_time": "60m",
            "exp_samples": [
                {"labels": f'{{pod="{pod}"}}', "value": value} for pod, value in found.items()
            ],
        }
        for query, found in asked
    ]
    case = {"interval": "1m", "input_series": series, "promql_expr_test": tests}
    file = tmp_path / "adapter.yaml"
    file.write_text(yaml.safe_dump({"rule_files": [], "tests": [case]}, sort_keys=False))
    done = subprocess.run(
        ["promtool", "test", "rules", file], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr


def _test(name: str, series: Series, minutes: int, *, fires: bool) -> dict[str, Any]:
    """One of promtool's: whether the alert fires then."""
    alert = f'ALERTS{{alertname="Sightline{name}",alertstate="firing"}}'
    samples = [{"labels": "{}", "value": int(fires)}]
    asked = {
        "expr": f"sum({alert}) or vector(0)",
        "eval_time": f"{minutes}m",
        "exp_samples": samples,
    }
    return {
        "name": f"{name} {'fires' if fires else 'is quiet'} after {minutes} min",
        "interval": "1m",
        "input_series": [
            {"series": _labelled(key), "values": values} for key, values in series.items()
        ],
        "promql_expr_test": [asked],
    }


def _labelled(name: str) -> str:
    """With what Prometheus adds itself, but for what a series says of its own."""
    metric, _, own = name.partition("{")
    added = {label: value for label, value in LABELS.items() if f'{label}="' not in own}
    common = ",".join(f'{label}="{value}"' for label, value in added.items())
    return f"{metric}{{{common}{',' + own[:-1] if own else ''}}}"
