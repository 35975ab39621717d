"""An answer that is begun before its question is asked: while its asker, who speaks, may be silent
or may only take a breath."""

import asyncio
import contextlib
from collections.abc import Callable

from services.common.tasks import spawn
from services.common.tracing import span
from services.gateway import metrics
from services.gateway.viewers.answers import Events, Taker
from sightline.v1 import gateway_pb2, inference_pb2


class Ahead:
    """The beginning of one answer, which nobody is told of until it is claimed; then it is as any
    other. Dropped, it was never asked: nothing is kept of it.

    What it holds needs no bound: it is part of one answer, and is claimed or dropped by the time a
    silence has its longest length.
    """

    def __init__(
        self,
        request: inference_pb2.AnswerRequest,
        begin: Callable[[Taker], Events],
        turns: Taker,
    ) -> None:
        """begin: the events of the answer, and whom to tell of its end in the place of `turns`."""
        self._asked = inference_pb2.AnswerRequest()
        self._asked.CopyFrom(request)
        request.ahead = True
        self.request = request
        self.failed = False
        self._claimed = False
        self._turns = _Withheld(turns)
        self._events: asyncio.Queue[inference_pb2.AnswerEvent | Exception | None]
        self._events = asyncio.Queue()
        self.task = spawn(self._run(begin(self._turns)), name=f"{request.session_id}:ahead")

    def answers(self, asked: inference_pb2.AnswerRequest) -> bool:
        """Whether this is what it answers, and it can."""
        return not self.failed and self._asked == asked

    def drop(self) -> None:
        """The question is not asked. Nothing once it is claimed."""
        if not self._claimed:
            metrics.VOICE_AHEAD.labels("dropped").inc()
            self.task.cancel()

    def claim(self) -> Events:
        """The question is asked: all events of its answer, from the first on. Its asker says by
        `end` that no more are needed."""
        metrics.VOICE_AHEAD.labels("used").inc()
        self._claimed = True
        self._turns.release()
        return self._rest()

    def end(self, _: object = None) -> None:
        self.task.cancel()

    async def _rest(self) -> Events:
        while (event := await self._events.get()) is not None:
            if isinstance(event, Exception):
                raise event
            yield event

    async def _run(self, events: Events) -> None:
        try:
            with span("question ahead", session=self.request.session_id):
                async with contextlib.aclosing(events):
                    async for event in events:
                        self._events.put_nowait(event)
            self._events.put_nowait(None)
        except Exception as error:
            self.failed = True
            self._events.put_nowait(error)


class _Withheld:
    """Keeps what an answer's end is told for later."""

    def __init__(self, turns: Taker) -> None:
        self._turns = turns
        self._told: list[Callable[[], None]] | None = []

    def release(self) -> None:
        told, self._told = self._told or [], None
        for tell in told:
            tell()

    def answered(self, request: inference_pb2.AnswerRequest, done: gateway_pb2.AnswerDone) -> None:
        self._tell(lambda: self._turns.answered(request, done))

    def cut_off(
        self, request: inference_pb2.AnswerRequest, text: str, last_capture_ns: int
    ) -> None:
        self._tell(lambda: self._turns.cut_off(request, text, last_capture_ns))

    def _tell(self, tell: Callable[[], None]) -> None:
        if self._told is None:
            tell()
        else:
            self._told.append(tell)
