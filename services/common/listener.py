"""A TCP port that strangers reach: who comes in, who has to leave for that, and who is refused.

asyncio's own accept loop knows no limits, and without descriptors it logs a traceback for every
connection that it could not take. This one is used by every port that we accept on ourselves.
"""

import asyncio
import contextlib
import errno
import logging
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Self

from services.common.config import ConfigError
from services.common.places import Trusted
from services.common.tasks import cancel_and_wait, spawn

log = logging.getLogger(__name__)

BACKLOG = 128
ACCEPTS_A_TURN = 32  # then other work of the event loop comes first
SWEEP_S = 1.0
PAUSE_S = 0.5  # without accepting, when there are no descriptors
FLUSH_S = 10.0  # how long a closed connection may take to read what is left
SHUTDOWN_S = 2.0  # for TLS's goodbye
EVICTED_A_TIME = 8  # when there are no descriptors
_NO_DESCRIPTORS = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


def cannot_listen(host: str, port: int, variable: str, host_variable: str) -> ConfigError:
    """What to say of a port that could not be listened on: is it the address, or the port? The
    variables are those that name them. Looks the address up."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.bind(address)
    except OSError as error:
        return ConfigError(
            f"cannot listen on {host} ({error.strerror}): "
            f"name an address of this machine with {host_variable}"
        )
    return ConfigError(f"cannot listen on {host}:{port}: choose another port with {variable}")


@dataclass(frozen=True, slots=True, kw_only=True)
class DoorLimits:
    """Limits on what strangers hold of one port.

    A connection waits until it is settled: an HTTP request is being served, an RTMP key was right.
    Where too many wait, the oldest of them leaves, so that whoever holds connections open shuts
    nobody out; where too many are settled, newcomers are refused. `wait_s`: the longest wait.
    """

    waiting: int = 256
    waiting_per_place: int = 64
    settled: int = 2048
    settled_per_place: int = 512
    new_per_s: float = 100.0  # of one place, in the long run
    new_at_once: int = 300
    wait_s: float = 10.0

    def within(self, descriptors: int) -> Self:
        """These limits with at most so many connections together."""
        waiting = max(4, min(self.waiting, descriptors // 4))
        return replace(
            self,
            waiting=waiting,
            waiting_per_place=min(self.waiting_per_place, waiting),
            settled=max(4, min(self.settled, descriptors - waiting)),
        )


@dataclass(slots=True, eq=False)
class Visit:
    """One connection at the port. `place` is "" where limits per address do not hold."""

    place: str
    connection: socket.socket
    descriptor: int = -1  # also after it is closed
    since_s: float = field(default_factory=time.monotonic)
    settled: bool = False
    deadline_s: float = float("inf")
    transport: asyncio.Transport | None = None
    connecting: asyncio.Task[None] | None = None
    closing_s: float | None = None

    def __post_init__(self) -> None:
        self.descriptor = self.connection.fileno()

    def settle(self) -> None:
        """The visitor has shown what it came for and is no longer the first to leave."""
        self.settled, self.deadline_s = True, float("inf")

    def wait(self, wait_s: float) -> None:
        """The visitor waits again, for `wait_s` at most."""
        self.settled, self.since_s = False, time.monotonic()
        self.deadline_s = self.since_s + wait_s

    @property
    def gone(self) -> bool:
        return self.transport is not None and self.connection.fileno() < 0

    def abort(self) -> None:
        """Close it now, whatever is left to be sent."""
        if self.transport is not None:
            # A TLS transport that was closed twice and is still saying goodbye has forgotten its
            # protocol (Python 3.11); SHUTDOWN_S ends it.
            with contextlib.suppress(AttributeError):
                self.transport.abort()


class Listener:
    """Accepts on one address and hands each connection to a protocol of `factory`.

    `count` is told why connections are refused or made to leave: "refused_rate", "refused_full",
    "evicted", "too_slow", "no_descriptors". One event loop.
    """

    def __init__(
        self,
        factory: Callable[[Visit], asyncio.Protocol],
        *,
        limits: DoorLimits,
        trusted: Trusted,
        count: Callable[[str], None],
        encryption: Callable[[], ssl.SSLContext] | None = None,
    ) -> None:
        """encryption: what gives each new connection its TLS context; without it, none has one."""
        self._factory = factory
        self._encryption = encryption
        self.limits = limits
        self._trusted = trusted
        self._count = count
        self._sockets: list[socket.socket] = []
        self._visits: set[Visit] = set()
        self._buckets: dict[str, tuple[float, float]] = {}  # tokens, when
        self._by_descriptor: dict[int, Visit] = {}
        self._connecting: set[asyncio.Task[None]] = set()
        self._sweeper: asyncio.Task[None] | None = None
        self.port = 0

    async def start(self, host: str, port: int) -> None:
        """Listen; `port` 0 picks a free one. Raises OSError when it is taken."""
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        try:
            for family, _, _, _, address in dict.fromkeys(found):
                self._listen(family, (address[0], self.port or port, *address[2:]))
                self.port = self._sockets[-1].getsockname()[1]
        except OSError:
            await self.aclose()
            raise
        for listening in self._sockets:
            loop.add_reader(listening, self._accept, listening)
        self._sweeper = spawn(self._sweep_forever(), name="listener:sweep")

    def close(self) -> None:
        """Take no more connections; those there are stay their protocols' own."""
        loop = asyncio.get_running_loop()
        for listening in self._sockets:
            loop.remove_reader(listening)
            listening.close()
        self._sockets.clear()

    async def aclose(self) -> None:
        """Close as `close` does, and wait until nothing is left of it."""
        self.close()
        await cancel_and_wait(self._sweeper, *self._connecting)

    def visit_of(self, transport: asyncio.BaseTransport | None) -> Visit | None:
        """The visit of a connection that is open."""
        if transport is None or transport.is_closing():
            return None
        return self._by_descriptor.get(transport.get_extra_info("socket").fileno())

    @property
    def num_connections(self) -> int:
        return len(self._visits)

    def sweep(self, now_s: float) -> None:
        """Forget who has left, and make those leave whose time is over."""
        for visit in list(self._visits):
            transport = visit.transport
            if visit.gone:
                self._forget(visit)
            elif transport is not None and transport.is_closing():
                visit.closing_s = visit.closing_s or now_s
                if now_s - visit.closing_s > FLUSH_S:  # it does not read what we still have for it
                    visit.abort()
            elif not visit.settled and now_s > visit.deadline_s:
                self._dismiss(visit, "too_slow")
        full = self.limits.new_at_once
        for place in [place for place in self._buckets if self._tokens(place, now_s) >= full]:
            del self._buckets[place]

    # --- accepting ----------------------------------------------------------------------------

    def _listen(self, family: int, address: tuple[object, ...]) -> None:
        listening = socket.socket(family, socket.SOCK_STREAM)
        self._sockets.append(listening)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listening.setblocking(False)
        listening.bind(address)
        listening.listen(BACKLOG)

    def _accept(self, listening: socket.socket) -> None:
        for _ in range(ACCEPTS_A_TURN):
            try:
                connection, address = listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in _NO_DESCRIPTORS:
                    raise
                self._pause(listening)
                return
            visit = self._admitted(str(address[0]), connection)
            if visit is None:
                connection.close()
                continue
            connection.setblocking(False)
            self._visits.add(visit)
            self._by_descriptor[visit.descriptor] = visit
            task = spawn(self._connect(connection, visit), name="listener:connect")
            visit.connecting = task
            self._connecting.add(task)
            task.add_done_callback(self._connecting.discard)

    async def _connect(self, connection: socket.socket, visit: Visit) -> None:
        loop = asyncio.get_running_loop()
        handed_over = False

        def protocol() -> asyncio.Protocol:
            nonlocal handed_over
            made = self._factory(visit)
            handed_over = self._encryption is not None
            return made

        try:
            if self._encryption is None:
                transport, _ = await loop.connect_accepted_socket(protocol, connection)
            else:
                transport, _ = await loop.connect_accepted_socket(
                    protocol,
                    connection,
                    ssl=self._encryption(),
                    ssl_handshake_timeout=self.limits.wait_s,
                    ssl_shutdown_timeout=SHUTDOWN_S,
                )
        except BaseException as error:
            self._forget(visit)
            if not handed_over:  # a handshake that failed is closed by its transport, a turn later
                connection.close()
            if isinstance(error, OSError):  # it left before it was let in
                return
            raise
        visit.transport = transport
        if visit not in self._visits:  # somebody newer took its place meanwhile
            visit.abort()

    def _admitted(self, host: str, connection: socket.socket) -> Visit | None:
        """A visit for a newcomer, after somebody has left for it where that is needed."""
        limits, now_s = self.limits, time.monotonic()
        visit = Visit(self._trusted.place(host), connection)
        visit.wait(limits.wait_s)
        if visit.place:
            tokens = self._tokens(visit.place, now_s)
            if tokens < 1:
                self._count("refused_rate")
                return None
            self._buckets[visit.place] = (tokens - 1, now_s)
        if len(self._visits) >= limits.waiting_per_place:  # else no limit can be reached
            for other in [other for other in self._visits if other.gone]:
                self._forget(other)
        here = [other for other in self._visits if visit.place and other.place == visit.place]
        settled = sum(other.settled for other in self._visits)
        if settled >= limits.settled or (
            sum(other.settled for other in here) >= limits.settled_per_place
        ):
            self._count("refused_full")
            return None
        waiting_here = [other for other in here if not other.settled]
        if len(waiting_here) >= limits.waiting_per_place:
            self._evict(waiting_here, 1)
        elif len(self._visits) - settled >= limits.waiting:
            self._evict([other for other in self._visits if not other.settled], 1)
        return visit

    def _tokens(self, place: str, now_s: float) -> float:
        limits = self.limits
        tokens, at_s = self._buckets.get(place, (float(limits.new_at_once), now_s))
        return min(limits.new_at_once, tokens + (now_s - at_s) * limits.new_per_s)

    def _pause(self, listening: socket.socket) -> None:
        """No descriptors: let the oldest who wait go, and try again a little later."""
        self._count("no_descriptors")
        log.warning("no descriptors left for connections", extra={"port": self.port})
        self._evict([visit for visit in self._visits if not visit.settled], EVICTED_A_TIME)
        loop = asyncio.get_running_loop()
        loop.remove_reader(listening)

        def again() -> None:
            if listening in self._sockets:
                loop.add_reader(listening, self._accept, listening)

        loop.call_later(PAUSE_S, again)

    # --- leaving ------------------------------------------------------------------------------

    def _evict(self, waiting: list[Visit], number: int) -> None:
        for visit in sorted(waiting, key=lambda visit: visit.since_s)[:number]:
            self._dismiss(visit, "evicted")

    def _dismiss(self, visit: Visit, reason: str) -> None:
        self._count(reason)
        self._forget(visit)
        if visit.transport is not None:
            visit.abort()
        elif visit.connecting is not None and self._encryption is not None:
            visit.connecting.cancel()  # in the middle of its handshake

    def _forget(self, visit: Visit) -> None:
        self._visits.discard(visit)
        if self._by_descriptor.get(visit.descriptor) is visit:
            del self._by_descriptor[visit.descriptor]

    async def _sweep_forever(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            with contextlib.suppress(OSError):
                self.sweep(time.monotonic())
