"""Conversations that were, for clients: a relay to the dialogue service.

Whoever of a tenant knows a conversation's id may read and delete it. Ids that this gateway makes
have 96 random bits; who chooses one decides how well it can be guessed.
"""

from typing import Any

import grpc

from services.common.channels import channel_to
from services.common.checks import check_id
from services.common.errors import error_of_peer
from services.common.identity import Identity
from services.gateway.auth.caller import Caller
from services.gateway.viewers.turns import Turns
from sightline.errors import InvalidArgumentError, SightlineError, UnavailableError
from sightline.reasons import Reason
from sightline.v1 import dialogue_pb2, dialogue_pb2_grpc, gateway_pb2

TIMEOUT_S = 3.0
DEFAULT_ROUNDS, MAX_ROUNDS = 100, 1000
_TOKEN_DIGITS = 18  # of a round's number, which has 64 bits


class Conversations:
    """`address` None: this gateway knows no dialogue service. `turns`: those that are held here
    until they are stored."""

    def __init__(self, address: str | None, turns: Turns, identity: Identity | None = None) -> None:
        self._turns = turns
        self._channel: grpc.aio.Channel | None = None
        if address is not None:
            self._channel = channel_to(address, identity)[0]

    @property
    def configured(self) -> bool:
        return self._channel is not None

    async def aclose(self) -> None:
        if self._channel is not None:
            await self._channel.close()

    async def get(
        self, request: gateway_pb2.GetConversationRequest, caller: Caller
    ) -> gateway_pb2.GetConversationResponse:
        """A page of rounds. Raises what GetConversation may answer."""
        check_id("conversation", request.conversation, required=True)
        history = dialogue_pb2.HistoryRequest(
            conversation=caller.conversation(request.conversation),
            limit=min(request.page_size or DEFAULT_ROUNDS, MAX_ROUNDS),
            from_round=_number(request.page_token),
        )
        reply = await self._call("History", history)
        reply.conversation.id = request.conversation  # as the caller calls it
        following = reply.first + len(reply.rounds)
        return gateway_pb2.GetConversationResponse(
            conversation=reply.conversation,
            rounds=reply.rounds,
            next_page_token=str(following) if reply.rounds and following < reply.end else "",
        )

    async def delete(
        self, request: dialogue_pb2.DeleteConversationRequest, caller: Caller
    ) -> dialogue_pb2.DeleteConversationResponse:
        """Remove a conversation. Raises what DeleteConversation may answer."""
        check_id("conversation", request.conversation, required=True)
        kept = caller.conversation(request.conversation)
        self._turns.forget(kept)
        unwanted = dialogue_pb2.DeleteConversationRequest(conversation=kept)
        reply: dialogue_pb2.DeleteConversationResponse = await self._call("Delete", unwanted)
        return reply

    async def delete_of(self, session: str) -> None:
        """Remove the conversations that began on a session. Raises what DeleteConversation may
        answer."""
        await self._call("DeleteOfSession", dialogue_pb2.DeleteOfSessionRequest(session=session))

    async def rate(
        self, request: dialogue_pb2.RateTurnRequest, caller: Caller
    ) -> dialogue_pb2.RateTurnResponse:
        """Keep what somebody thinks of an answer. Raises what RateTurn may answer."""
        check_id("conversation", request.conversation, required=True)
        check_id("turn", request.turn, required=True)
        rating = dialogue_pb2.RateTurnRequest()
        rating.CopyFrom(request)
        rating.conversation = caller.conversation(request.conversation)
        reply: dialogue_pb2.RateTurnResponse = await self._call("RateTurn", rating)
        return reply

    async def rated(self, request: dialogue_pb2.ListRatedRequest) -> dialogue_pb2.ListRatedResponse:
        """A page of rated answers. Raises what ListRated may answer."""
        reply: dialogue_pb2.ListRatedResponse = await self._call("ListRated", request)
        return reply

    async def _call(self, method: str, request: Any) -> Any:
        if self._channel is None:
            raise UnavailableError(
                "this server keeps no conversations that can be read",
                reason=Reason.CONVERSATIONS_NOT_CONFIGURED,
            )
        stub = dialogue_pb2_grpc.DialogueServiceStub(self._channel)
        try:
            return await getattr(stub, method)(request, timeout=TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            raise _away(error_of_peer(error, "the store of conversations")) from None


def _away(error: SightlineError) -> SightlineError:
    """Redis or dialogue that is away is one thing to whoever reads a conversation."""
    if isinstance(error, UnavailableError):
        return UnavailableError(
            error.message,
            reason=Reason.CONVERSATIONS_AWAY,
            retry_after_s=error.retry_after_s or 1.0,
        )
    return error


def _number(token: str) -> int:
    if not token:
        return 0
    if not (token.isascii() and token.isdecimal() and len(token) <= _TOKEN_DIGITS):
        raise InvalidArgumentError("page_token is none that a page gave")
    return int(token)
