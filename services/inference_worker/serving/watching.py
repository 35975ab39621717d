"""Watching: how a standing question is asked, again and again, while there are new frames."""

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any

import grpc

from services.common.tasks import spawn
from services.inference_worker import metrics
from services.inference_worker.engine.jobs import Generation, Seen
from services.inference_worker.model.errors import NotFiniteError
from services.inference_worker.serving.brain import Brain
from services.inference_worker.serving.branch_queue import BranchQueue
from services.inference_worker.serving.guard import FALLBACK, Guard
from services.inference_worker.serving.sessions import Sessions, WorkerSession
from services.inference_worker.serving.understudy import Understudy
from services.inference_worker.serving.watch_rule import WatchRule, WatchState
from sightline.errors import FailedPreconditionError, InvalidArgumentError
from sightline.v1 import gateway_pb2, inference_pb2

log = logging.getLogger(__name__)

LEAST_INTERVAL_S, MOST_INTERVAL_S = 0.05, 3600.0
STATUS_S = 2.0  # least time between two words of how a watch stands


async def score(engine: Brain, session_id: str, tokens: list[int]) -> tuple[float, Seen]:
    """Ask for yes or no: the probability of yes, and the video it was given. Raises what the
    engine raises; cancelling it cancels the branch."""
    probability, seen, _ = await _ask(engine, session_id, tokens)
    return probability, seen


async def _ask(engine: Brain, session_id: str, tokens: list[int]) -> tuple[float, Seen, bool]:
    """The same, and whether the model would rather have said something else."""
    results = BranchQueue(asyncio.get_running_loop())
    job = Generation(tokens, 1, results, score_only=True, needs_frame=True)
    engine.submit_branch(session_id, job)
    seen = Seen(0, 0, 0)
    try:
        while True:
            kind, value = await results.queue.get()
            if kind == "started":
                seen = value
            elif kind == "scored":
                return value, seen, job.undecided
            elif kind == "failed":
                raise value
    finally:
        engine.cancel(job)


@dataclass(slots=True)
class Watcher:
    """Standing questions on sessions. `question_tokens`: of the longest condition; `per_session`:
    how many one session may have. `guard` says who is asked: while a session's answers are the
    fallback's, so is what it watches, from what was told last. `withholds`: while a session's
    pictures are none that the model knows, nothing fires."""

    engine: Brain
    sessions: Sessions
    guard: Guard
    question_tokens: int
    per_session: int
    withholds: bool = True

    async def watch(
        self, session: WorkerSession, request: inference_pb2.WatchRequest
    ) -> AsyncGenerator[gateway_pb2.WatchEvent, None]:
        """Events of one standing question, until the session ends. Raises NotFoundError then."""
        watch = request.watch
        tokens = self.engine.model.watch_tokens(watch.condition)
        if len(tokens) > self.question_tokens:
            raise InvalidArgumentError(f"the condition has {len(tokens)} tokens; too many")
        rule = WatchRule(debounce_s=watch.debounce_s, cooldown_s=watch.cooldown_s)
        state = WatchState(rule, active=request.active, fired_ns=request.fired_ns or None)
        wanted_s = watch.interval_s if watch.HasField("interval_s") else 1.0
        interval_s = min(max(wanted_s, LEAST_INTERVAL_S), MOST_INTERVAL_S)
        status = gateway_pb2.WatchStatus(watch=watch.watch)
        status.unknown_words.extend(self.engine.model.unknown_words(watch.condition))
        told_s = -STATUS_S if request.status else math.inf
        self.sessions.add_watch(session, self.per_session)
        try:
            checked = -1
            while True:
                started_s = time.monotonic()
                if (understudy := self.guard.stand_in(session)) is not None:
                    stood_in = _stood_in(understudy, session.id, watch, state)
                    async with contextlib.aclosing(stood_in) as events:
                        async for event in events:
                            yield event
                    checked = -1
                elif not (session.caught_up.is_set() and session.frames_understood != checked):
                    self.sessions.get(session.id)  # NotFoundError once it was released
                else:
                    checked = session.frames_understood
                    fired = await self._check(session, watch, tokens, state, status)
                    if fired is not None:
                        yield fired
                    if status.capture_ns and started_s - told_s >= STATUS_S:
                        told_s = started_s
                        yield gateway_pb2.WatchEvent(watch=watch.watch, status=status)
                await asyncio.sleep(max(0.0, interval_s - (time.monotonic() - started_s)))
        finally:
            session.num_watches -= 1

    async def _check(
        self,
        session: WorkerSession,
        watch: gateway_pb2.Watch,
        tokens: list[int],
        state: WatchState,
        status: gateway_pb2.WatchStatus,
    ) -> gateway_pb2.WatchEvent | None:
        """Ask the model once; the event, if that is one. `status` is brought up to date. Raises
        what the engine raises."""
        try:
            probability, seen, status.undecided = await _ask(self.engine, session.id, list(tokens))
        except FailedPreconditionError:  # all it got so far stood in for lost frames
            return None
        except NotFiniteError:
            if not self.guard.unscored(session):
                raise
            return None
        status.unfamiliar_picture = seen.unfamiliar
        if seen.unfamiliar and self.withholds:  # nobody can tell: all stays as it was told last
            status.capture_ns = seen.last_capture_ns
            metrics.WATCH_CHECKS.labels("unfamiliar").inc()
            return None
        metrics.WATCH_CHECKS.labels("yes" if probability > 0.5 else "no").inc()
        changed = state.update(probability, seen.last_capture_ns)
        status.score, status.capture_ns, status.active = (
            probability,
            seen.last_capture_ns,
            state.active,
        )
        if not changed:
            return None
        return gateway_pb2.WatchEvent(
            watch=watch.watch,
            condition=watch.condition,
            active=state.active,
            score=probability,
            capture_ns=seen.last_capture_ns,
        )


async def _stood_in(
    understudy: Understudy, session_id: str, watch: gateway_pb2.Watch, state: WatchState
) -> AsyncGenerator[gateway_pb2.WatchEvent, None]:
    """Events of the fallback, until it stands in no more or is away."""
    request = inference_pb2.WatchRequest(
        session_id=session_id, watch=watch, active=state.active, fired_ns=state.fired_ns or 0
    )
    call = understudy.watch(request)
    leaving = spawn(_cancel_once(understudy.over, call), name=f"{session_id}:watch:leave")
    try:
        async for event in call:
            state.told(event.active, event.capture_ns)
            event.degraded.append(FALLBACK)
            yield event
    except asyncio.CancelledError:  # grpc cancels the reader of a call that was cancelled
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
    except grpc.aio.AioRpcError as error:
        log.warning("the fallback watches no more", extra={"code": error.code().name})
    finally:
        call.cancel()
        leaving.cancel()


async def _cancel_once(over: asyncio.Event, call: Any) -> None:
    await over.wait()
    call.cancel()
