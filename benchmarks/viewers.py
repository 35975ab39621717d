"""People who talk to a session while it watches: one question after another on one line."""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import grpc

from sightline.v1 import gateway_pb2, gateway_pb2_grpc

QUESTIONS = (
    "What is in the scene?",
    "How many objects are there?",
    "What came last?",
    "Is there a red shirt?",
    "What is the hand holding?",
)
ANSWER_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class Answered:
    """An answer as its viewer saw it, from sending the question. `saw_ms`: age of the newest frame
    it was about when its first words came."""

    asked_s: float
    first_ms: float
    whole_ms: float
    saw_ms: float
    tokens: int
    history_rounds: int


@dataclass(slots=True)
class Viewer:
    """Asks every `interval_s`, one answer at a time, in one conversation. Monotonic seconds."""

    stub: gateway_pb2_grpc.SightlineServiceStub
    session: str
    interval_s: float
    delay_s: float
    answered: list[Answered] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    late: int = 0  # questions that could not be asked in time, because an answer took too long

    async def run(self) -> None:
        """Run until cancelled."""
        outgoing: asyncio.Queue[gateway_pb2.ClientEvent] = asyncio.Queue()

        async def events() -> AsyncIterator[gateway_pb2.ClientEvent]:
            while True:
                yield await outgoing.get()

        start = gateway_pb2.Start(session=self.session)
        outgoing.put_nowait(gateway_pb2.ClientEvent(start=start))
        call = self.stub.Converse(events())
        try:
            await self._expect(call, "started")
            due_s = time.monotonic() + self.delay_s
            for number in count():
                await asyncio.sleep(due_s - time.monotonic())
                await self._ask(call, outgoing, number)
                due_s += self.interval_s
                while due_s < time.monotonic():
                    due_s += self.interval_s
                    self.late += 1
        finally:
            call.cancel()

    async def _ask(
        self,
        call: Any,
        outgoing: "asyncio.Queue[gateway_pb2.ClientEvent]",
        number: int,
    ) -> None:
        text = QUESTIONS[number % len(QUESTIONS)]
        question = gateway_pb2.Question(turn=f"{number}", text=text)
        asked_s, first_s, first_ns = time.monotonic(), 0.0, 0
        outgoing.put_nowait(gateway_pb2.ClientEvent(ask=question))
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                while True:
                    event = await call.read()
                    if event is grpc.aio.EOF:
                        raise ConnectionError("the line ended")
                    kind = event.WhichOneof("event")
                    if kind == "text_delta" and not first_s:
                        first_s, first_ns = time.monotonic(), time.time_ns()
                    elif kind == "error":
                        self.failures.append(f"{event.error.code}: {event.error.message}")
                        return
                    elif kind == "answer_done":
                        break
        except TimeoutError:
            self.failures.append("no answer in time")
            return
        done = event.answer_done
        if not first_s or done.finish_reason == gateway_pb2.FINISH_REASON_ERROR:
            self.failures.append("an empty answer")
            return
        self.answered.append(
            Answered(
                asked_s=asked_s,
                first_ms=1000 * (first_s - asked_s),
                whole_ms=1000 * (time.monotonic() - asked_s),
                saw_ms=(first_ns - done.last_capture_ns) / 1e6,
                tokens=done.answer_tokens,
                history_rounds=done.history_rounds,
            )
        )

    async def _expect(self, call: Any, kind: str) -> None:
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            event = await call.read()
        if event is grpc.aio.EOF or event.WhichOneof("event") != kind:
            raise ConnectionError(f"{kind} did not come first: {event}")
