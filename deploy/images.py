"""`make images` and `make push`: the images, what is in them, and where they were pushed.

Builds what docker-compose.yml and the chart run: gateway, dialogue, tts, asr, and the worker for a
CPU and for an NVIDIA GPU, tagged REPOSITORY/<name>:TAG. Beside each one's digest, in dist/images,
goes the list of its packages (CycloneDX): Python's, made while it is built, and Debian's.

`push` sends them to REGISTRY and writes how to name them by digest: values.yaml for the chart,
compose.env for Compose. With --dry-run the commands are printed.
"""

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
OUTPUT = REPOSITORY / "dist" / "images"
SBOM = "/usr/share/sightline/sbom.cdx.json"
DPKG = r"${Package} ${Version} ${Architecture}\n"
INDICES = ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL")  # as in docker-compose.yml, to share its layers


@dataclass(frozen=True, slots=True)
class Image:
    """`variable`: of its digest in docker-compose.yml. `arguments`: further build arguments."""

    name: str
    variable: str
    suffix: str = ""  # of its tag
    arguments: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """The image's name among others, and in the chart's `image.digests`."""
        return self.name + self.suffix


IMAGES = (
    Image("gateway", "SIGHTLINE_GATEWAY_DIGEST"),
    Image("dialogue", "SIGHTLINE_DIALOGUE_DIGEST"),
    Image("tts", "SIGHTLINE_TTS_DIGEST"),
    Image("asr", "SIGHTLINE_ASR_DIGEST"),
    Image("inference_worker", "SIGHTLINE_WORKER_DIGEST"),
    Image(
        "inference_worker",
        "SIGHTLINE_WORKER_CUDA_DIGEST",
        "-cuda",
        ("TORCH=cuda", "TORCH_INDEX="),
    ),
)


@dataclass(frozen=True, slots=True)
class Names:
    """Images are [registry/]repository/<name>:<tag>[-cuda]."""

    registry: str
    repository: str
    tag: str

    def of(self, image: Image, registry: str = "") -> str:
        where = f"{registry}/{self.repository}" if registry else self.repository
        return f"{where}/{image.name}:{self.tag}{image.suffix}"


class Docker:
    """The `docker` command. `dry`: what would change anything is printed instead."""

    def __init__(self, *, dry: bool) -> None:
        self.dry = dry

    def do(self, *words: str) -> None:
        """Raises CalledProcessError when it fails."""
        print("docker", shlex.join(words), flush=True)
        if not self.dry:
            subprocess.run(("docker", *words), check=True, cwd=REPOSITORY)

    def ask(self, *words: str) -> str:
        done = subprocess.run(("docker", *words), check=True, stdout=subprocess.PIPE, text=True)
        return done.stdout


def build(docker: Docker, names: Names, chosen: Sequence[Image], output: Path) -> None:
    """Build, and write down what came of it."""
    for image in chosen:
        reference = names.of(image)
        words = ["build", "--file", f"deploy/docker/{image.name}.Dockerfile", "--tag", reference]
        if network := os.environ.get("SIGHTLINE_BUILD_NETWORK"):
            words += ["--network", network]
        for argument in _build_arguments(names, image):
            words += ["--build-arg", argument]
        docker.do(*words, ".")
        if docker.dry:
            continue
        digest = docker.ask("image", "inspect", "--format", "{{.Id}}", reference).strip()
        listed = _packages(docker, reference, digest)
        output.mkdir(parents=True, exist_ok=True)
        sbom = output / f"{image.key}.cdx.json"
        sbom.write_text(json.dumps(listed, indent=1) + "\n")
        _note(output, image, {"image": reference, "id": digest, "sbom": sbom.name})
        print(f"{reference} {digest}: {len(listed['components'])} packages in {sbom}")


def _build_arguments(names: Names, image: Image) -> list[str]:
    revision = subprocess.run(
        ("git", "rev-parse", "HEAD"), cwd=REPOSITORY, capture_output=True, text=True
    ).stdout.strip()
    found = [f"VERSION={names.tag}", f"REVISION={revision}"]
    found += [f"{name}={os.environ.get(name, '')}" for name in INDICES]
    if piper := os.environ.get("PIPER"):
        found.append(f"PIPER={piper}")
    if base := os.environ.get("SIGHTLINE_BASE"):
        found.append(f"BASE={base}")
    if image.name == "gateway" and (srt := os.environ.get("SRT")):
        found.append(f"SRT={srt}")
    index = os.environ.get("SIGHTLINE_TORCH_INDEX")
    if index is not None and image.name == "inference_worker" and not image.suffix:
        found.append(f"TORCH_INDEX={index}")
    return [*found, *image.arguments]


