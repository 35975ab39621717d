"""Dashboard and alerts speak of metrics that exist, and every metric is for somebody."""

import ast
import functools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from deploy.helm import dashboard
from tests.processes import REPOSITORY

MONITORING = REPOSITORY / "deploy" / "helm" / "sightline" / "monitoring"
SUFFIXES = {
    "Counter": ("",),  # its name ends with _total already
    "Gauge": ("",),
    "Histogram": ("_bucket", "_count", "_sum"),
    "Info": ("_info",),
}
TARGET_LABELS = {"instance", "namespace", "pod", "job", "le", "component"}  # of Prometheus' own
NOT_SHOWN: dict[str, str] = {}  # metric: why no dashboard needs it


@functools.cache
def metrics() -> dict[str, tuple[str, set[str]]]:
    """Of every metric that a service defines: its kind and its labels."""
    found = {}
    for path in (REPOSITORY / "services").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
                continue
            if node.func.id in SUFFIXES and len(node.args) > 1:  # not collections.Counter
                name, _, *more = node.args
                labels = ast.literal_eval(more[0]) if more else []
                found[ast.literal_eval(name)] = (node.func.id, set(labels))
    return found


def series() -> dict[str, set[str]]:
    """Labels of everything that can be asked for."""
    return {
        name + suffix: labels
        for name, (kind, labels) in metrics().items()
        for suffix in SUFFIXES[kind]
    }


@functools.cache
def alerts() -> list[dict[str, Any]]:
    rules = yaml.safe_load((MONITORING / "alerts.yaml").read_text())
    return [rule for group in rules["groups"] for rule in group["rules"]]


@functools.cache
def panels() -> list[dict[str, Any]]:
    board = json.loads((MONITORING / "dashboard.json").read_text())
    return [panel for panel in board["panels"] if panel["type"] != "row"]


def expressions() -> Iterator[str]:
    yield from (rule["expr"] for rule in alerts())
    yield from (target["expr"] for panel in panels() for target in panel["targets"])


def named(text: str) -> set[str]:
    return set(re.findall(r"\bsightline_[a-z0-9_]+", text))


def test_the_services_metrics_are_found() -> None:
    kinds = {kind for kind, _ in metrics().values()}
    assert kinds == set(SUFFIXES)
    assert len(metrics()) > 50
    for name, (kind, _) in metrics().items():
        assert kind != "Counter" or name.endswith("_total"), name


def test_expressions_ask_for_metrics_and_labels_that_exist() -> None:
    known = series()
    for expression in expressions():
        assert named(expression) or expression.startswith("up{"), expression
        assert named(expression) <= set(known), expression
        for metric, matchers in re.findall(r"(sightline_\w+)\{([^}]*)\}", expression):
            assert set(re.findall(r"(\w+)\s*[=!]", matchers)) <= known[metric], expression
        labels = TARGET_LABELS.union(*(known[metric] for metric in named(expression)))
        for grouping in re.findall(r"by \(([^)]*)\)", expression):
            assert {label.strip() for label in grouping.split(",")} <= labels, expression


def test_alerts_say_what_is_wrong_and_what_to_do() -> None:
    names = [rule["alert"] for rule in alerts()]
    assert len(names) == len(set(names))
    for rule in alerts():
        assert rule["alert"].startswith("Sightline")
        assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
        assert rule["labels"]["severity"] in ("critical", "warning", "info")
        assert set(rule["annotations"]) == {"summary", "description"}
        text = " ".join(rule["annotations"].values())
        assert named(text) <= set(series())
        by = re.findall(r"by \(([^)]*)\)", rule["expr"])
        kept = {label.strip() for labels in by for label in labels.split(",")} or TARGET_LABELS
        assert set(re.findall(r"\$labels\.(\w+)", text)) <= kept, rule["alert"]
        for labels in by:  # where, and whose: an operator has several of everything
            assert "namespace" in labels, rule["alert"]
            assert labels.count("pod") == labels.count("instance"), rule["alert"]


def test_every_metric_is_on_the_dashboard_or_has_a_reason() -> None:
    shown = named("\n".join(target["expr"] for panel in panels() for target in panel["targets"]))
    missing = {
        name
        for name, (kind, _) in metrics().items()
        if not shown & {name + suffix for suffix in SUFFIXES[kind]}
    }
    assert missing == set(NOT_SHOWN)


def test_the_dashboard_is_current_and_can_be_drawn() -> None:
    assert (MONITORING / "dashboard.json").read_text() == dashboard.dashboard(), "make dashboard"
    ids = [panel["id"] for panel in panels()]
    assert len(ids) == len(set(ids))
    places = [tuple(panel["gridPos"][key] for key in "xy") for panel in panels()]
    assert len(places) == len(set(places))
    assert {target["datasource"]["uid"] for p in panels() for target in p["targets"]} == {
        "${source}"
    }


def test_the_chart_installs_both() -> None:
    template = (MONITORING.parent / "templates" / "monitoring.yaml").read_text()
    for file in MONITORING.iterdir():
        assert f'.Files.Get "monitoring/{file.name}"' in template
    assert Path(MONITORING.parent / ".helmignore").read_text().count("monitoring") == 0
