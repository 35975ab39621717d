"""Models of a hub: fetched by the real client's cache from a hub on this machine."""

import json
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from services.inference_worker.model.errors import ModelError
from services.inference_worker.model.loading import DOWNLOADING, LOADING, Loading
from services.inference_worker.model.published import hub as client
from sightline.v1 import inference_pb2, inference_pb2_grpc
from tests.checkpoints import write_checkpoint
from tests.hub import Hub
from tests.processes import ServiceProcess, free_port

WEIGHTS = 1_500_000  # bytes of each shard
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """With one repository, and the client's cache in an empty folder."""
    from huggingface_hub import constants

    folder = tmp_path / "hub" / "acme" / "tiny"
    (folder / "onnx").mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"dtype": "bfloat16"}))
    (folder / "README.md").write_text("not wanted")
    for name in (*SHARDS, "onnx/model.safetensors"):
        (folder / name).write_bytes(random.Random(name).randbytes(WEIGHTS))
    cache = tmp_path / "home" / "hub"
    with Hub(tmp_path / "hub") as running:
        # The client has read its variables when it was imported.
        monkeypatch.setattr(constants, "ENDPOINT", running.url)
        template = running.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
        for module in ("_snapshot_download", "file_download", "hf_api"):
            parts = __import__(f"huggingface_hub.{module}", fromlist=["x"])
            for name, value in (("ENDPOINT", running.url), ("HF_HUB_CACHE", str(cache))):
                if hasattr(parts, name):
                    monkeypatch.setattr(parts, name, value)
        monkeypatch.setattr(client, "RETRY_S", (0.05, 0.1))
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield running


def fetch(progress: Loading | None = None, name: str = "acme/tiny") -> Path:
    return client.fetch(name, progress or Loading())


def same(folder: Path, hub: Hub) -> bool:
    repository = hub.folder / "acme" / "tiny"
    return all((folder / name).read_bytes() == (repository / name).read_bytes() for name in SHARDS)


def test_what_a_model_needs_is_fetched_once(hub: Hub) -> None:
    folder = fetch()
    assert same(folder, hub)
    assert (folder / "config.json").exists()
    assert (folder / "README.md").exists(), "it names the licence"
    assert not (folder / "onnx").exists(), "the same weights for another program"
    sent = dict(hub.sent)
    assert fetch() == folder
    assert {name: sent[name] for name in sent if "safetensors" in name} == {
        name: count for name, count in hub.sent.items() if "safetensors" in name
    }


