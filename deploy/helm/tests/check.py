"""`make helm-test`: the chart, without a cluster.

lint --strict and templates for every file in values/; kubernetes-validate --strict on what comes
out; every value changes something; nonsense is refused; alerts and dashboard hold PromQL; and what
a schema cannot say: selectors that meet their pods, ports and addresses that exist, a GPU for each
worker that is to have one.
"""

import copy
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

import promql_parser
import yaml
from chart import BIN, CHART, HERE, Values, helm, merged
from upgrades import secrets_told, upgrades, volumes_changed
from workloads import faults

KUBERNETES = ("1.29.0", "1.37.0")  # the oldest that Chart.yaml allows, the newest known
# Not Kubernetes' own kinds: no schema to validate with
FOREIGN = ("monitoring.coreos.com/", "keda.sh/", "gateway.networking.k8s.io/")


def main() -> int:
    problems: list[str] = []
    rendered: dict[str, str] = {}
    for file in sorted((HERE / "values").glob("*.yaml")):
        lint = helm("lint", "--strict", str(CHART), "--values", str(file))
        template = helm(
            "template", "trial", str(CHART), "--namespace", "video", "--values", str(file)
        )
        problems += [
            f"{file.name}: helm {run.args[1]}: {run.stdout}{run.stderr}"
            for run in (lint, template)
            if run.returncode
        ]
        rendered[file.name] = template.stdout
    print(f"{len(rendered)} value files linted and rendered")
    for name, text in rendered.items():
        objects = [item for item in yaml.safe_load_all(text) if item]
        problems += [f"{name}: {each}" for each in (*invalid(objects), *faults(objects, name))]
        print(f"{name}: {len(objects)} objects validated for Kubernetes {' and '.join(KUBERNETES)}")
    problems += secrets_told(rendered["defaults.yaml"])
    problems += upgrades()
    problems += volumes_changed()
    problems += replaced_by_scaling()
    unused = list(unused_values())
    problems += [f"values.yaml: {path} changes nothing" for path in unused]
    problems += schema_gaps()
    problems += unreadable_expressions()
    refused = yaml.safe_load((HERE / "refused.yaml").read_text())
    for setting, message in refused:
        run = helm("template", "trial", str(CHART), "--set", setting)
        if run.returncode == 0 or message not in run.stderr:
            problems.append(f"{setting} is not refused with {message!r}: {run.stderr.strip()}")
    print(f"{len(refused)} nonsense values tried")
    for problem in problems:
        print(f"PROBLEM {problem}", file=sys.stderr)
    print("failed" if problems else "passed")
    return 1 if problems else 0


def invalid(objects: list[Values]) -> Iterator[str]:
    """What kubernetes-validate --strict finds in the objects of Kubernetes' own kinds."""
    own = [item for item in objects if not item["apiVersion"].startswith(FOREIGN)]
    if len(own) < 4:
        yield f"only {len(own)} objects"
    for item in objects:
        if item not in own and not (item["metadata"].get("name") and item.get("spec")):
            yield f"{item['kind']} lacks a name or a spec"
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        yaml.safe_dump_all(own, file)
        file.flush()
        for version in KUBERNETES:
            command = [BIN / "kubernetes-validate", "--strict", "--quiet", "-k", version, file.name]
            run = subprocess.run(command, capture_output=True, text=True, timeout=300)
            if run.returncode:
                yield f"Kubernetes {version}: {run.stdout}{run.stderr}"


def replaced_by_scaling() -> Iterator[str]:
    """Ways of discovery by which another number of workers makes another gateway."""
    for discovery in ("kubernetes", "dns"):
        gateways = set()
        for replicas in (1, 5):
            words = ("template", "trial", str(CHART), "--show-only", "templates/gateway.yaml")
            values = f"worker.replicas={replicas},gateway.workers.discovery={discovery}"
            gateways.add(helm(*words, "--set", values).stdout)
        if len(gateways) != 1 or "" in gateways:
            yield f"worker.replicas changes the gateway that hears of workers by {discovery}"


