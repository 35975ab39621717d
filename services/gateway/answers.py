"""Questions on their way to a worker and answers on their way back."""

import asyncio
import math
import time
from collections.abc import AsyncGenerator
from typing import Protocol

import grpc

from services.gateway import metrics
from services.gateway.router import Backoff
from sightline.errors import InvalidArgumentError, error_from_status
from sightline.v1 import gateway_pb2, inference_pb2, inference_pb2_grpc

MAX_QUESTION_BYTES = 4096
MAX_ID_CHARACTERS = 128
MAX_ANSWER_TOKENS = 4096
MAX_STOPS, MAX_STOP_CHARACTERS = 16, 64
SPEECH_UNAVAILABLE = "speech_unavailable"
# NOT_FOUND: a worker that was restarted does not know the session until its frame stream is back.
_RETRYABLE = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.NOT_FOUND})
_RETRIES = 6
_FINISH_NAMES = {
    gateway_pb2.FINISH_REASON_STOP: "stop",
    gateway_pb2.FINISH_REASON_LENGTH: "length",
    gateway_pb2.FINISH_REASON_CANCELLED: "cancelled",
}


class Answerable(Protocol):
    """What a question needs of its session."""

    @property
    def id(self) -> str: ...
    @property
    def alive(self) -> bool: ...
    @property
    def stub(self) -> inference_pb2_grpc.InferenceServiceStub: ...
    def note_degraded(self, flags: list[str]) -> None: ...


def check_question(question: gateway_pb2.Question) -> None:
    """Raise InvalidArgumentError for a question no worker should see."""
    check_id("turn", question.turn)
    size_bytes = len(question.text.encode())
    if size_bytes > MAX_QUESTION_BYTES:
        raise InvalidArgumentError(
            f"a question of {size_bytes} bytes is too long: at most {MAX_QUESTION_BYTES}"
        )
    if not question.text.strip():
        raise InvalidArgumentError("the question is empty")
    if question.max_tokens > MAX_ANSWER_TOKENS:
        raise InvalidArgumentError(f"max_tokens is at most {MAX_ANSWER_TOKENS}")
    if not (math.isfinite(question.temperature) and 0 <= question.temperature <= 10):
        raise InvalidArgumentError("temperature is between 0 and 10")
    if not 0 <= question.top_p <= 1:  # so that NaN is refused as well
        raise InvalidArgumentError("top_p is between 0 and 1")
    if question.repetition_penalty and not 1 <= question.repetition_penalty <= 10:
        raise InvalidArgumentError("repetition_penalty is between 1 and 10")
    if len(question.stop) > MAX_STOPS:
        raise InvalidArgumentError(f"at most {MAX_STOPS} stop strings")
    if not all(0 < len(stop) <= MAX_STOP_CHARACTERS for stop in question.stop):
        raise InvalidArgumentError(f"a stop string has 1 to {MAX_STOP_CHARACTERS} characters")


def check_id(what: str, text: str) -> None:
    """Raise InvalidArgumentError for an id of a client that is too long to carry around."""
    if len(text) > MAX_ID_CHARACTERS:
        raise InvalidArgumentError(f"{what} is at most {MAX_ID_CHARACTERS} characters long")


async def stream_answer(
    session: Answerable, request: inference_pb2.AnswerRequest, timeout_s: float
) -> AsyncGenerator[inference_pb2.AnswerEvent, None]:
    """Relay one answer, event by event, within `timeout_s`.

    A worker that is away before its first event is asked again; once words have come a failure is
    raised as the SightlineError of its status. Closing the iterator cancels the answer.
    """
    asked_s = time.monotonic()
    first_words_ns = 0
    backoff = Backoff(0.05, 1.0)
    finish = "error"
    metrics.ANSWERS_IN_FLIGHT.inc()
    try:
        for attempt in range(_RETRIES + 1):
            begun = speechless = False
            left_s = timeout_s - (time.monotonic() - asked_s)
            call = session.stub.Answer(request, timeout=max(0.001, left_s))
            try:
                async for event in call:
                    begun = True
                    kind = event.WhichOneof("event")
                    if kind == "text_delta" and not first_words_ns:
                        first_words_ns = time.time_ns()
                        metrics.FIRST_TOKEN.observe(time.monotonic() - asked_s)
                    elif kind == "speech_unavailable":
                        speechless = True
                    elif kind == "done":
                        if speechless and SPEECH_UNAVAILABLE not in event.done.degraded:
                            event.done.degraded.append(SPEECH_UNAVAILABLE)
                        finish = _FINISH_NAMES.get(event.done.finish_reason, "error")
                        session.note_degraded(list(event.done.degraded))
                        if first_words_ns and event.done.last_capture_ns:
                            waited_ns = first_words_ns - event.done.last_capture_ns
                            metrics.CAPTURE_TO_ANSWER.observe(max(0.0, waited_ns / 1e9))
                    yield event
                return
            except grpc.aio.AioRpcError as error:
                retry = error.code() in _RETRYABLE and not begun and session.alive
                if not retry or attempt == _RETRIES:
                    raise error_from_status(error.code(), error.details()) from None
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
