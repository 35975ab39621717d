"""What host memory loading a checkpoint takes, by the tensors that are alive at a time.

Counted, not sampled: what the process holds besides, and how busy the machine is, change nothing.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from services.inference_worker.model.registry import load_model

TENS_OF_MEGABYTES = {
    "hidden_size": 512,
    "intermediate_size": 1024,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "vocab_size": 4096,
}
"""Overrides for `write_checkpoint`."""


class HostTensors(TorchDispatchMode):
    """Bytes of the storages in host memory that operators have read or made and that are still
    alive, those that lie in mapped files among them. `peak_bytes`: the most after any operator."""

    def __init__(self) -> None:
        super().__init__()
        self.peak_bytes = 0
        self._alive: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in _host_tensors((args, kwargs, result)):
            storage = tensor.untyped_storage()
            self._alive[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        self._alive = {key: kept for key, kept in self._alive.items() if not kept[0].expired()}
        held = sum(size_bytes for _, size_bytes in self._alive.values())
        self.peak_bytes = max(self.peak_bytes, held)
        return result


def load_peak(folder: Path, device: str) -> tuple[int, int]:
    """Bytes of host memory that loading `folder` in bfloat16 took at its peak, and bytes of its
    weights."""
    with HostTensors() as host:
        model = load_model(str(folder), torch.bfloat16, torch.device(device), 12_544)
    assert isinstance(model, torch.nn.Module)
    return host.peak_bytes, sum(parameter.nbytes for parameter in model.parameters())


def _host_tensors(tree: object) -> Iterator[torch.Tensor]:
    for leaf in tree_leaves(tree):
        if isinstance(leaf, torch.Tensor) and leaf.device.type == "cpu":
            yield leaf
