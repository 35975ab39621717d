"""What the kernels become for a GPU that is not here: Triton and its assembler need none.

Run as a module, in a process of its own: the tests' own process interprets the kernels.
"""

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import chain
from typing import Any

import torch

ROWS = (1, 64, 128)  # of the largest group: a kind of tiling each


@dataclass(frozen=True, slots=True)
class Compiled:
    """`stack_bytes` of a thread: what did not fit in its registers. `shared_bytes` of a program."""

    name: str
    case: str
    registers: int
    stack_bytes: int
    shared_bytes: int


def compiled(capability: int, kinds: list[str]) -> list[Compiled]:
    """For a GPU of this compute capability (90: Hopper), with heads of 128 in bfloat16, seven to a
    KV head. kinds: "auto" or "int8"."""
    command = [sys.executable, "-m", "tests.kernels_compiled", str(capability), *kinds]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=300, check=True)
    return [Compiled(**json.loads(line)) for line in done.stdout.splitlines()]


def main() -> None:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.runtime import JITFunction, driver

    capability, *kinds = sys.argv[1:]

    class Absent:
        """The driver of a device that kernels are compiled for and never launched on."""

        def get_current_target(self) -> Any:
            return GPUTarget("cuda", int(capability), 32)

        def get_current_device(self) -> int:
            return 0

        def get_current_stream(self, device: int) -> int:
            return 0

    driver.set_active(Absent())
    found: list[tuple[str, Any]] = []
    plain = JITFunction.run

    def run(self: Any, *args: Any, **options: Any) -> Any:
        kernel = plain(self, *args, **options | {"warmup": True})
        found.append((self.__name__, kernel))
        return kernel

    JITFunction.run = run
    for number, kind in enumerate(kinds):
        launches = _launches(kind) if number else chain(_between(), _launches(kind))
        for case in launches:
            for name, kernel in found:
                usage = _usage(kernel, triton.knobs.nvidia.cuobjdump.path)
                shared = kernel.metadata.shared
                print(json.dumps(asdict(Compiled(name, f"{kind}, {case}", *usage, shared))))
            found.clear()


def _between() -> Iterator[str]:
    """Launches between matrix products, in the sizes of Qwen2.5-VL-7B; when they are made."""
    from services.inference_worker.device.triton_ops import GpuKernels

    kernels = GpuKernels()
    hidden = torch.zeros(16, 3584, dtype=torch.bfloat16)
    kernels.rms_norm(hidden, hidden[0], 1e-6)
    both = torch.zeros(16, 2, 18_944, dtype=torch.bfloat16)
    kernels.swiglu(both[:, 0], both[:, 1])
    kernels.quick_gelu(both[:, 0])
    queries, angles = torch.zeros(16, 28, 128, dtype=torch.bfloat16), torch.zeros(16, 1, 64)
    kernels.rotate(queries, angles, angles)
    slots = torch.zeros(16, dtype=torch.int64)
    kernels.scatter(queries, slots, torch.zeros(28, 16, 128, dtype=torch.bfloat16))
    yield "between products"


def _launches(kind: str) -> Iterator[str]:
    """Launches of attention, all that steps make; when they are made, what they were for."""
    from services.inference_worker.kv.tensors import KVTensors
    from services.inference_worker.runner.cuda.block_attention import (
        AttentionTables,
        BlockAttention,
        tiling,
    )
    from tests.unit.tiny import attention_config

    heads, kv_heads, dim, dtype = 28, 4, 128, torch.bfloat16
    config = attention_config(heads, kv_heads, dim)
    cpu = torch.device("cpu")
    store = KVTensors(config, kind, num_pages=4, page_size=16, dtype=dtype, device=cpu)
    queries = torch.zeros(16, heads, dim, dtype=dtype)
    fresh = torch.zeros(16, kv_heads, dim, dtype=dtype)
    numbers = torch.zeros(16, dtype=torch.int32)
    slots, tiles = torch.zeros(16, dtype=torch.int64), torch.zeros(16, 4, dtype=torch.int32)
    for rows in ROWS:
        how = tiling(rows, heads // kv_heads, dim, dtype.itemsize)
        where = AttentionTables(slots, tiles, numbers, numbers, numbers, how, splits=1)
        for splits in (1, 2):
            attention = BlockAttention(store, replace(where, splits=splits))
            attention(0, queries, fresh, fresh)
            yield f"{rows} rows, {splits} splits"


def _usage(kernel: Any, disassembler: str) -> tuple[int, int]:
    """Registers, and bytes of stack."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        command = [disassembler, "-res-usage", file.name]
        text = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    registers, stack = re.findall(r"REG:(\d+) STACK:(\d+)", text)[0]
    return int(registers), int(stack)


if __name__ == "__main__":
    main()
