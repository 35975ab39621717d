"""Models of the Hugging Face hub: into its own cache, with progress, and on where one broke off.

Weights are fetched into the cache's blobs by us, because the hub's client tells no rate while it
runs and begins a file anew after an interruption; what is small, and the links that make a snapshot
of them, are the client's. Its variables hold: HF_HOME, HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE.
"""

import errno
import fcntl
import hashlib
import json
import logging
import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.inference_worker.model.errors import ModelError
from services.inference_worker.model.loading import DOWNLOADING, Loading
from services.inference_worker.model.sizes import gigabytes, parameters_by

log = logging.getLogger(__name__)

WANTED = ("*.json", "*.safetensors", "*.jinja", "*.txt", "*.model", "README.md")
UNWANTED = ("*/*.safetensors",)  # the same weights for other programs
FILES_AT_ONCE = 4
CHUNK_BYTES = 1 << 20
READ_S = 20.0  # a connection that is silent for so long is opened anew
PATIENCE_S = 600.0  # a download that is silent for so long is given up
RETRY_S = (1.0, 15.0)  # the first pause and the longest
SPARE_BYTES = 1 << 30  # of the disk, left to everybody else
LOOK_S = 0.5  # how often progress is looked at
_OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO)


@dataclass(frozen=True, slots=True)
class Blob:
    """A large file of a repository, and where the cache keeps it: by its SHA-256 `etag`."""

    url: str
    etag: str
    size: int
    path: Path
    lock: Path  # the hub's own client takes it too

    @property
    def here(self) -> int:
        return self.size if self.path.exists() else _size(self.partial)

    @property
    def partial(self) -> Path:
        return self.path.with_name(self.path.name + ".part")


def fetch(name: str, progress: Loading) -> Path:
    """The folder of a model of the hub, downloaded where it is not in the cache yet.

    Raises ModelError that says why it cannot be had, or that it would not fit.
    """
    import huggingface_hub
    from huggingface_hub import errors
    from huggingface_hub.utils import disable_progress_bars

    for noisy in ("httpx", "httpx2", "huggingface_hub"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    disable_progress_bars()
    progress.begin(DOWNLOADING)
    patterns: Any = {"allow_patterns": list(WANTED), "ignore_patterns": list(UNWANTED)}
    try:
        blobs = _missing(name, progress)
        _download(name, blobs or [], progress)
        here = blobs is None
        return Path(huggingface_hub.snapshot_download(name, local_files_only=here, **patterns))
    except errors.GatedRepoError:
        raise ModelError(
            f"{name} is gated: accept its terms on the hub, and set HF_TOKEN to a token of yours"
        ) from None
    except errors.RepositoryNotFoundError:
        raise ModelError(
            f"the hub has no model {name}, or it is private and needs HF_TOKEN"
        ) from None
    except errors.HFValidationError:
        raise ModelError(f"{name} is no name of a model: owner/name") from None
    except (ModelError, errors.LocalEntryNotFoundError) as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError(f"{name} is not in the cache, and the hub does not answer") from None
    except OSError as error:
        if error.errno is not None:
            raise ModelError(f"cannot write {name} to the cache: {error}") from error
        raise ModelError(f"cannot fetch {name} from the hub: {_brief(error)}") from error
    except Exception as error:  # the hub's client has no common root for what can go wrong
        raise ModelError(f"cannot fetch {name} from the hub: {_brief(error)}") from error


def _missing(name: str, progress: Loading) -> list[Blob] | None:
    """The large files that the cache has not; None where the hub cannot be reached: a snapshot that
    is in the cache will do then."""
    from huggingface_hub import HfApi, RepoFile, constants, errors, hf_hub_download, hf_hub_url
    from huggingface_hub.file_download import repo_folder_name
    from huggingface_hub.utils import filter_repo_objects

    try:
        commit = HfApi().model_info(name, timeout=READ_S).sha
    except errors.HfHubHTTPError as error:
        if error.response is not None and error.response.status_code < 500:
            raise
        return None
    except (OSError, errors.OfflineModeIsEnabled):
        return None
    except Exception as error:
        if type(error).__module__.partition(".")[0] in ("httpx", "httpx2"):
            return None  # no network
        raise
    entries = HfApi().list_repo_tree(name, revision=commit, recursive=True)
    sizes = {each.path: each for each in entries if isinstance(each, RepoFile)}
    paths = list(
        filter_repo_objects(sizes, allow_patterns=list(WANTED), ignore_patterns=list(UNWANTED))
    )
    if "config.json" not in paths:
        raise ModelError(f"{name} is not a model in Hugging Face layout: it has no config.json")
    weights = sum(sizes[path].size for path in paths if path.endswith(".safetensors"))
    if not weights:
        raise ModelError(f"{name} has no weights in safetensors")
    config = json.loads(Path(hf_hub_download(name, "config.json", revision=commit)).read_text())
    progress.admit(name, config, parameters_by(config, weights))
    folder = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=name, repo_type="model")
    blobs = []
    for path in paths:
        entry = sizes[path]
        if entry.lfs is not None:
            url, etag = hf_hub_url(name, path, revision=commit), entry.lfs.sha256
            lock = folder.parent / ".locks" / folder.name / f"{etag}.lock"
            blobs.append(Blob(url, etag, entry.size, folder / "blobs" / etag, lock))
    return [blob for blob in blobs if not blob.path.exists()]


