"""Delegates: other models that a session's questions are asked of, within bounds."""

import asyncio
import contextlib
import logging
import time
from collections import OrderedDict
from collections.abc import AsyncIterator

from services.common.in_flight import InFlight
from services.common.tasks import spawn
from services.gateway import metrics
from services.gateway.config import GatewayConfig
from services.gateway.delegates.circuit import Circuit
from services.gateway.delegates.guest import Guest
from services.gateway.sessions.remote_session import AnySession
from services.gateway.sessions.sessions import Sessions
from services.gateway.workers.workers import Workers
from sightline.errors import (
    InvalidArgumentError,
    ResourceExhaustedError,
    SightlineError,
    UnavailableError,
)

log = logging.getLogger(__name__)

MOST_CIRCUITS = 64  # of delegates that failed lately

BUSY, RESTING, BLIND = "busy", "resting", "blind"
AWAY, REFUSED, ANSWERED = "away", "refused", "answered"


class _NotAskedError(UnavailableError):
    """The delegate was not asked, and is not to blame."""


class Delegates:
    """Asks other models, so many at once, and none that has failed again and again. One event
    loop."""

    def __init__(self, sessions: Sessions, workers: Workers, config: GatewayConfig) -> None:
        self._sessions = sessions
        self._workers = workers
        self._timeout_s = config.delegate_timeout_s
        self._asked = InFlight("answers", owner="the delegate", most=config.delegate_answers)
        self._circuits: OrderedDict[str, Circuit] = OrderedDict()
        self._closing: set[asyncio.Task[None]] = set()

    async def aclose(self) -> None:
        """Wait until what answers have left is free."""
        while self._closing:
            await asyncio.wait(set(self._closing))

    @contextlib.asynccontextmanager
    async def guest(self, session: AnySession, name: str) -> AsyncIterator[Guest]:
        """A guest with the delegate of this name, by its model or pool, that has seen the session's
        last pictures; it counts what becomes of it. Raises the SightlineError of whoever refused.
        """
        began_s, outcome = time.monotonic(), "cancelled"  # what remains when the asker goes away
        circuit = self._circuits.get(name) or Circuit()
        try:
            if circuit.rests:
                outcome = RESTING
                raise _NotAskedError("the delegate has failed and rests")
            try:
                self._asked.enter()
            except ResourceExhaustedError:
                outcome = BUSY
                raise
            try:
                circuit.begin()
                async with self._opened(session, name) as guest:
                    yield guest
            finally:
                self._asked.leave()
            outcome = ANSWERED
            circuit.answered()
            self._circuits.pop(name, None)
            metrics.DELEGATE_SECONDS.observe(time.monotonic() - began_s)
        except _NotAskedError:
            outcome = RESTING if outcome == RESTING else BLIND
            raise
        except InvalidArgumentError:  # the question's fault
            outcome = REFUSED
            raise
        except SightlineError as error:
            if outcome != BUSY:
                outcome = AWAY
                self._failed(name, circuit)
            log.warning(
                "a question was not delegated",
                extra={"session": session.id, "delegate": name, "reason": error.message},
            )
            raise
        except (asyncio.CancelledError, GeneratorExit):
            circuit.left()
            raise
        finally:
            metrics.DELEGATED.labels(outcome).inc()

    @contextlib.asynccontextmanager
    async def _opened(self, session: AnySession, name: str) -> AsyncIterator[Guest]:
        guest = Guest(self._workers, name, self._timeout_s)
        try:
            try:
                async with asyncio.timeout(self._timeout_s):
                    glimpses = await self._sessions.media.glimpses(session)
                    if not glimpses:
                        raise _NotAskedError("there is no picture to show")
                    await guest.open(glimpses)
            except TimeoutError:
                raise UnavailableError("the delegate did not answer in time") from None
            except ValueError as error:
                raise _NotAskedError("there is no picture that could be shown") from error
            yield guest
        finally:  # nobody waits for it
            closing = spawn(guest.aclose(), name=f"{guest.id}:close")
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)

    def _failed(self, name: str, circuit: Circuit) -> None:
        circuit.failed()
        self._circuits[name] = circuit
        self._circuits.move_to_end(name)
        while len(self._circuits) > MOST_CIRCUITS:
            self._circuits.popitem(last=False)
