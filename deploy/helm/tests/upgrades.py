"""What an upgrade finds in its cluster: secrets that it keeps, volumes that it cannot change."""

import base64
import json
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import yaml
from chart import CHART, Values, helm


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
