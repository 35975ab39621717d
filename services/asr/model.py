"""Where Whisper's weights are: in a folder, in installed packages, or on the hub, whence they
come once."""

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from services.asr.config import AsrConfig
from services.asr.engines import import_whisper
from services.asr.wheels import installed
from services.common.config import ConfigError

log = logging.getLogger(__name__)

TELL_S = 5.0
FILES = ("config.json", "model.bin", "tokenizer.json")


def folder_of(config: AsrConfig) -> str:
    """Folder of the configured model; a download is told of in the log. Blocks. Raises ConfigError
    for what is neither a folder nor a model of the hub, or cannot be reached."""
    whisper = import_whisper()
    folder = Path(config.model).expanduser()
    if folder.is_dir():
        missing = [name for name in FILES if not (folder / name).is_file()]
        if missing:
            raise ConfigError(f"ASR_MODEL={config.model} lacks {', '.join(missing)}")
        return str(folder)
    if (found := installed(config.model)) is not None:
        return str(found)
    try:
        return str(whisper.download_model(config.model, local_files_only=True))
    except ValueError as error:
        raise ConfigError(
            f"ASR_MODEL={config.model} is neither a folder nor a Whisper model: {error}"
        ) from None
    except Exception:  # it is not here yet
        if config.edge:
            raise ConfigError(
                f"ASR_MODEL={config.model} is not on this machine, and ASR_EDGE lets nothing be "
                "downloaded"
            ) from None
    try:
        with _telling(config.model):
            return str(whisper.download_model(config.model))
    except Exception as error:  # of the hub's client, its HTTP library, or the disk
        raise ConfigError(f"ASR_MODEL={config.model} cannot be downloaded: {error}") from error


@contextmanager
def _telling(model: str) -> Iterator[None]:
    """Says every few seconds how much has come."""
    from huggingface_hub.constants import HF_HUB_CACHE

    cache, ended = Path(HF_HUB_CACHE), threading.Event()
    began_s, before = time.monotonic(), _size(cache)

    def tell() -> None:
        while not ended.wait(TELL_S):
            facts: dict[str, Any] = {
                "model": model,
                "megabytes": round((_size(cache) - before) / 1e6),
                "seconds": round(time.monotonic() - began_s),
            }
            log.info("downloading", extra=facts)

    log.info("downloading", extra={"model": model})
    thread = threading.Thread(target=tell, name="download", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _size(folder: Path) -> int:
    if not folder.is_dir():
        return 0
    files = (each.lstat() for each in folder.rglob("blobs/*"))
    return sum(found.st_size for found in files)
