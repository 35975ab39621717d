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
KUBERNETES = ("1.27.0", "1.37.0")  # the oldest that Chart.yaml allows, the newest known
FOREIGN = ("monitoring.coreos.com/",)  # not Kubernetes' own kinds: no schema to validate with
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
        found = [*invalid(objects), *loose_ends(objects), *worker_gaps(objects, wants_gpu(name))]
        found += [*exposed_figures(objects, name), *access_gaps(objects)]
        problems += [f"{name}: {problem}" for problem in found]
        print(f"{name}: {len(objects)} objects validated for Kubernetes {' and '.join(KUBERNETES)}")
    problems += secrets_told(rendered["defaults.yaml"])
    problems += upgrades()
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
            value = re.sub(r"^(dns:|kubernetes:video/)", "", variable.get("value", ""))
            if variable["name"].endswith("_DRAIN_S") and grace < float(value) + 10:
                yield f"{name} is killed after {grace} s, before its drain of {value} s has ended"
            for address in value.removeprefix("redis://").removesuffix("/0").split(","):
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
            grpc = container[probe].get("grpc")
            if grpc and grpc["port"] != ports["grpc"]:
                yield f"{name}: {probe} asks on {grpc['port']}, gRPC is on {ports['grpc']}"
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
        if len(chosen) != 1:
            yield f"{item['kind']} {item['metadata']['name']} selects {len(chosen)} workloads"
        elif not wanted <= {port["name"] for port in chosen[0]["spec"]["containers"][0]["ports"]}:
            yield f"Service {item['metadata']['name']} targets ports that its pods do not have"


def secrets_told(rendered: str) -> Iterator[str]:
    """A password of Redis that is short, known before, or anywhere but in its Secret."""
    again = helm("template", "trial", str(CHART), "--namespace", "video").stdout
    passwords = []
    for text in (rendered, again):
        [secret] = [item for item in yaml.safe_load_all(text) if item and item["kind"] == "Secret"]
        [encoded] = secret["data"].values()
        passwords.append(encoded)
        if len(base64.b64decode(encoded)) < 32:
            yield "the password of Redis is short"
        if text.count(encoded) + text.count(base64.b64decode(encoded).decode()) != 1:
            yield "the password of Redis is in more than its Secret"
    if passwords[0] == passwords[1]:
        yield "the password of Redis is always the same"


def upgrades() -> Iterator[str]:
    """Whether a release that is there keeps its password: helm asks a cluster that has its Secret.

    The cluster is a server on this machine that knows this one Secret and what kinds there are.
    """
    kept = base64.b64encode(b"the password of the first install").decode()
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "trial-sightline-redis", "namespace": "video"},
        "data": {"password": kept},
    }
    kinds = [{"name": "secrets", "kind": "Secret", "namespaced": True, "verbs": ["get"]}]
    answers: Values = {
        "/version": {"major": "1", "minor": "30", "gitVersion": "v1.30.0"},
        "/api": {"kind": "APIVersions", "versions": ["v1"]},
        "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": []},
        "/api/v1": {"kind": "APIResourceList", "groupVersion": "v1", "resources": kinds},
        "/api/v1/namespaces/video/secrets/trial-sightline-redis": secret,
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
    words = ("template", "trial", str(CHART), "--namespace", "video")
    run = helm(*words, "--dry-run=server", "--kube-apiserver", at)
    server.shutdown()
    if run.returncode:
        yield f"an upgrade cannot be rendered: {run.stderr.strip()}"
    elif f'password: "{kept}"' not in run.stdout:
        yield "an upgrade gives Redis another password"


def exposed_figures(objects: list[Values], name: str) -> Iterator[str]:
    """Services that carry /metrics together with what users reach, and pods without a policy."""
    for item in objects:
        if item["kind"] == "Service":
            ports = {port["name"] for port in item["spec"]["ports"]}
            if "metrics" in ports and ports != {"metrics"}:
                yield f"Service {item['metadata']['name']} carries metrics beside {ports}"
    kinds = {"Deployment", "StatefulSet"}
    pods = {item["metadata"]["name"] for item in objects if item["kind"] in kinds}
    guarded = {item["metadata"]["name"] for item in objects if item["kind"] == "NetworkPolicy"}
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
        if pod["automountServiceAccountToken"] is not asks or asks != ("serviceAccountName" in pod):
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


def wants_gpu(file: str) -> bool:
    values = yaml.safe_load((HERE / "values" / file).read_text())
    return bool(values.get("worker", {}).get("gpu", {}).get("enabled", False))


def worker_gaps(objects: list[Values], gpu: bool) -> Iterator[str]:
    """Workers are a StatefulSet; with a GPU each takes one, its taint, its image and its device."""
    sets = {
        item["metadata"]["labels"]["app.kubernetes.io/component"]: item["spec"]["template"]["spec"]
        for item in objects
        if item["kind"] == "StatefulSet"
    }
    if "worker" not in sets:
        yield "there is no StatefulSet of workers"
        return
    container = sets["worker"]["containers"][0]
    tolerations = sets["worker"].get("tolerations", [])
    has = {
        "limit": container["resources"].get("limits", {}).get("nvidia.com/gpu") == 1,
        "toleration": "nvidia.com/gpu" in [each.get("key") for each in tolerations],
        "image": container["image"].partition("@")[0].endswith("-cuda"),
        "device": {"name": "WORKER_DEVICE", "value": "cuda"} in container["env"],
    }
    yield from (f"worker.gpu.enabled is {gpu}: {name}" for name in has if has[name] != gpu)


def unreadable_expressions() -> Iterator[str]:
    """What is no PromQL in the alerts and the dashboard."""
    rules = yaml.safe_load((CHART / "monitoring" / "alerts.yaml").read_text())
    alerts = [rule for group in rules["groups"] for rule in group["rules"]]
    named = [(rule["alert"], rule["expr"]) for rule in alerts]
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
