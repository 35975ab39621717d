"""Attachment of a Realtime conversation to one session: its viewer there."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

from services.common.tasks import cancel_and_wait, spawn
from services.gateway.auth.caller import Caller
from services.gateway.sessions.remote_session import AnySession
from services.gateway.viewers.viewers import Viewers
from sightline.errors import SightlineError
from sightline.v1 import dialogue_pb2, gateway_pb2

Heard = Callable[[gateway_pb2.ServerEvent], Awaitable[None]]


class Attachment:
    """A viewer of `session`, made at once: its limits, permissions and quotas hold as for any.

    `hear` is given all that the viewer is told, and `lost` is called when that comes to an end by
    itself. Raises what a viewer may be refused with.
    """

    def __init__(
        self,
        viewers: Viewers,
        session: AnySession,
        caller: Caller,
        *,
        place: str,
        hear: Heard,
        lost: Callable[[], None],
    ) -> None:
        start = gateway_pb2.Start(session=session.id)
        self._viewer = viewers.open(start, place, caller, session)
        self._caller = caller
        self._hear = hear
        self._lost = lost
        self._left = False
        self._over = asyncio.Event()
        attending = self._attend(viewers)
        self._attending = spawn(attending, name=f"{session.id}:realtime")

    @property
    def session(self) -> AnySession:
        return self._viewer.session

    def ask(
        self,
        question: gateway_pb2.Question,
        history: Sequence[dialogue_pb2.Round],
        *,
        speech: bool,
        voice: str,
        ahead: bool = False,
    ) -> None:
        """Ask, after what was said before; ahead: begin to answer what may be asked in a moment,
        and tell nobody. Raises what is wrong with it."""
        self._viewer.adopt(gateway_pb2.Start(speech=speech, voice=voice), self._caller)
        ask = self._viewer.expect if ahead else self._viewer.ask_with
        ask(question, history)

    def expect_nothing(self) -> None:
        """Drop what was begun so, unless it was asked."""
        self._viewer.expect(None)

    def cancel(self, turn: str) -> None:
        self._tell(gateway_pb2.ClientEvent(cancel=gateway_pb2.Cancel(turn=turn)))

    def watch(self, watch: gateway_pb2.Watch) -> None:
        self._tell(gateway_pb2.ClientEvent(watch=watch))

    def unwatch(self, watch: str) -> None:
        self._tell(gateway_pb2.ClientEvent(unwatch=gateway_pb2.Unwatch(watch=watch)))

    def leave(self) -> None:
        """Hear no more. Answers and watches under way end."""
        self._left = True
        self._attending.cancel()
        self._viewer.close("left", discard=True)

    async def aclose(self) -> None:
        """Leave, and wait for it."""
        self.leave()
        await cancel_and_wait(self._attending)
        await self._viewer.wait_closed()

    def _tell(self, event: gateway_pb2.ClientEvent) -> None:
        self._viewer.handle_event(event)

    async def _attend(self, viewers: Viewers) -> None:
        try:
            await viewers.attend(self._viewer, self._silence(), self._heard)
        except (SightlineError, ConnectionError):
            self._lost()  # the client has left, or reads nothing
        except Exception:
            self._lost()
            raise
        else:
            self._lost()

    async def _heard(self, event: gateway_pb2.ServerEvent) -> None:
        if not self._left:
            await self._hear(event)

    async def _silence(self) -> AsyncIterator[gateway_pb2.ClientEvent]:
        """No events: what the client says is told to the viewer at once."""
        await self._over.wait()
        return
        yield
