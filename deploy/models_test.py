"""Published families served from images: the part of `make compose-test` about models.

A hub on this machine, in a container beside the suite, has a tiny checkpoint of each family. The
worker of docker-compose.yml downloads each by the hub's own client into its cache volume and
answers about live video; then again without the hub, from the volume alone, and from a folder
that is mounted read-only. After that the worker's pod, as the chart renders it, takes its place:
its container's image, variables, user, mounts and limits on what it may write.
"""

import contextlib
import json
import logging
import os
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import yaml

import sightline
from tests.checkpoints import FAMILIES, write_checkpoint
from tools.docker_engine import PYTHON, run

log = logging.getLogger("compose-test")

REPOSITORY = Path(__file__).resolve().parent.parent
CHART = REPOSITORY / "deploy" / "helm" / "sightline"
HELM = REPOSITORY / ".cache" / "helm-venv" / "bin" / "helm"
HUB_PORT = 8000
OWNER = "tiny"
READY_S = 420.0


class Suite(Protocol):
    """What is needed of compose_test's."""

    environment: dict[str, str]
    ports: dict[str, int]
    project: str

    def __call__(self, *arguments: str, timeout_s: float = 300) -> str: ...

    def wait_until_healthy(self, timeout_s: float = 180) -> None: ...

    def published(self, clip: Path, url: str) -> contextlib.AbstractContextManager[None]: ...


def write_models(folder: Path) -> Path:
    """A folder of `OWNER/<family>` for each family, readable by anybody."""
    for family in FAMILIES:
        write_checkpoint(family, folder / OWNER / family)
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return folder


def check_models(suite: Suite, folder: Path, clip: Path) -> None:
    """Everything above, on a suite that runs with its built-in model."""
    models = write_models(folder / "models")
    with _hub(suite, models) as hub:
        for family in FAMILIES:
            with _worker(suite, WORKER_MODEL=f"{OWNER}/{family}", HF_ENDPOINT=hub):
                _ask(suite, clip, family)
        _check_pod(suite, f"{OWNER}/{FAMILIES[0]}", hub, clip)
    with _worker(suite, WORKER_MODEL=f"{OWNER}/{FAMILIES[0]}", HF_ENDPOINT=hub):
        log.info("the hub is gone: %s comes from the cache volume", FAMILIES[0])
        _ask(suite, clip, FAMILIES[0])
    mine = f"/models/{OWNER}/{FAMILIES[-1]}"
    with _worker(suite, WORKER_MODEL=mine, SIGHTLINE_MODELS=str(models)):
        _ask(suite, clip, mine)


@contextlib.contextmanager
def _hub(suite: Suite, models: Path) -> Iterator[str]:
    """tests/hub.py in a container of the suite's network; its address there."""
    name = f"{suite.project}-hub"
    server = Path(__file__).resolve().parent.parent / "tests" / "hub.py"
    run(
        *("docker", "run", "--detach", "--name", name, "--network", f"{suite.project}_default"),
        *("--network-alias", "hub", "--volume", f"{server}:/hub.py:ro"),
        *("--volume", f"{models}:/hub:ro", PYTHON.tag, "python3", "/hub.py", "/hub"),
        *("--host", "0.0.0.0", "--port", str(HUB_PORT), "--bytes-per-s", "2000000"),
    )
    try:
        yield f"http://hub:{HUB_PORT}"
    finally:
        run("docker", "rm", "--force", name)


@contextlib.contextmanager
def _worker(suite: Suite, **environment: str) -> Iterator[None]:
    """The suite's worker, made anew with these variables."""
    before = dict(suite.environment)
    suite.environment |= environment
    started = time.monotonic()
    try:
        suite("up", "--detach", "--no-build", "worker")
        suite.wait_until_healthy(READY_S)
        log.info(
            "%s: healthy after %.0f s", environment["WORKER_MODEL"], time.monotonic() - started
        )
        for line in suite("logs", "--no-color", "worker").splitlines():
            if "download" in line or "loading" in line:
                log.info("  %s", line.partition("|")[2].strip()[:200])
        yield
    finally:
        for name in environment:
            suite.environment.pop(name, None)
            os.environ.pop(name, None)
        suite.environment |= before


