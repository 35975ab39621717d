"""`make compose-test`: the suite in containers, from building the images to leaving no trace.

Builds the images of docker-compose.yml, brings them up, looks at what they tell of themselves and
whether Redis is closed, publishes a clip over RTMP, asks about it through the SDK, restarts
dialogue and Redis, and asks again in the same conversation; then two gateways and two workers under
load, of which each is killed and replaced (gateways_test.py), and models of a hub (models_test.py).
Everything happens in a temporary folder and under its own project name; images, containers,
networks, volumes and, where one had to be started, the Docker engine are gone afterwards.

COMPOSE_TEST_TAG=tag takes the images that `make images` built under that tag instead of building.
COMPOSE_TEST_KEEP=1 leaves the containers running and waits for Enter before it tears down;
COMPOSE_TEST_CACHE=folder keeps the base images that had to be made from Debian's packages.
"""

import contextlib
import importlib.metadata
import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import sightline
from deploy import images as images_of_release
from deploy.gateways_test import check_gateways
from deploy.models_test import check_models
from tools.docker_engine import (
    PYTHON,
    REDIS,
    EngineError,
    docker_engine,
    images,
    install_packages,
    run,
    succeeds,
)
from training.clips import write_clip
from training.world.shapes import Clip, Thing

log = logging.getLogger("compose-test")

REPOSITORY = Path(__file__).resolve().parent.parent
PROJECT = f"sightline-test-{os.getpid()}"
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
SERVICES = ("redis", "dialogue", "tts", "worker", "gateway")
IMAGES = ("gateway", "dialogue", "tts", "inference_worker")
STILL_LIFE = (  # nothing moves, so the truth does not depend on when somebody asks
    Thing(0, "circle", "red", 36.0, 40.0, 38.0, 38.0, "still", 99),
    Thing(1, "square", "blue", 90.0, 84.0, 36.0, 36.0, "still", 99),
)
QUESTIONS = (
    ("What colour is the circle?", "red"),
    ("How many objects are there?", "two"),
    ("What shape is the blue object?", "square"),
    ("Is there a green triangle?", "no"),
)


def main() -> int:
    logging.basicConfig(level=logging.INFO, format="%(relativeCreated)7.0f ms  %(message)s")
    signal.signal(signal.SIGTERM, _interrupt)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sightline-")))
        stack.enter_context(docker_engine(folder / "engine"))
        install_packages("ffmpeg")
        stack.enter_context(images(folder, (PYTHON, REDIS), _cache()))
        suite = stack.enter_context(_suite(folder))
        _check_images(suite)
        _check_redis(suite)
        clip = folder / "still-life.mp4"
        write_clip(clip, Clip(7, (STILL_LIFE,) * 80, ()))
        _ask_about_a_clip(suite, clip)
        check_gateways(suite, clip)
        check_models(suite, folder, clip)
        if os.environ.get("COMPOSE_TEST_KEEP"):
            input("the suite is running; Enter ends it ")
    log.info("passed")
    return 0


def _cache() -> Path | None:
    folder = os.environ.get("COMPOSE_TEST_CACHE")
    if not folder:
        return None
    Path(folder).mkdir(parents=True, exist_ok=True)
    return Path(folder)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