def unreadable_expressions() -> Iterator[str]:
    """What is no PromQL in the alerts and the dashboard."""
    rules = yaml.safe_load((CHART / "monitoring" / "alerts.yaml").read_text())
    alerts = [rule for group in rules["groups"] for rule in group["rules"]]
    named = [(rule["alert"], rule["expr"]) for rule in alerts]
    adapter = yaml.safe_load((CHART / "monitoring" / "adapter.yaml").read_text())
    named += [
        (
            rule["name"]["as"],
            rule["metricsQuery"]
            .replace("<<.GroupBy>>", "pod")
            .replace("<<.LabelMatchers>>", 'namespace="video"'),
        )
        for rule in adapter["rules"]
    ]
    dashboard = json.loads((CHART / "monitoring" / "dashboard.json").read_text())
    named += [
        (panel["title"], target["expr"].replace("$__rate_interval", "5m"))
        for panel in dashboard["panels"]
        for target in panel.get("targets", [])
    ]
    for name, expression in named:
        try:
            promql_parser.parse(expression)
        except ValueError as error:
            yield f"{name}: {expression}: {error}"
    print(f"{len(named)} PromQL expressions parsed")


def unused_values() -> Iterator[str]:
    """Leaves of values.yaml that change the output under none of the value files."""
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    bases = [
        merged(values, yaml.safe_load(f.read_text()))
        for f in sorted((HERE / "values").glob("*.yaml"))
    ]
    plain = [render(base) for base in bases]
    count = 0
    for path in leaves(values):
        count += 1
        for base, before in zip(bases, plain, strict=True):
            changed = copy.deepcopy(base)
            *parents, last = path
            place = changed
            for key in parents:
                place = place.setdefault(key, {})
            place[last] = other(place.get(last))
            if render(changed) != before:
                break
        else:
            yield ".".join(path)
    print(f"{count} values changed one by one")


def leaves(values: Values, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, (*path, key))
        else:
            yield (*path, key)


def other(value: Any) -> Any:
    """A different value of the same type. The schema is switched off while it is tried."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, list):
        return (
            [*value, {"key": "other"}]
            if value and isinstance(value[0], dict)
            else [*value, "other"]
        )
    if isinstance(value, dict):
        return {**value, "other": "other"}
    return f"{value or ''}other"


def render(values: Values) -> str:
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        yaml.safe_dump(values, file)
        file.flush()
        run = helm(
            "template", "trial", str(CHART), "--skip-schema-validation", "--values", file.name
        )
    return without_password(run.stdout) if run.returncode == 0 else f"error: {run.stderr}"


def without_password(text: str) -> str:
    """Redis' password is another with every rendering, which says nothing about the values."""
    return re.sub(r'^  (\S+): "[\w=]{64}"$', r"  \1: …", text, flags=re.MULTILINE)


def schema_gaps() -> Iterator[str]:
    """Objects of values.yaml that the schema leaves open, and properties only one of them has."""
    schema = yaml.safe_load((CHART / "values.schema.json").read_text())

    def compare(part: Values, values: Values, path: str) -> Iterator[str]:
        if "$ref" in part:
            part = schema["definitions"][part["$ref"].rpartition("/")[2]]
        if "properties" not in part:
            return
        if part.get("additionalProperties") is not False:
            yield f"schema: {path or 'the top'} accepts unknown values"
        for key in sorted(
            (part["properties"].keys() ^ values.keys()) - {"global", "requests", "limits"}
        ):
            yield f"{path}.{key} is in only one of values.yaml and its schema"
        for key in part["properties"].keys() & values.keys():
            if isinstance(values[key], dict):
                yield from compare(
                    part["properties"][key], values[key], f"{path}.{key}".lstrip(".")
                )

    yield from compare(schema, yaml.safe_load((CHART / "values.yaml").read_text()), "")


if __name__ == "__main__":
    sys.exit(main())
