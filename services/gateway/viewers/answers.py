"""Questions on their way to a worker and answers on their way back."""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator
from typing import Protocol

import grpc

from services.common.backoff import Backoff
from services.common.errors import AWAY, error_of_peer, restarting
from services.common.finish_reasons import finish_name
from services.common.tracing import record, trace_headers
from services.gateway import metrics
from services.gateway.sessions.question_queue import Asker, QuestionQueue
from services.gateway.workers.workers import MODEL
from sightline.errors import NotFoundError, SightlineError
from sightline.reasons import Reason
from sightline.v1 import inference_pb2, inference_pb2_grpc

SPEECH_UNAVAILABLE = "speech_unavailable"
# NOT_FOUND: a worker that was restarted does not know the session until its frame stream is back.
RETRYABLE = AWAY | {grpc.StatusCode.NOT_FOUND}
# How long that is tried again. A worker that ends refuses questions for up to two seconds before
# its sessions are cut off and move, and on a busy machine another takes them a while later.
RETRY_S = 10.0
MOVING_S = 30.0  # how long a question waits for its session to get another worker


class Answerable(Protocol):
    """What a question needs of its session."""

    @property
    def id(self) -> str: ...
    @property
    def alive(self) -> bool: ...
    @property
    def stub(self) -> inference_pb2_grpc.InferenceServiceStub: ...
    @property
    def questions(self) -> QuestionQueue: ...
    async def wait_placed(self, timeout_s: float) -> bool: ...
    def check_answerable(self) -> None: ...
    def frame_age_s(self, capture_ns: int) -> float | None: ...
    def note_degraded(self, flags: list[str]) -> None: ...


async def stream_answer(
    session: Answerable,
    request: inference_pb2.AnswerRequest,
    asker: Asker,
    *,
    wait_s: float,
    timeout_s: float,
) -> AsyncGenerator[inference_pb2.AnswerEvent, None]:
    """Relay one answer, event by event: after at most `wait_s` until it is the asker's turn, within
    `timeout_s`.

    A worker that is away before its first event is asked again, or the one that the session moves
    to; once words have come a failure is raised as the SightlineError of its status. Closing the
    iterator cancels the answer. Raises FailedPreconditionError where there is no frame to ask
    about.
    """
    session.check_answerable()
    asked_s = time.monotonic()
    async with session.questions.slot(asker, wait_s):
        events = _relay(session, request, asked_s, timeout_s)
        async with contextlib.aclosing(events):
            async for event in events:
                yield event


async def _relay(
    session: Answerable, request: inference_pb2.AnswerRequest, asked_s: float, timeout_s: float
) -> AsyncGenerator[inference_pb2.AnswerEvent, None]:
    begun_s = time.monotonic()
    first_words_ns = capture_ns = 0
    age_s: float | None = None  # of the newest frame, when the answer began
    backoff = Backoff(0.05, 1.0)
    finish = "error"
    metrics.ANSWERS_IN_FLIGHT.inc()
    try:
        refused_s: float | None = None  # since when the worker has refused
        while True:
            begun = speechless = False
            left_s = timeout_s - (time.monotonic() - begun_s)
            await session.wait_placed(min(MOVING_S, left_s))
            left_s = timeout_s - (time.monotonic() - begun_s)
            call = session.stub.Answer(
                request, timeout=max(0.001, left_s), metadata=trace_headers()
            )
            try:
                async for event in call:
                    begun = True
                    kind = event.WhichOneof("event")
                    if kind == "started":
                        capture_ns = event.started.last_capture_ns
                        age_s = session.frame_age_s(capture_ns)
                    elif kind == "text_delta" and not first_words_ns:
                        first_words_ns = time.time_ns()
                        if capture_ns:
                            record("capture to first words", capture_ns, first_words_ns)
                        metrics.FIRST_TOKEN.observe(time.monotonic() - asked_s)
                    elif kind == "speech_unavailable":
                        speechless = True
                    elif kind == "done":
                        if speechless and SPEECH_UNAVAILABLE not in event.done.degraded:
                            event.done.degraded.append(SPEECH_UNAVAILABLE)
                        finish = finish_name(event.done.finish_reason)
                        session.note_degraded(list(event.done.degraded))
                        if age_s is not None:
                            event.done.newest_frame_age_ms = 1000 * age_s
                        if first_words_ns and event.done.last_capture_ns:
                            waited_ns = first_words_ns - event.done.last_capture_ns
                            metrics.CAPTURE_TO_ANSWER.observe(max(0.0, waited_ns / 1e9))
                    yield event
                return
            except grpc.aio.AioRpcError as error:
                retry = error.code() in RETRYABLE and not begun and session.alive
                now_s = time.monotonic()
                refused_s = now_s if refused_s is None else refused_s
                if not retry or now_s - refused_s > RETRY_S:
                    raise _refusal(error, session) from None
                metrics.ANSWERS_RETRIED.inc()
            finally:
                call.cancel()
            await asyncio.sleep(backoff.next_s())
    except (asyncio.CancelledError, GeneratorExit):
        if finish == "error":
            finish = "cancelled"
        raise
    finally:
        metrics.ANSWERS_IN_FLIGHT.dec()
        metrics.ANSWERS.labels(finish).inc()


def _refusal(error: grpc.aio.AioRpcError, session: Answerable) -> SightlineError:
    """What the asker is told. A worker that does not know a session which is there has been started
    again, and will know it in a moment."""
    if error.code() is grpc.StatusCode.NOT_FOUND:
        if not session.alive:
            return NotFoundError("the session was deleted", reason=Reason.SESSION_NOT_FOUND)
        return restarting(MODEL, Reason.MODEL_AWAY)
    return error_of_peer(error, MODEL)
