"""Maker of sessions: it finds each a worker that admits it, and opens its source."""

import secrets
from collections.abc import Callable

from services.gateway.config import GatewayConfig
from services.gateway.sessions.lease import Lease, spec_of
from services.gateway.sessions.own_source import MakeSource
from services.gateway.sessions.session import Session
from services.gateway.sessions.session_spec import SessionSpec
from services.gateway.workers.placement import Placement
from services.gateway.workers.workers import Workers
from sightline.errors import InvalidArgumentError, PermissionDeniedError
from sightline.reasons import Reason

FIRST_FENCE = 1  # of a session's leases


class SessionMaker:
    """Makes sessions that call `changed` whenever their state does. `make_source` opens what a
    `source` in a request names; it raises InvalidArgumentError for what it will not open, and its
    `start` for what it cannot.
    """

    def __init__(
        self,
        config: GatewayConfig,
        workers: Workers,
        make_source: MakeSource,
        changed: Callable[[Session], None],
    ) -> None:
        self._config = config
        self._workers = workers
        self._make_source = make_source
        self._changed = changed

    async def admit(self, spec: SessionSpec, *, leased: bool) -> Session:
        """A session that a worker with room for it has accepted; `leased`: other gateways may own
        it later. Raises the SightlineError of the workers."""
        fence = FIRST_FENCE if leased else 0
        placement = self._placement(spec, secrets.token_hex(8), fence)
        stream = await placement.open()
        return Session(spec, placement, stream, self._config, self._changed)

    async def open_source(self, session: Session) -> None:
        """Start the source of the session's own, if it has one. Raises InvalidArgumentError for
        one that cannot be read."""
        try:
            await session.open(self._make_source, self._config.open_timeout_s)
        except PermissionDeniedError as error:  # the contract knows one answer to bad sources
            raise _unreadable(error.message) from None
        except InvalidArgumentError as error:
            raise _unreadable(error.message) from None
        except TimeoutError:
            raise _unreadable("the source could not be opened in time") from None
        except (OSError, ValueError):  # a name too long, half an IPv6 address, a zero byte
            raise _unreadable("this is no source that can be opened") from None

    async def adopt(self, lease: Lease) -> tuple[Session, bool]:
        """The session of a lease, with what its worker still knows of it, or else from nothing; and
        whether the worker knew it. Raises the SightlineError of the workers."""
        spec = spec_of(lease.record)
        placement = self._placement(spec, lease.session, lease.fence)
        stream = await placement.open_again(lease.record.worker)
        before = lease.record.session
        session = Session(spec, placement, stream, self._config, self._changed, before)
        session.reopen(self._make_source, self._config.open_timeout_s, self._config.url_away_s)
        return session, stream.resumed

    def _placement(self, spec: SessionSpec, session_id: str, fence: int) -> Placement:
        return Placement(
            self._workers,
            session_id,
            window_segments=spec.window,
            max_pixels=spec.max_pixels,
            priority=spec.priority,
            grace_s=self._config.worker_grace_s,
            open_timeout_s=self._config.open_timeout_s,
            fence=fence,
            model=spec.model,
        )


def _unreadable(message: str) -> InvalidArgumentError:
    return InvalidArgumentError(message, reason=Reason.SOURCE_UNREADABLE)
