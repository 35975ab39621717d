"""The asynchronous client: `async with sightline.aio.connect("localhost:50051") as client`.

This is the implementation; `sightline.connect` is the same for programs without an event loop.
Everything here belongs to the event loop it was made in.
"""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Self

import grpc

from sightline.access import Access, default_address
from sightline.answer import Answer, Watch
from sightline.calls import Calls
from sightline.closing import AsyncClosing
from sightline.conversation import Conversation
from sightline.errors import InvalidArgumentError, SightlineError
from sightline.push import Pusher
from sightline.rules import Rules
from sightline.session import Session
from sightline.types import Audio, RatedRound, Round, ServerInfo, SessionInfo, Timeouts, Voice
from sightline.v1 import gateway_pb2 as pb
from sightline.video import VideoFile
from sightline.wire import delegate_mode, memory_kind, message_of, server_info, session_info

__all__ = ["Answer", "Client", "Conversation", "Pusher", "Session", "Watch", "connect"]

PAGE = 200  # sessions of a list that come at once


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
    """A client of the gateway at `address`, host:port or https://host:port; by default that of
    $SIGHTLINE_SERVER, else of this machine.

    The connection is encrypted for `https://`, with `tls`, with `ca` (a file of the authorities to
    be believed instead of the system's) and with `credentials` of your own. `token` (by default
    $SIGHTLINE_TOKEN) is the key or token that a server asks for; it goes over an unencrypted
    connection to another machine only with `insecure_token`: InvalidArgumentError otherwise.

    Entering it (`async with`) waits for the server and raises UnavailableError where there is none.
    """
    access = Access.of(
        default_address() if address is None else address,
        token=token,
        insecure_token=insecure_token,
        tls=tls,
        ca=ca,
        credentials=credentials,
    )
    return Client(Calls(access, timeouts or Timeouts()))


