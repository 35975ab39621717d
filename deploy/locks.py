"""`make locks`: exact versions and hashes of everything that goes into an image.

The services' requirements.txt say what works; a lock in deploy/docker/locks says what is shipped:
every package with one version and the hashes of its files, for Linux on any processor, by uv. pip
then takes nothing else (`--require-hashes`). No lock names an index: any with these files will do.

    python -m deploy.locks            write the locks anew, with the newest versions allowed
    python -m deploy.locks --keep     the same, keeping versions that are still allowed
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
LOCKS = REPOSITORY / "deploy" / "docker" / "locks"
PYTHON = "3.11"  # of the images' base
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
COMMON = "services/common/requirements.txt"
WORKER = "services/inference_worker/requirements.txt"
LOCKED = {  # lock: what it locks
    "gateway": (
        COMMON,
        "services/gateway/requirements.txt",
        "services/gateway/requirements-voice.txt",
    ),
    "asr": (COMMON, "services/asr/requirements.txt"),
    "dialogue": (COMMON, "services/dialogue/requirements.txt"),
    "tts": (COMMON, "services/tts/requirements.txt"),
    "tts-piper": (
        COMMON,
        "services/tts/requirements.txt",
        "services/tts/requirements-piper.txt",
    ),
    "inference_worker.cpu": (COMMON, WORKER),
    "inference_worker.cuda": (COMMON, WORKER),
    "tools": ("deploy/requirements-images.txt",),
}
_TORCH = re.compile(r"^torch==([\d.]+)$", re.MULTILINE)
# PyTorch has CPU builds in an index of its own, marked by a local version.
_CPU_TORCH = (
    r'torch==\1+cpu; platform_machine == "x86_64"'
    "\n"
    r'torch==\1; platform_machine != "x86_64"'
)


def requirements(name: str) -> str:
    """The lines that a lock is made from."""
    text = "\n".join((REPOSITORY / path).read_text() for path in LOCKED[name])
    return _TORCH.sub(_CPU_TORCH, text) if name.endswith(".cpu") else text


def lock(name: str, *, keep: bool) -> None:
    """Write one lock. Raises CalledProcessError when there is no solution."""
    target = LOCKS / f"{name}.lock"
    if not keep:
        target.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        wanted = Path(folder) / f"{name}.txt"
        wanted.write_text(requirements(name))
        command = [
            *("uv", "pip", "compile", "--quiet", str(wanted), "--output-file", str(target)),
            *("--universal", "--python-version", PYTHON, "--generate-hashes"),
            *("--no-header", "--no-annotate", "--no-emit-index-url"),
        ]
        if name.endswith(".cpu"):
            command += _cpu_builds()
        subprocess.run(command, check=True, cwd=REPOSITORY)
    lines = target.read_text()
    target.write_text(f"# `make locks` writes this, for Linux and Python {PYTHON}.\n{lines}")
    print(f"{target.relative_to(REPOSITORY)}: {len(re.findall('^[a-z]', lines, re.M))} packages")


def _cpu_builds() -> list[str]:
    """Where uv finds them: a folder of wheels (PIP_FIND_LINKS), or PyTorch's index."""
    if folder := os.environ.get("PIP_FIND_LINKS"):
        return ["--find-links", folder]
    return ["--extra-index-url", CPU_INDEX, "--index-strategy", "unsafe-best-match"]


def main() -> int:
    parser = argparse.ArgumentParser(description="Writes the locks of the images.")
    parser.add_argument("names", nargs="*", help=f"of {', '.join(LOCKED)}; none: all")
    parser.add_argument("--keep", action="store_true", help="keep versions that still are allowed")
    arguments = parser.parse_args()
    LOCKS.mkdir(exist_ok=True)
    try:
        for name in arguments.names or LOCKED:
            lock(name, keep=arguments.keep)
    except FileNotFoundError:
        print("locks are made by uv: pip install uv", file=sys.stderr)
        return 1
    except subprocess.CalledProcessError as error:
        return error.returncode
    return 0


if __name__ == "__main__":
    sys.exit(main())
