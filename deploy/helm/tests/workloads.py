"""What a schema cannot say of the objects: selectors that meet their pods, ports and addresses that
exist, a GPU for each worker that is to have one, pods that may be moved, rights that are needed."""

import re
from collections.abc import Iterator

import promql_parser
import yaml
from chart import CHART, HERE, Values, merged


def faults(objects: list[Values], file: str) -> Iterator[str]:
    """All of them, in what helm makes of a file of values."""
    yield from loose_ends(objects)
    yield from worker_gaps(objects, file)
    yield from exposed_figures(objects, file)
    yield from access_gaps(objects)
    yield from unsafe_pods(objects)
    yield from autoscaling_gaps(objects)
    yield from unplaced_alerts(objects)
    yield from unlike_peers(objects)


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


def unlike_peers(objects: list[Values]) -> Iterator[str]:
    """Services of which only some speak mutual TLS, and gRPC probes of those that do: the kubelet
    has no certificate."""
    secured, plain = set(), set()
    for item in objects:
        if item["kind"] not in ("Deployment", "StatefulSet"):
            continue
        name = item["metadata"]["labels"]["app.kubernetes.io/component"]
        container = item["spec"]["template"]["spec"]["containers"][0]
        files = {
            each["name"].partition("_PEER_")[2]: each.get("value", "")
            for each in container.get("env", [])
            if "_PEER_" in each["name"]
        }
        if "CA" not in files:
            plain |= {name} - {"redis"}
            continue
        secured.add(name)
        folders = [mount["mountPath"] for mount in container["volumeMounts"]]
        if not all(
            any(files.get(part, "").startswith(f"{folder}/") for folder in folders)
            for part in ("CA", "CERT", "KEY")
        ):
            yield f"{name} has no certificate where it looks for one: {files}"
        if any("grpc" in container[probe] for probe in ("startupProbe", "livenessProbe")):
            yield f"{name} speaks mutual TLS, and is probed by gRPC"
    if secured and plain:
        yield f"{sorted(secured)} speak mutual TLS, {sorted(plain)} do not"


def autoscaling_gaps(objects: list[Values]) -> Iterator[str]:
    """Metrics that an HPA asks for and no rule of the adapter makes; and what is no PromQL."""
    rules = yaml.safe_load((CHART / "monitoring" / "adapter.yaml").read_text())["rules"]
    made = {rule["name"]["as"] for rule in rules}
    for item in objects:
        if item["kind"] == "HorizontalPodAutoscaler":
            metrics = item["spec"]["metrics"]
            asked = {each["pods"]["metric"]["name"] for each in metrics if "pods" in each}
            if asked and asked != made:
                yield f"the HPA asks for {sorted(asked)}, the adapter makes {sorted(made)}"
            shares = [each["resource"]["name"] for each in metrics if "resource" in each]
            target = item["spec"]["scaleTargetRef"]
            scaled = next(
                each["spec"]
                for each in objects
                if (each["kind"], each["metadata"]["name"]) == (target["kind"], target["name"])
            )
            if "replicas" in scaled:
                yield f"{target['name']} has a number of its own, which every upgrade sets back"
            container = scaled["template"]["spec"]["containers"][0]
            yield from (
                f"{target['name']} is scaled by a share of {share} that it does not request"
                for share in shares
                if share not in container["resources"].get("requests", {})
            )
        if item["kind"] == "ScaledObject":
            for trigger in item["spec"]["triggers"]:
                query, threshold = trigger["metadata"]["query"], trigger["metadata"]["threshold"]
                try:
                    promql_parser.parse(query)
                except ValueError as error:
                    yield f"keda: {query}: {error}"
                if not 0 < float(threshold) < 60:
                    yield f"keda: threshold {threshold}"
