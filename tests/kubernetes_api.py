"""An API server of a cluster, for tests: EndpointSlices of one namespace, listed and watched.

It speaks the protocol of https://kubernetes.io/docs/reference/using-api/api-concepts/: lists with a
resourceVersion; watches as chunked lines of JSON from a version on, with bookmarks where they are
allowed, 410 for versions that it has forgotten, and an end after `timeoutSeconds`.
"""

import json
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml

PATH = re.compile(r"/apis/discovery\.k8s\.io/v1/namespaces/(?P<namespace>[a-z-]+)/endpointslices")
TOKEN = "a-service-account"
Event = dict[str, Any]


def endpoint_slice(name: str, service: str, *addresses: str, port: int, **conditions: bool) -> Any:
    """A slice of ready endpoints, or of those conditions; without addresses it has `null`, as the
    real server writes it."""
    conditions = {"ready": True, "serving": True, "terminating": False} | conditions
    endpoints = [{"addresses": [each], "conditions": conditions} for each in addresses]
    return {
        "metadata": {"name": name, "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4",
        "ports": [{"name": "grpc", "port": port, "protocol": "TCP"}],
        "endpoints": endpoints or None,
    }


class KubernetesApi:
    """The server, on 127.0.0.1. Its state outlives `stop` and `start`."""

    def __init__(self, namespace: str = "video") -> None:
        self.namespace = namespace
        self.num_lists = 0
        self.watches: list[str] = []  # the version that each began with
        self.refusal: int | None = None  # HTTP status of every answer
        self.gone_by_status = False  # 410 as an HTTP status, not as an event
        self.longest_watch_s: float | None = None  # less than what clients ask for
        self._changed = threading.Condition()
        self._version = 100
        self._oldest = 100
        self._slices: dict[str, Any] = {}
        self._events: list[tuple[int, Event]] = []
        self._cuts = 0
        self._broken = False
        self._server: ThreadingHTTPServer | None = None
        self._port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        handler = type("Handler", (_Handler,), {"api": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", self._port), handler)
        self._server.daemon_threads = True
        self._port = self._server.server_address[1]
        serving = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        serving.start()

    def stop(self) -> None:
        """Be away: watches are cut, connections refused."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None
        self.cut()

    def kubeconfig(self, path: Path) -> Path:
        """A kubeconfig that leads here."""
        user = {"name": "gateway", "user": {"token": TOKEN}}
        cluster = {"name": "here", "cluster": {"server": self.url}}
        context = {"name": "here", "context": {"cluster": "here", "user": "gateway"}}
        path.write_text(
            yaml.safe_dump(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "current-context": "here",
                    "clusters": [cluster],
                    "contexts": [context],
                    "users": [user],
                }
            )
        )
        return path

    def put(self, item: Any) -> None:
        with self._changed:
            name = item["metadata"]["name"]
            self._happened("MODIFIED" if name in self._slices else "ADDED", item)
            self._slices[name] = item

    def delete(self, name: str) -> None:
        with self._changed:
            self._happened("DELETED", self._slices.pop(name))

    def bookmark(self) -> None:
        """Tell watches that nothing happened up to a new version."""
        with self._changed:
            self._happened("BOOKMARK", {"metadata": {}, "kind": "EndpointSlice"})

    def forget(self) -> None:
        """Have no version but the newest, as after a compaction."""
        with self._changed:
            self._oldest = self._version
            self._events.clear()

    def cut(self, *, within_a_line: bool = False) -> None:
        """Break every watch off, without an end."""
        with self._changed:
            self._broken = within_a_line
            self._cuts += 1
            self._changed.notify_all()

    def _happened(self, kind: str, item: Any) -> None:
        self._version += 1
        metadata = item["metadata"] | {"resourceVersion": str(self._version)}
        event = {"type": kind, "object": item | {"metadata": metadata}}
        self._events.append((self._version, event))
        self._changed.notify_all()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    api: KubernetesApi

    def do_GET(self) -> None:
        path = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(path.query).items()}
        match = PATH.fullmatch(path.path)
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._status(401, "Unauthorized")
        elif self.api.refusal is not None:
            self._status(self.api.refusal, "Forbidden")
        elif match is None or match["namespace"] != self.api.namespace:
            self._status(404, "NotFound")
        elif query.get("watch") in ("true", "True", "1"):
            self._watch(query)
        else:
            self._list(query)

    def _list(self, query: dict[str, str]) -> None:
        with self.api._changed:
            self.api.num_lists += 1
            items = [item for item in self.api._slices.values() if _selected(item, query)]
            version = str(self.api._version)
        metadata = {"resourceVersion": version}
        self._json(200, {"kind": "EndpointSliceList", "metadata": metadata, "items": items or None})

    def _watch(self, query: dict[str, str]) -> None:
        api = self.api
        version = int(query["resourceVersion"])
        longest_s = api.longest_watch_s or float(query.get("timeoutSeconds", 1800))
        end_s = time.monotonic() + longest_s
        with api._changed:
            api.watches.append(query["resourceVersion"])
            cuts, gone = api._cuts, version < api._oldest
        if gone and api.gone_by_status:
            self._status(410, "Expired")
            return
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.flush()
        if gone:
            self._event({"type": "ERROR", "object": _status(410, "Expired")})
        while not gone and (left_s := end_s - time.monotonic()) > 0:
            with api._changed:
                if api._cuts != cuts:
                    if api._broken:
                        self.wfile.write(b'1000\r\n{"type": "MODIF')
                    self.close_connection = True
                    return
                new = [(at, event) for at, event in api._events if at > version]
                if not new:
                    api._changed.wait(left_s)
            for at, event in new:
                version = at
                if event["type"] == "BOOKMARK":
                    if query.get("allowWatchBookmarks") not in ("true", "True"):
                        continue
                elif not _selected(event["object"], query):
                    continue
                self._event(event)
        self.wfile.write(b"0\r\n\r\n")

    def _event(self, event: Event) -> None:
        """One line, in two chunks: where chunks end says nothing."""
        line = json.dumps(event).encode() + b"\n"
        for part in (line[:20], line[20:]):
            self.wfile.write(f"{len(part):x}\r\n".encode() + part + b"\r\n")
        self.wfile.flush()

    def _status(self, code: int, reason: str) -> None:
        self._json(code, _status(code, reason))

    def _json(self, code: int, body: Any) -> None:
        text = json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, format: str, *arguments: Any) -> None:
        pass


def _status(code: int, reason: str) -> dict[str, Any]:
    words = {"status": "Failure", "reason": reason, "message": f"told to: {reason}", "code": code}
    return {"kind": "Status", "apiVersion": "v1", "metadata": {}, **words}


def _selected(item: Any, query: dict[str, str]) -> bool:
    name, _, value = query.get("labelSelector", "").partition("=")
    return not name or item["metadata"].get("labels", {}).get(name) == value
