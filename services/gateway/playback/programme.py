"""What viewers of a session get, as whoever sends it to them needs it."""

from typing import Protocol

from services.gateway.playback.soundtrack import Listener
from services.gateway.playback.subscription import Subscription


class SoundProgramme(Protocol):
    """The sound of a session."""

    def join(self) -> Listener: ...
    def leave(self, listener: Listener) -> None: ...


class Programme(Protocol):
    """Pictures and sound of a session, whether they come in here (`Broadcast`) or at another
    gateway (`Relay`). Belongs to the event loop."""

    @property
    def sound(self) -> SoundProgramme: ...

    def join(self) -> Subscription:
        """A new viewer, who is given the pictures since the last keyframe."""
        ...

    def repeat(self, viewer: Subscription) -> None:
        """Begin again with a keyframe, for a viewer who lost a picture or has none."""
        ...

    def leave(self, viewer: Subscription) -> None: ...
