"""`make helm-test`: the chart, without a cluster.

lint --strict and templates for every file in values/; kubernetes-validate --strict on what comes
out; every value changes something; nonsense is refused; alerts and dashboard hold PromQL; and what
a schema cannot say: selectors that meet their pods, ports and addresses that exist, a GPU for each
worker that is to have one.
"""

import base64
import copy
import json
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import promql_parser
import yaml

HERE = Path(__file__).resolve().parent
CHART = HERE.parent / "sightline"
BIN = Path(sys.executable).parent
KUBERNETES = ("1.29.0", "1.37.0")  # the oldest that Chart.yaml allows, the newest known
# Not Kubernetes' own kinds: no schema to validate with
FOREIGN = ("monitoring.coreos.com/", "keda.sh/", "gateway.networking.k8s.io/")
Values = dict[str, Any]


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
        found = [*invalid(objects), *loose_ends(objects), *worker_gaps(objects, name)]
        found += [*exposed_figures(objects, name), *access_gaps(objects), *unsafe_pods(objects)]
        found += [*autoscaling_gaps(objects), *unplaced_alerts(objects)]
        problems += [f"{name}: {problem}" for problem in found]
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


def helm(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [str(BIN / "helm"), *arguments], capture_output=True, text=True, timeout=60
    )


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


def loose_ends(objects: list[Values]) -> Iterator[str]:
    """References between objects that lead nowhere."""
    workloads = [item for item in objects if item["kind"] in ("Deployment", "StatefulSet")]
    pods = {item["metadata"]["name"]: item["spec"]["template"] for item in workloads}
    services = {item["metadata"]["name"]: item for item in objects if item["kind"] == "Service"}
    for name, pod in pods.items():
        container = pod["spec"]["containers"][0]
        grace = pod["spec"]["terminationGracePeriodSeconds"]
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        for variable in container.get("env", []):
            value = variable.get("value", "")
            if variable["name"].endswith("_DRAIN_S") and grace < float(value) + 10:
                yield f"{name} is killed after {grace} s, before its drain of {value} s has ended"
            for place in re.split("[,;]", value):
                address = re.sub(
                    r"^(dns:|kubernetes:video/|rediss?://(.*@)?)|/0(\?.*)?$", "", place
                )
                host, _, port = address.rpartition(":")
                if not host.startswith(("trial-", "watcher-")):
                    continue
                service = services.get(
                    next((part for part in host.split(".")[:2] if part in services), "")
                )
                if service is None:
                    yield f"{name}: {variable['name']} names {address}, which is no service"
                elif port not in [
                    str(item[key]) for item in service["spec"]["ports"] for key in ("port", "name")
                ]:
                    yield f"{name}: {variable['name']} names a port that {host} does not have"
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            grpc, http = container[probe].get("grpc"), container[probe].get("httpGet")
            if grpc and grpc["port"] != ports["grpc"]:
                yield f"{name}: {probe} asks on {grpc['port']}, gRPC is on {ports['grpc']}"
            if http and http["port"] not in ports:
                yield f"{name}: {probe} asks on {http['port']}, which is no port of it"
        if "metrics" in ports and container["readinessProbe"].get("httpGet", {}) != {
            "path": "/readyz",
            "port": "metrics",
        }:
            yield f"{name} is ready without those it needs"
        mounted = {mount["name"] for mount in container["volumeMounts"]}
        claims = next(item for item in workloads if item["metadata"]["name"] == name)["spec"]
        there = {volume["name"] for volume in pod["spec"]["volumes"]}
        there |= {claim["metadata"]["name"] for claim in claims.get("volumeClaimTemplates", [])}
        if mounted != there:
            yield f"{name} mounts {mounted} and has the volumes {there}"
    for item in objects:
        if item["kind"] == "Service":
            selector, wanted = (
                item["spec"]["selector"],
                {port["targetPort"] for port in item["spec"]["ports"]},
            )
        elif item["kind"] in ("PodDisruptionBudget", "NetworkPolicy"):
            key = "selector" if item["kind"] == "PodDisruptionBudget" else "podSelector"
            selector, wanted = item["spec"][key]["matchLabels"], set()
        else:
            continue
        chosen = [
            pod for pod in pods.values() if selector.items() <= pod["metadata"]["labels"].items()
        ]
        several = item["kind"] == "NetworkPolicy" and "worker" in selector.values()  # all pools
        if len(chosen) != 1 and not (several and chosen):
            yield f"{item['kind']} {item['metadata']['name']} selects {len(chosen)} workloads"
        elif not wanted <= {port["name"] for port in chosen[0]["spec"]["containers"][0]["ports"]}:
            yield f"Service {item['metadata']['name']} targets ports that its pods do not have"


