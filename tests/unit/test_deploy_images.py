"""Locks, what images are called, and the lists of what is in them."""

import json
import re
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from deploy import images, locks

DIGEST = "sha256:" + "ab" * 32


def locked(name: str) -> dict[str, list[tuple[str, str]]]:
    """Of every package in a lock: its versions with their markers."""
    found: dict[str, list[tuple[str, str]]] = {}
    for line in (locks.LOCKS / f"{name}.lock").read_text().splitlines():
        if match := re.match(r"([\w.-]+)==([\w.+]+)(?: ; (.*?))? \\$", line):
            found.setdefault(canonicalize_name(match[1]), []).append((match[2], match[3] or ""))
    return found


@pytest.mark.parametrize("name", locks.LOCKED)
def test_a_lock_holds_what_its_lists_ask_for(name: str) -> None:
    found = locked(name)
    for line in locks.requirements(name).splitlines():
        line = line.partition("#")[0].strip()
        if not line:
            continue
        wanted = Requirement(line)
        versions = [version for version, _ in found.get(canonicalize_name(wanted.name), [])]
        within = [wanted.specifier.contains(Version(version), True) for version in versions]
        assert any(within), f"{line}: {versions}; make locks"


@pytest.mark.parametrize("name", locks.LOCKED)
def test_a_lock_has_hashes_and_names_no_index(name: str) -> None:
    text = (locks.LOCKS / f"{name}.lock").read_text()
    assert "://" not in text
    assert "--find-links" not in text
    assert "-index" not in text
    for entry in re.split(r"\n(?=\S)", text.split("\n", 1)[1]):
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", entry), entry


def test_the_worker_for_a_cpu_brings_no_libraries_of_a_gpu() -> None:
    versions = dict(locked("inference_worker.cpu")["torch"])
    assert any(version.endswith("+cpu") for version in versions)
    for package, found in locked("inference_worker.cpu").items():
        if package.startswith("nvidia-") and package != "nvidia-ml-py":
            assert all("!= 'x86_64'" in marker or "aarch64" in marker for _, marker in found)
    assert "nvidia-cublas" in locked("inference_worker.cuda")


def test_names_are_of_registry_repository_and_tag() -> None:
    cpu, cuda = images.IMAGES[-2:]
    names = images.Names("registry.example:5000", "video/sightline", "1.2")
    assert names.of(cpu) == "video/sightline/inference_worker:1.2"
    where = "registry.example:5000/video/sightline/inference_worker"
    assert names.of(cuda, names.registry) == f"{where}:1.2-cuda"


def test_what_was_pushed_is_told_in_the_words_of_chart_and_compose() -> None:
    names = images.Names("registry.example", "sightline", "1.2")
    digests = {image.key: DIGEST for image in images.IMAGES}
    told = yaml.safe_load(images.chart_values(names, digests))["image"]
    chart = yaml.safe_load((images.REPOSITORY / "deploy/helm/sightline/values.yaml").read_text())
    assert set(told) <= set(chart["image"])
    assert set(told["digests"]) == set(chart["image"]["digests"])
    lines = images.compose_variables(names, digests).splitlines()
    variables = dict(line.split("=", 1) for line in lines)
    compose = (images.REPOSITORY / "docker-compose.yml").read_text()
    assert all(f"${{{name}" in compose for name in variables)
    assert variables["SIGHTLINE_GATEWAY_DIGEST"] == f"@{DIGEST}"


def test_a_list_of_packages_has_debian_s_and_names_its_image() -> None:
    python = {"bomFormat": "CycloneDX", "components": [{"name": "grpcio", "version": "1"}]}
    dpkg = "libc6 2.36-9 amd64\nlibx 1:2.0 all\n"
    listed = images.with_debian(python, dpkg, "sightline/tts:0.1.0", DIGEST)
    names = [component["name"] for component in listed["components"]]
    assert names == ["grpcio", "libc6", "libx"]
    assert listed["components"][2]["purl"] == "pkg:deb/debian/libx@1%3A2.0?arch=all"
    about = listed["metadata"]["component"]
    assert (about["name"], about["version"]) == ("sightline/tts", "0.1.0")
    assert about["hashes"][0]["content"] == "ab" * 32
    json.dumps(listed)


def test_a_dry_run_prints_what_it_would_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["tts", "--registry", "r.example", "--tag", "9", "--dry-run", "--output", str(tmp_path)]
    assert images.main(["push", *words]) == 0
    assert "docker push r.example/sightline/tts:9" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())
    with pytest.raises(SystemExit):
        images.main(["push", "tts", "--dry-run"])  # no registry
    with pytest.raises(SystemExit):
        images.main(["build", "redis"])
