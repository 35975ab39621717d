"""PeerService: what other gateways ask of this one, at a port of its own."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any, Protocol

import grpc

from services.common.errors import ErrorInterceptor
from services.common.identity import Identity
from services.common.listener import cannot_listen
from services.common.server import GRPC_OPTIONS
from services.gateway.cluster.media import glimpse_message, parts_of, pictures_of, sounds_of
from services.gateway.cluster.signature import Signature
from services.gateway.config import GatewayConfig
from services.gateway.frames.sampler import Glimpse
from services.gateway.playback.broadcast import Broadcast
from services.gateway.playback.recording import Clip
from sightline.v1 import gateway_pb2, peer_pb2, peer_pb2_grpc

Context = grpc.aio.ServicerContext[Any, Any]


class Home(Protocol):
    """Gateway, as the others ask it."""

    async def hand_over(self, session: str) -> int: ...
    async def take_over(self, session: str, fence: int) -> None: ...
    async def update_here(
        self, request: gateway_pb2.UpdateSessionRequest
    ) -> gateway_pb2.Session: ...
    async def delete_here(self, session: str) -> None: ...
    async def preview_here(self, session: str, max_width: int) -> bytes | None: ...
    async def glimpses_here(self, session: str) -> list[Glimpse]: ...
    def broadcast_here(self, session: str) -> Broadcast: ...
    async def clip_here(self, session: str, from_s: float, until_s: float) -> Clip: ...
    async def hls_here(self, session: str, name: str) -> bytes: ...
    async def said_here(
        self, request: gateway_pb2.GetTranscriptRequest
    ) -> gateway_pb2.GetTranscriptResponse: ...


class PeerServicer(peer_pb2_grpc.PeerServiceServicer):
    """The port for other gateways. Every call is checked before anything else is."""

    def __init__(self, home: Home, signature: Signature, identity: Identity | None = None) -> None:
        """`identity`: what gateways show each other; None: nothing but signatures."""
        self._home = home
        self._identity = identity
        self._signature = signature
        self._server = grpc.aio.server(interceptors=[ErrorInterceptor()], options=GRPC_OPTIONS)
        peer_pb2_grpc.add_PeerServiceServicer_to_server(self, self._server)

    async def start(self, config: GatewayConfig) -> int:
        """Listen; the real port. Raises ConfigError when it is taken."""
        host = f"[{config.host}]" if ":" in config.host else config.host
        try:
            address = f"{host}:{config.peer_port}"
            if self._identity is None:
                port = self._server.add_insecure_port(address)
            else:
                credentials = self._identity.server_credentials()
                port = self._server.add_secure_port(address, credentials)
        except RuntimeError as error:
            raise cannot_listen(
                config.host, config.peer_port, "GATEWAY_PEER_PORT", "GATEWAY_HOST"
            ) from error
        await self._server.start()
        return port

    async def aclose(self) -> None:
        await self._server.stop(1.0)

    async def HandOver(
        self, request: peer_pb2.HandOverRequest, context: Context
    ) -> peer_pb2.HandOverResponse:
        self._check("HandOver", request, context)
        fence = await self._home.hand_over(request.session)
        return peer_pb2.HandOverResponse(fence=fence)

    async def Adopt(
        self, request: peer_pb2.AdoptRequest, context: Context
    ) -> peer_pb2.AdoptResponse:
        self._check("Adopt", request, context)
        await self._home.take_over(request.session, request.fence)
        return peer_pb2.AdoptResponse()

    async def UpdateSession(
        self, request: gateway_pb2.UpdateSessionRequest, context: Context
    ) -> gateway_pb2.Session:
        self._check("UpdateSession", request, context)
        return await self._home.update_here(request)

    async def DeleteSession(
        self, request: gateway_pb2.DeleteSessionRequest, context: Context
    ) -> gateway_pb2.DeleteSessionResponse:
        self._check("DeleteSession", request, context)
        await self._home.delete_here(request.session)
        return gateway_pb2.DeleteSessionResponse()

    async def Preview(
        self, request: peer_pb2.PreviewRequest, context: Context
    ) -> peer_pb2.PreviewResponse:
        self._check("Preview", request, context)
        jpeg = await self._home.preview_here(request.session, request.width)
        return peer_pb2.PreviewResponse(jpeg=jpeg or b"")

    async def Glimpse(
        self, request: peer_pb2.GlimpseRequest, context: Context
    ) -> peer_pb2.GlimpseResponse:
        self._check("Glimpse", request, context)
        glimpses = await self._home.glimpses_here(request.session)
        return peer_pb2.GlimpseResponse(glimpses=map(glimpse_message, glimpses))

    async def Relay(
        self, request: peer_pb2.RelayRequest, context: Context
    ) -> AsyncIterator[peer_pb2.RelayResponse]:
        self._check("Relay", request, context)
        broadcast = self._home.broadcast_here(request.session)
        messages = (sounds_of if request.sound else pictures_of)(broadcast)
        async with contextlib.aclosing(messages):
            async for message in messages:
                yield message

    async def GetClip(
        self, request: peer_pb2.GetClipRequest, context: Context
    ) -> AsyncIterator[peer_pb2.GetClipResponse]:
        self._check("GetClip", request, context)
        if request.hls:
            clip = Clip(await self._home.hls_here(request.session, request.hls), 0.0, 0.0)
        else:
            clip = await self._home.clip_here(request.session, request.from_s, request.until_s)
        for part in parts_of(clip):
            yield part

    async def GetTranscript(
        self, request: gateway_pb2.GetTranscriptRequest, context: Context
    ) -> gateway_pb2.GetTranscriptResponse:
        self._check("GetTranscript", request, context)
        return await self._home.said_here(request)

    def _check(self, method: str, request: Any, context: Context) -> None:
        self._signature.check(method, request, context.invocation_metadata())