def _download(name: str, blobs: list[Blob], progress: Loading) -> None:
    """Fetch what is missing, several files at once."""
    if not blobs:
        return
    for folder in (blobs[0].path.parent, blobs[0].lock.parent):
        folder.mkdir(parents=True, exist_ok=True)
    here = sum(blob.here for blob in blobs)
    total = sum(blob.size for blob in blobs)
    _check_disk(name, blobs[0].path.parent, total - here)
    progress.begin(DOWNLOADING, total, here)
    log.info("downloading", extra={"model": name, "bytes": total, "bytes_here": here})
    given_up = threading.Event()
    with ThreadPoolExecutor(FILES_AT_ONCE, thread_name_prefix="download") as pool:
        fetches = {pool.submit(_fetch_blob, blob, given_up) for blob in blobs}
        try:
            while fetches:  # what others fetch into this cache counts as well
                done, fetches = wait(fetches, LOOK_S, FIRST_COMPLETED)
                progress.reach(sum(blob.here for blob in blobs))
                for each in done:
                    each.result()
        finally:
            given_up.set()
    log.info("downloaded", extra={"model": name, "bytes": total})


def _fetch_blob(blob: Blob, given_up: threading.Event) -> None:
    """One file, tried again until it is whole or nothing came for too long."""
    heard_s, pause_s = time.monotonic(), RETRY_S[0]
    while not given_up.is_set() and not blob.path.exists():
        before = blob.here
        reason = "another worker is downloading it"
        try:
            with _locked(blob.lock) as mine:
                if mine and not blob.path.exists():
                    _continue(blob, given_up)
                    continue
        except Exception as error:
            _raise_if_final(error)
            reason = _brief(error)
        if blob.here > before:
            heard_s, pause_s = time.monotonic(), RETRY_S[0]
        elif time.monotonic() - heard_s > PATIENCE_S:
            raise ModelError(f"the download stalled: nothing came in {PATIENCE_S:g} s ({reason})")
        else:
            log.warning("download interrupted", extra={"reason": reason, "again_in_s": pause_s})
        given_up.wait(pause_s)
        pause_s = min(2 * pause_s, RETRY_S[1])


def _continue(blob: Blob, given_up: threading.Event) -> None:
    """Fetch what is left of a file; when it is whole and what it should be, put it in place."""
    from huggingface_hub import get_session
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status

    digest = hashlib.sha256()
    with blob.partial.open("a+b", buffering=0) as file:
        file.seek(0)
        while piece := file.read(CHUNK_BYTES):
            digest.update(piece)
        start = file.tell()
        if start < blob.size:
            headers = build_hf_headers() | {"Accept-Encoding": "identity"}
            if start:
                headers["Range"] = f"bytes={start}-"
            with get_session().stream(
                "GET", blob.url, headers=headers, timeout=READ_S, follow_redirects=True
            ) as response:
                hf_raise_for_status(response)
                if start and response.status_code != 206:  # it knows no ranges
                    file.truncate(0)
                    digest = hashlib.sha256()
                for piece in response.iter_bytes():
                    if given_up.is_set():
                        return
                    file.write(piece)
                    digest.update(piece)
        if file.tell() < blob.size:
            raise ConnectionError("the connection broke")
    if digest.hexdigest() != blob.etag:
        blob.partial.unlink()
        raise ConnectionError("what came is not what the hub has; it is fetched anew")
    blob.partial.rename(blob.path)


@contextmanager
def _locked(lock: Path) -> Iterator[bool]:
    """Whether the file is this process's to write: two workers of one machine share a cache."""
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
            return
        yield True


def _raise_if_final(error: Exception) -> None:
    """Raise what will not be better the next time."""
    from huggingface_hub import errors

    if isinstance(error, ModelError | errors.RepositoryNotFoundError | errors.EntryNotFoundError):
        raise error
    if isinstance(error, errors.HfHubHTTPError):
        status = 0 if error.response is None else error.response.status_code
        if 400 <= status < 500 and status not in (408, 416, 429):
            raise error
    elif isinstance(error, OSError) and error.errno in _OF_THE_DISK:
        raise error


def _check_disk(name: str, folder: Path, wanted: int) -> None:
    free = shutil.disk_usage(folder).free
    if wanted + SPARE_BYTES > free:
        raise ModelError(
            f"{name} needs {gigabytes(wanted)} more on the disk, where {gigabytes(free)} are free: "
            f"make room at {folder.parent.parent}, or move the cache with HF_HOME"
        )


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0


def _brief(error: BaseException) -> str:
    """The first line of what the hub's client says, which likes to say much."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:200] if lines else type(error).__name__