def secrets_told(rendered: str) -> Iterator[str]:
    """Secrets that are short, known before, or anywhere but in their Secret: the password of Redis
    and what gateways know each other by."""
    again = helm("template", "trial", str(CHART), "--namespace", "video").stdout
    made: list[str] = []
    for text in (rendered, again):
        found = [item for item in yaml.safe_load_all(text) if item and item["kind"] == "Secret"]
        names = sorted(item["metadata"]["name"] for item in found)
        if names != ["trial-sightline-cluster", "trial-sightline-redis"]:
            yield f"Secrets: {names}"
        for secret in found:
            [encoded] = secret["data"].values()
            made.append(encoded)
            if len(base64.b64decode(encoded)) < 32:
                yield f"{secret['metadata']['name']} is short"
            if text.count(encoded) + text.count(base64.b64decode(encoded).decode()) != 1:
                yield f"{secret['metadata']['name']} is in more than its Secret"
    if len(set(made)) != 4:
        yield "secrets are always the same"


def on_cluster(there: Values, *settings: str) -> "subprocess.CompletedProcess[str]":
    """The chart rendered for a cluster that has these objects, by their paths.

    The cluster is a server on this machine that knows these and what kinds there are.
    """

    def kinds(group: str, *named: tuple[str, str]) -> Values:
        resources = [
            {"name": name, "kind": kind, "namespaced": True, "verbs": ["get"]}
            for name, kind in named
        ]
        return {"kind": "APIResourceList", "groupVersion": group, "resources": resources}

    apps = {"groupVersion": "apps/v1", "version": "v1"}
    groups = [{"name": "apps", "versions": [apps], "preferredVersion": apps}]
    answers: Values = {
        "/version": {"major": "1", "minor": "30", "gitVersion": "v1.30.0"},
        "/api": {"kind": "APIVersions", "versions": ["v1"]},
        "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups},
        "/api/v1": kinds("v1", ("secrets", "Secret")),
        "/apis/apps/v1": kinds("apps/v1", ("statefulsets", "StatefulSet")),
        **there,
    }

    class Cluster(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer = answers.get(self.path.partition("?")[0])
            body = json.dumps(answer or {"kind": "Status", "code": 404}).encode()
            self.send_response(200 if answer else 404)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Cluster)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    at = f"http://127.0.0.1:{server.server_address[1]}"
    words = ["template", "trial", str(CHART), "--namespace", "video", "--dry-run=server"]
    words += [word for setting in settings for word in ("--set", setting)]
    try:
        return helm(*words, "--kube-apiserver", at)
    finally:
        server.shutdown()


def upgrades() -> Iterator[str]:
    """Whether a release that is there keeps the secrets that were made for it."""
    kept = {"redis": ("password", "of the first install"), "cluster": ("secret", "of gateways")}
    there = {}
    for name, (key, text) in kept.items():
        there[f"/api/v1/namespaces/video/secrets/trial-sightline-{name}"] = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": f"trial-sightline-{name}", "namespace": "video"},
            "data": {key: base64.b64encode(text.encode()).decode()},
        }
    run = on_cluster(there)
    if run.returncode:
        yield f"an upgrade cannot be rendered: {run.stderr.strip()}"
    for name, (key, text) in kept.items():
        if f'{key}: "{base64.b64encode(text.encode()).decode()}"' not in run.stdout:
            yield f"an upgrade makes another Secret {name}"


def volumes_changed() -> Iterator[str]:
    """Upgrades that Kubernetes would refuse half-way, as their volumes cannot change."""

    def kept(object: str, size: str, storage_class: str | None) -> Values:
        spec: Values = {"resources": {"requests": {"storage": size}}}
        if storage_class:
            spec["storageClassName"] = storage_class
        claims = [{"metadata": {"name": "data"}, "spec": spec}]
        path = f"/apis/apps/v1/namespaces/video/statefulsets/{object}"
        return {
            path: {
                "apiVersion": "apps/v1",
                "kind": "StatefulSet",
                "metadata": {"name": object, "namespace": "video"},
                "spec": {"volumeClaimTemplates": claims},
            }
        }

    redis, worker = "trial-sightline-redis", "trial-sightline-worker-large"
    pool = "workers[0].name=large,workers[0].cache.persistent=true,workers[0].cache.size=50Gi"
    cases: list[tuple[Values, str, str]] = [
        (kept(redis, "2Gi", None), "redis.persistence.size=2Gi", ""),
        (kept(redis, "2Gi", "standard"), "redis.persistence.storageClass=standard", ""),
        (kept(redis, "2Gi", None), "redis.persistence.size=4Gi", "redis.persistence.size is 4Gi"),
        (kept(redis, "2Gi", "slow"), "redis.persistence.storageClass=fast", 'of "slow"'),
        (kept(redis, "2Gi", None), "redis.persistence.enabled=false", ""),
        (kept(worker, "50Gi", None), pool, ""),
        (kept(worker, "40Gi", None), pool, "worker.cache.size is 50Gi"),
    ]
    for there, setting, refusal in cases:
        run = on_cluster(there, setting)
        if bool(run.returncode) != bool(refusal) or refusal not in run.stderr:
            yield f"{setting} over {json.dumps(there)[:99]}: {run.stderr.strip()}"