class Client(AsyncClosing):
    """A client of one server, made by `connect`."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._sessions: set[Session] = set()
        self.rules = Rules(calls)

    @property
    def timeouts(self) -> Timeouts:
        return self._calls.timeouts

    async def __aenter__(self) -> Self:
        try:
            await self._calls.wait_until_reachable()
        except BaseException:
            await self.aclose()
            raise
        return self

    async def aclose(self) -> None:
        """Stop what this client plays or asks. Sessions stay on the server until they are deleted
        or their grace time without a publisher has passed."""
        for session in list(self._sessions):
            await session.aclose()
        await self._calls.aclose()

    async def open(
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
        """Begin to watch a video.

        - a file on this machine: read here and pushed to the server; in real time, or with
          `realtime=False` as fast as the model takes it with nothing left out. `until_s` stops
          at that moment of the video. Returns when the model has seen the first picture.
        - a URL (rtmp, rtsp, http, https, udp), or with `on_server` a path below the server's media
          root: read by the server.
        - nothing, or `push=True`: waits for a publisher (`session.rtmp_url`, `session.whip_url`)
          or for `session.push`.

        `fps`, `window` (in segments) and `max_pixels` (of a frame, where the model takes several
        sizes) default to the model's preference, `grace_s` (how long the session outlives its
        publisher) to the server's. `lossless` sessions make their pusher wait instead of dropping
        frames. `labels` are yours: `sessions` finds by them. `model` is one of `info`'s models or
        pools, where there are several.
        Where a worker's memory runs short, sessions of higher `priority` (-100 to 100) keep their
        window for longer. `memory` is what is kept of what leaves the window: "off", "lines", which
        the model writes, or "pictures" as well; left out, as the server is set.
        With `listen`, what is said in the video is heard: `session.transcript`,
        and questions know of it; None: as the server is set.
        `delegate` says which questions another model answers, `delegate_to` or the server's choice,
        while this one watches on: "never", "unsure" or "always"; left out, as the server is set.
        Raises FileNotFoundError for a path that is not there, InvalidArgumentError for one that
        is no video, NotFoundError for a model that the server does not have,
        ResourceExhaustedError where no worker has room.
        """
        if source is not None and push:
            raise InvalidArgumentError("give a source or push=True, not both")
        remote = source is not None and (on_server or "://" in str(source))
        file = None
        if source is not None and not remote:
            file = await asyncio.to_thread(_local_file, Path(source), until_s)
        if lossless is None:
            lossless = file is not None and not realtime
        options = message_of(
            pb.SessionOptions,
            name=name,
            fps=fps,
            window=window,
            max_pixels=max_pixels,
            delivery=pb.DELIVERY_LOSSLESS if lossless else pb.DELIVERY_NEWEST,
            loop=loop,
            grace_s=grace_s,
            labels=labels,
            priority=priority,
            memory=memory_kind(memory),
            delegate=delegate_mode(delegate),
            delegate_to=delegate_to,
        )
        if listen is not None:  # stubs of the oldest protobuf take no None for it
            options.listen = listen
        # Drawn once for all tries: a second one gives the session that a first has made.
        request = pb.CreateSessionRequest(
            options=options, request_id=secrets.token_hex(16), model=model
        )
        if remote:
            request.source = str(source)
        else:
            request.push.key = key
        try:
            await self._calls.wait_until_reachable()
            reply = await self._calls.unary(
                self._calls.stub.CreateSession, request, self.timeouts.open_s
            )
        except BaseException:
            if file is not None:
                file.close()
            raise
        session = Session(self._calls, session_info(reply), reply.key, self._sessions.discard)
        session.rtmp_url, session.whip_url = reply.rtmp_url, reply.whip_url
        session.srt_url = reply.srt_url
        self._sessions.add(session)
        try:
            if file is not None:
                session.play(file, realtime=realtime, loop=loop)
            if source is not None:
                await session.wait_for_picture()
        except BaseException:  # nobody would know of it
            with contextlib.suppress(SightlineError):
                await session.delete()
            raise
        return session

    async def sessions(self, *, labels: Mapping[str, str] | None = None) -> list[SessionInfo]:
        """The sessions of this server that have all of these labels, oldest first."""
        found: list[SessionInfo] = []
        request = pb.ListSessionsRequest(page_size=PAGE, labels=labels)
        while True:
            reply = await self._calls.unary(self._calls.stub.ListSessions, request)
            found += map(session_info, reply.sessions)
            if not reply.next_page_token:
                return found
            request.page_token = reply.next_page_token

    async def info(self) -> ServerInfo:
        """Description of the server: its version, its models and what they can be asked, its
        limits."""
        request = pb.GetServerInfoRequest()
        return server_info(await self._calls.unary(self._calls.stub.GetServerInfo, request))

    async def history(self, conversation: str) -> list[Round]:
        """Rounds of a conversation, oldest first. Its id is all that it takes to read it.

        Raises NotFoundError for one that is not kept (any more), UnavailableError where none are.
        """
        return await self._calls.history(conversation)

    async def forget(self, conversation: str) -> bool:
        """Remove every trace of a conversation; whether there was any."""
        return await self._calls.forget(conversation)

    async def rate(
        self, conversation: str, turn: str, *, up: bool | None, better: str = ""
    ) -> None:
        """Keep with a turn whether its answer is good; `better`: what would have been right.
        `up` None takes it back. Raises NotFoundError for a turn that is not kept."""
        await self._calls.rate(conversation, turn, up=up, better=better)

    async def rated(self) -> list[RatedRound]:
        """Every answer that was rated, of all conversations. It takes the permission `admin`."""
        return await self._calls.rated()

    async def session(self, id_or_name: str, *, key: str = "") -> "Session":
        """A session that exists. `key` is needed only to push. Raises NotFoundError."""
        request = pb.GetSessionRequest(session=id_or_name)
        reply = await self._calls.unary(self._calls.stub.GetSession, request)
        session = Session(self._calls, session_info(reply), key, self._sessions.discard)
        self._sessions.add(session)
        return session

    async def voices(self) -> list[Voice]:
        """Voices of the server, its default first. UnavailableError where it has no
        voice."""
        reply = await self._calls.unary(self._calls.stub.Voices, pb.VoicesRequest())
        found = [Voice(each.id, each.language, each.engine) for each in reply.voices]
        return sorted(found, key=lambda voice: voice.id != reply.default_voice)

    async def speak(
        self, text: str, *, voice: str = "", timeout_s: float | None = None
    ) -> AsyncIterator[Audio]:
        """Text to speech, piece by piece. UnavailableError where the server has no voice."""
        request = pb.SpeakRequest(text=text, voice=voice)
        limit_s = self.timeouts.answer_s if timeout_s is None else timeout_s
        async with contextlib.aclosing(
            self._calls.stream(self._calls.stub.Speak, request, limit_s)
        ) as chunks:
            async for chunk in chunks:
                yield Audio(chunk.sample_rate, chunk.pcm)


def _local_file(path: Path, until_s: float | None) -> VideoFile:
    path = path.expanduser()
    if not path.exists():
        raise FileNotFoundError(
            f"{path} is not a file on this machine (on_server=True looks below the server's "
            "media root)"
        )
    return VideoFile(path, until_s)
