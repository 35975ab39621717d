"""Meters of the device: how much of it a worker uses, told by the device itself.

A GPU's own counters are read through NVML: share of time in which a kernel ran, memory in use, by
whomever. A CPU has no such counters for one process alone, so its meter says what share of the
cores that this process may use it took, and what of the memory that it may take.
"""

import asyncio
import contextlib
import logging
import os
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from services.inference_worker import metrics

log = logging.getLogger(__name__)

SAMPLE_S = 1.0
NUM_SAMPLES = 15  # that a figure is the mean of: NVML's own look back a fraction of a second
GROUPS = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class Reading:
    """`utilisation` 0 … 1 since the last reading."""

    utilisation: float
    memory_used_bytes: int
    memory_total_bytes: int


class Meter(Protocol):
    """`source` names what is read."""

    source: str

    def read(self) -> Reading:
        """May take milliseconds. Raises MeterError once there is nothing to be read."""
        ...


class MeterError(Exception):
    """The device tells nothing; the message says why."""


class GpuMeter:
    """An NVIDIA GPU by its UUID. Raises MeterError where NVML does not know it."""

    source = "nvml"

    def __init__(self, uuid: str) -> None:
        try:
            import pynvml
        except ImportError as error:
            raise MeterError("nvidia-ml-py is not installed") from error
        self._nvml: Any = pynvml
        with self._translated():
            self._nvml.nvmlInit()
            self._handle = self._nvml.nvmlDeviceGetHandleByUUID(uuid)

    def read(self) -> Reading:
        with self._translated():
            memory = self._nvml.nvmlDeviceGetMemoryInfo(self._handle)
            busy = self._nvml.nvmlDeviceGetUtilizationRates(self._handle).gpu
        return Reading(busy / 100, int(memory.used), int(memory.total))

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except self._nvml.NVMLError as error:  # no driver, no right, a slice of a GPU (MIG)
            raise MeterError(f"NVML: {error}") from error


class ProcessMeter:
    """This process on the cores and in the memory that it may use. Linux."""

    source = "process"

    def __init__(self) -> None:
        self._cores = allowed_cores()
        self._total_bytes = allowed_bytes()
        self._before = (time.monotonic(), time.process_time())

    def read(self) -> Reading:
        now, used = time.monotonic(), time.process_time()
        since, before = self._before
        self._before = now, used
        share = (used - before) / max(1e-6, now - since) / self._cores
        resident = int(Path("/proc/self/statm").read_text().split()[1])
        used_bytes = resident * os.sysconf("SC_PAGE_SIZE")
        return Reading(min(1.0, share), used_bytes, self._total_bytes)


def meter_of(device: torch.device) -> Meter | None:
    """The device's meter; None, and a line in the log, where the device tells nothing."""
    try:
        if device.type == "cuda":
            return GpuMeter(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
        if Path("/proc/self/statm").exists():
            return ProcessMeter()
        raise MeterError("only Linux says what a process uses")
    except MeterError as error:
        log.warning("no figures of the device", extra={"reason": str(error)})
        return None


async def watch(meter: Meter) -> None:
    """Keep the gauges current until cancelled, or until there is nothing to be read."""
    readings: deque[Reading] = deque(maxlen=NUM_SAMPLES)
    while True:
        await asyncio.sleep(SAMPLE_S)
        try:
            readings.append(await asyncio.to_thread(meter.read))
        except MeterError as error:
            log.warning("no figures of the device any more", extra={"reason": str(error)})
            metrics.forget_device(meter.source)
            return
        newest = readings[-1]
        share = sum(reading.utilisation for reading in readings) / len(readings)
        metrics.DEVICE_UTILISATION.labels(meter.source).set(share)
        metrics.DEVICE_MEMORY_USED.labels(meter.source).set(newest.memory_used_bytes)
        metrics.DEVICE_MEMORY_TOTAL.labels(meter.source).set(newest.memory_total_bytes)


def allowed_cores(groups: Path = GROUPS) -> float:
    """Cores that this process may use: by affinity and by its control groups."""
    cores = float(len(os.sched_getaffinity(0)))
    for text in _limits("cpu.max", groups):
        quota, _, period = text.partition(" ")
        if quota != "max":
            cores = min(cores, int(quota) / int(period))
    old = [_number(groups / "cpu" / f"cpu.cfs_{name}_us") for name in ("quota", "period")]
    if old[0] is not None and old[1] and old[0] > 0:
        cores = min(cores, old[0] / old[1])
    return cores


def allowed_bytes(groups: Path = GROUPS) -> int:
    """Memory that this process may take: the machine's, or less by its control groups."""
    size = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for text in _limits("memory.max", groups):
        if text != "max":
            size = min(size, int(text))
    old = _number(groups / "memory" / "memory.limit_in_bytes")
    return size if old is None else min(size, old)


def _number(file: Path) -> int | None:
    """Number in a file of control groups, version 1, where a container sees its own at the top."""
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return None


def _limits(name: str, groups: Path) -> Iterator[str]:
    """Limits that the process's control group and those above it set; a container's own is the
    top."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            if line.startswith("0::"):
                own = groups / line[3:].lstrip("/")
                for folder in (own, *own.parents):
                    if folder.is_relative_to(groups) and (folder / name).is_file():
                        yield (folder / name).read_text().strip()
