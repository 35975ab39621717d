"""A gateway that hears of real workers from a cluster's API server, while it is asked."""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from services.local.clip import Clip
from sightline.v1 import gateway_pb2 as pb
from sightline.v1 import gateway_pb2_grpc
from tests.eventually import wait_until
from tests.integration.test_gateway_moves import PATIENCE_S, WINDOW, WORKER, Pair
from tests.integration.test_gateway_moves import _asking as asking
from tests.kubernetes_api import KubernetesApi, endpoint_slice
from tests.processes import ServiceProcess
from tests.suite import write_clip

pytestmark = pytest.mark.option


@pytest.fixture
def cluster() -> Iterator[KubernetesApi]:
    api = KubernetesApi()
    api.start()
    yield api
    api.stop()


class Running:
    """A gateway that knows its workers from the cluster alone, and one live session."""

    def __init__(self, cluster: KubernetesApi, folder: Path) -> None:
        media = folder / "media"
        media.mkdir()
        self.cluster = cluster
        self.folder = folder
        self.clip: Clip = write_clip(media, seed=5, seconds=12)
        self.workers: list[ServiceProcess] = []
        environment = {
            "GATEWAY_WORKERS": "kubernetes:video/worker:grpc",
            "KUBECONFIG": str(cluster.kubeconfig(folder / "kubeconfig")),
            "GATEWAY_MEDIA_ROOT": str(media),
            "GATEWAY_RTMP_PORT": "0",
        }
        self.gateway = ServiceProcess("gateway", environment, folder)
        self.gateway.start()
        channel = grpc.insecure_channel(self.gateway.address)
        self.stub = gateway_pb2_grpc.SightlineServiceStub(channel)

    def start_worker(self) -> ServiceProcess:
        worker = ServiceProcess("inference_worker", WORKER, self.folder)
        worker.start()
        self.workers.append(worker)
        return worker

    def say(self, worker: ServiceProcess, **conditions: bool) -> None:
        """Let the cluster have the worker as an endpoint."""
        name = f"worker-{worker.grpc_port}"
        port = worker.grpc_port
        self.cluster.put(endpoint_slice(name, "worker", "127.0.0.1", port=port, **conditions))

    @property
    def num_workers(self) -> int:
        info = self.stub.GetServerInfo(pb.GetServerInfoRequest(), timeout=10)
        return sum(model.workers for model in info.models)

    def open(self) -> Pair:
        wanted = pb.CreateSessionRequest(
            source=self.clip.path.name, options=pb.SessionOptions(loop=True)
        )
        session = self.stub.CreateSession(wanted, timeout=30).id
        opened = Pair({}, self.gateway, self.clip, self.stub, session)
        opened.wait(lambda state: state.stats.frames_processed >= WINDOW)
        return opened

    def close(self) -> None:
        with contextlib.suppress(AssertionError, RuntimeError):
            self.gateway.stop()
        for worker in self.workers:
            worker.kill()


@pytest.fixture
def running(cluster: KubernetesApi, tmp_path: Path) -> Iterator[Running]:
    parts = Running(cluster, tmp_path)
    yield parts
    parts.close()


@pytest.mark.parametrize("how", ["named no more", "terminating", "API server away"])
def test_a_session_moves_to_a_worker_that_came_from_one_that_goes(
    running: Running, how: str
) -> None:
    first = running.start_worker()
    running.say(first)
    session = running.open()
    assert session.get().worker == "worker 1"
    second = running.start_worker()
    running.say(second)
    wait_until(lambda: running.num_workers == 2, "the second worker is heard of")
    assert session.get().worker == "worker 1"
    before = session.get()
    with asking(session) as outcomes:
        if how == "named no more":
            running.cluster.delete(f"worker-{first.grpc_port}")
        elif how == "terminating":
            running.say(first, ready=False, terminating=True)
        else:  # what is known already is enough
            running.cluster.stop()
            first.stop()
        session.wait(lambda state: state.worker == "worker 2")
        if how != "API server away":
            first.stop()
        asked = len(outcomes)
        deadline = time.monotonic() + PATIENCE_S
        while len(outcomes) < asked + 4:
            assert time.monotonic() < deadline, outcomes
            time.sleep(0.05)
    assert not [each for each in outcomes if isinstance(each, grpc.RpcError)]
    after = session.wait(
        lambda state: state.stats.frames_processed >= before.stats.frames_processed + 16
    )
    assert after.state == pb.SESSION_STATE_LIVE
    assert not after.stats.degraded
    assert "worker_stream_broken" not in after.stats.dropped
    assert session.ask().frames_seen == WINDOW
    running.gateway.stop()  # exits 0, also while the cluster is silent or away


def test_workers_are_found_by_a_name(tmp_path: Path) -> None:
    worker = ServiceProcess("inference_worker", WORKER, tmp_path)
    worker.start()
    environment = {
        "GATEWAY_WORKERS": f"dns:localhost:{worker.grpc_port}",
        "GATEWAY_RTMP_PORT": "0",
    }
    gateway = ServiceProcess("gateway", environment, tmp_path)
    gateway.start()
    stub = gateway_pb2_grpc.SightlineServiceStub(grpc.insecure_channel(gateway.address))

    def models() -> list[pb.Model]:
        info = stub.GetServerInfo(pb.GetServerInfoRequest(), timeout=10)
        return [model for model in info.models if model.ready]

    [model] = wait_until(models, "the worker is heard of")
    assert model.workers == 1, "localhost may have addresses of two families"
    gateway.stop()
    worker.stop()