class Suite:
    """The containers of docker-compose.yml under this test's project name."""

    def __init__(self, folder: Path) -> None:
        """Copies what git would commit to `folder`: the build never sees anything else."""
        self.project = PROJECT
        self.services = SERVICES  # that are to be healthy
        self.folder = folder / "context"
        self.compose = (
            ("docker", "compose")
            if succeeds("docker", "compose", "version")
            else ("docker-compose",)
        )
        self.ports = {name: _free_port() for name in ("GRPC", "HTTP", "RTMP", "WEBRTC")}
        files = run("git", "-C", REPOSITORY, "ls-files", "-z", "-co", "--exclude-standard").split(
            "\0"
        )
        for name in files:
            if name and (REPOSITORY / name).is_file():
                target = self.folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(REPOSITORY / name, target)
        self.environment = {
            "WORKER_MODEL": "/models/shapes",
            "SIGHTLINE_MODELS": str(self.folder / "training/weights"),
            "SIGHTLINE_TAG": PROJECT,
            "SIGHTLINE_BUILD_NETWORK": "host",
            **{f"GATEWAY_{name}_PORT": str(port) for name, port in self.ports.items()},
        }
        self._take_this_machines_pip()

    def _take_this_machines_pip(self) -> None:
        """Trust the certificates this machine trusts, and use its torch where it is a CPU build."""
        wheels = self.folder / "deploy/docker/wheels"
        if CERTIFICATES.exists():
            shutil.copy(CERTIFICATES, wheels / "ca.pem")
        version = importlib.metadata.version("torch")
        download = (sys.executable, "-m", "pip", "download", "--quiet", "--no-deps")
        if version.endswith("+cpu") and succeeds(*download, "-d", str(wheels), f"torch=={version}"):
            self.environment["SIGHTLINE_TORCH_INDEX"] = ""

    def __call__(self, *arguments: str, timeout_s: float = 300) -> str:
        """Run a compose command."""
        os.environ.update(self.environment)
        file = self.folder / "docker-compose.yml"
        where = ("--project-directory", self.folder, "--file", file, "--project-name", PROJECT)
        return run(*self.compose, *where, *arguments, timeout_s=timeout_s)

    def wait_until_healthy(self, timeout_s: float = 180) -> None:
        deadline = time.monotonic() + timeout_s
        while True:
            health = {name: self._health(name) for name in self.services}
            if all(states and states <= {"healthy"} for states in health.values()):
                return
            if time.monotonic() > deadline:
                raise AssertionError(f"not healthy in time: {health}\n{self.logs()}")
            time.sleep(0.5)

    def _health(self, service: str) -> set[str]:
        """States of its containers; none where there is none."""
        containers = self("ps", "-q", service).split()
        status = ("docker", "inspect", "--format", "{{.State.Health.Status}}")
        return {run(*status, container).strip() for container in containers}

    @contextlib.contextmanager
    def published(self, clip: Path, url: str) -> Iterator[None]:
        """ffmpeg publishing the clip for ever, as a camera would."""
        command = ("ffmpeg", "-nostdin", "-loglevel", "error", "-re", "-stream_loop", "-1")
        publisher = subprocess.Popen([*command, "-i", clip, "-c", "copy", "-f", "flv", url])
        try:
            yield
        finally:
            publisher.terminate()
            publisher.wait(20)

    def logs(self) -> str:
        return self("logs", "--no-color", "--tail", "40")

    def remains(self) -> list[str]:
        """Containers, networks, volumes and images that carry this project's name."""
        label = f"label=com.docker.compose.project={PROJECT}"
        found = [
            run("docker", "ps", "--all", "--quiet", "--filter", label),
            run("docker", "network", "ls", "--quiet", "--filter", label),
            run("docker", "volume", "ls", "--quiet", "--filter", label),
            run("docker", "images", "--quiet", f"sightline/*:{PROJECT}"),
        ]
        return " ".join(found).split()


@contextlib.contextmanager
def _suite(folder: Path) -> Iterator[Suite]:
    """Build, start, wait for health; afterwards nothing with this project's name is left."""
    suite = Suite(folder)
    try:
        started = time.monotonic()
        if tag := os.environ.get("COMPOSE_TEST_TAG"):
            for name in IMAGES:
                run("docker", "tag", f"sightline/{name}:{tag}", f"sightline/{name}:{PROJECT}")
        else:
            log.info("building the images")
            suite("build", timeout_s=3600)
            log.info("built in %.0f s", time.monotonic() - started)
        log.info(
            "%s",
            run(
                "docker",
                "images",
                "--format",
                "{{.Repository}} {{.Size}}",
                f"sightline/*:{PROJECT}",
            ),
        )
        started = time.monotonic()
        suite("up", "--detach", "--no-build")
        suite.wait_until_healthy()
        log.info("all healthy %.0f s after `up`", time.monotonic() - started)
        if "kernels loaded" not in suite("logs", "--no-color", "worker"):
            raise AssertionError("the worker loads no kernels in its container")
        yield suite
    except BaseException:
        with contextlib.suppress(Exception):
            print(suite.logs(), file=sys.stderr)
        raise
    finally:
        suite("down", "--volumes", "--remove-orphans", "--timeout", "20")
        for tag in run(
            "docker", "images", "--format", "{{.Repository}}:{{.Tag}}", f"sightline/*:{PROJECT}"
        ).split():
            run("docker", "image", "rm", tag)
        remains = suite.remains()
        if remains:
            raise AssertionError(f"left behind: {remains}")


