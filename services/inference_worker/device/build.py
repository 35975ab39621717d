"""Building of `ops.c`, once, where a compiler is; a worker only loads what was built.

`python -m services.inference_worker.device.build [folder]` makes a library for every dtype and
every level of this machine's family of processors, so that what was built here runs on another of
the family. `make` calls it for `.venv`, and the image is built with it; nothing but Python's own
library is needed.
"""

import hashlib
import os
import platform
import shlex
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

SOURCE = Path(__file__).with_name("ops.c")
BUILT = Path(__file__).with_name("built")
DEFINES = {"float32": "-DFLOAT", "bfloat16": "-DBFLOAT16"}
_FLAGS = ("-O3", "-fno-math-errno", "-fopenmp", "-fPIC", "-shared")

_V3 = frozenset({"avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe"})
_V4 = _V3 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}
_LEVELS: dict[str, dict[str, frozenset[str]]] = {
    "x86_64": {"x86-64-v4": _V4, "x86-64-v3": _V3},
    "aarch64": {"armv8-a": frozenset()},
}
"""Levels of each machine as the compiler calls them, the best first, with the flags in
/proc/cpuinfo that each needs. An older processor computes with PyTorch's operators."""


def levels() -> dict[str, frozenset[str]]:
    return _LEVELS.get(platform.machine(), {})


def library_for(dtype: str, folder: Path = BUILT) -> Path | None:
    """The library of this source for this processor; None where none was built."""
    flags = _flags()
    for level, needed in levels().items():
        path = _path(folder, level, dtype)
        if needed <= flags and path.exists():
            return path
    return None


def build(folder: Path = BUILT) -> list[Path]:
    """Compile every library. Raises OSError without a compiler, CalledProcessError where it
    fails."""
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for level in levels():
        for dtype, define in DEFINES.items():
            path = _path(folder, level, dtype)
            new = path.with_suffix(f".{os.getpid()}")
            compiler = shlex.split(os.environ.get("CC", "cc"))
            command = [*compiler, *_FLAGS, f"-march={level}", define, str(SOURCE)]
            subprocess.run([*command, "-o", str(new), "-lm"], check=True, timeout=120)
            new.replace(path)  # a worker that starts meanwhile sees a whole file or none
            made.append(path)
    for path in set(folder.glob("*.so")) - set(made):  # of a source that has changed
        path.unlink()
    return made


def _path(folder: Path, level: str, dtype: str) -> Path:
    return folder / f"ops-{_digest()}-{level}-{dtype}.so"


@lru_cache
def _digest() -> str:
    return hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:8]


@lru_cache
def _flags() -> frozenset[str]:
    """Flags of this processor; none where there is no /proc."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    found = next((line for line in lines if line.startswith("flags")), "")
    return frozenset(found.partition(":")[2].split())


def main() -> None:
    try:
        made = build(*map(Path, sys.argv[1:2]))
    except (OSError, subprocess.SubprocessError) as error:
        sys.exit(f"the worker's kernels cannot be built: {error}")
    print(f"built {len(made)} libraries of kernels")


if __name__ == "__main__":
    main()
