"""Kernels are built once for a family of processors, and chosen by what a processor can do."""

import shutil
from pathlib import Path

import pytest

from services.inference_worker.device import build as building
from services.inference_worker.device.build import DEFINES, build, levels, library_for

X86 = {"x86-64-v4": building._V4, "x86-64-v3": building._V3}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Libraries of both levels of x86, empty."""
    monkeypatch.setattr(building, "levels", lambda: X86)
    for level in X86:
        for dtype in DEFINES:
            building._path(tmp_path, level, dtype).touch()
    return tmp_path


@pytest.mark.parametrize(
    ("flags", "level"),
    [
        (building._V4 | {"amx_tile"}, "x86-64-v4"),
        (building._V4 - {"avx512vl"}, "x86-64-v3"),
        (building._V3, "x86-64-v3"),
        (building._V3 - {"fma"}, None),
        (frozenset(), None),
    ],
)
def test_a_processor_gets_the_best_level_that_it_can_run(
    folder: Path, monkeypatch: pytest.MonkeyPatch, flags: frozenset[str], level: str | None
) -> None:
    monkeypatch.setattr(building, "_flags", lambda: flags)
    for dtype in DEFINES:
        found = library_for(dtype, folder)
        assert (found is None) == (level is None)
        if found is not None and level is not None:
            assert level in found.name
            assert found.name.endswith(f"-{dtype}.so")


def test_of_what_was_built_from_another_source_nothing_is_loaded(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(building, "_flags", lambda: building._V4)
    monkeypatch.setattr(building, "_digest", lambda: "another")
    assert library_for("float32", folder) is None


def test_every_level_of_this_machine_is_built(tmp_path: Path) -> None:
    if shutil.which("cc") is None or not levels():
        pytest.skip("no C compiler, or another family of processors")
    old = tmp_path / "ops-00000000-x86-64-v4-float32.so"
    old.touch()
    made = build(tmp_path)
    assert len(made) == len(levels()) * len(DEFINES)
    assert set(tmp_path.iterdir()) == set(made)  # nothing half made, and nothing old
    assert all(path.stat().st_size > 1000 for path in made)


@pytest.mark.parametrize("compiler", ["/no/cc", "false"])
def test_without_a_compiler_it_says_so_and_leaves_nothing(
    compiler: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if not levels():
        pytest.skip("another family of processors: there is nothing to build")
    monkeypatch.setenv("CC", compiler)
    monkeypatch.setattr("sys.argv", ["build", str(tmp_path)])
    with pytest.raises(SystemExit, match="cannot be built"):
        building.main()
    assert not list(tmp_path.iterdir())
