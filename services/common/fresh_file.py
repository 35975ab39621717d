"""Files that are read again when they change: keys and certificates, as Kubernetes rotates them."""

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

log = logging.getLogger(__name__)

T = TypeVar("T")
LOOK_S = 1.0  # between two looks at whether a file has changed


class FreshFiles(Generic[T]):
    """Result of `parse` on some files, made anew whenever one of them is another than before.

    `parse` raises ValueError or OSError for files that cannot be used: at first that is the
    caller's to handle, later what was read before stays. Any thread; two may parse at once.
    """

    def __init__(
        self,
        paths: tuple[Path, ...],
        parse: Callable[[], T],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Raises what `parse` raises."""
        self._paths = paths
        self._parse = parse
        self._clock = clock
        self._seen = self._signs()
        self._value = parse()
        self._looked_s = clock()

    def value(self) -> T:
        """The newest that could be used."""
        now_s = self._clock()
        if now_s - self._looked_s < LOOK_S:
            return self._value
        self._looked_s = now_s
        signs = self._signs()
        if signs != self._seen:
            self._seen = signs
            try:
                self._value = self._parse()
                log.info("files read again", extra={"files": [str(path) for path in self._paths]})
            except (ValueError, OSError) as error:
                files = [str(path) for path in self._paths]
                extra = {"files": files, "reason": str(error)}
                log.error("changed files cannot be used: what they said before holds", extra=extra)
        return self._value

    def _signs(self) -> list[tuple[int, ...]]:
        """Signs by which two versions of a file differ; a Secret's mount swaps a symbolic link."""
        signs: list[tuple[int, ...]] = []
        for path in self._paths:
            try:
                state = os.stat(path)
            except OSError:
                signs.append(())
            else:
                signs.append((state.st_dev, state.st_ino, state.st_mtime_ns, state.st_size))
        return signs