def unsafe_pods(objects: list[Values]) -> Iterator[str]:
    """Pods of which a lost node, an autoscaler of nodes or a rollout would take too many."""
    for item in objects:
        if item["kind"] not in ("Deployment", "StatefulSet"):
            continue
        name, pod = item["metadata"]["name"], item["spec"]["template"]
        scratch = {each["name"] for each in pod["spec"]["volumes"] if "emptyDir" in each}
        safe = pod["metadata"]["annotations"][
            "cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes"
        ]
        if set(safe.split(",")) != scratch - {"data"}:
            yield f"{name}: {safe} may be lost, and it has {scratch}"
        waits = {
            each["key"]: each["tolerationSeconds"]
            for each in pod["spec"]["tolerations"]
            if each.get("effect") == "NoExecute"
        }
        lost = {f"node.kubernetes.io/{each}": 30 for each in ("not-ready", "unreachable")}
        if waits != lost:
            yield f"{name} stays on a lost node: {waits}"
        rolling = item["spec"].get("strategy", {}).get("rollingUpdate", {})
        kept = rolling.get("maxUnavailable") == int(not rolling.get("maxSurge"))
        if item["kind"] == "Deployment" and not kept:
            yield f"{name} is rolled out with {rolling}"
        ours = "metrics" in [port["name"] for port in pod["spec"]["containers"][0]["ports"]]
        if ours and not item["spec"].get("minReadySeconds"):
            yield f"{name}: the next pod is stopped before callers know of the new one"


def exposed_figures(objects: list[Values], name: str) -> Iterator[str]:
    """Services that carry /metrics together with what users reach, and pods without a policy."""
    for item in objects:
        if item["kind"] == "Service":
            ports = {port["name"] for port in item["spec"]["ports"]}
            if "metrics" in ports and ports != {"metrics"}:
                yield f"Service {item['metadata']['name']} carries metrics beside {ports}"
    kinds = {"Deployment", "StatefulSet"}
    pods, guarded = (
        {
            item["metadata"]["labels"]["app.kubernetes.io/component"]
            for item in objects
            if item["kind"] in wanted_kinds
        }
        for wanted_kinds in (kinds, {"NetworkPolicy"})
    )
    values = yaml.safe_load((HERE / "values" / name).read_text())
    wanted = pods if values.get("networkPolicy", {}).get("enabled", True) else set()
    if guarded != wanted:
        yield f"policies for {sorted(guarded)}, not {sorted(wanted)}"


def access_gaps(objects: list[Values]) -> Iterator[str]:
    """Tokens of the cluster that pods have without a need, and rights beyond that need."""
    by_kind = {
        kind: [item for item in objects if item["kind"] == kind]
        for kind in ("Deployment", "StatefulSet", "ServiceAccount", "Role", "RoleBinding")
    }
    accounts = set()
    for item in by_kind["Deployment"] + by_kind["StatefulSet"]:
        pod = item["spec"]["template"]["spec"]
        variables = {
            each["name"]: each.get("value") for each in pod["containers"][0].get("env", [])
        }
        asks = (variables.get("GATEWAY_WORKERS") or "").startswith("kubernetes:")
        if pod["automountServiceAccountToken"] is not asks or asks > ("serviceAccountName" in pod):
            yield f"{item['metadata']['name']} asks the cluster: {asks}, and its token differs"
        accounts |= {pod["serviceAccountName"]} if asks else set()
    made = {item["metadata"]["name"] for item in by_kind["ServiceAccount"]}
    if not made <= accounts:
        yield f"service accounts {made}, used are {accounts}"
    rights = [rule for role in by_kind["Role"] for rule in role["rules"]]
    least = {
        "apiGroups": ["discovery.k8s.io"],
        "resources": ["endpointslices"],
        "verbs": ["get", "list", "watch"],
    }
    if rights != [least] * len(made):
        yield f"rights: {rights}"
    for binding in by_kind["RoleBinding"]:
        names = {binding["roleRef"]["name"], *(each["name"] for each in binding["subjects"])}
        if names != made or names != {item["metadata"]["name"] for item in by_kind["Role"]}:
            yield f"RoleBinding {binding['metadata']['name']} binds {names}"
    if len(by_kind["RoleBinding"]) != len(made):
        yield "a service account has no rights"


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


