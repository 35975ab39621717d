"""A channel to a peer whose credentials change while it is used."""

import asyncio
from collections.abc import Callable
from typing import Any

import grpc

from services.common.tasks import cancel_and_wait, spawn

LAST_CALLS_S = 3600.0  # what calls under way get on a connection with older credentials


class FreshChannel(grpc.aio.Channel):
    """Every call goes over a connection with the newest credentials. Calls under way stay on the
    one they began on for up to `LAST_CALLS_S`. One event loop.

    credentials: gives the newest; another object once they changed. connect: makes a channel.
    """

    def __init__(
        self,
        credentials: Callable[[], grpc.ChannelCredentials],
        connect: Callable[[grpc.ChannelCredentials], grpc.aio.Channel],
    ) -> None:
        self._credentials = credentials
        self._connect = connect
        self._shown = credentials()
        self._channel = connect(self._shown)
        self._leaving: set[asyncio.Task[Any]] = set()

    def unary_unary(self, *args: Any, **options: Any) -> Any:
        return lambda *call, **more: self._newest().unary_unary(*args, **options)(*call, **more)

    def unary_stream(self, *args: Any, **options: Any) -> Any:
        return lambda *call, **more: self._newest().unary_stream(*args, **options)(*call, **more)

    def stream_unary(self, *args: Any, **options: Any) -> Any:
        return lambda *call, **more: self._newest().stream_unary(*args, **options)(*call, **more)

    def stream_stream(self, *args: Any, **options: Any) -> Any:
        return lambda *call, **more: self._newest().stream_stream(*args, **options)(*call, **more)

    async def close(self, grace: float | None = None) -> None:
        await cancel_and_wait(*self._leaving)
        await self._channel.close(grace)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        return self._newest().get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        await self._channel.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        await self._newest().channel_ready()

    async def __aenter__(self) -> "FreshChannel":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _newest(self) -> grpc.aio.Channel:
        credentials = self._credentials()
        if credentials is not self._shown:
            old, self._shown = self._channel, credentials
            self._channel = self._connect(credentials)
            leaving = spawn(old.close(LAST_CALLS_S), name="channel:leave")
            self._leaving.add(leaving)
            leaving.add_done_callback(self._leaving.discard)
        return self._channel
