"""Shared fixtures, and the rule that every test has a kind.

unit: no other process, no sleeping; integration: real processes; e2e: a real browser; gpu: CUDA.
"""

import contextlib
import functools
import gc
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from ctypes.util import find_library
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests import tools
from tests.processes import RedisServer, ServiceProcess

# suite, fresh_suite, clip; processes; model_server
pytest_plugins = ("tests.suite", "tests.dealing", "tests.model_server")

if find_library("cuda") is None:  # read when triton is imported, by whoever is the first to
    os.environ.setdefault("TRITON_INTERPRET", "1")

# The same examples every time, however busy the machine is; `--hypothesis-profile searching` looks
# for others.
_patient = {
    "deadline": None,
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
}
settings.register_profile("searching", **_patient)
settings.register_profile("steady", derandomize=True, **_patient)
settings.load_profile("steady")

KINDS = ("unit", "integration", "e2e", "gpu")
TESTS = Path(__file__).resolve().parent


# Nothing that is imported and collected is garbage: looking for some there takes seconds.
gc.disable()


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


def pytest_report_header() -> list[str]:
    """What this run has of the tools that a machine may lack."""
    return tools.announcement()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test of absent tools, fail one of broken tools. The rest begin with one thread of
    PyTorch's, whatever tests before them left: tensors this small only lose by being shared out."""
    if (torch := sys.modules.get("torch")) is not None:
        torch.set_num_threads(1)
    for mark in item.iter_markers("needs"):
        tools.require(*mark.args)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Refuse tests without a kind; skip gpu tests where there is no CUDA device."""
    gpu_items = [item for item in items if _kind_of(item.path) == "gpu"]
    if gpu_items and not _cuda_is_available():
        for item in gpu_items:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@functools.cache
def _kind_of(path: Path) -> str:
    """Kind of the tests in a file. Raises UsageError where they have none."""
    file = path.resolve()
    kind = file.relative_to(TESTS).parts[0] if file.is_relative_to(TESTS) else ""
    if kind not in KINDS:
        folders = ", ".join(f"tests/{name}/" for name in KINDS)
        raise pytest.UsageError(f"{file} is in none of {folders}: give it a kind")
    return kind


def _cuda_is_available() -> bool:
    if importlib.util.find_spec("torch") is None:
        return False
    import torch

    return torch.cuda.is_available()


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    """A running Redis with an append-only file; `kill()` and `start()` it at will."""
    tools.require("redis")
    folder = tmp_path / "redis"
    folder.mkdir()
    server = RedisServer(folder)
    server.start()
    yield server
    server.kill()


@pytest.fixture
def service_process(tmp_path: Path) -> Iterator[Callable[..., ServiceProcess]]:
    """`service_process("tts", TTS_VOICE="en-gb")`: that service, running and SERVING.

    Keywords are environment variables; ports default to free ones. Everything still running at
    the end of the test gets SIGTERM, the last started first, and must exit 0.
    """
    with _services(tmp_path) as start:
        yield start


@pytest.fixture(scope="module")
def shared_process(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[..., ServiceProcess]]:
    """The same, of a service that all tests of a file use and none of them breaks."""
    with _services(tmp_path_factory.mktemp("services")) as start:
        yield start


@contextlib.contextmanager
def _services(folder: Path) -> Iterator[Callable[..., ServiceProcess]]:
    started: list[ServiceProcess] = []

    def start(name: str, *, timeout_s: float = 120, **environment: object) -> ServiceProcess:
        variables = {key: str(value) for key, value in environment.items()}
        process = ServiceProcess(name, variables, folder)
        started.append(process)
        process.start(timeout_s)
        return process

    failures = []
    try:
        yield start
    finally:
        for process in reversed(started):
            if process.process is not None:
                try:
                    process.stop()
                except (AssertionError, RuntimeError) as error:
                    failures.append(str(error))
    assert not failures, "\n".join(failures)
