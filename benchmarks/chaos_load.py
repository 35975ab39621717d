"""People who ask and watch while a suite is broken around them, and what became of it all."""

import asyncio
import random
import secrets
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc

import sightline
from sightline import aio
from sightline.errors import NotFoundError, SightlineError
from sightline.v1 import gateway_pb2, gateway_pb2_grpc

QUESTIONS = (
    "What is in the scene?",
    "What changed?",
    "How many objects are there?",
    "Is there a red circle?",
    "Which way is it moving?",
)
CONDITION = "there are two objects"
ANSWER_S = 60.0
PAUSE_S = (0.1, 0.8)  # between an answer and the next question
ROUNDS = 400  # of a conversation, of which the oldest are not kept for ever
CANCELLED = 0.08  # of the questions
STORED_S = 30.0  # for what is held when the last fault is over


@dataclass(slots=True)
class Asked:
    """One question as its viewer saw it. Monotonic seconds; `error` is why there was no answer."""

    turn: str
    question: str
    asked_s: float
    done_s: float = 0.0
    conversation: str = ""
    text: str = ""
    cancelled: bool = False
    restarted: bool = False
    kept: bool | None = None
    error: str = ""


@dataclass(slots=True)
class Differences:
    """Differences between a conversation's history and what its viewer read. `told`: a sentence on
    each."""

    lost: int = 0
    doubled: int = 0
    different: int = 0
    told: list[str] = field(default_factory=list, compare=False)

    def add(self, other: "Differences") -> None:
        self.lost += other.lost
        self.doubled += other.doubled
        self.different += other.different
        self.told += other.told


class Asker:
    """One viewer, who asks one question after the other. `session`: which it is about; `rounds`: of
    a conversation, before the next begins."""

    rounds = ROUNDS

    def __init__(self, session: aio.Session, chance: random.Random) -> None:
        self.session = session
        self.asked: list[Asked] = []
        self._chance = chance
        self._over = asyncio.Event()

    def finish(self) -> None:
        """Ask no more; `run` returns after the answer under way."""
        self._over.set()

    async def run(self) -> None:
        while not self._over.is_set():
            await self.ask()
            await asyncio.sleep(self._chance.uniform(*PAUSE_S))

    async def ask(self) -> Asked:
        """One question, to the end of its answer."""
        asked = Asked("", self._chance.choice(QUESTIONS), time.monotonic())
        if len(self.asked) % self.rounds == 0:
            await self._begin()
        self.asked.append(asked)
        try:
            await self._ask(asked)
        except SightlineError as error:
            asked.error = f"{error.code.name}: {error.message}"
        asked.done_s = time.monotonic()
        return asked

    async def _begin(self) -> None:
        """Another conversation."""
        raise NotImplementedError

    async def _ask(self, asked: Asked) -> None:
        """Ask, and note turn, conversation and what came of it. Raises SightlineError."""
        raise NotImplementedError

    async def differences(self, client: aio.Client) -> Differences:
        """Differences of all its conversations."""
        found = Differences()
        for conversation in dict.fromkeys(each.conversation for each in self.asked):
            said = [each for each in self.asked if each.conversation == conversation]
            if conversation:
                found.add(await self._differences(client, conversation, said))
        return found

    async def _differences(
        self, client: aio.Client, conversation: str, said: list[Asked]
    ) -> Differences:
        """Differences of one conversation's history, once it has every turn or had the time to."""
        answered = {each.turn: each for each in said if each.turn and not each.error}
        wanted = {turn for turn, each in answered.items() if not each.cancelled}
        end_s = time.monotonic() + STORED_S
        while True:
            try:
                history = await client.history(conversation)
            except (NotFoundError, sightline.UnavailableError):
                history = []
            if wanted <= {each.turn for each in history} or time.monotonic() > end_s:
                break
            await asyncio.sleep(0.5)
        turns = Counter(each.turn for each in history)
        lost, doubled = wanted - set(turns), [turn for turn, count in turns.items() if count > 1]
        found = Differences(len(lost), sum(turns[turn] - 1 for turn in doubled))
        found.told += [f"{conversation}: {answered[turn]} is lost" for turn in lost]
        found.told += [f"{conversation}: {turn} is there {turns[turn]} times" for turn in doubled]
        read = [turn for turn in answered if turn in turns]
        kept = [each.turn for each in history if each.turn in answered]
        if kept != read:
            found.different += 1
            pairs = enumerate(zip(kept, read, strict=False))
            where = next((at for at, (a, b) in pairs if a != b), len(read))
            around = slice(max(0, where - 1), where + 3)
            found.told.append(f"{conversation}: {read[around]} were kept as {kept[around]}")
        for round_ in history:
            if (seen := answered.get(round_.turn)) is not None:
                same = round_.answer == seen.text
                if seen.cancelled:  # it may have been made whole before its worker heard of that
                    same = round_.answer.startswith(seen.text)
                if not same or round_.question != seen.question:
                    found.different += 1
                    found.told.append(f"{conversation}: {seen} was kept as {round_.answer!r}")
        return found


