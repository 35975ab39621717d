"""Workers behind a Service of a Kubernetes cluster, whose EndpointSlices are listed and watched."""

import contextlib
import json
import socket
import threading
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping
from typing import Any

import urllib3
from kubernetes import client, config
from kubernetes.watch.watch import iter_resp_lines

from services.common.backoff import Backoff
from services.gateway.workers.lookup import Found, Standing, from_thread

Slice = Mapping[str, Any]  # an EndpointSlice of discovery.k8s.io/v1, as JSON

CONNECT_S = 5.0
LIST_S = 15.0
WATCH_S = 60  # the server then ends the watch, and another goes on where it ended
SILENCE_S = 75.0  # a watch that says nothing for longer is cut: the server would have ended it
LONGEST_WAIT_S = 15.0
GONE = 410  # the version to go on from is forgotten: list anew
ADDRESS_TYPES = ("IPv4", "IPv6", "FQDN")  # which of them is taken of a worker that has several


def cluster_api() -> client.DiscoveryV1Api:
    """The cluster that this pod is in, by its service account, or else that of a kubeconfig. Raises
    ValueError when there is neither."""
    settings = client.Configuration()
    try:
        config.load_incluster_config(client_configuration=settings)
    except config.ConfigException:
        try:
            config.load_kube_config(client_configuration=settings)
        except (config.ConfigException, OSError) as error:
            raise ValueError(f"neither a service account nor a kubeconfig: {error}") from None
    return client.DiscoveryV1Api(client.ApiClient(settings))


class KubernetesEndpoints:
    """The endpoints of one Service, listed once and then watched from that version on.

    The protocol: https://kubernetes.io/docs/reference/using-api/api-concepts/. Replies are taken
    as JSON: a slice without endpoints has `null` where the client's model wants a list.
    """

    def __init__(self, api: client.DiscoveryV1Api, namespace: str, service: str, port: str) -> None:
        """`port`: the number of the pods' port, or its name in the Service."""
        self._api = api
        self._namespace = namespace
        self._service = service
        self._port = port
        self._slices: dict[str, Slice] = {}
        self._version = ""  # that the next watch goes on from; empty: list first
        self._reply: Any = None  # of the watch under way
        self._stopped = threading.Event()
        self._standing = Standing(f"{namespace}/{service}")

    def changes(self) -> AsyncGenerator[Found, None]:
        return from_thread(self.looks, self.stop, self._standing)

    def stop(self) -> None:
        """Make `looks` return soon. Any thread."""
        self._stopped.set()
        connection = getattr(self._reply, "connection", None)
        with contextlib.suppress(OSError, AttributeError):  # closing it would wait for the reader
            connection.sock.shutdown(socket.SHUT_RDWR)  # type: ignore[union-attr]

    def looks(self) -> Iterator[Found]:
        """Each list that differs from the one before. Blocks; belongs to one thread."""
        before: Found | None = None
        backoff = Backoff(most_s=LONGEST_WAIT_S)
        while not self._stopped.is_set():
            try:
                for _ in self._follow():
                    self._standing.worked()
                    backoff.reset()
                    found = found_in(self._slices.values(), self._port)
                    if found != before:
                        yield (before := found)
            except client.ApiException as error:
                if error.status == GONE:
                    self._version = ""
                else:
                    self._standing.failed(f"HTTP {error.status} {error.reason}")
            except (urllib3.exceptions.HTTPError, OSError, ValueError, KeyError) as error:
                if not self._stopped.is_set():
                    self._standing.failed(f"{type(error).__name__}: {error}")
            # Also after a watch that ended in time: a server that ends all of them at once is not
            # asked without a pause.
            self._stopped.wait(backoff.next_s())

    def _follow(self) -> Iterator[None]:
        """List if need be, then watch until the watch ends. Yields after whatever was heard."""
        if not self._version:
            self._list()
            yield
        with self._asked(watch=True, silence_s=SILENCE_S) as reply:
            yield
            if self._stopped.is_set():  # before `stop` could have reached this reply
                return
            for line in iter_resp_lines(reply):
                if line:
                    self._heard(json.loads(line))
                    yield
                if not self._version or self._stopped.is_set():
                    return

    def _list(self) -> None:
        with self._asked(watch=False, silence_s=LIST_S) as reply:
            answer = json.loads(reply.data)
        self._slices = {item["metadata"]["name"]: item for item in answer["items"] or ()}
        self._version = answer["metadata"]["resourceVersion"]

    def _heard(self, event: Mapping[str, Any]) -> None:
        """Take one event of a watch. Raises ValueError for an error that is not GONE."""
        kind, item = event["type"], event["object"]
        if kind == "ERROR":
            self._version = ""  # what was missed meanwhile is in the next list
            if item.get("code") != GONE:
                raise ValueError(f"the watch ended: {item.get('message')}")
            return
        metadata = item["metadata"]
        self._version = metadata["resourceVersion"]
        if kind in ("ADDED", "MODIFIED"):
            self._slices[metadata["name"]] = item
        elif kind == "DELETED":
            self._slices.pop(metadata["name"], None)

    @contextlib.contextmanager
    def _asked(self, *, watch: bool, silence_s: float) -> Iterator[Any]:
        """The reply to one request, its body unread. Raises ApiException for a refusal."""
        more: dict[str, Any] = {}
        if watch:
            more = {"watch": True, "allow_watch_bookmarks": True, "timeout_seconds": WATCH_S}
            more["resource_version"] = self._version
        reply: Any = self._api.list_namespaced_endpoint_slice(
            self._namespace,
            label_selector=f"kubernetes.io/service-name={self._service}",
            _preload_content=False,
            _request_timeout=(CONNECT_S, silence_s),
            **more,
        )
        self._reply = reply
        try:
            yield reply
        finally:
            self._reply = None
            reply.close()
            reply.release_conn()


def found_in(slices: Iterable[Slice], port: str) -> Found:
    """The workers that EndpointSlices name: those that are ready, and, as ending, those that
    terminate and still serve. A pod with addresses of several types is one worker."""
    found: dict[str, str] = {}  # pod, or an address without one: address
    ending: set[str] = set()
    for item in sorted(slices, key=_rank):
        number = _port_number(item, port)
        if number is None:
            continue
        for endpoint in item.get("endpoints") or ():
            conditions = endpoint.get("conditions") or {}
            ready = conditions.get("ready") is not False  # what is not said counts as ready
            serving = conditions.get("serving")
            terminating = conditions.get("terminating") is True
            if not (ready if not terminating or serving is None else serving):
                continue
            host = endpoint["addresses"][0]  # further ones lead to the same
            address = f"[{host}]:{number}" if item["addressType"] == "IPv6" else f"{host}:{number}"
            pod = (endpoint.get("targetRef") or {}).get("uid") or address
            address = found.setdefault(pod, address)
            if terminating:
                ending.add(address)
    return Found(tuple(sorted(set(found.values()))), frozenset(ending))


def _rank(item: Slice) -> tuple[int, str]:
    return ADDRESS_TYPES.index(item["addressType"]), item["metadata"]["name"]


def _port_number(item: Slice, port: str) -> int | None:
    if port.isdecimal():
        return int(port)
    numbers = (each.get("port") for each in item.get("ports") or () if each.get("name") == port)
    return next(numbers, None)