def _ask(suite: Suite, clip: Path, what: str) -> None:
    """Show it a clip by the SDK and have a question answered. Its weights are random: what it
    says is no matter, that it saw frames and ended is."""
    with (
        sightline.connect(f"127.0.0.1:{suite.ports['GRPC']}") as client,
        client.open(push=True, name="models-test") as session,
        suite.published(clip, session.rtmp_url),
    ):
        deadline = time.monotonic() + 90
        while session.refresh().stats.frames_processed < 4:
            if time.monotonic() > deadline:
                raise AssertionError(f"{what} understands no frames: {session.refresh()}")
            time.sleep(0.5)
        result = session.ask("What is there?", max_tokens=8).result()
        if result.answer_tokens < 1:
            raise AssertionError(f"{what} said nothing: {result}")
        log.info("%s answered %d tokens in %.0f ms", what, result.answer_tokens, result.total_ms)


# --- the chart's pod --------------------------------------------------------------------------


def _check_pod(suite: Suite, model: str, hub: str, clip: Path) -> None:
    """The worker's pod in place of the compose file's worker, on the suite's network."""
    if not HELM.exists():
        log.warning("no helm (make helm-test brings it): the chart's pod is not tried")
        return
    tag = suite.environment["SIGHTLINE_TAG"]
    pod = worker_pod(
        {
            "image": {"tag": tag},
            "worker": {"model": model, "hub": {"endpoint": hub}},
        }
    )
    suite("stop", "worker")
    name = f"{suite.project}-pod"
    volume = f"{suite.project}-pod-cache"
    own = ("--network", f"{suite.project}_default", "--network-alias", "worker")
    try:
        run("docker", "run", "--detach", "--name", name, *own, *docker_words(pod, volume))
        deadline = time.monotonic() + READY_S
        while _health(name) != "healthy":
            if time.monotonic() > deadline:
                raise AssertionError(f"the pod is not healthy: {run('docker', 'logs', name)}")
            time.sleep(1)
        try:
            _ask(suite, clip, f"the chart's pod with {model}")
        except Exception:
            log.error("the pod said: %s", run("docker", "logs", "--tail", "20", name))
            raise
        held = run("docker", "exec", name, "du", "-s", "/cache/huggingface")
        log.info("in its cache: %s KiB", held.split()[0])
    finally:
        run("docker", "rm", "--force", name)
        run("docker", "volume", "rm", "--force", volume)


def _health(container: str) -> str:
    return run("docker", "inspect", "--format", "{{.State.Health.Status}}", container).strip()


def worker_pod(values: Mapping[str, Any]) -> dict[str, Any]:
    """The pod of the workers, as helm renders it."""
    words = (str(HELM), "template", "trial", str(CHART), "--values", "-")
    only = ("--show-only", "templates/worker.yaml")
    done = subprocess.run(
        (*words, *only), input=json.dumps(values), capture_output=True, text=True, check=True
    )
    [pod] = [
        item["spec"]["template"]["spec"]
        for item in yaml.safe_load_all(done.stdout)
        if item and item["kind"] in ("Deployment", "StatefulSet")
    ]
    return dict(pod)


def docker_words(pod: Mapping[str, Any], cache: str) -> list[str]:
    """`docker run` for the pod's container: what a kubelet would make of it.

    An emptyDir is a fresh file system, here the Docker volume `cache` and a tmpfs for the rest.
    Raises KeyError for a volume of another kind.
    """
    [container] = pod["containers"]
    security = container["securityContext"]
    words = ["--user", f"{pod['securityContext']['runAsUser']}:{pod['securityContext']['fsGroup']}"]
    if security["readOnlyRootFilesystem"]:
        words.append("--read-only")
    words += [f"--cap-drop={name}" for name in security["capabilities"]["drop"]]
    if not security["allowPrivilegeEscalation"]:
        words += ["--security-opt", "no-new-privileges:true"]
    for variable in container["env"]:
        words += ["--env", f"{variable['name']}={variable['value']}"]
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    for mount in container["volumeMounts"]:
        _ = volumes[mount["name"]]["emptyDir"]
        if mount["name"] == "cache":
            words += ["--volume", f"{cache}:{mount['mountPath']}"]
        else:
            words += ["--tmpfs", mount["mountPath"]]
    return [*words, container["image"], *container.get("args", [])]
