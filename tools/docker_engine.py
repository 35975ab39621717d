"""A Docker engine for tests, and base images where no image registry can be reached.

Where a Docker daemon answers, it is used. On a plain Debian machine with root one is started by
hand: its own data folder and socket, and at the end its processes, mounts, bridges, packet filter
rules and control groups are gone. Images that cannot be pulled are made from Debian's packages.
"""

import contextlib
import logging
import os
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

log = logging.getLogger(__name__)

TOOLS = {  # command: Debian package
    "dockerd": "docker.io",
    "docker-compose": "docker-compose",
    "debootstrap": "debootstrap",
    "iptables": "iptables",
    "ip": "iproute2",
    "ffmpeg": "ffmpeg",
}
CONTROL_GROUPS = Path("/sys/fs/cgroup")
FORWARDING = Path("/proc/sys/net/ipv4/ip_forward")
FILTERS = ("iptables", "ip6tables")
STRAYS = tuple(map(Path, ("/etc/docker/key.json", "/run/docker", "/run/containerd")))


class EngineError(Exception):
    """No engine, or an image that can neither be pulled nor made."""


@dataclass(frozen=True, slots=True)
class DebianImage:
    """What stands in for an image of a registry: Debian 12 with these packages.

    `changes` are Dockerfile lines for `docker import`; `folders` are made and given to a user.
    """

    tag: str
    packages: tuple[str, ...]
    changes: tuple[str, ...] = ()
    folders: tuple[tuple[str, str], ...] = ()  # (path, user)


PYTHON = DebianImage(
    "python:3.11-slim-bookworm", ("python3", "python3-venv", "python3-pip", "ca-certificates")
)
REDIS = DebianImage("redis:7.2-bookworm", ("redis-server",), ("USER redis",), (("/data", "redis"),))


def run(*command: str | Path, timeout_s: float = 900, quiet: bool = False) -> str:
    """Run a command and return its output; raises EngineError with the end of it."""
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=timeout_s
    )
    if done.returncode and not quiet:
        line = " ".join(map(str, command))
        raise EngineError(f"{line} exited {done.returncode}:\n{done.stdout[-4000:]}")
    return done.stdout


def succeeds(*command: str) -> bool:
    return subprocess.run(command, capture_output=True).returncode == 0


@contextlib.contextmanager
def docker_engine(folder: Path) -> Iterator[None]:
    """A Docker daemon that `docker` and `docker-compose` reach, for the length of the block."""
    if not _answers():
        if os.geteuid() != 0:
            raise EngineError("no Docker engine answers, and only root can start one")
        install_packages()
    if _answers():  # the machine's own, or the one that systemd starts when docker.io is installed
        log.info("using the Docker engine of this machine")
        yield
        return
    with _footprint_removed(), _daemon(folder):
        yield


def _answers() -> bool:
    return shutil.which("docker") is not None and succeeds("docker", "info")


def install_packages(*tools: str) -> None:
    """Install from Debian what is missing of these tools; of all in TOOLS where none is named."""
    missing = [TOOLS[tool] for tool in tools or TOOLS if not shutil.which(tool)]
    if missing:
        log.info("installing %s", " ".join(missing))
        run("apt-get", "update", "-q")
        run("apt-get", "install", "-y", "-q", "--no-install-recommends", *missing)


@contextlib.contextmanager
def _daemon(folder: Path) -> Iterator[None]:
    """dockerd with its own data root, run-time folder and socket below `folder`."""
    folder.mkdir(parents=True)
    socket = f"unix://{folder}/docker.sock"
    with (folder / "dockerd.log").open("wb") as output:
        daemon = subprocess.Popen(
            [
                *("dockerd", "--host", socket, "--pidfile", folder / "dockerd.pid"),
                *("--data-root", folder / "data", "--exec-root", folder / "exec"),
            ],
            stdout=output,
            stderr=output,
            start_new_session=True,  # Ctrl-C ends the test first and the engine after it
        )
    before = os.environ.get("DOCKER_HOST")
    os.environ["DOCKER_HOST"] = socket
    try:
        deadline = time.monotonic() + 60
        while not succeeds("docker", "info"):
            if daemon.poll() is not None or time.monotonic() > deadline:
                text = (folder / "dockerd.log").read_text(errors="replace")
                raise EngineError(f"dockerd does not start:\n{text[-4000:]}")
            time.sleep(0.5)
        log.info("started a Docker engine in %s", folder)
        yield
    finally:
        if before is None:
            del os.environ["DOCKER_HOST"]
        else:
            os.environ["DOCKER_HOST"] = before
        daemon.send_signal(signal.SIGTERM)
        try:
            daemon.wait(60)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()
        for mount in reversed(_mounts_below(folder)):
            run("umount", "--lazy", mount, quiet=True)
        shutil.rmtree(folder, ignore_errors=True)
        log.info("stopped the Docker engine")


