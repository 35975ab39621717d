"""The client for programs without an event loop: `with sightline.connect(…) as client`.

A thin skin over `sightline.aio`: everything runs on one background event loop, shared by all
clients of the process, and these classes wait for it. They may be used from several threads.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

import grpc

from sightline import aio
from sightline.background import background
from sightline.client_session import Answer, Conversation, Pusher, Session, Watch
from sightline.closing import Closing
from sightline.rule_client import Rules
from sightline.types import (
    Audio,
    RatedRound,
    Round,
    ServerInfo,
    SessionInfo,
    Timeouts,
    Voice,
)

__all__ = ["Answer", "Client", "Conversation", "Pusher", "Session", "Watch", "connect"]


def connect(
    address: str | None = None,
    *,
    timeouts: Timeouts | None = None,
    token: str | None = None,
    insecure_token: bool = False,
    tls: bool = False,
    ca: str | Path | None = None,
    credentials: grpc.ChannelCredentials | None = None,
) -> "Client":
    """A client of the gateway at `address`, connected; `sightline.aio.connect` says what the
    options are. Raises UnavailableError when nobody answers there."""

    async def make() -> aio.Client:
        client = aio.connect(
            address,
            timeouts=timeouts,
            token=token,
            insecure_token=insecure_token,
            tls=tls,
            ca=ca,
            credentials=credentials,
        )
        return await client.__aenter__()

    return Client(background.run(make()))


class Client(Closing):
    """A client of one server, made by `connect`. `sightline.aio.Client` says what each method
    does."""

    def __init__(self, client: aio.Client) -> None:
        self._client = client
        self.rules = Rules(client.rules)

    def close(self) -> None:
        """Stop what this client plays or asks, and disconnect. Sessions stay on the server."""
        background.run(self._client.aclose())

    def open(
        self,
        source: str | Path | None = None,
        *,
        name: str = "",
        push: bool = False,
        key: str = "",
        on_server: bool = False,
        realtime: bool = True,
        loop: bool = False,
        until_s: float | None = None,
        lossless: bool | None = None,
        fps: float = 0.0,
        window: int = 0,
        max_pixels: int = 0,
        grace_s: float | None = None,
        labels: Mapping[str, str] | None = None,
        model: str = "",
        priority: int = 0,
        memory: str = "",
        listen: bool | None = None,
        delegate: str = "",
        delegate_to: str = "",
    ) -> "Session":
        """Begin to watch a video: a file of this machine (played to the server in the
        background), a URL or, with `on_server`, a file there, or nothing yet (`push=True`)."""
        session = self._client.open(
            source,
            name=name,
            push=push,
            key=key,
            on_server=on_server,
            realtime=realtime,
            loop=loop,
            until_s=until_s,
            lossless=lossless,
            fps=fps,
            window=window,
            max_pixels=max_pixels,
            grace_s=grace_s,
            labels=labels,
            model=model,
            priority=priority,
            memory=memory,
            listen=listen,
            delegate=delegate,
            delegate_to=delegate_to,
        )
        return Session(background.run(session))

    def sessions(self, *, labels: Mapping[str, str] | None = None) -> list[SessionInfo]:
        """The sessions of this server that have all of these labels, oldest first."""
        return background.run(self._client.sessions(labels=labels))

    def info(self) -> ServerInfo:
        """Description of the server: its version, its models and what they can be asked, its
        limits."""
        return background.run(self._client.info())

    def history(self, conversation: str) -> list[Round]:
        """Rounds of a conversation, oldest first."""
        return background.run(self._client.history(conversation))

    def forget(self, conversation: str) -> bool:
        """Remove every trace of a conversation; whether there was any."""
        return background.run(self._client.forget(conversation))

    def rate(self, conversation: str, turn: str, *, up: bool | None, better: str = "") -> None:
        """Keep with a turn whether its answer is good; `better`: what would have been right.
        `up` None takes it back. Raises NotFoundError for a turn that is not kept."""
        background.run(self._client.rate(conversation, turn, up=up, better=better))

    def rated(self) -> list[RatedRound]:
        """Every answer that was rated, of all conversations. It takes the permission `admin`."""
        return background.run(self._client.rated())

    def session(self, id_or_name: str, *, key: str = "") -> "Session":
        """A session that exists. `key` is needed only to push. Raises NotFoundError."""
        return Session(background.run(self._client.session(id_or_name, key=key)))

    def voices(self) -> list[Voice]:
        """Voices of the server, its default first."""
        return background.run(self._client.voices())

    def speak(
        self, text: str, *, voice: str = "", timeout_s: float | None = None
    ) -> Iterator[Audio]:
        """Text to speech: (sample_rate, pcm) pieces."""
        return background.iterate(self._client.speak(text, voice=voice, timeout_s=timeout_s))
