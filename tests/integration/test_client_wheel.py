"""What a client installs: a clean clone's wheel, alone in an empty environment."""

import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

from tests.processes import REPOSITORY
from tests.suite import Suite

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What git has and nothing else, in a folder of the name that it is cloned into."""
    folder = tmp_path_factory.mktemp("clone")
    archive = folder / "clone.tar"
    subprocess.run(["git", "archive", "-o", archive, "HEAD"], cwd=REPOSITORY, check=True)
    with tarfile.open(archive) as packed:
        packed.extractall(folder / "sightline", filter="data")
    return folder / "sightline"


@pytest.fixture(scope="module")
def wheel(clone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built as pip builds it."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "-q", "-w", folder, clone]
    subprocess.run(build, cwd=folder, check=True)
    return next(folder.glob("*.whl"))


def test_a_program_beside_the_clone_finds_the_client_that_is_installed_in_place(
    clone: Path, tmp_path: Path
) -> None:
    """As `make run` installs it. The clone's own folder is called as the package is."""
    venv.create(tmp_path / "venv", with_pip=True)
    binaries = tmp_path / "venv" / "bin"
    install = [binaries / "pip", "install", "-q", "--no-deps", "-e", clone]
    subprocess.run(install, cwd=tmp_path, check=True)
    program = clone.parent / "program.py"
    program.write_text(
        "from importlib.util import find_spec\nprint(find_spec('sightline').origin)\n"
    )
    done = subprocess.run(
        [binaries / "python", program], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == str(clone / "sightline" / "__init__.py")


def test_it_holds_the_client_and_its_stubs_and_nothing_else(wheel: Path) -> None:
    assert wheel.name.startswith("sightline_live-")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {
        "sightline",
        "sightline_live",
    }
    assert {"sightline/py.typed", "sightline/v1/gateway_pb2.py"} <= set(names)


@pytest.mark.parametrize("wanted", [["grpcio==1.76.0", "protobuf==6.31.1"], []])
def test_an_answer_comes_through_it(
    wheel: Path, wanted: list[str], tmp_path: Path, suite: Suite
) -> None:
    """With the oldest grpcio and protobuf that it asks for, and with the newest."""
    venv.create(tmp_path / "venv", with_pip=True)
    binaries = tmp_path / "venv" / "bin"
    install = [binaries / "pip", "install", "-q", wheel, *wanted]
    subprocess.run(install, cwd=tmp_path, check=True)
    told = subprocess.run(
        [binaries / "sightline", "--version"], cwd=tmp_path, capture_output=True, text=True
    )
    assert told.stdout.startswith("sightline "), told
    program = (
        "import sys, sightline\n"
        "with sightline.connect(sys.argv[1]) as client:\n"
        "    with client.open(push=True, lossless=True, fps=4) as session:\n"
        "        session.push([bytes_ for bytes_ in [open(sys.argv[2], 'rb').read()] * 8], fps=4)\n"
        "        print(session.ask('What is in the scene?').result().text)\n"
        "assert 'sightline' in sightline.__file__ and 'site-packages' in sightline.__file__\n"
    )
    picture = tmp_path / "picture.jpg"
    _paint(picture)
    command = [binaries / "python", "-W", "error", "-c", program, suite.gateway.address, picture]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def _paint(path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (112, 112), (40, 40, 40)).save(path)