def _mounts_below(folder: Path) -> list[str]:
    mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    return [mount for mount in mounts if Path(mount).is_relative_to(folder)]


@contextlib.contextmanager
def _footprint_removed() -> Iterator[None]:
    """Undo what a Docker daemon leaves when it ends: bridges, filter rules, files elsewhere, …"""
    forwarding = FORWARDING.read_text()
    rules = {tool: _rules(tool) for tool in FILTERS}
    groups = set(CONTROL_GROUPS.glob("**/docker"))
    links = set(_links())
    strays = [path for path in STRAYS if not path.exists()]
    try:
        yield
    finally:
        for link in set(_links()) - links:
            if link == "docker0" or link.startswith(("br-", "veth")):
                run("ip", "link", "delete", link, quiet=True)
        for tool in FILTERS:
            _restore_rules(tool, rules[tool])
        FORWARDING.write_text(forwarding)
        for group in set(CONTROL_GROUPS.glob("**/docker")) - groups:
            for folder in sorted(group.glob("**/"), reverse=True):  # BuildKit's is within Docker's
                with contextlib.suppress(OSError):
                    folder.rmdir()
        for path in strays:
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def _links() -> list[str]:
    return [path.name for path in Path("/sys/class/net").iterdir()]


def _rules(tool: str) -> dict[str, list[str]]:
    """Packet filter: the lines of every table, as `iptables-save` prints them."""
    tables: dict[str, list[str]] = {}
    if not shutil.which(f"{tool}-save"):
        return tables
    for line in run(f"{tool}-save", quiet=True).splitlines():
        if line.startswith("*"):
            lines = tables.setdefault(line[1:], [])
        elif line.startswith((":", "-A")):
            lines.append(line.split("[")[0].strip() if line.startswith(":") else line)
    return tables


def _restore_rules(tool: str, before: dict[str, list[str]]) -> None:
    """Take away the rules and chains that were not there before, and set policies back."""
    for table, lines in _rules(tool).items():
        old = before.get(table, [])
        policies = dict(line[1:].split() for line in old if line.startswith(":"))
        chains: list[str] = []
        for line in lines:
            if line in old:
                continue
            if line.startswith("-A"):
                words = ["-D", *shlex.split(line)[1:]]
                run(tool, "-w", "-t", table, *words, quiet=True)
                continue
            chain, policy = line[1:].split()
            if policy == "-":
                chains.append(chain)
            else:
                run(tool, "-w", "-t", table, "-P", chain, policies.get(chain, "ACCEPT"), quiet=True)
        for verb in ("-F", "-X"):
            for chain in chains:
                run(tool, "-w", "-t", table, verb, chain, quiet=True)


@contextlib.contextmanager
def images(folder: Path, wanted: Sequence[DebianImage], cache: Path | None) -> Iterator[None]:
    """These images, in the engine for the length of the block; those that were there stay.

    What has to be made is kept in `cache`, where there is one, and taken from it the next time.
    """
    brought: list[str] = []
    try:
        for image in wanted:
            if succeeds("docker", "image", "inspect", image.tag):
                continue
            if not succeeds("docker", "pull", image.tag):
                archive = (cache or folder) / f"{image.tag.replace(':', '-')}.tar"
                if not archive.exists():
                    log.info("%s cannot be pulled: making it from Debian's packages", image.tag)
                    install_packages("debootstrap")
                    make_archive(folder / "root", image, archive)
                changes = [part for change in image.changes for part in ("--change", change)]
                run("docker", "import", *changes, archive, image.tag)
            brought.append(image.tag)
        yield
    finally:
        for tag in brought:
            run("docker", "image", "rm", "--force", tag, quiet=True)


def make_archive(root: Path, image: DebianImage, archive: Path) -> None:
    """debootstrap into `root`, pack that into `archive`, remove `root`."""
    include = ",".join(image.packages)
    try:
        command = ("debootstrap", "--variant=minbase", f"--include={include}", "bookworm", root)
        run(*command, timeout_s=3600)  # a minute; long on a machine that is busy otherwise
        for path, user in image.folders:
            run("chroot", root, "install", "-d", "-o", user, path)
        shutil.rmtree(root / "var/cache/apt", ignore_errors=True)
        shutil.rmtree(root / "var/lib/apt/lists", ignore_errors=True)
        unfinished = archive.with_suffix(".part")
        run("tar", "-C", root, "-cf", unfinished, ".")
        unfinished.rename(archive)
    finally:
        for mount in reversed(_mounts_below(root)):
            run("umount", "--lazy", mount, quiet=True)
        shutil.rmtree(root, ignore_errors=True)
