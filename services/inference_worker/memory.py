"""Whether a model fits into this machine, before a byte of it is fetched or read, and how much of
what it left is used later."""

import os
import resource
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from services.common.config import ConfigError
from services.inference_worker.config import WorkerConfig
from services.inference_worker.engine.relief import DEVICE, HOST
from services.inference_worker.model.errors import ModelError
from services.inference_worker.model.sizes import gigabytes
from sightline.presets import PRESETS

RESERVE_BYTES = 512 << 20  # for the libraries, activations and pictures on their way
WINDOW_SEGMENTS = 30
_CGROUPS = (  # limit, usage, what of it is given back at once, by cgroup version
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current", "inactive_file"),
    (
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/memory.usage_in_bytes",
        "total_inactive_file",
    ),
)


def free_bytes(device: torch.device) -> int:
    """Memory that this process may still take on a device. Of the host: what the system can give,
    page cache included, within the limits of the container and of the process."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    free = [_available(), _below_address_limit(), *map(_below_cgroup, _CGROUPS)]
    return max(0, min(each for each in free if each is not None))


def _available() -> int:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _below_address_limit() -> int | None:
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit == resource.RLIM_INFINITY:
        return None
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return limit - pages * os.sysconf("SC_PAGE_SIZE")


def _below_cgroup(files: tuple[str, str, str]) -> int | None:
    limit, usage, inactive = files
    try:
        most, used = int(Path(limit).read_text()), int(Path(usage).read_text())
        stat = Path(limit).with_name("memory.stat").read_text().splitlines()
    except (OSError, ValueError):  # no such version here, or "max"
        return None
    given_back = next((int(line.split()[1]) for line in stat if line.split()[0] == inactive), 0)
    return most - used + given_back


class Headroom:
    """Share of the memory that was free at the first call which is used, 0…1: of the host, and of a
    GPU beside its weights and KV pool, which stay. Callable; see `Relief`."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._first: dict[str, int] = {}

    def __call__(self) -> dict[str, float]:
        free = {HOST: free_bytes(torch.device("cpu"))}
        if self._device.type == "cuda":
            cached = torch.cuda.memory_reserved(self._device)
            cached -= torch.cuda.memory_allocated(self._device)
            free[DEVICE] = free_bytes(self._device) + cached
        self._first = self._first or free
        return {
            what: min(1.0, max(0.0, 1 - now / max(1, self._first[what])))
            for what, now in free.items()
        }


@dataclass(frozen=True, slots=True)
class Need:
    """Bytes of a model: `weights` while they are read, `kept` of them then, and `kv`."""

    weights: int
    kept: int
    kv: int

    @property
    def total(self) -> int:
        return max(self.weights, self.kept + self.kv) + RESERVE_BYTES


def need_of(
    described: dict[str, Any], parameters: int, config: WorkerConfig, dtype: torch.dtype, cpu: bool
) -> Need:
    """Memory that a published model takes: all its weights in `dtype`, and KV pages for one
    session, or what WORKER_KV_MEMORY_BYTES says. `described`: its config.json."""
    text = described.get("text_config") or described
    hidden, layers = int(text.get("hidden_size", 0)), int(text.get("num_hidden_layers", 0))
    heads = int(text.get("num_attention_heads", 1))
    kv_heads = int(text.get("num_key_value_heads") or heads)
    head_dim = int(text.get("head_dim") or hidden // heads)
    weights = parameters * dtype.itemsize
    tied = described.get("tie_word_embeddings", text.get("tie_word_embeddings", True))
    if tied and cpu:  # packed layers read a copy of their own
        weights += int(text.get("vocab_size", 0)) * hidden * dtype.itemsize
    kept = weights
    if config.quantization == "int8":
        mlp = int(text.get("intermediate_size", 0))
        layer = hidden * head_dim * (2 * heads + 2 * kv_heads) + 3 * hidden * mlp
        kept -= layers * layer * (dtype.itemsize - 1)
    kv = config.kv_memory_bytes
    if kv is None:
        head_bytes = head_dim + 4 if config.kv_dtype == "int8" else head_dim * dtype.itemsize
        tokens = WINDOW_SEGMENTS * _segment_tokens(described, config.frame_pixels)
        kv = 2 * layers * kv_heads * head_bytes * (tokens + config.branch_tokens)
    return Need(weights, kept, kv)


def _segment_tokens(described: dict[str, Any], frame_pixels: int) -> int:
    """Tokens of one frame's segment, nearly."""
    vision = described.get("vision_config") or {}
    patch = int(vision.get("patch_size") or 14)
    if (factor := described.get("scale_factor")) and (side := vision.get("image_size")):
        return (int(side) // patch // int(factor)) ** 2
    return frame_pixels // (patch * int(vision.get("spatial_merge_size") or 2)) ** 2


@dataclass(frozen=True, slots=True)
class Room:
    """Memory of this machine for a model. `free`: bytes of the device."""

    config: WorkerConfig
    dtype: torch.dtype
    device: torch.device
    free: int

    def admit(self, name: str, described: dict[str, Any], parameters: int) -> None:
        """Raises ModelError for a model that does not fit, with what would, and ConfigError for a
        KV pool that does not. `described`: its config.json."""
        try:
            need = self._need(described, parameters, self.config)
        except (TypeError, ValueError, ArithmeticError, AttributeError):
            return  # not a model's configuration: whoever loads it says so
        if need.total <= self.free:
            return
        alone = self._need(described, parameters, replace(self.config, kv_memory_bytes=None))
        if self.config.kv_memory_bytes is not None and alone.total <= self.free:
            raise kv_too_large(self.config.kv_memory_bytes, self.free - need.kept - RESERVE_BYTES)
        raise ModelError(
            f"{name} needs {gigabytes(need.total)} of memory, {gigabytes(self.free)} are free: "
            f"{self._instead(described, parameters, need)}"
        )

    def _need(self, described: dict[str, Any], parameters: int, config: WorkerConfig) -> Need:
        return need_of(described, parameters, config, self.dtype, self.device.type == "cpu")

    def _instead(self, described: dict[str, Any], parameters: int, need: Need) -> str:
        """Ways that would fit."""
        ways = []
        fitting = [
            preset
            for preset in PRESETS
            if preset.memory_bytes(self.dtype.itemsize) <= min(self.free, need.total - 1)
        ]
        if fitting:
            ways.append(f"MODEL={fitting[-1].name} fits ({fitting[-1].model})")
        savings: tuple[dict[str, Any], ...] = (
            {"quantization": "int8"},
            {"kv_dtype": "int8"},
            {"quantization": "int8", "kv_dtype": "int8"},
        )
        for saving in savings:
            if self._need(described, parameters, replace(self.config, **saving)).total <= self.free:
                ways.append(
                    " ".join(f"WORKER_{key.upper()}={word}" for key, word in saving.items())
                )
                break
        return ", or ".join(ways) or "nothing that comes with Sightline is smaller"


def kv_too_large(wanted: int, free: int) -> ConfigError:
    """The refusal of a WORKER_KV_MEMORY_BYTES that this machine has not."""
    return ConfigError(
        f"WORKER_KV_MEMORY_BYTES={wanted} ({gigabytes(wanted)}) is more than this machine has "
        f"beside the model: {gigabytes(max(0, free))} are free"
    )
