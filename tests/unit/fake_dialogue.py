"""A dialogue service that keeps rounds in memory and whose faults are chosen."""

import asyncio
from typing import Any

import grpc

from sightline.v1 import dialogue_pb2, dialogue_pb2_grpc


class FakeDialogue(dialogue_pb2_grpc.DialogueServiceServicer):
    """Keeps rounds in memory; `refuse` fails every call, `hang` answers none."""

    def __init__(self) -> None:
        self.rounds: dict[str, list[Any]] = {}
        self.sessions: dict[str, str] = {}
        self.refuse: grpc.StatusCode | None = None
        self.refuse_turn = ""
        self.hang = False
        self.hang_in = ""  # this conversation
        self.each_s = 0.0  # what a call takes, one after the other
        self.tries = 0
        self._turn = asyncio.Lock()

    async def _fault(self, context: Any, conversation: str = "") -> None:
        self.tries += 1
        if self.refuse is not None:
            await context.abort(self.refuse, "chosen")
        if self.hang or (conversation and conversation == self.hang_in):
            await asyncio.Event().wait()
        async with self._turn:
            await asyncio.sleep(self.each_s)

    async def _found(self, conversation: str, context: Any) -> list[Any]:
        if conversation not in self.rounds:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such conversation")
        return self.rounds[conversation]

    async def Open(self, request: Any, context: Any) -> Any:
        await self._fault(context)
        self.rounds.setdefault(request.id, [])
        self.sessions.setdefault(request.id, request.session)
        return dialogue_pb2.Conversation(id=request.id)

    async def Context(self, request: Any, context: Any) -> Any:
        await self._fault(context)
        rounds = await self._found(request.conversation, context)
        return dialogue_pb2.ContextResponse(rounds=rounds[-request.rounds :])

    async def Append(self, request: Any, context: Any) -> Any:
        await self._fault(context, request.conversation)
        if request.round.turn == self.refuse_turn:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "chosen")
        rounds = await self._found(request.conversation, context)
        duplicate = any(kept.turn == request.round.turn for kept in rounds)
        if not duplicate:
            rounds.append(request.round)
        return dialogue_pb2.AppendResponse(rounds=len(rounds), duplicate=duplicate)

    def turns(self, conversation: str) -> list[str]:
        return [kept.turn for kept in self.rounds.get(conversation, [])]
