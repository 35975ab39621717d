"""Video files that viewers hand over: kept in a folder of this process for as long as they are
watched, within bounds."""

import asyncio
import contextlib
import errno
import fcntl
import logging
import os
import secrets
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

from services.common.in_flight import InFlight
from sightline.errors import (
    DeadlineExceededError,
    InvalidArgumentError,
    PermissionDeniedError,
    ResourceExhaustedError,
    SightlineError,
    UnavailableError,
)
from sightline.reasons import Reason

log = logging.getLogger(__name__)

SCHEME = "upload:"  # before a kept file's name, as a session's source says it
PREFIX = "gateway-"  # of the folders' names
MAX_AT_ONCE = 8
SILENT_S = 30.0  # between two parts of a file
TOTAL_S = 3600.0
LEAST_BYTES_PER_S = 64 * 1024  # who sends less holds a place that others wait for


class Uploads:
    """The files of one gateway, which has a folder of its own below `parent`; None: none are taken.

    `file_bytes` of one file, `total_bytes` of all that are kept. Belongs to the event loop.
    """

    def __init__(self, parent: Path | None, file_bytes: int, total_bytes: int) -> None:
        self._parent = parent
        self._total_bytes = total_bytes
        self._sizes: dict[str, int] = {}  # by name; also of what is on its way
        self._receiving = InFlight(
            "files", owner="the gateway", most=MAX_AT_ONCE, reason=Reason.TOO_MANY_CALLS
        )
        self._folder: Path | None = None
        self._lock: int | None = None
        self.file_bytes = 0 if parent is None else min(file_bytes, total_bytes)

    @property
    def folder(self) -> Path | None:
        """Folder of the files; None before the first."""
        return self._folder

    @property
    def kept_bytes(self) -> int:
        return sum(self._sizes.values())

    def check(self, size: int, place: str = "") -> None:
        """Raise PermissionDeniedError where no file is taken, InvalidArgumentError for an empty
        one, ResourceExhaustedError where there is no room for it now, or `place` sends its share
        of files already. Too large a one is the caller's to refuse."""
        if not self.file_bytes:
            raise PermissionDeniedError("this server takes no files (GATEWAY_UPLOADS)")
        if size < 1:
            raise InvalidArgumentError("the file is empty")
        self._receiving.check(place)
        if self.kept_bytes + size > self._total_bytes:
            raise ResourceExhaustedError("there is no room for another file now")

    async def receive(self, parts: AsyncIterator[bytes], size: int, place: str = "") -> str:
        """Keep a file of so many bytes; the source that it is. Raises what `check` does,
        InvalidArgumentError when it breaks off, DeadlineExceededError when it takes too long,
        ResourceExhaustedError when the disk is full, UnavailableError when it takes nothing."""
        self.check(size, place)
        if self._folder is None:
            assert self._parent is not None
            try:
                self._folder, self._lock = _own_folder(self._parent)
            except OSError as error:
                raise _not_kept(error) from None
        name = secrets.token_hex(16)
        self._receiving.enter(place)
        self._sizes[name] = size
        try:
            async with asyncio.timeout(min(TOTAL_S, SILENT_S + size / LEAST_BYTES_PER_S)):
                received = await _write(self._folder / name, parts, size)
            if received != size:
                raise InvalidArgumentError("the file broke off")
        except TimeoutError:
            self.discard(SCHEME + name)
            raise DeadlineExceededError("the file did not arrive in time") from None
        except ConnectionError:
            self.discard(SCHEME + name)
            raise
        except OSError as error:
            self.discard(SCHEME + name)
            raise _not_kept(error) from None
        except BaseException:
            self.discard(SCHEME + name)
            raise
        finally:
            self._receiving.leave(place)
        return SCHEME + name

    def sweep(self) -> None:
        """Remove what gateways left that were killed. Blocks."""
        if self._parent is None:
            return
        for folder in self._parent.glob(f"{PREFIX}*"):
            with contextlib.suppress(OSError):  # another gateway's, or not ours to remove
                lock = _locked(folder)
                try:
                    shutil.rmtree(folder, ignore_errors=True)
                finally:
                    os.close(lock)

    def discard(self, source: str) -> None:
        """Remove a file; whoever is reading it reads on."""
        name = source.removeprefix(SCHEME)
        if self._sizes.pop(name, None) is not None and self._folder is not None:
            with contextlib.suppress(OSError):
                (self._folder / name).unlink()

    def close(self) -> None:
        """Remove all of them."""
        self._sizes.clear()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _not_kept(error: OSError) -> SightlineError:
    """What a caller is told when the disk does not take a file; the log has the reason."""
    log.error("a file that was handed over is not kept", extra={"reason": str(error)})
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ResourceExhaustedError("there is no room for another file now")
    return UnavailableError("this server cannot keep files now")


def _own_folder(parent: Path) -> tuple[Path, int]:
    """A new folder, and the lock that tells others that its gateway lives."""
    parent.mkdir(parents=True, exist_ok=True)
    while True:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
        with contextlib.suppress(OSError):  # swept by another gateway before it was locked
            lock = _locked(folder)
            if folder.is_dir():
                return folder, lock
            os.close(lock)


def _locked(folder: Path) -> int:
    """The lock of a folder, which its process holds until it ends. Raises OSError where another
    one does."""
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        os.close(opened)
        raise
    return opened


async def _write(path: Path, parts: AsyncIterator[bytes], size: int) -> int:
    """Write what comes, up to one part more than `size`; how much that was. Raises TimeoutError."""
    received = 0
    opening = asyncio.ensure_future(asyncio.to_thread(path.open, "wb"))
    try:
        file = await asyncio.shield(opening)
    except asyncio.CancelledError:  # the file may be there a moment later
        with contextlib.suppress(OSError):
            await asyncio.to_thread((await opening).close)
        raise
    try:
        while received <= size:
            try:
                async with asyncio.timeout(SILENT_S):
                    part = await anext(parts)
            except StopAsyncIteration:
                break
            received += len(part)
            await asyncio.to_thread(file.write, part)
    finally:
        await asyncio.to_thread(file.close)
    return received
