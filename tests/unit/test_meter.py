"""What a worker says of its device: shares of what it may use, and silence where nobody knows."""

import asyncio
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from services.inference_worker import metrics
from services.inference_worker.device import meter
from services.inference_worker.device.meter import (
    GpuMeter,
    MeterError,
    ProcessMeter,
    Reading,
    allowed_bytes,
    allowed_cores,
    meter_of,
    watch,
)


class _NvmlError(Exception):
    pass


def _nvml(**parts: object) -> SimpleNamespace:
    """A driver: one GPU at 73 %, 30 of 80 bytes."""
    driver = {
        "NVMLError": _NvmlError,
        "nvmlInit": lambda: None,
        "nvmlDeviceGetHandleByUUID": lambda uuid: {"GPU-1": 1}[uuid],
        "nvmlDeviceGetMemoryInfo": lambda handle: SimpleNamespace(used=30, total=80),
        "nvmlDeviceGetUtilizationRates": lambda handle: SimpleNamespace(gpu=73),
    }
    return SimpleNamespace(**driver | parts)


def _refused(*arguments: object) -> None:
    raise _NvmlError("Not Supported")


def test_a_gpu_is_asked_for_what_it_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", _nvml())
    assert GpuMeter("GPU-1").read() == Reading(0.73, 30, 80)


@pytest.mark.parametrize("name", ["nvmlInit", "nvmlDeviceGetUtilizationRates"])
def test_a_gpu_that_tells_nothing_says_so(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", _nvml(**{name: _refused}))
    with pytest.raises(MeterError, match="Not Supported"):
        GpuMeter("GPU-1").read()


def test_a_process_is_measured_against_the_cores_it_may_use(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(meter, "allowed_cores", lambda: 4.0)
    monkeypatch.setattr(meter, "allowed_bytes", lambda: 1 << 40)
    clock = {"wall": 100.0, "cpu": 5.0}
    own = SimpleNamespace(monotonic=lambda: clock["wall"], process_time=lambda: clock["cpu"])
    monkeypatch.setattr(meter, "time", own)
    measured = ProcessMeter()
    clock |= {"wall": 110.0, "cpu": 35.0}
    reading = measured.read()
    assert reading.utilisation == pytest.approx(0.75)
    assert 10_000_000 < reading.memory_used_bytes < reading.memory_total_bytes == 1 << 40


def test_control_groups_lower_what_may_be_used(tmp_path: Path) -> None:
    free_cores, free_bytes = allowed_cores(tmp_path), allowed_bytes(tmp_path)
    assert free_cores >= 1
    assert free_bytes > 1 << 20
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    (tmp_path / "memory.max").write_text("1048576\n")
    assert (allowed_cores(tmp_path), allowed_bytes(tmp_path)) == (0.5, 1048576)
    (tmp_path / "cpu.max").write_text("max 100000\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert (allowed_cores(tmp_path), allowed_bytes(tmp_path)) == (free_cores, free_bytes)


def test_control_groups_of_the_first_version_do_too(tmp_path: Path) -> None:
    free_cores, free_bytes = allowed_cores(tmp_path), allowed_bytes(tmp_path)
    for folder in ("cpu", "memory"):
        (tmp_path / folder).mkdir()
    quota, period = (tmp_path / "cpu" / f"cpu.cfs_{name}_us" for name in ("quota", "period"))
    quota.write_text("25000\n")
    period.write_text("100000\n")
    (tmp_path / "memory" / "memory.limit_in_bytes").write_text("2097152\n")
    assert (allowed_cores(tmp_path), allowed_bytes(tmp_path)) == (0.25, 2097152)
    quota.write_text("-1\n")
    (tmp_path / "memory" / "memory.limit_in_bytes").write_text("9223372036854771712\n")
    assert (allowed_cores(tmp_path), allowed_bytes(tmp_path)) == (free_cores, free_bytes)


async def test_figures_that_are_no_longer_read_are_taken_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(meter, "SAMPLE_S", 0.0)
    readings = iter([Reading(0.5, 1, 2), Reading(0.7, 1, 2)])
    shown: list[float] = []

    def read() -> Reading:
        gauge = metrics.DEVICE_UTILISATION.labels("test")
        shown.append(gauge._value.get())
        try:
            return next(readings)
        except StopIteration:
            raise MeterError("gone") from None

    await asyncio.wait_for(watch(SimpleNamespace(source="test", read=read)), 10)
    assert shown == [0.0, 0.5, pytest.approx(0.6)]
    labels = [sample.labels for sample in metrics.DEVICE_UTILISATION.collect()[0].samples]
    assert {"source": "test"} not in labels


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_worker_on_a_cpu_says_what_its_process_takes() -> None:
    found = meter_of(torch.device("cpu"))
    assert found is not None
    assert found.source == "process"
    end = time.process_time() + 0.02
    while time.process_time() < end:
        pass
    assert 0 < found.read().utilisation <= 1
