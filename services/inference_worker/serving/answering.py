"""One question's way: history → branch → words → speech → history."""

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from services.common.tasks import cancel_and_wait, spawn
from services.inference_worker import metrics
from services.inference_worker.engine.jobs import FinishReason, Generation, Seen
from services.inference_worker.engine.thread import Engine
from services.inference_worker.model.family import Round, StreamingModel, prompt_within
from services.inference_worker.model.sampling import Sampling
from services.inference_worker.serving.detokenizer import AnswerText
from sightline.errors import InvalidArgumentError, SightlineError
from sightline.v1 import gateway_pb2, inference_pb2

log = logging.getLogger(__name__)

_FINISH = {
    FinishReason.STOP: gateway_pb2.FINISH_REASON_STOP,
    FinishReason.LENGTH: gateway_pb2.FINISH_REASON_LENGTH,
    FinishReason.CANCELLED: gateway_pb2.FINISH_REASON_CANCELLED,
}


class History(Protocol):
    """Earlier rounds of a conversation, and where finished ones go. `available` is False while
    what is kept cannot be reached."""

    @property
    def available(self) -> bool: ...

    async def context(self, conversation: str, rounds: int) -> list[Round] | None:
        """The last rounds, oldest first; None when they cannot be had now."""
        ...

    def append(
        self,
        conversation: str,
        *,
        turn: str,
        question: str,
        answer: str,
        asked_ns: int,
        capture_ns: int,
        interrupted: bool,
        session: str,
    ) -> None: ...


class Speech(Protocol):
    """Speaks text while it is being written."""

    def speak(
        self, text: AsyncIterator[str], voice: str
    ) -> AsyncIterator[gateway_pb2.AudioChunk]: ...


@dataclass(frozen=True, slots=True)
class BranchQueue:
    """A `BranchSink` that carries results from the device thread into an asyncio queue, as
    (kind, value). The queue needs no bound: a branch gives at most max_tokens + 2 results."""

    loop: asyncio.AbstractEventLoop
    queue: "asyncio.Queue[tuple[str, Any]]" = field(default_factory=asyncio.Queue)

    def _put(self, kind: str, value: Any) -> None:
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self.queue.put_nowait, (kind, value))

    def started(self, seen: Seen) -> None:
        self._put("started", seen)

    def token(self, token: int) -> None:
        self._put("token", token)

    def scored(self, score: float) -> None:
        self._put("scored", score)

    def finished(self, reason: FinishReason) -> None:
        self._put("finished", reason)

    def failed(self, error: Exception) -> None:
        self._put("failed", error)


async def score(engine: Engine, session_id: str, tokens: list[int]) -> tuple[float, Seen]:
    """Ask for yes or no: the probability of yes, and the video it was given. Raises what the
    engine raises; cancelling it cancels the branch."""
    line = BranchQueue(asyncio.get_running_loop())
    job = Generation(tokens, 1, line, score_only=True, needs_frame=True)
    engine.submit_branch(session_id, job)
    seen = Seen(0, 0, 0)
    try:
        while True:
            kind, value = await line.queue.get()
            if kind == "started":
                seen = value
            elif kind == "scored":
                return value, seen
            elif kind == "failed":
                raise value
    finally:
        engine.cancel(job)


