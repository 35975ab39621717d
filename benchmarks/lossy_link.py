"""A network that loses, delays and reorders datagrams, between WebRTC peers and a gateway."""

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

Address = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Conditions:
    """Conditions of a link, the same both ways: the share of datagrams that it loses, and the
    seconds that each takes, `delay_s` and up to `jitter_s` more, so that some overtake others."""

    loss: float = 0.0
    delay_s: float = 0.0
    jitter_s: float = 0.0


class LossyLink:
    """A router with address translation before `target`, whose `conditions` may change.

    Each sender gets a port of its own towards the target, as behind a home's router; what the
    target sends back to it goes to that sender alone. The gateway names the link's address as its
    own, and never sees a sender's. `carried` and `lost` count datagrams.
    """

    def __init__(self, conditions: Conditions, seed: int = 0) -> None:
        self.conditions = conditions
        self.target: Address | None = None
        self.carried = self.lost = 0
        self._random = random.Random(seed)
        self._outer: asyncio.DatagramTransport | None = None
        self._inner: dict[Address, asyncio.Task[asyncio.DatagramTransport]] = {}

    async def start(self, host: str) -> Address:
        """Listen; returns the address."""
        self._outer = await _endpoint(self._from_sender, (host, 0))
        return cast("Address", self._outer.get_extra_info("sockname")[:2])

    async def aclose(self) -> None:
        for opening in self._inner.values():
            (await opening).close()
        if self._outer is not None:
            self._outer.close()

    def _from_sender(self, data: bytes, sender: Address) -> None:
        self._pass(lambda: asyncio.ensure_future(self._inwards(data, sender)))

    async def _inwards(self, data: bytes, sender: Address) -> None:
        if self.target is None:
            return
        if sender not in self._inner:

            def back(reply: bytes, _: Address) -> None:
                self._pass(lambda: self._outwards(reply, sender))

            opening = _endpoint(back, ("0.0.0.0", 0))
            self._inner[sender] = asyncio.ensure_future(opening)
        transport = await self._inner[sender]
        if not transport.is_closing():
            transport.sendto(data, self.target)

    def _outwards(self, data: bytes, sender: Address) -> None:
        assert self._outer is not None
        if not self._outer.is_closing():
            self._outer.sendto(data, sender)

    def _pass(self, send: Callable[[], Any]) -> None:
        now = self.conditions
        if self._random.random() < now.loss:
            self.lost += 1
            return
        self.carried += 1
        delay_s = now.delay_s + now.jitter_s * self._random.random()
        asyncio.get_running_loop().call_later(delay_s, send)


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, take: Callable[[bytes, Address], None]) -> None:
        self._take = take

    def datagram_received(self, data: bytes, addr: tuple[str | Any, int]) -> None:
        self._take(data, addr[:2])


async def _endpoint(
    take: Callable[[bytes, Address], None], local: Address
) -> asyncio.DatagramTransport:
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(lambda: _Datagrams(take), local)
    return transport
