"""Who may import whom. Read from the source, so that nothing has to be installed or run."""

import ast
import functools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
SERVICES = sorted(
    folder.name
    for folder in (REPOSITORY / "services").iterdir()
    if (folder / "__init__.py").exists() and folder.name != "common"
)


# The rooms of a service from the top down: each imports those below it, never one above.
ROOMS = {
    "inference_worker": (
        *("__main__", "assembly", "relay", "serving", "memory", "engine", "runner"),
        *("kv", "model", "device", "config", "metrics"),
    ),
    "gateway": (
        *("__main__", "gateway", "api", "rules", "viewers", "delegates", "memory", "cluster"),
        *("sessions", "workers"),
        *("playback", "frames", "auth", "config", "settings", "voice"),
        *("sources", "webrtc", "metrics"),
    ),
}


class Import(NamedTuple):
    """One import: the module by its full name, where it stands, and whether only a call runs it."""

    module: str
    line: int
    lazy: bool


def imports(source: str, package: str) -> list[Import]:
    """Every import of a module in `package`; `from a import b` counts as a and as a.b.

    What stands under `if TYPE_CHECKING:` never runs and is left out.
    """
    return list(_walk(ast.parse(source), package, lazy=False))


def _walk(node: ast.AST, package: str, *, lazy: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            for name in child.names:
                yield Import(name.name, child.lineno, lazy)
        elif isinstance(child, ast.ImportFrom):
            base = child.module or ""
            if child.level:
                parents = package.split(".")
                parents = parents[: len(parents) - child.level + 1]
                base = ".".join([*parents, base]).rstrip(".")
            yield Import(base, child.lineno, lazy)
            for name in child.names:
                yield Import(f"{base}.{name.name}", child.lineno, lazy)
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            yield from _walk(ast.Module(child.orelse, []), package, lazy=lazy)
        else:
            called = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from _walk(child, package, lazy=lazy or called)


def imports_below(folder: str) -> Iterator[tuple[str, Import]]:
    """(file, import) of every Python file below a folder of the repository."""
    for path in sorted((REPOSITORY / folder).rglob("*.py")):
        for found in imports_of(path):
            yield str(path.relative_to(REPOSITORY)), found


@functools.cache
def imports_of(path: Path) -> list[Import]:
    """Every import of a file of the repository."""
    return imports(path.read_text(), ".".join(path.relative_to(REPOSITORY).parent.parts))


def is_of(module: str, *packages: str) -> bool:
    return any(module == package or module.startswith(package + ".") for package in packages)


def say(file: str, found: Import) -> str:
    return f"{file}:{found.line} imports {found.module}"


def test_there_is_something_to_look_at() -> None:
    assert {"gateway", "inference_worker", "dialogue", "tts"} <= set(SERVICES)


@pytest.mark.parametrize("service", SERVICES)
def test_services_import_themselves_common_and_the_client_package(service: str) -> None:
    ours = (f"services.{service}", "services.common")
    others = [
        say(file, found)
        for file, found in imports_below(f"services/{service}")
        if is_of(found.module, "services") and found.module != "services"
        if not is_of(found.module, *ours)
    ]
    assert not others


def test_common_imports_no_service() -> None:
    others = [
        say(file, found)
        for file, found in imports_below("services/common")
        if is_of(found.module, "services") and found.module != "services"
        if not is_of(found.module, "services.common")
    ]
    assert not others


@pytest.mark.parametrize("folder", ["services", "sightline"])
def test_what_is_served_never_imports_what_trains_measures_or_tests(folder: str) -> None:
    others = [
        say(file, found)
        for file, found in imports_below(folder)
        if is_of(found.module, "training", "benchmarks", "tests")
    ]
    assert not others


def test_the_client_package_needs_grpc_and_protobuf_only() -> None:
    allowed = ("sightline", "grpc", "google.protobuf", *sys.stdlib_module_names)
    others = [
        say(file, found)
        for file, found in imports_below("sightline")
        if not (is_of(found.module, *allowed) or (is_of(found.module, "av", "mcp") and found.lazy))
    ]
    assert not others


@pytest.mark.parametrize("service", ROOMS)
def test_rooms_import_only_those_below_them(service: str) -> None:
    rooms, folder = ROOMS[service], f"services/{service}"
    found_rooms = {
        path.stem
        for path in (REPOSITORY / folder).iterdir()
        if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert found_rooms - {"__init__"} == set(rooms)
    upwards = []
    for file, found in imports_below(folder):
        room = file.removeprefix(folder + "/").split("/")[0].removesuffix(".py")
        other = found.module.removeprefix(f"services.{service}.").split(".")[0]
        ours = is_of(found.module, f"services.{service}") and other in rooms
        if ours and rooms.index(other) < rooms.index(room):
            upwards.append(say(file, found))
    assert not upwards


def test_who_serves_touches_no_tensor() -> None:
    """One thread owns the device: asyncio's side of the worker knows no torch."""
    found = [
        say(file, found)
        for file, found in imports_below("services/inference_worker/serving")
        if is_of(found.module, "torch")
    ]
    assert not found


def test_others_see_the_device_thread_through_snapshots_only() -> None:
    """Its core is touched by nobody but the engine."""
    folder = REPOSITORY / "services" / "inference_worker"
    reached = [
        f"{path.name}:{node.lineno}"
        for path in [*(folder / "serving").glob("*.py"), *folder.glob("*.py")]
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr == "core"
    ]
    assert not reached


@pytest.mark.parametrize(
    "name", ["kv/pool.py", "kv/trunk.py", "engine/jobs.py", "engine/scheduler.py"]
)
def test_page_tables_and_scheduling_know_no_tensors(name: str) -> None:
    """Not even at second hand: whatever they import at the top is looked at too."""
    seen: set[str] = set()
    todo = [REPOSITORY / "services" / "inference_worker" / name]
    while todo:
        path = todo.pop()
        for found in imports_of(path):
            chain = f"{path.name}:{found.line} imports {found.module}"
            assert not is_of(found.module, "torch", "transformers", "safetensors"), chain
            next_path = REPOSITORY / (found.module.replace(".", "/") + ".py")
            if is_of(found.module, "services") and next_path.exists() and not found.lazy:
                if found.module not in seen:
                    todo.append(next_path)
                seen.add(found.module)


@pytest.mark.parametrize(
    "name",
    [
        *("fields", "functions", "items", "sampling", "history", "settings"),
        *("client_events", "server_events"),
    ],
)
def test_the_realtime_codec_is_data(name: str) -> None:
    """It knows no sockets, no protobuf, and nothing that acts on it."""
    package = "services.gateway.api.realtime"
    path = REPOSITORY / package.replace(".", "/") / f"{name}.py"
    codec = [
        f"{package}.{part}" for part in ("fields", "functions", "items", "sampling", "settings")
    ]
    others = [
        found.module
        for found in imports(path.read_text(), package)
        if not is_of(found.module, *codec, *sys.stdlib_module_names)
    ]
    assert not others


@pytest.mark.parametrize(
    "name", ["fields", "schema", "setup", "client_messages", "server_messages"]
)
def test_the_gemini_codec_is_data(name: str) -> None:
    """It knows nothing but what is data of the Realtime wire, too."""
    package = "services.gateway.api.gemini"
    path = REPOSITORY / package.replace(".", "/") / f"{name}.py"
    realtime = ("fields", "functions", "items", "sampling", "settings", "client_events")
    codec = [f"{package}.{part}" for part in ("fields", "schema", "setup")]
    codec += [f"services.gateway.api.realtime.{part}" for part in realtime]
    others = [
        found.module
        for found in imports(path.read_text(), package)
        if not is_of(found.module, *codec, *sys.stdlib_module_names)
    ]
    assert not others


def test_the_reader_of_imports_sees_them_all() -> None:
    source = (
        "import a.b\n"
        "from c import d\n"
        "from . import e\n"
        "from ..common import f\n"
        "def g():\n    import h\n"
        "if TYPE_CHECKING:\n    import i\nelse:\n    import l\n"
        "try:\n    import j\nexcept ImportError:\n    import k\n"
    )
    found = {(item.module, item.lazy) for item in imports(source, "services.tts")}
    assert found == {
        ("a.b", False),
        ("c", False),
        ("c.d", False),
        ("services.tts", False),
        ("services.tts.e", False),
        ("services.common", False),
        ("services.common.f", False),
        ("h", True),
        ("j", False),
        ("k", False),
        ("l", False),
    }
