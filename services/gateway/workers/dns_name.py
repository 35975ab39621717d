"""Workers behind one name: whatever addresses it resolves to."""

import socket
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from typing import Any

from services.gateway.workers.lookup import Found, Standing, from_thread

Resolve = Callable[..., list[tuple[Any, ...]]]


class DnsName:
    """A name that is resolved every `interval_s`, as of a headless Service: one address is one
    worker.

    A worker with an address of either family is behind such a name twice. So one family counts: the
    one with more addresses, IPv4 when both have as many.
    """

    def __init__(
        self, name: str, port: int, *, interval_s: float, resolve: Resolve = socket.getaddrinfo
    ) -> None:
        self._name = name.removeprefix("[").removesuffix("]")
        self._port = port
        self._interval_s = interval_s
        self._resolve = resolve
        self._stopped = threading.Event()
        self._standing = Standing(name)

    def changes(self) -> AsyncGenerator[Found, None]:
        return from_thread(self.looks, self._stopped.set, self._standing)

    def looks(self) -> Iterator[Found]:
        """Each list that differs from the one before. Blocks; belongs to one thread."""
        before: Found | None = None
        while not self._stopped.is_set():
            try:
                found = self._look()
            except (OSError, UnicodeError) as error:  # UnicodeError: a name that cannot be one
                self._standing.failed(str(error))
            else:
                self._standing.worked()
                if found != before:
                    yield (before := found)
            self._stopped.wait(self._interval_s)

    def _look(self) -> Found:
        answers = self._resolve(self._name, self._port, type=socket.SOCK_STREAM)
        families: dict[int, set[str]] = {socket.AF_INET: set(), socket.AF_INET6: set()}
        for family, _, _, _, address in answers:
            if family in families:
                families[family].add(address[0])
        four, six = families[socket.AF_INET], families[socket.AF_INET6]
        if len(six) > len(four):
            return Found(tuple(f"[{host}]:{self._port}" for host in sorted(six)))
        return Found(tuple(f"{host}:{self._port}" for host in sorted(four)))