class Talker(Asker):
    """A viewer of the SDK, on a line of its own."""

    def __init__(self, session: aio.Session, chance: random.Random) -> None:
        super().__init__(session, chance)
        self._line = session.conversation()

    async def _begin(self) -> None:
        await self._line.aclose()
        self._line = self.session.conversation()

    async def _ask(self, asked: Asked) -> None:
        answer = self._line.ask(asked.question, timeout_s=ANSWER_S)
        asked.turn = answer.turn
        if self._chance.random() < CANCELLED:
            await asyncio.sleep(self._chance.uniform(0.0, 0.1))
            result = await answer.cancel()
        else:
            result = await answer.result()
        asked.text, asked.restarted, asked.kept = result.text, result.restarted, result.kept
        asked.cancelled = result.finish_reason is sightline.FinishReason.CANCELLED
        asked.conversation = result.conversation

    async def aclose(self) -> None:
        await self._line.aclose()


SILENT_S = 4.0  # after which a caller asks another gateway in any case
LOOK_S = 1.0  # between two looks whether a gateway says anything, for which it has as long
_AWAY = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)


class Caller(Asker):
    """A program that asks by one-shot calls. Of several gateways it asks the next, with the same
    turn, where one is away or silent; with one alone it tries nothing twice."""

    def __init__(
        self, session: aio.Session, chance: random.Random, gateways: Sequence[str]
    ) -> None:
        super().__init__(session, chance)
        self._conversation = ""
        self._channels = [grpc.aio.insecure_channel(gateway) for gateway in gateways]
        self._stubs: list[Any] = [
            gateway_pb2_grpc.SightlineServiceStub(channel) for channel in self._channels
        ]

    async def _begin(self) -> None:
        self._conversation = f"chaos-{secrets.token_hex(8)}"

    async def _ask(self, asked: Asked) -> None:
        asked.turn, asked.conversation = secrets.token_hex(8), self._conversation
        question = gateway_pb2.Question(turn=asked.turn, text=asked.question)
        request = gateway_pb2.AskRequest(
            session=self.session.id, conversation=self._conversation, question=question
        )
        while True:
            left_s = asked.asked_s + ANSWER_S - time.monotonic()
            patient = len(self._stubs) > 1
            timeout_s = max(0.1, min(left_s, SILENT_S) if patient else left_s)
            try:
                reply = await self._reply(request, timeout_s, watched=patient)
                break
            except grpc.aio.AioRpcError as error:
                self._stubs.append(self._stubs.pop(0))
                if not (patient and error.code() in _AWAY and left_s > 0):
                    asked.error = f"{error.code().name}: {error.details()}"
                    return
            await asyncio.sleep(0.1)
        asked.text, asked.restarted = reply.answer.text, bool(reply.answer.resumed)
        asked.kept = reply.answer.kept if reply.answer.HasField("kept") else None

    async def _reply(
        self, request: gateway_pb2.AskRequest, timeout_s: float, *, watched: bool
    ) -> gateway_pb2.AskResponse:
        """Reply of the first gateway. Raises AioRpcError, also where it is `watched` and says
        nothing about itself in the meantime."""
        stub = self._stubs[0]
        asking = asyncio.ensure_future(_replied(stub.Ask(request, timeout=timeout_s)))
        try:
            while not (await asyncio.wait({asking}, timeout=LOOK_S))[0]:
                if watched:
                    await stub.GetServerInfo(gateway_pb2.GetServerInfoRequest(), timeout=LOOK_S)
            return await asking
        finally:
            asking.cancel()

    async def aclose(self) -> None:
        for channel in self._channels:
            await channel.close()


async def _replied(call: Any) -> gateway_pb2.AskResponse:
    reply: gateway_pb2.AskResponse = await call
    return reply


@dataclass(slots=True)
class Watcher:
    """A standing question. `still`: nothing ever changes in its video."""

    session: aio.Session
    still: bool
    events: list[bool] = field(default_factory=list)
    error: str = ""

    async def run(self) -> None:
        """Run until cancelled, or the watch is gone."""
        try:
            async for event in self.session.watch(CONDITION, interval_s=0.2):
                self.events.append(event.active)
            self.error = "it ended"
        except SightlineError as error:
            self.error = f"{error.code.name}: {error.message}"

    @property
    def false_events(self) -> int:
        """Events that are none: the same twice, or more than the first of a still scene."""
        doubled = sum(a == b for a, b in zip(self.events, self.events[1:], strict=False))
        return doubled + (max(0, len(self.events) - 1) if self.still else 0)
