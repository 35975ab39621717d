"""Delegation: which questions of a session another model answers, and that somebody does.

The session's own model goes on watching meanwhile, and answers where the other cannot.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable
from functools import partial

from services.gateway import metrics
from services.gateway.config import GatewayConfig
from services.gateway.delegates.delegates import Delegates
from services.gateway.memory.recaller import Found
from services.gateway.sessions.remote_session import AnySession
from services.gateway.sessions.session_spec import NEVER
from services.gateway.sessions.sessions import Sessions
from services.gateway.viewers.answers import Asked, Events, Relay, stream_answer
from services.gateway.workers.workers import Workers
from sightline.errors import SightlineError, UnavailableError
from sightline.v1 import gateway_pb2, inference_pb2

DELEGATE_UNAVAILABLE = "delegate_unavailable"
UNSURE = gateway_pb2.DELEGATE_MODE_UNSURE
# What a worker says of an answer that nobody should rely on.
_SYMPTOMS = frozenset(
    {"answer_unsure", "answer_repeats", "answer_empty", "answer_not_finite", "answer_endless"}
)

Answer = Callable[[], Events]


class Delegation:
    """Answers questions by whichever model is to answer them. One event loop."""

    def __init__(self, sessions: Sessions, workers: Workers, config: GatewayConfig) -> None:
        self._delegates = Delegates(sessions, workers, config)
        self._least_confidence = config.delegate_confidence
        self._patience_s = config.delegate_timeout_s

    async def aclose(self) -> None:
        await self._delegates.aclose()

    async def stream_answer(self, asked: Asked) -> Events:
        """As `stream_answer` of the session's own model, which is all that is done where the
        session delegates nothing. Where it asks only when unsure, the own model's answer is held
        back until it is known whether it stands. An answer of the delegate's says so; where there
        is none, the own one comes and says that."""
        mode, name = asked.session.delegation
        own = partial(stream_answer, asked)
        delegate = partial(self._ask, asked, name)
        if mode == NEVER:
            events = own()
        elif mode == UNSURE:
            events = self._if_unsure(asked, own, delegate)
        else:
            events = self._first_of(asked, own, delegate)
        async with contextlib.aclosing(events):
            async for event in events:
                yield event

    async def _first_of(self, asked: Asked, own: Answer, delegate: Answer) -> Events:
        """The delegate's answer, or else the own model's."""
        session, request = asked.session, asked.request
        session.check_answerable()
        request.said = session.said_lines()
        found = await asked.recaller.recall(session, request)
        async with contextlib.aclosing(_either(session, found, delegate, own)) as events:
            async for event in events:
                yield event

    async def _if_unsure(self, asked: Asked, own: Answer, delegate: Answer) -> Events:
        """The own model's answer where that is sure of it, or else the delegate's."""
        async with contextlib.aclosing(own()) as events:
            held = [event async for event in events]
        if not held or not self._is_unsure(held[-1].done):
            metrics.DELEGATED.labels("kept").inc()
            for event in held:
                yield event
            return
        asked.request.said = asked.session.said_lines()
        either = _either(asked.session, Found(), delegate, partial(_each, held))
        async with contextlib.aclosing(either) as events:
            async for event in events:
                yield event

    async def _ask(self, asked: Asked, name: str) -> Events:
        """The delegate's answer. Raises the SightlineError that there is none for."""
        asked_s = time.monotonic()
        async with self._delegates.guest(asked.session, name) as guest:
            request = inference_pb2.AnswerRequest()
            request.CopyFrom(asked.request)
            request.session_id, request.home = guest.id, asked.session.id
            for (
                moment
            ) in request.recall.moments:  # its pictures have the size of the other's frames
                moment.ClearField("pixels")
            # Without patience for another worker: the session's own model is there.
            relay = Relay(guest, request, asked.turns, asked_s, 0.0, asked.patience.timeout_s)
            async with contextlib.aclosing(relay.events()) as events:
                async for event in self._in_time(events):
                    if event.WhichOneof("event") == "done":
                        event.done.answered_by = guest.model
                    yield event

    async def _in_time(self, events: Events) -> Events:
        """These events. Raises UnavailableError where none comes for too long."""
        while True:
            try:
                async with asyncio.timeout(self._patience_s):
                    event = await anext(events, None)
            except TimeoutError:
                raise UnavailableError("the delegate has been silent for too long") from None
            if event is None:
                return
            yield event

    def _is_unsure(self, done: gateway_pb2.AnswerDone) -> bool:
        """Whether a model doubts its answer, or knows that it has none, and its memory has none
        either. What it calls is none of its words."""
        if done.tool_calls or done.memory:
            return False
        doubts = done.HasField("confidence") and done.confidence < self._least_confidence
        return (
            done.unsure
            or done.unfamiliar_picture
            or doubts
            or not _SYMPTOMS.isdisjoint(done.degraded)
        )


async def _either(session: AnySession, found: Found, delegate: Answer, own: Answer) -> Events:
    """The delegate's answer, made of what was `found`; the own model's where that comes to nothing.
    Once there were words, the next `started` says that the answer begins anew."""
    begun: set[str] = set()  # kinds of events that the asker has had
    formed = False
    try:
        async with contextlib.aclosing(delegate()) as events:
            async for event in events:
                kind = event.WhichOneof("event") or ""
                begun.add(kind)
                if kind == "started":
                    formed = event.started.formed
                elif kind == "done":
                    event.done.memory.extend(found.recollections)
                    event.done.degraded.extend(found.degraded)
                    session.note_degraded(list(event.done.degraded))
                yield event
        return
    except SightlineError:  # which is in the log
        if "done" in begun:
            return
    async with contextlib.aclosing(own()) as events:
        async for event in events:
            kind = event.WhichOneof("event")
            if kind == "started" and begun & {"text_delta", "audio_chunk"}:
                event.started.restarted = True
            elif kind == "started" and begun and event.started.formed == formed:
                continue
            elif kind == "done":
                event.done.degraded.append(DELEGATE_UNAVAILABLE)
                session.note_degraded(list(event.done.degraded))
            yield event


async def _each(events: list[inference_pb2.AnswerEvent]) -> Events:
    for event in events:
        yield event