def _check_images(suite: Suite) -> None:
    """Check that each image says what it is and lists what is in it."""
    for name in IMAGES:
        reference = f"sightline/{name}:{PROJECT}"
        labels = json.loads(
            run("docker", "inspect", "--format", "{{json .Config.Labels}}", reference)
        )
        if labels.get("org.opencontainers.image.title") != f"sightline/{name}":
            raise AssertionError(f"{reference} has the labels {labels}")
        listed = run(
            *("docker", "run", "--rm", "--network", "none", "--entrypoint", "cat"),
            *(reference, images_of_release.SBOM),
        )
        packages = {part["name"] for part in json.loads(listed)["components"]}
        if "grpcio" not in packages or "grpcio-tools" in packages:
            raise AssertionError(f"{reference} lists {sorted(packages)}")
        log.info("%s lists %d packages", name, len(packages))


def _check_redis(suite: Suite) -> None:
    """Refuses who has no password, and is not there at all for the gateway."""
    refused = suite("exec", "-T", "redis", "redis-cli", "get", "key")
    if "NOAUTH" not in refused:
        raise AssertionError(f"Redis answers without a password: {refused}")
    look = "import socket; socket.create_connection(('redis', 6379), 3)"
    try:
        suite("exec", "-T", "gateway", "python", "-c", look)
    except EngineError:
        log.info("Redis wants its password and has no way to it from the gateway")
    else:
        raise AssertionError("the gateway reaches Redis")


def _ask_about_a_clip(suite: Suite, clip: Path) -> None:
    with (
        sightline.connect(f"127.0.0.1:{suite.ports['GRPC']}") as client,
        client.open(push=True, name="compose-test") as session,
        suite.published(clip, session.rtmp_url),
    ):
        log.info("publishing to %s", session.rtmp_url.replace(session.key, "<key>"))
        if not session.wait_for_picture(30):
            raise AssertionError(f"no picture came: {session.refresh()}\n{suite.logs()}")
        time.sleep(4)  # lets the window fill
        conversation = session.conversation()
        _ask(conversation, QUESTIONS[:2], rounds_before=0)
        log.info("restarting dialogue and redis")
        suite("restart", "--timeout", "20", "redis", "dialogue")
        suite.wait_until_healthy()
        _ask(conversation, QUESTIONS[2:], rounds_before=2)
        speech = list(client.speak("The circle is red."))
        seconds = sum(len(part.pcm) / 2 / part.sample_rate for part in speech)
        if not 0.3 < seconds < 10:
            raise AssertionError(f"{seconds:.2f} s of speech")
        log.info("spoke for %.2f s", seconds)
        stats = session.refresh().stats
        log.info(
            "%.1f fps in, %d frames understood, dropped %s, frame latency p95 %.0f ms",
            stats.fps_in,
            stats.frames_processed,
            json.dumps(stats.dropped),
            stats.frame_latency_p95_ms,
        )


def _ask(
    conversation: sightline.Conversation,
    questions: tuple[tuple[str, str], ...],
    *,
    rounds_before: int,
) -> None:
    """Ask in order; each answer holds the truth and was given every earlier round."""
    for number, (question, truth) in enumerate(questions):
        result = conversation.ask(question).result()
        log.info(
            "%s %s (%d rounds of history, %.0f ms)",
            question,
            result.text,
            result.history_rounds,
            result.total_ms,
        )
        if truth not in result.text.lower().split():
            raise AssertionError(f"{question!r} was answered {result.text!r}, not {truth!r}")
        if result.history_rounds != rounds_before + number or result.degraded:
            raise AssertionError(f"{rounds_before + number} rounds of history expected: {result}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    sys.exit(main())
