"""What host memory loading a checkpoint takes. Linux.

Measured in a process of its own (this module, run), because the peak is the process's, and memory
that earlier work left to the allocator would hide some of it.
"""

import subprocess
import sys
from pathlib import Path

import torch

from services.inference_worker.model.family import StreamingModel, load_model

TENS_OF_MEGABYTES = {
    "hidden_size": 512,
    "intermediate_size": 1024,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "vocab_size": 4096,
}
"""Overrides for `write_checkpoint`."""


def load_peak(small: Path, folder: Path, device: str) -> tuple[int, int]:
    """Bytes that loading `folder` in bfloat16 took at its peak beyond what was there, and bytes of
    its weights. `small`: another checkpoint of the family, loaded first, for what that imports."""
    command = [sys.executable, "-m", "tests.load_peak", str(small), str(folder), device]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=100, check=True)
    peak, weights = map(int, done.stdout.split())
    return peak, weights


def _resident_bytes(field: str) -> int:
    """Of this process, pages of mapped files among them. VmRSS: now; VmHWM: at its peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def _load(folder: str, device: str) -> StreamingModel:
    return load_model(folder, torch.bfloat16, torch.device(device), 12_544)


def main() -> None:
    small, folder, device = sys.argv[1:]
    _load(small, device)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = _resident_bytes("VmRSS")
    model = _load(folder, device)
    assert isinstance(model, torch.nn.Module)
    weights = sum(parameter.nbytes for parameter in model.parameters())
    print(_resident_bytes("VmHWM") - before, weights)


if __name__ == "__main__":
    main()