@dataclass(slots=True)
class Answerer:
    """Answers questions about sessions. `question_tokens` and `history_rounds` are limits."""

    engine: Engine
    model: StreamingModel
    history: History | None
    speech: Speech | None
    question_tokens: int
    history_rounds: int
    clock: Callable[[], float] = time.monotonic

    async def answer(
        self, request: inference_pb2.AnswerRequest
    ) -> AsyncGenerator[inference_pb2.AnswerEvent, None]:
        """The events of one answer, in the order of the contract. Closing the iterator early
        cancels the branch; what was said until then is kept as an interrupted round."""
        question = request.question
        asked_s, asked_ns = self.clock(), time.time_ns()
        degraded: list[str] = []
        rounds = await self._rounds(request.conversation, degraded)
        job, line, num_rounds = self._submit(request, rounds)
        done = gateway_pb2.AnswerDone(turn=question.turn, history_rounds=num_rounds)
        voice = self._start_speech(request, degraded)
        text = AnswerText(self.model.text, question.stop)
        settled = False
        try:
            while True:
                kind, value = await line.queue.get()
                delta = ""
                if kind == "started":
                    done.first_capture_ns = value.first_capture_ns
                    done.last_capture_ns = value.last_capture_ns
                    done.frames_seen = value.num_frames
                    started = gateway_pb2.AnswerStarted(turn=question.turn)
                    started.last_capture_ns = value.last_capture_ns
                    yield _event(started=started)
                elif kind == "token":
                    if not text.tokens:
                        done.first_token_ms = 1000 * (self.clock() - asked_s)
                        metrics.FIRST_TOKEN.observe(done.first_token_ms / 1000)
                    delta = text.add(value)
                elif kind == "failed":
                    settled = True
                    metrics.ANSWERS.labels("error").inc()
                    raise value
                elif kind == "finished":
                    done.finish_reason = _FINISH[value]
                    delta = text.rest()
                if delta:
                    done.text = text.text
                    yield _delta(question.turn, delta)
                    if voice is not None:
                        voice.write(delta)
                if text.stopped:
                    self.engine.cancel(job)
                    done.finish_reason = gateway_pb2.FINISH_REASON_STOP
                if done.finish_reason:
                    break
                if voice is not None:
                    for event in voice.take():
                        yield event
            settled = True
            done.answer_tokens = len(text.tokens)
            done.prompt_tokens = job.prompt_tokens
            done.total_ms = 1000 * (self.clock() - asked_s)
            self._keep(request, done, asked_ns, interrupted=False)
            if voice is not None:
                async for event in voice.rest():
                    yield event
                if voice.unavailable:
                    degraded.append("speech_unavailable")
            done.degraded.extend(degraded)
            metrics.ANSWERS.labels(
                gateway_pb2.FinishReason.Name(done.finish_reason)[14:].lower()
            ).inc()
            yield _event(done=done)
        finally:
            if voice is not None:
                await voice.aclose()
            if not settled:
                self.engine.cancel(job)
                metrics.ANSWERS.labels("cancelled").inc()
                if done.text:
                    self._keep(request, done, asked_ns, interrupted=True)

    async def _rounds(self, conversation: str, degraded: list[str]) -> list[Round]:
        wanted = min(self.history_rounds, self.model.spec.history_rounds)
        if self.history is None or not conversation or not wanted:
            return []
        rounds = await self.history.context(conversation, wanted)
        if not self.history.available:
            degraded.append("dialogue_unavailable")
        return rounds or []

    def _submit(
        self, request: inference_pb2.AnswerRequest, rounds: list[Round]
    ) -> tuple[Generation, BranchQueue, int]:
        question = request.question
        alone = self.model.question_tokens([], question.text)
        if len(alone) > self.question_tokens:
            raise InvalidArgumentError(
                f"the question has {len(alone)} tokens; at most {self.question_tokens} fit"
            )
        limit = self.model.spec.max_answer_tokens
        max_tokens = min(question.max_tokens or limit, limit)
        room = self.engine.core.branch_tokens - max_tokens
        prompt = prompt_within(room, self.model, rounds, question.text)
        line = BranchQueue(asyncio.get_running_loop())
        job = Generation(
            prompt.tokens,
            max_tokens,
            line,
            sampling=sampling_of(question, self.model.sampling),
            before=prompt.before,
            needs_frame=True,
        )
        self.engine.submit_branch(request.session_id, job)
        return job, line, prompt.rounds

    def _start_speech(
        self, request: inference_pb2.AnswerRequest, degraded: list[str]
    ) -> "_Voice | None":
        if not request.speech:
            return None
        if self.speech is None:
            degraded.append("speech_unavailable")
            return None
        return _Voice(self.speech, request.question.turn, request.voice)

    def _keep(
        self,
        request: inference_pb2.AnswerRequest,
        done: gateway_pb2.AnswerDone,
        asked_ns: int,
        *,
        interrupted: bool,
    ) -> None:
        if self.history is None or not request.conversation:
            return
        self.history.append(
            request.conversation,
            turn=request.question.turn,
            question=request.question.text,
            answer=done.text,
            asked_ns=asked_ns,
            capture_ns=done.last_capture_ns,
            interrupted=interrupted,
            session=request.session_id,
        )


def sampling_of(question: gateway_pb2.Question, usual: Sampling) -> Sampling:
    """What a question asks for, and what is usual for the model where it says nothing. Without a
    seed every answer is drawn anew."""
    given = question.HasField
    return Sampling(
        temperature=question.temperature if given("temperature") else usual.temperature,
        top_k=question.top_k if given("top_k") else usual.top_k,
        top_p=question.top_p or usual.top_p,
        repetition_penalty=question.repetition_penalty or usual.repetition_penalty,
        presence_penalty=question.presence_penalty,
        frequency_penalty=question.frequency_penalty,
        seed=question.seed if given("seed") else secrets.randbits(63),
    )


class _Voice:
    """Speech of one answer, running beside its text. Text never waits for it."""

    def __init__(self, speech: Speech, turn: str, voice: str) -> None:
        self.unavailable = False
        self._turn = turn
        self._text: asyncio.Queue[str | None] = asyncio.Queue()
        self._events: asyncio.Queue[inference_pb2.AnswerEvent | None] = asyncio.Queue()
        self._task = spawn(self._run(speech, voice), name=f"{turn}:speech")

    def write(self, text: str) -> None:
        self._text.put_nowait(text)

    def take(self) -> list[inference_pb2.AnswerEvent]:
        """Audio that is ready now."""
        ready = []
        while not self._events.empty():
            if (event := self._events.get_nowait()) is not None:
                ready.append(event)
            else:
                self._events.put_nowait(None)
                break
        return ready

    async def rest(self) -> AsyncIterator[inference_pb2.AnswerEvent]:
        """The text is complete: everything still to be heard."""
        self._text.put_nowait(None)
        while (event := await self._events.get()) is not None:
            yield event

    async def aclose(self) -> None:
        await cancel_and_wait(self._task)

    async def _run(self, speech: Speech, voice: str) -> None:
        try:
            async for audio in speech.speak(self._pieces(), voice):
                chunk = gateway_pb2.SpeechChunk(turn=self._turn, audio=audio)
                self._events.put_nowait(_event(audio_chunk=chunk))
        except SightlineError as error:
            self.unavailable = True
            log.warning("speech unavailable", extra={"reason": error.message})
            reason = inference_pb2.SpeechUnavailable(reason=error.message)
            self._events.put_nowait(_event(speech_unavailable=reason))
        finally:
            self._events.put_nowait(None)

    async def _pieces(self) -> AsyncIterator[str]:
        while (piece := await self._text.get()) is not None:
            yield piece


def _event(**fields: Any) -> inference_pb2.AnswerEvent:
    return inference_pb2.AnswerEvent(**fields)


def _delta(turn: str, text: str) -> inference_pb2.AnswerEvent:
    return _event(text_delta=gateway_pb2.TextDelta(turn=turn, text=text))