def worker_gaps(objects: list[Values], file: str) -> Iterator[str]:
    """Pools without their workers, and of a GPU: its limit, taint, image and device."""
    values = yaml.safe_load((HERE / "values" / file).read_text())
    default = values.get("worker", {})
    pools = {
        entry.get("name", ""): merged(default, entry) for entry in values.get("workers") or [{}]
    }
    found = {
        item["metadata"]["labels"].get("sightline-pool", ""): item
        for item in objects
        if item["kind"] in ("Deployment", "StatefulSet")
        and item["metadata"]["labels"]["app.kubernetes.io/component"] == "worker"
    }
    if found.keys() != pools.keys():
        yield f"there are pools {sorted(found)}, not {sorted(pools)}"
        return
    for name, item in found.items():
        pod, gpu = item["spec"]["template"]["spec"], pools[name].get("gpu", {})
        container = pod["containers"][0]
        keys = [each.get("key") for each in pod["tolerations"]]
        resource = gpu.get("resource", "nvidia.com/gpu")
        has = {
            "limit": container["resources"].get("limits", {}).get(resource) == 1,
            "toleration": "nvidia.com/gpu" in keys,
            "image": container["image"].partition("@")[0].endswith("-cuda"),
            "device": {"name": "WORKER_DEVICE", "value": "cuda"} in container["env"],
        }
        wanted = bool(gpu.get("enabled", False))
        yield from (
            f"pool {name!r}: gpu.enabled is {wanted}: {part}" for part in has if has[part] != wanted
        )
        told = {"name": "WORKER_POOL", "value": name} in container["env"]
        if told != bool(name):
            yield f"pool {name!r} is not told its name"
        scaling = pools[name].get("autoscaling", {}).get("by", "")
        kinds = {"hpa": "HorizontalPodAutoscaler", "keda": "ScaledObject"}
        scaled = [
            each["kind"]
            for each in objects
            if each["kind"] in kinds.values()
            and each["spec"]["scaleTargetRef"]["name"] == item["metadata"]["name"]
            and each["spec"]["scaleTargetRef"]["kind"] == item["kind"]
        ]
        fixed = "replicas" in item["spec"]
        wanted_scaler = [kinds[scaling]] if scaling else []
        if scaled != wanted_scaler or fixed == bool(scaling):
            yield f"pool {name!r} is scaled by {scaled}, not {scaling!r}"


def unplaced_alerts(objects: list[Values]) -> Iterator[str]:
    """Alerts about what is absent that do not say where: they have no labels but what they ask."""
    for item in objects:
        if item["kind"] == "PrometheusRule":
            text = yaml.safe_dump(item, width=1000)
            asked = re.findall(r"absent\((.*)\)|expr: (up.*) ==", text)
            if len(asked) < 4 or not all('{namespace="video"' in "".join(each) for each in asked):
                yield f"alerts about what is absent: {asked}"


def autoscaling_gaps(objects: list[Values]) -> Iterator[str]:
    """Metrics that an HPA asks for and no rule of the adapter makes; and what is no PromQL."""
    rules = yaml.safe_load((CHART / "monitoring" / "adapter.yaml").read_text())["rules"]
    made = {rule["name"]["as"] for rule in rules}
    for item in objects:
        if item["kind"] == "HorizontalPodAutoscaler":
            asked = {each["pods"]["metric"]["name"] for each in item["spec"]["metrics"]}
            if asked != made:
                yield f"the HPA asks for {sorted(asked)}, the adapter makes {sorted(made)}"
        if item["kind"] == "ScaledObject":
            for trigger in item["spec"]["triggers"]:
                query, threshold = trigger["metadata"]["query"], trigger["metadata"]["threshold"]
                try:
                    promql_parser.parse(query)
                except ValueError as error:
                    yield f"keda: {query}: {error}"
                if not 0 < float(threshold) < 60:
                    yield f"keda: threshold {threshold}"


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


def merged(values: Values, over: Values) -> Values:
    """`over` laid on `values`, as helm does it."""
    result = copy.deepcopy(values)
    for key, value in over.items():
        mergeable = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = merged(result[key], value) if mergeable else value
    return result


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