def _packages(docker: Docker, reference: str, digest: str) -> dict[str, Any]:
    """The image's own list of Python packages, with Debian's added and its digest named."""
    container = docker.ask("create", reference).strip()
    try:
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / "sbom.json"
            docker.ask("cp", f"{container}:{SBOM}", str(copy))
            listed: dict[str, Any] = json.loads(copy.read_text())
    finally:
        docker.ask("rm", container)
    dpkg = docker.ask(
        *("run", "--rm", "--network", "none", "--entrypoint", "dpkg-query", reference),
        *("--show", f"--showformat={DPKG}"),
    )
    return with_debian(listed, dpkg, reference, digest)


def with_debian(listed: dict[str, Any], dpkg: str, reference: str, digest: str) -> dict[str, Any]:
    """A CycloneDX list of the image `reference`: `listed` and what `dpkg` tells, line by line."""
    components = list(listed.get("components", []))
    for line in dpkg.splitlines():
        name, version, architecture = line.split()
        purl = f"pkg:deb/debian/{name}@{version.replace(':', '%3A')}?arch={architecture}"
        components.append(
            {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}
        )
    about = dict(listed.get("metadata", {}))
    about["component"] = {
        "type": "container",
        "bom-ref": reference,
        "name": reference.rpartition(":")[0],
        "version": reference.rpartition(":")[2],
        "hashes": [{"alg": "SHA-256", "content": digest.removeprefix("sha256:")}],
    }
    return {**listed, "metadata": about, "components": components}


def push(docker: Docker, names: Names, chosen: Sequence[Image], output: Path) -> None:
    """Push to the registry, and write how they are named there."""
    digests: dict[str, str] = {}
    for image in chosen:
        remote = names.of(image, names.registry)
        docker.do("tag", names.of(image), remote)
        docker.do("push", remote)
        if docker.dry:
            continue
        found = docker.ask("image", "inspect", "--format", "{{json .RepoDigests}}", remote)
        where = remote.rpartition(":")[0]
        [digest] = {
            each.partition("@")[2] for each in json.loads(found) if each.startswith(f"{where}@")
        }
        digests[image.key] = digest
        _note(output, image, {"pushed": f"{remote}@{digest}", "digest": digest})
        print(f"{remote}@{digest}")
    if not docker.dry:
        (output / "values.yaml").write_text(chart_values(names, digests))
        (output / "compose.env").write_text(compose_variables(names, digests))
        print(f"written: {output}/values.yaml for the chart, {output}/compose.env for Compose")


def chart_values(names: Names, digests: dict[str, str]) -> str:
    lines = [
        "image:",
        f'  registry: "{names.registry}"',
        f'  repository: "{names.repository}"',
        f'  tag: "{names.tag}"',
        "  digests:",
    ]
    return "\n".join([*lines, *(f"    {key}: {value}" for key, value in digests.items()), ""])


def compose_variables(names: Names, digests: dict[str, str]) -> str:
    lines = [
        f"SIGHTLINE_REPOSITORY={names.registry}/{names.repository}",
        f"SIGHTLINE_TAG={names.tag}",
    ]
    lines += [f"{i.variable}=@{digests[i.key]}" for i in IMAGES if i.key in digests]
    return "\n".join([*lines, ""])


def _note(output: Path, image: Image, facts: dict[str, str]) -> None:
    """Add to what images.json says of an image."""
    file = output / "images.json"
    told = json.loads(file.read_text()) if file.exists() else {}
    told[image.key] = told.get(image.key, {}) | facts
    file.write_text(json.dumps(told, indent=1) + "\n")


def version() -> str:
    source = (REPOSITORY / "sightline" / "version.py").read_text()
    found = re.search(r'^__version__ = "(.+)"$', source, re.M)
    assert found is not None
    return found[1]


def main(words: Sequence[str] | None = None) -> int:
    keys = [image.key for image in IMAGES]
    parser = argparse.ArgumentParser(description="Builds and pushes the images.")
    parser.add_argument("verb", choices=("build", "push"))
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(keys)}")
    parser.add_argument("--registry", default="", help="host[:port] to push to")
    parser.add_argument("--repository", default="sightline")
    parser.add_argument("--tag", default=version())
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.add_argument("--dry-run", action="store_true")
    arguments = parser.parse_args(words)
    if unknown := set(arguments.names) - set(keys):
        parser.error(f"no such image: {', '.join(sorted(unknown))}; there are {', '.join(keys)}")
    if arguments.verb == "push" and not arguments.registry:
        parser.error("where to? make push REGISTRY=registry.example.com")
    chosen = [image for image in IMAGES if not arguments.names or image.key in arguments.names]
    names = Names(arguments.registry, arguments.repository, arguments.tag)
    docker = Docker(dry=arguments.dry_run)
    try:
        work = build if arguments.verb == "build" else push
        work(docker, names, chosen, arguments.output)
    except FileNotFoundError:
        print("there is no docker command", file=sys.stderr)
        return 1
    except subprocess.CalledProcessError as error:
        return error.returncode
    return 0


if __name__ == "__main__":
    sys.exit(main())
