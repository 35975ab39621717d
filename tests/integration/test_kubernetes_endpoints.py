"""Workers heard of from a cluster's API server, which changes, forgets, refuses and goes away."""

import queue
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kubernetes import client, config

from services.gateway import metrics
from services.gateway.workers.kubernetes_endpoints import KubernetesEndpoints
from services.gateway.workers.lookup import Found
from tests.eventually import wait_until
from tests.kubernetes_api import KubernetesApi, endpoint_slice

PORT = 50060


class Watcher:
    """A thread that reads a Service's endpoints, and what it found."""

    def __init__(self, api: KubernetesApi, folder: Path) -> None:
        settings = client.Configuration()
        path = str(api.kubeconfig(folder / "kubeconfig"))
        config.load_kube_config(config_file=path, client_configuration=settings)
        asking = client.DiscoveryV1Api(client.ApiClient(settings))
        self.endpoints = KubernetesEndpoints(asking, api.namespace, "worker", "grpc")
        self._found: queue.Queue[Found] = queue.Queue()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def next(self) -> list[str]:
        """The last parts of the next list's addresses."""
        found = self._found.get(timeout=60)
        return [each.partition(":")[0].rpartition(".")[2] for each in found.addresses]

    @property
    def is_quiet(self) -> bool:
        return self._found.empty()

    def stop(self) -> None:
        self.endpoints.stop()
        self.thread.join(10)
        assert not self.thread.is_alive(), "it ends also while a watch is silent"

    def _run(self) -> None:
        for found in self.endpoints.looks():
            self._found.put(found)


@pytest.fixture
def api() -> Iterator[KubernetesApi]:
    server = KubernetesApi()
    server.start()
    server.put(_slice("a", 1, 2))
    yield server
    server.stop()


@pytest.fixture
def watcher(api: KubernetesApi, tmp_path: Path) -> Iterator[Watcher]:
    reading = Watcher(api, tmp_path)
    yield reading
    reading.stop()


def _slice(name: str, *numbers: int, service: str = "worker", **conditions: bool) -> Any:
    addresses = [f"10.0.0.{number}" for number in numbers]
    return endpoint_slice(name, service, *addresses, port=PORT, **conditions)


def _watches(api: KubernetesApi, count: int) -> None:
    wait_until(lambda: len(api.watches) >= count, "another watch")


def test_a_list_and_then_changes(api: KubernetesApi, watcher: Watcher) -> None:
    assert watcher.next() == ["1", "2"]
    api.put(_slice("b", 3))
    assert watcher.next() == ["1", "2", "3"]
    api.put(_slice("other", 9, service="dialogue"))
    api.put(_slice("a", 2, ready=False))
    assert watcher.next() == ["3"]
    api.put(_slice("b"))
    assert watcher.next() == []
    api.put(_slice("a", 2))
    assert watcher.next() == ["2"]
    api.delete("a")
    assert watcher.next() == []
    assert api.num_lists == 1
    assert len(api.watches) == 1


def test_a_worker_that_terminates_is_known_as_ending(api: KubernetesApi, watcher: Watcher) -> None:
    assert watcher.next() == ["1", "2"]
    api.put(_slice("a", 1, ready=False, terminating=True))
    found = watcher._found.get(timeout=60)
    assert found == Found((f"10.0.0.1:{PORT}",), frozenset([f"10.0.0.1:{PORT}"]))


def test_a_watch_goes_on_from_the_last_bookmark(api: KubernetesApi, watcher: Watcher) -> None:
    assert watcher.next() == ["1", "2"]
    _watches(api, 1)
    api.bookmark()
    wait_until(lambda: watcher.endpoints._version == "102")
    api.forget()
    api.cut()
    _watches(api, 2)
    assert api.watches[-1] == "102"
    api.put(_slice("a", 1))
    assert watcher.next() == ["1"]
    assert api.num_lists == 1


@pytest.mark.parametrize("by_status", [False, True])
def test_a_version_that_is_forgotten_is_listed_anew(
    api: KubernetesApi, watcher: Watcher, by_status: bool
) -> None:
    assert watcher.next() == ["1", "2"]
    api.put(_slice("b", 3))
    assert watcher.next() == ["1", "2", "3"]
    api.gone_by_status = by_status
    api.stop()
    api.delete("a")
    api.put(_slice("c", 4))
    api.forget()
    api.start()
    assert watcher.next() == ["3", "4"], "what was deleted meanwhile is gone"
    assert api.num_lists == 2


@pytest.mark.parametrize("within_a_line", [False, True])
def test_a_watch_that_is_cut_goes_on_where_it_was(
    api: KubernetesApi, watcher: Watcher, within_a_line: bool
) -> None:
    assert watcher.next() == ["1", "2"]
    _watches(api, 1)
    for number in range(3, 6):
        api.cut(within_a_line=within_a_line)
        api.put(_slice(f"s{number}", number))
        assert str(number) in watcher.next()
    assert api.num_lists == 1


def test_a_watch_that_the_server_ends_is_followed_by_another(
    api: KubernetesApi, watcher: Watcher
) -> None:
    api.longest_watch_s = 0.05
    assert watcher.next() == ["1", "2"]
    api.cut()
    _watches(api, 4)
    api.put(_slice("b", 3))
    assert watcher.next() == ["1", "2", "3"]
    assert api.num_lists == 1


def test_while_the_server_is_away_the_last_list_holds(
    api: KubernetesApi, watcher: Watcher, caplog: pytest.LogCaptureFixture
) -> None:
    assert watcher.next() == ["1", "2"]
    _watches(api, 1)
    api.stop()
    current = metrics.DISCOVERY_CURRENT.labels(f"{api.namespace}/worker")._value
    wait_until(lambda: current.get() == 0)
    api.put(_slice("b", 3))
    assert watcher.is_quiet
    api.start()
    assert watcher.next() == ["1", "2", "3"]
    assert current.get() == 1
    told = [each for each in caplog.records if "cannot be looked up" in each.message]
    assert len(told) == 1


def test_a_refusal_is_told_and_asked_again(
    api: KubernetesApi, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    api.refusal = 403
    watcher = Watcher(api, tmp_path)
    wait_until(lambda: "cannot be looked up" in caplog.text)
    [record] = [each for each in caplog.records if "cannot be looked up" in each.message]
    assert "403" in record.reason  # type: ignore[attr-defined]
    api.refusal = None
    assert watcher.next() == ["1", "2"]
    watcher.stop()
