"""Checks of the model's folder and of the GPU that it may run on."""

import json
import shutil
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

from sightline.doctor.finding import FAULT, OK, WARNING, Environ, Finding
from sightline.presets import PRESETS

RESERVE_BYTES = 512 << 20  # of memory beside a model's weights


def model(environ: Environ) -> Iterator[Finding]:
    """The model's folder is whole, and this machine has room for it."""
    name = environ.get("WORKER_MODEL", "") or "builtin"
    if any(preset.model == name for preset in PRESETS if not preset.stored_bytes):
        yield Finding("model", OK, f"{name} comes with Sightline")
        return
    folder = Path(name).expanduser()
    if not folder.is_dir():
        if name.startswith(("/", ".", "~")):
            yield Finding(
                "model", FAULT, f"{name} is no folder", "name a folder or a model of the hub"
            )
        else:
            yield Finding("model", OK, f"{name} is downloaded from the hub when it is needed")
        return
    missing = [each for each in ("config.json",) if not (folder / each).is_file()]
    weights = sorted(folder.glob("*.safetensors"))
    if missing or not weights:
        what = missing[0] if missing else "*.safetensors"
        yield Finding("model", FAULT, f"{folder} has no {what}", "copy or download the model again")
        return
    cut = [path.name for path in weights if not _is_whole(path)]
    if cut:
        yield Finding(
            "model", FAULT, f"{cut[0]} is cut short or damaged", "copy or download it again"
        )
        return
    size, free = sum(path.stat().st_size for path in weights), _free_memory()
    if size + RESERVE_BYTES > free:
        yield Finding(
            "model",
            FAULT,
            f"{_gb(size)} of weights, {_gb(free)} of memory are free",
            "take a smaller model (`sightline models`), or WORKER_QUANTIZATION=int8",
        )
    else:
        yield Finding("model", OK, f"{_gb(size)} of weights, {_gb(free)} of memory are free")


def _is_whole(path: Path) -> bool:
    """Whether a safetensors file is as long as its header says."""
    with path.open("rb") as file:
        head = file.read(8)
        if len(head) < 8:
            return False
        (length,) = struct.unpack("<Q", head)
        size = path.stat().st_size
        if length > min(size - 8, 100 << 20):
            return False
        header = json.loads(file.read(length))
    ends = [each["data_offsets"][1] for key, each in header.items() if key != "__metadata__"]
    return bool(size == 8 + length + max(ends, default=0))


def _free_memory() -> int:
    """Bytes of host memory that may be taken, within the container's limit."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    group = Path("/sys/fs/cgroup")
    try:
        most = int((group / "memory.max").read_text())
        free = min(free, most - int((group / "memory.current").read_text()))
    except (OSError, ValueError):
        pass  # no limit
    return max(0, free)


def _gb(size: int) -> str:
    return f"{size / 1e9:.1f} GB"


def gpu(environ: Environ) -> Iterator[Finding]:
    """A GPU that is wanted is there, and answers."""
    wanted = environ.get("WORKER_DEVICE", "auto") or "auto"
    program = shutil.which("nvidia-smi")
    if program is None:
        if wanted.startswith("cuda"):
            advice = "install NVIDIA's driver, give the container its GPU, or set WORKER_DEVICE=cpu"
            yield Finding("gpu", FAULT, f"WORKER_DEVICE={wanted}, but there is no driver", advice)
        else:
            yield Finding("gpu", OK, "no GPU: the model runs on the CPU")
        return
    query = ["--query-gpu=name,memory.free,memory.total", "--format=csv,noheader,nounits"]
    try:
        asked = subprocess.run(
            [program, *query], capture_output=True, text=True, timeout=20, check=False
        )
    except subprocess.TimeoutExpired:
        yield Finding("gpu", FAULT, "the driver does not answer", "restart the machine")
        return
    lines = [line for line in asked.stdout.splitlines() if line.strip()]
    if asked.returncode != 0 or not lines:
        said = (asked.stderr or asked.stdout).strip().splitlines()
        level = FAULT if wanted.startswith("cuda") else WARNING
        words = said[0] if said else "no GPU was found"
        yield Finding("gpu", level, f"nvidia-smi: {words}", "see that driver and GPU fit together")
        return
    for line in lines:
        name, free, total = (part.strip() for part in line.split(","))
        yield Finding("gpu", OK, f"{name}: {free} of {total} MiB are free")
