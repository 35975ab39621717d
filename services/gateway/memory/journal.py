"""Journal: the moments of sessions at the dialogue service."""

from typing import Any

import grpc

from services.common.channels import channel_to
from services.common.errors import error_of_peer
from services.common.identity import Identity
from sightline.errors import UnavailableError
from sightline.reasons import Reason
from sightline.v1 import dialogue_pb2, dialogue_pb2_grpc

TIMEOUT_S = 3.0
STORE = "the store of memory"


class Journal:
    """Calls about moments. Raises UnavailableError while dialogue or its Redis is away."""

    def __init__(self, address: str, identity: Identity | None = None) -> None:
        self._channel, _ = channel_to(address, identity)
        self._stub = dialogue_pb2_grpc.DialogueServiceStub(self._channel)

    async def keep(
        self, session: str, moment: dialogue_pb2.Moment
    ) -> dialogue_pb2.KeepMomentResponse:
        request = dialogue_pb2.KeepMomentRequest(session=session, moment=moment)
        reply: dialogue_pb2.KeepMomentResponse = await self._call(self._stub.KeepMoment, request)
        return reply

    async def read(
        self, request: dialogue_pb2.ListMomentsRequest
    ) -> dialogue_pb2.ListMomentsResponse:
        reply: dialogue_pb2.ListMomentsResponse = await self._call(self._stub.ListMoments, request)
        return reply

    async def forget(self, session: str) -> None:
        await self._call(
            self._stub.ForgetMoments, dialogue_pb2.ForgetMomentsRequest(session=session)
        )

    async def aclose(self) -> None:
        await self._channel.close()

    async def _call(self, method: Any, request: Any) -> Any:
        try:
            return await method(request, timeout=TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            refusal = error_of_peer(error, STORE)
            if isinstance(refusal, UnavailableError):
                raise UnavailableError(
                    refusal.message,
                    reason=Reason.MEMORY_AWAY,
                    retry_after_s=refusal.retry_after_s or 1.0,
                ) from None
            raise refusal from None