def test_without_a_hub_the_cache_will_do(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    folder = fetch()
    hub.__exit__(None, None, None)
    assert fetch() == folder
    monkeypatch.setattr(constants, "HF_HUB_CACHE", constants.HF_HUB_CACHE + "-empty")
    with pytest.raises(ModelError, match="not in the cache, and the hub does not answer"):
        fetch()
    hub.__enter__()


def test_a_connection_that_breaks_goes_on_where_it_was(hub: Hub) -> None:
    hub.break_after, hub.breaks = 600_000, 3
    assert same(fetch(), hub)
    sent = sum(hub.sent[f"acme/tiny/{name}"] for name in SHARDS)
    assert sent < 2 * WEIGHTS + 3 * 300_000, "what had come did not come again"


def test_a_later_start_goes_on_where_an_earlier_one_was_stopped(hub: Hub) -> None:
    from huggingface_hub import constants

    blobs = Path(constants.HF_HUB_CACHE) / "models--acme--tiny" / "blobs"
    blobs.mkdir(parents=True)
    repository = hub.folder / "acme" / "tiny"
    etags = {each["path"]: each["lfs"]["oid"] for each in _tree(hub) if "lfs" in each}
    whole = (repository / SHARDS[0]).read_bytes()
    (blobs / (etags[SHARDS[0]] + ".part")).write_bytes(whole[:1_000_000])
    (blobs / (etags[SHARDS[1]] + ".part")).write_bytes(bytes(1_400_000))  # not what it should be
    progress = Loading()
    assert same(fetch(progress), hub)
    assert hub.sent[f"acme/tiny/{SHARDS[0]}"] == WEIGHTS - 1_000_000
    assert hub.sent[f"acme/tiny/{SHARDS[1]}"] == WEIGHTS + WEIGHTS - 1_400_000
    assert progress.done == progress.total == 2 * WEIGHTS
    assert not list(blobs.glob("*.part"))


def _tree(hub: Hub) -> list[dict[str, Any]]:
    from tests.hub import _entry

    return [_entry(path, file) for path, file in hub.files("acme/tiny").items()]


def test_progress_is_told_while_it_comes(hub: Hub) -> None:
    hub.bytes_per_s = 1_500_000
    progress, seen = Loading(), []
    thread = threading.Thread(target=fetch, args=(progress,))
    thread.start()
    while thread.is_alive():
        state = progress.state()
        if state.bytes_total:
            seen.append((state.bytes_done, state.bytes_total))
        time.sleep(0.05)
    thread.join()
    assert progress.phase == DOWNLOADING
    assert {total for _, total in seen} == {2 * WEIGHTS}
    counts = [done for done, _ in seen]
    assert counts == sorted(counts)
    assert any(0 < done < 2 * WEIGHTS for done in counts)


def test_a_download_that_stalls_is_given_up_at_last(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "READ_S", 2.0)
    monkeypatch.setattr(client, "PATIENCE_S", 2.5)
    hub.stalled = True
    with pytest.raises(ModelError, match=r"stalled: nothing came in 2\.5 s"):
        fetch()
    hub.stalled = False
    assert same(fetch(), hub)


def test_refusals_say_what_to_do(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match=r"the hub has no model acme/none, or it is private"):
        fetch(name="acme/none")
    with pytest.raises(ModelError, match="no name of a model"):
        fetch(name="acme/ti ny")
    hub.gated["acme/tiny"] = "a-token"
    with pytest.raises(ModelError, match=r"acme/tiny is gated: accept its terms .* HF_TOKEN"):
        fetch()
    monkeypatch.setenv("HF_TOKEN", "a-token")
    assert same(fetch(), hub)


def test_a_disk_without_room_is_named_before_anything_is_fetched(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    nearly_full = SimpleNamespace(free=client.SPARE_BYTES + 2_000_000)
    monkeypatch.setattr(client.shutil, "disk_usage", lambda folder: nearly_full)
    with pytest.raises(ModelError, match=r"needs 3 MB more on the disk, where 1\.1 GB are free"):
        fetch()
    assert not any("safetensors" in name for name in hub.sent)


def test_a_model_that_does_not_fit_is_not_fetched(hub: Hub) -> None:
    def admit(name: str, described: dict[str, Any], parameters: int) -> None:
        assert parameters == WEIGHTS, "two shards of two bytes a number"
        raise ModelError(f"{name} does not fit")

    with pytest.raises(ModelError, match="does not fit"):
        fetch(Loading(admit))
    assert not any("safetensors" in name for name in hub.sent)


@pytest.mark.timeout(180)
def test_a_worker_tells_how_far_its_model_is_and_serves_it_then(tmp_path: Path) -> None:
    """The whole way: nothing here but the environment says where the hub is."""
    write_checkpoint("smolvlm", tmp_path / "hub" / "acme" / "tiny", shards=2)
    with Hub(tmp_path / "hub", bytes_per_s=400_000) as hub:
        settings = {
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(tmp_path / "home"),
            "WORKER_MODEL": "acme/tiny",
            "WORKER_GRPC_PORT": str(free_port()),
            "WORKER_THREADS": "1",
            "WORKER_KV_MEMORY_BYTES": str(64 << 20),
        }
        worker = ServiceProcess("inference_worker", settings, tmp_path)
        worker.spawn()
        try:
            phases, refused = _follow(worker)
        finally:
            worker.stop()
    assert DOWNLOADING in phases
    assert LOADING in phases[phases.index(DOWNLOADING) :]
    assert refused == (grpc.StatusCode.UNAVAILABLE, "the model is loading")
    assert "httpx" not in worker.log(), "nobody wants to read a line for every request"


def _follow(worker: ServiceProcess) -> tuple[list[int], Any]:
    """The phases until the model is ready, and what another call was told before."""
    phases: list[int] = []
    refused = None
    at_once = [("grpc.max_reconnect_backoff_ms", 200)]
    port = worker.environment["WORKER_GRPC_PORT"]
    assert worker.process is not None
    with grpc.insecure_channel(f"127.0.0.1:{port}", options=at_once) as channel:
        stub: Any = inference_pb2_grpc.InferenceServiceStub(channel)
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            assert worker.process.poll() is None, worker.log()
            try:
                told = stub.Describe(inference_pb2.DescribeRequest(), timeout=5)
            except grpc.RpcError:
                time.sleep(0.1)
                continue
            assert told.model == "acme/tiny"
            if not told.HasField("loading"):
                return phases, refused
            phases.append(told.loading.phase)
            if refused is None:
                try:
                    next(stub.Load(inference_pb2.LoadRequest()))
                except grpc.RpcError as error:
                    refused = (error.code(), error.details())
            time.sleep(0.1)
    raise AssertionError(phases)
