"""The machine a figure was measured on, and what it can do at all."""

import os
import platform
import subprocess
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import psutil
import torch

from benchmarks import REPOSITORY
from services.inference_worker.device.onednn import is_faster
from services.inference_worker.device.onednn_layers import PackedLinear

SERVICE_PREFIXES = ("GATEWAY_", "WORKER_", "DIALOGUE_", "TTS_", "ASR_")
_TELLING_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "bf16")


@dataclass(frozen=True, slots=True)
class Machine:
    """`busy_before`: share of all cores that others took just before the measurements, 0…1; much
    more than nothing spoils them. `settings`: the services' variables that were set."""

    cpu: str
    cores: int
    memory_gib: float
    instructions: tuple[str, ...]
    gpu: str
    system: str
    python: str
    torch: str
    commit: str
    date: str
    load_average: tuple[float, float, float]
    busy_before: float
    settings: dict[str, str]


def describe(watch_s: float = 1.0) -> Machine:
    """Looks at the machine for `watch_s` seconds."""
    busy = psutil.cpu_percent(watch_s) / 100
    flags = set(_cpu_info("flags").split())
    return Machine(
        cpu=_cpu_info("model name") or platform.processor() or platform.machine(),
        cores=len(os.sched_getaffinity(0)),
        memory_gib=round(psutil.virtual_memory().total / 2**30, 1),
        instructions=tuple(flag for flag in _TELLING_FLAGS if flag in flags),
        gpu=torch.cuda.get_device_name() if torch.cuda.is_available() else "",
        system=platform.platform(),
        python=platform.python_version(),
        torch=torch.__version__,
        commit=_commit(),
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        load_average=tuple(round(load, 2) for load in os.getloadavg()),  # type: ignore[arg-type]
        busy_before=round(busy, 3),
        settings={k: v for k, v in os.environ.items() if k.startswith(SERVICE_PREFIXES)},
    )


def _cpu_info(key: str) -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(key)), "")


def _commit() -> str:
    """The commit, with a + where files differ from it; "" outside a repository."""
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--abbrev=12"],
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return found.stdout.strip()


def matmul_rate(
    rows: int,
    inner: int,
    columns: int,
    dtype: torch.dtype,
    device: torch.device,
    seconds: float = 0.5,
) -> float:
    """FLOP/s of a matrix product of this size: the best of many, which take so many seconds, with
    the threads torch has now, in the order of PyTorch or, on CPUs, in that of oneDNN."""
    left = torch.randn(rows, inner).to(device, dtype)
    right = torch.randn(inner, columns).to(device, dtype)
    ways = [lambda: torch.mm(left, right)]
    if is_faster(dtype, device):
        ordered = PackedLinear(right.T.contiguous(), None)
        ways.append(lambda: ordered(left))
    best_s = float("inf")
    with torch.inference_mode():
        for way in ways:
            end_s = time.perf_counter() + seconds / len(ways)
            while time.perf_counter() < end_s:
                started_s = time.perf_counter()
                way()
                if device.type == "cuda":
                    torch.cuda.synchronize()
                best_s = min(best_s, time.perf_counter() - started_s)
    return 2 * rows * inner * columns / best_s


def copy_rate(device: torch.device, size_bytes: int = 2**28) -> float:
    """Bytes per second that a copy reads and writes, taken together: the best of many. The size is
    beyond any cache."""
    source = torch.ones(size_bytes, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    best_s, end_s = float("inf"), time.perf_counter() + 0.5
    while time.perf_counter() < end_s:
        started_s = time.perf_counter()
        target.copy_(source)
        if device.type == "cuda":
            torch.cuda.synchronize()
        best_s = min(best_s, time.perf_counter() - started_s)
    return 2 * size_bytes / best_s


class CpuMeter:
    """Processor time of named processes, and of everything else, since `start`."""

    def __init__(self, processes: Iterable[tuple[str, int]]) -> None:
        """`processes`: (name, pid); several may share a name."""
        self._processes = [(name, psutil.Process(pid)) for name, pid in processes]
        self._before: dict[int, float] = {}
        self._started_s = 0.0
        self._system_s = 0.0

    def start(self) -> None:
        self._started_s = time.monotonic()
        self._system_s = _busy_s()
        self._before = {process.pid: _used_s(process) for _, process in self._processes}

    def cores(self) -> dict[str, float]:
        """Cores used on average, by name; "others": by what was not named."""
        elapsed_s = time.monotonic() - self._started_s
        used: dict[str, float] = {}
        for name, process in self._processes:
            spent_s = _used_s(process) - self._before[process.pid]
            used[name] = used.get(name, 0.0) + spent_s / elapsed_s
        others = (_busy_s() - self._system_s) / elapsed_s - sum(used.values())
        return {**used, "others": max(0.0, others)}

    def rss_mib(self) -> dict[str, float]:
        """Resident memory now, by name."""
        held: dict[str, float] = {}
        for name, process in self._processes:
            held[name] = held.get(name, 0.0) + process.memory_info().rss / 2**20
        return held


def _used_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _busy_s() -> float:
    """Seconds in which all cores together were busy, other guests of the host included."""
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - getattr(times, "iowait", 0.0))
