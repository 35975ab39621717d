"""The whole suite as real processes on free ports, and clips for it to watch.

`suite` is one running suite for the whole test run: leave it as you found it. `annex` puts a
gateway of your own beside its other parts. `mended` is another, whose parts you may break and mend;
`fresh_suite` makes one of your own.
"""

import contextlib
import fcntl
import json
import os
import shutil
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from services.local.clip import Clip, read_clip
from services.local.wiring import gateway_peers, worker_peers
from tests import forking, tools
from tests.processes import SHAPES, RedisServer, ServiceProcess, free_port

CLIPS = "SIGHTLINE_TEST_CLIPS"
START_TIMEOUT_S = 120  # the worker warms every batch size up before it serves


class ApiError(Exception):
    """The gateway's HTTP API refused; `status` and the decoded `body` say how."""

    def __init__(self, status: int, body: Any) -> None:
        super().__init__(f"{status}: {body}")
        self.status = status
        self.body = body


class Suite:
    """Redis, dialogue, tts, `num_workers` inference workers and a gateway.

    `environment` holds further variables by service, e.g. {"gateway": {"GATEWAY_GRACE_S": "2"}}.
    Every part can be killed, stopped and restarted on its ports through its own object.
    """

    def __init__(
        self,
        folder: Path,
        *,
        num_workers: int = 1,
        speech: bool = True,
        environment: Mapping[str, Mapping[str, str]] | None = None,
    ) -> None:
        extra = environment or {}
        self.media_root = folder / "media"
        redis_folder = folder / "redis"
        for needed in (folder, self.media_root, redis_folder):
            needed.mkdir(parents=True, exist_ok=True)
        self.rtmp_port = free_port()
        self.redis = RedisServer(redis_folder)
        self.dialogue = ServiceProcess(
            "dialogue",
            {"DIALOGUE_REDIS_URL": self.redis.url, **extra.get("dialogue", {})},
            folder,
        )
        self.tts = ServiceProcess("tts", extra.get("tts", {}), folder) if speech else None
        worker = {"WORKER_MODEL": str(SHAPES), **extra.get("inference_worker", {})}
        self.workers = [
            ServiceProcess("inference_worker", worker, folder) for _ in range(num_workers)
        ]
        gateway = {
            "GATEWAY_MEDIA_ROOT": str(self.media_root),
            "GATEWAY_UPLOADS": str(folder / "uploads"),
            "GATEWAY_RTMP_PORT": str(self.rtmp_port),
            **extra.get("gateway", {}),
        }
        self.gateway = ServiceProcess("gateway", gateway, folder)

    @property
    def address(self) -> str:
        """The gateway's gRPC address."""
        return self.gateway.address

    @property
    def url(self) -> str:
        """The page; the HTTP API lies below it."""
        return f"http://127.0.0.1:{self.gateway.http_port}/"

    @property
    def services(self) -> list[ServiceProcess]:
        """In the order in which they are started."""
        speech = [self.tts] if self.tts is not None else []
        return [self.dialogue, *speech, *self.workers, self.gateway]

    def start(self) -> None:
        """Start everything and wait until it serves; raises RuntimeError with the culprit's log."""
        self.redis.start()
        peers = [self.dialogue] + ([self.tts] if self.tts is not None else [])
        _start_together(peers)
        dialogue = self.dialogue.address
        speech = "" if self.tts is None else self.tts.address
        for worker in self.workers:
            worker.environment |= worker_peers(dialogue=dialogue, tts=speech)
        _start_together(self.workers)
        self.gateway.environment |= gateway_peers(
            workers=[worker.address for worker in self.workers], dialogue=dialogue, tts=speech
        )
        self.gateway.start(START_TIMEOUT_S)

    def stop(self) -> list[str]:
        """SIGTERM to all that runs, front to back. Complaints about those that did not exit 0."""
        complaints = []
        for service in reversed(self.services):
            if service.process is None:
                continue
            try:
                service.stop()
            except (AssertionError, RuntimeError) as error:
                complaints.append(str(error))
        self.redis.kill()
        return complaints

    def api(self, method: str, path: str, body: object = None) -> Any:
        """One call of the HTTP API, e.g. ("POST", "api/sessions", {...}). Raises ApiError."""
        request = urllib.request.Request(
            self.url + path,
            data=None if body is None else json.dumps(body).encode(),
            method=method,
            headers={"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as reply:
                return _decode(reply.read())
        except urllib.error.HTTPError as error:
            raise ApiError(error.code, _decode(error.read())) from None

    def open(self, source: str, **options: object) -> dict[str, Any]:
        """A session that watches a clip, looped; the session as JSON."""
        request = {"source": source, "options": {"loop": True, **options}}
        return dict(self.api("POST", "api/sessions", request))

    def delete_sessions(self) -> None:
        for session in self.api("GET", "api/sessions").get("sessions", []):
            with contextlib.suppress(ApiError):
                self.api("DELETE", f"api/sessions/{session['id']}")


class Annex(Suite):
    """A gateway of a test's own, over the other parts of a suite that runs: a second to start."""

    def __init__(self, suite: Suite, folder: Path, environment: Mapping[str, str]) -> None:
        self.media_root = suite.media_root
        self.redis, self.dialogue, self.tts = suite.redis, suite.dialogue, suite.tts
        self.workers, self.rtmp_port = suite.workers, 0
        peers = gateway_peers(
            workers=[worker.address for worker in suite.workers],
            dialogue=suite.dialogue.address,
            tts="" if suite.tts is None else suite.tts.address,
        )
        own = {"GATEWAY_MEDIA_ROOT": str(suite.media_root), "GATEWAY_RTMP_PORT": ""}
        self.gateway = ServiceProcess("gateway", {**peers, **own, **environment}, folder)

    def start(self) -> None:
        self.gateway.start(START_TIMEOUT_S)

    def stop(self) -> list[str]:
        if self.gateway.process is not None:
            self.gateway.stop()
        return []


def write_clip(folder: Path, *, seed: int, seconds: float, model: str = "shapes") -> Clip:
    """Generate a clip of a shipped model's world and its truth. A seed always gives the same."""
    shared = Path(os.environ.get(CLIPS, folder))  # benchmarks have none
    made = _made_clip(shared, seed, seconds, model)
    path = folder / made.name
    if shared != folder:
        for file in (made, made.with_suffix(".json")):
            shutil.copyfile(file, path.with_suffix(file.suffix))
    return read_clip(path)


def _made_clip(folder: Path, seed: int, seconds: float, model: str) -> Path:
    """File of a clip that is painted once in a test run, which takes seconds."""
    from training.clips import write_sample
    from training.recipe import load_recipe
    from training.world.video import write_video

    path = folder / f"{model}-{seed}-{seconds:g}.mp4"
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # other processes of the run want it, too
        if path.with_suffix(".json").exists():
            return path
        if model == "shapes":
            write_sample(path, seed, seconds, scale=2)  # more is decoded and scaled for nothing
        else:
            write_video(path, seed, seconds, scale=3, trade=load_recipe(model).trade)
    return path


def pytest_configure(config: pytest.Config) -> None:
    """Make the folder of what this run makes once: clips, and templates of processes. Those that
    tests are dealt out to inherit it."""
    if not hasattr(config, "workerinput"):
        folder = tempfile.TemporaryDirectory(prefix="sightline-tests-", ignore_cleanup_errors=True)
        os.environ[CLIPS] = os.environ[forking.FOLDER] = folder.name
        os.environ[forking.OWNER] = str(os.getpid())
        config.add_cleanup(folder.cleanup)


def passing_condition(clip: Clip) -> str:
    """A watch condition that holds for some seconds of a clip, which begins and ends empty."""
    claims = [fact for fact in clip.facts if fact.kind == "presence"]
    longest = max(claims, key=lambda fact: fact.until_s - fact.time_s)
    return longest.question.removeprefix("Is there ").rstrip("?") + " is there"


@pytest.fixture(scope="session")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Suite]:
    """One running suite for the whole run. Delete the sessions that you make."""
    tools.require("redis")
    running = Suite(tmp_path_factory.mktemp("suite"))
    with _stopped_at_the_end(running):
        running.start()
        yield running


@pytest.fixture(scope="session")
def _mended(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Suite]:
    tools.require("redis")
    running = Suite(tmp_path_factory.mktemp("mended"))
    with _stopped_at_the_end(running):
        running.start()
        yield running


@pytest.fixture
def mended(_mended: Suite) -> Iterator[Suite]:
    """One running suite for all tests that break parts of it: all of them run again at the end."""
    yield _mended
    if _mended.redis.process is None:
        _mended.redis.start()
    for service in _mended.services:
        if service.process is None:
            service.restart(START_TIMEOUT_S)
    _mended.delete_sessions()


@pytest.fixture
def fresh_suite(tmp_path: Path) -> Iterator[Callable[..., Suite]]:
    """`fresh_suite(num_workers=2)`: a suite of the test's own, stopped and checked at its end."""
    tools.require("redis")
    with contextlib.ExitStack() as stack:

        def start(**options: Any) -> Suite:
            running = Suite(tmp_path / f"suite-{len(list(tmp_path.glob('suite-*')))}", **options)
            stack.enter_context(_stopped_at_the_end(running))
            running.start()
            return running

        yield start


@pytest.fixture
def annex(suite: Suite, tmp_path: Path) -> Iterator[Callable[..., Annex]]:
    """`annex(GATEWAY_AUTH="keys")`: the shared suite with a gateway of the test's own, which is
    stopped and checked at its end. Delete the sessions that you make."""
    with contextlib.ExitStack() as stack:

        def start(**environment: str) -> Annex:
            running = Annex(suite, tmp_path, environment)
            stack.enter_context(_stopped_at_the_end(running))
            running.start()
            return running

        yield start


@pytest.fixture(scope="session")
def clip(suite: Suite) -> Clip:
    """A sixteen-second clip that the shared suite can read."""
    return write_clip(suite.media_root, seed=5, seconds=16)


@contextlib.contextmanager
def _stopped_at_the_end(running: Suite) -> Iterator[None]:
    try:
        yield
    finally:
        complaints = running.stop()
    assert not complaints, "\n".join(complaints)


def _start_together(services: list[ServiceProcess]) -> None:
    with ThreadPoolExecutor(max_workers=max(1, len(services))) as threads:
        list(threads.map(lambda service: service.start(START_TIMEOUT_S), services))


def _decode(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return body.decode(errors="replace")
