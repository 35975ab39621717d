"""Calls to the other gateways."""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator
from typing import Any

import grpc

from services.common.channels import channel_to
from services.common.errors import error_of_peer
from services.common.identity import Identity
from services.gateway.cluster.signature import Signature
from sightline.errors import SightlineError, UnavailableError
from sightline.v1 import peer_pb2, peer_pb2_grpc

PEER = "the gateway that has the session"
TIMEOUT_S = 7.0  # longer than a silent publisher takes to make way
PROBE_S = 0.5
MAX_CHANNELS = 64


class Peers:
    """Channels to other gateways, by address."""

    def __init__(self, signature: Signature, identity: Identity | None = None) -> None:
        self._signature = signature
        self._identity = identity
        self._channels: OrderedDict[str, grpc.aio.Channel] = OrderedDict()

    async def call(
        self, address: str, method: str, request: Any, timeout_s: float = TIMEOUT_S
    ) -> Any:
        """One call of PeerService. Raises the SightlineError of whoever is there, UnavailableError
        where nobody is."""
        stub = await self._stub(address)
        metadata = self._signature.sign(method, request)
        try:
            return await getattr(stub, method)(request, timeout=timeout_s, metadata=metadata)
        except grpc.aio.AioRpcError as error:
            raise error_of_peer(error, PEER) from None

    async def stream(self, address: str, method: str, request: Any) -> AsyncIterator[Any]:
        """What a call of PeerService that streams gives, for as long as it does. Raises as
        `call`."""
        stub = await self._stub(address)
        call = getattr(stub, method)(request, metadata=self._signature.sign(method, request))
        try:
            async for message in call:
                yield message
        except grpc.aio.AioRpcError as error:
            raise error_of_peer(error, PEER) from None
        finally:
            call.cancel()

    async def answers(self, address: str) -> bool:
        """Whether the gateway there says anything at all within `PROBE_S`: that it has no session
        without a name is enough."""
        try:
            await self.call(address, "Preview", peer_pb2.PreviewRequest(), PROBE_S)
        except UnavailableError:
            return False
        except SightlineError:
            return True
        return True

    async def _stub(self, address: str) -> Any:
        channel = self._channels.get(address)
        if channel is None:
            channel, _ = channel_to(address, self._identity)
            self._channels[address] = channel
            while len(self._channels) > MAX_CHANNELS:
                await self._channels.popitem(last=False)[1].close()
        return peer_pb2_grpc.PeerServiceStub(channel)

    async def aclose(self) -> None:
        await asyncio.gather(*(channel.close() for channel in self._channels.values()))


async def is_dead(address: str) -> bool:
    """Whether nobody listens there any more, as far as that can be told at once: a machine that is
    gone does not say so."""
    host, _, port = address.rpartition(":")
    try:
        async with asyncio.timeout(PROBE_S):
            _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
    except ConnectionRefusedError:
        return True
    except (OSError, TimeoutError):
        return False
    writer.close()
    return False
