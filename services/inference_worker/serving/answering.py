"""One question's way: history → branch → words → speech → history."""

import asyncio
import contextlib
import math
import secrets
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any

from services.common.threads import on_thread
from services.common.tracing import record
from services.inference_worker import metrics
from services.inference_worker.engine.jobs import FinishReason, Generation
from services.inference_worker.model.family import Round, ServedModel, prompt_within
from services.inference_worker.model.form import Form
from services.inference_worker.model.sampling import Sampling
from services.inference_worker.serving.brain import Brain
from services.inference_worker.serving.branch_queue import BranchQueue
from services.inference_worker.serving.calls import CallReader
from services.inference_worker.serving.detokenizer import AnswerText
from services.inference_worker.serving.doubt import is_unsure
from services.inference_worker.serving.forms import form_of
from services.inference_worker.serving.history import History
from services.inference_worker.serving.keeping import keep, tell_kept
from services.inference_worker.serving.recalling import Recalled, of_now, recalled
from services.inference_worker.serving.speaking import Speech, Voice
from services.inference_worker.serving.symptoms import Outcome
from sightline.errors import InvalidArgumentError
from sightline.v1 import dialogue_pb2, gateway_pb2, inference_pb2

_FINISH = {
    FinishReason.STOP: gateway_pb2.FINISH_REASON_STOP,
    FinishReason.LENGTH: gateway_pb2.FINISH_REASON_LENGTH,
    FinishReason.CANCELLED: gateway_pb2.FINISH_REASON_CANCELLED,
}
INSTRUCTIONS_IGNORED = "instructions_ignored"
SCHEMA_UNENFORCED = "schema_unenforced"
TOOLS_IGNORED = "tools_ignored"
SAID = "What was said in the video:"  # stands before what was
UNFAMILIAR_PICTURE = "unfamiliar_picture"
UNFAMILIAR = (  # is said in the place of an answer about pictures that the model does not know
    "I see a picture unlike those I was trained on, so I cannot tell. "
    "Load another model: docs/models.md"
)

Examine = Callable[[Outcome], Awaitable[list[str]]]  # flags for `degraded`; may raise instead


async def _take_as_it_is(outcome: Outcome) -> list[str]:
    return []


@dataclass(slots=True)
class Answerer:
    """Answers questions about sessions. `question_tokens` and `history_rounds` are limits.
    `withholds`: what the model says of pictures that it does not know is not said. `unsure_below`:
    the mean probability of an answer's tokens below which the model is not sure of it."""

    engine: Brain
    model: ServedModel
    history: History | None
    speech: Speech | None
    question_tokens: int
    history_rounds: int
    withholds: bool = True
    unsure_below: float = 0.0
    clock: Callable[[], float] = time.monotonic

    async def answer(
        self, request: inference_pb2.AnswerRequest, examine: Examine = _take_as_it_is
    ) -> AsyncGenerator[inference_pb2.AnswerEvent, None]:
        """The events of one answer, in the order of the contract. Closing the iterator early
        cancels the branch; what was said until then is kept as an interrupted round.

        examine: looks at the whole answer before it is kept; what it raises ends the answer."""
        question = request.question
        asked_s, asked_ns = self.clock(), request.asked_ns or time.time_ns()
        degraded: list[str] = []
        form, held = form_of(question), None
        if form is not None and form.tools and not (form.must_call or self.model.knows_calls):
            form = replace(form, tools=()) if form.schema is not None or form.called else None
            degraded.append(TOOLS_IGNORED)
        if form is not None and (form.tools or form.schema is not None):
            held = await on_thread(self.model.hold, form, name="grammar")
        formed = form is not None and form.schema is not None and getattr(held, "whole", False)
        if form is not None and form.schema is not None and not formed:
            degraded.append(SCHEMA_UNENFORCED)
        calls = CallReader() if form is not None and form.tools else None
        rounds = await self._rounds(request, degraded)
        if question.instructions and not self.model.spec.reads_instructions:
            degraded.append(INSTRUCTIONS_IGNORED)
        asked = self._recalled(request)
        if asked.recited and form is None:
            async with contextlib.aclosing(self._recite(request, asked.recited)) as events:
                async for event in events:
                    yield event
            return
        job, results, num_rounds = self._submit(request, rounds, asked, form, held)
        submitted_ns = began_ns = time.time_ns()
        done = gateway_pb2.AnswerDone(
            turn=question.turn, history_rounds=num_rounds, text=request.recall.said
        )
        voice = self._start_speech(request, degraded)
        text = AnswerText(self.model.text, question.stop)
        reason: FinishReason | None = None
        settled = withheld = told = False
        words = ""  # that are told when they are whole
        try:
            while True:
                kind, value = await results.queue.get()
                delta = ""
                if kind == "started":
                    done.first_capture_ns = value.first_capture_ns
                    done.last_capture_ns = value.last_capture_ns
                    done.frames_seen = value.num_frames
                    done.strangeness = value.strangeness
                    done.unfamiliar_picture = value.unfamiliar
                    # One that is held to a form comes all the same, marked: words would be none.
                    withheld = value.unfamiliar and self.withholds and form is None
                    started = gateway_pb2.AnswerStarted(turn=question.turn, formed=formed)
                    started.last_capture_ns = value.last_capture_ns
                    record("prompt", submitted_ns, tokens=job.prompt_tokens)
                    began_ns = time.time_ns()
                    yield _event(started=started)
                    if withheld:
                        done.first_token_ms = 1000 * (self.clock() - asked_s)
                        delta, reason = UNFAMILIAR, FinishReason.STOP
                        self.engine.cancel(job)
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
                    reason = value
                    if failure := getattr(held, "failure", ""):
                        settled = True
                        metrics.ANSWERS.labels("error").inc()
                        raise InvalidArgumentError(
                            f"the answer cannot be held to its form: {failure}"
                        )
                    delta = text.rest()
                if calls is not None:
                    delta = calls.feed(delta)
                    if text.stopped or reason is not None:
                        delta += calls.rest()
                if asked.instead and form is None:
                    words += "" if withheld else delta
                    delta = asked.whole(words) if text.stopped or reason is not None else ""
                elif delta and not told and form is None and not withheld:
                    delta = asked.prefix + delta
                if delta:
                    told = True
                    done.text += delta
                    yield _delta(question.turn, delta)
                    if voice is not None:
                        voice.write(delta)
                if text.stopped:
                    self.engine.cancel(job)
                    reason = FinishReason.STOP
                if reason is not None:
                    break
                if voice is not None:
                    for event in voice.take():
                        yield event
            settled = True
            done.tool_calls.extend(calls.calls if calls is not None else ())
            done.answer_tokens = len(text.tokens)
            done.prompt_tokens = job.prompt_tokens
            if text.tokens and not math.isnan(job.surprise):
                done.confidence = math.exp(-job.surprise / len(text.tokens))
            done.total_ms = 1000 * (self.clock() - asked_s)
            record("words", began_ns, tokens=len(text.tokens))
            if done.unfamiliar_picture:
                degraded.append(UNFAMILIAR_PICTURE)
            if withheld:
                metrics.WITHHELD.inc()
            else:
                outcome = Outcome(
                    tokens=text.tokens, text=text.text, reason=reason, surprise=job.surprise
                )
                degraded += await examine(outcome)
                if form is None and not request.HasField("recall"):
                    done.unsure = is_unsure(outcome, self.unsure_below)
            ending = self._end(request, done, asked_ns, voice, degraded, reason)
            async with contextlib.aclosing(ending) as events:
                async for event in events:
                    yield event
        finally:
            if voice is not None:
                await voice.aclose()
            if not settled:
                self.engine.cancel(job)
                metrics.ANSWERS.labels("cancelled").inc()
                if done.text:
                    keep(self.history, request, done, asked_ns, interrupted=True)

    async def _recite(
        self, request: inference_pb2.AnswerRequest, text: str
    ) -> AsyncGenerator[inference_pb2.AnswerEvent, None]:
        """The events of an answer that memory gives by itself, word for word."""
        asked_s, asked_ns = self.clock(), request.asked_ns or time.time_ns()
        turn, degraded = request.question.turn, list[str]()
        done = gateway_pb2.AnswerDone(turn=turn, text=request.recall.said + text)
        voice = self._start_speech(request, degraded)
        try:
            yield _event(started=gateway_pb2.AnswerStarted(turn=turn))
            done.first_token_ms = done.total_ms = 1000 * (self.clock() - asked_s)
            yield _delta(turn, text)
            if voice is not None:
                voice.write(text)
            ending = self._end(request, done, asked_ns, voice, degraded, FinishReason.STOP)
            async with contextlib.aclosing(ending) as events:
                async for event in events:
                    yield event
        finally:
            if voice is not None:
                await voice.aclose()

    async def _end(
        self,
        request: inference_pb2.AnswerRequest,
        done: gateway_pb2.AnswerDone,
        asked_ns: int,
        voice: Voice | None,
        degraded: list[str],
        reason: FinishReason,
    ) -> AsyncGenerator[inference_pb2.AnswerEvent, None]:
        """The last events of an answer whose words are out: it is kept, spoken to its end, and
        told to be done."""
        done.finish_reason = _FINISH[reason]
        stored = keep(self.history, request, done, asked_ns, interrupted=False)
        if voice is not None:
            async for event in voice.rest():
                yield event
            if voice.unavailable:
                degraded.append("speech_unavailable")
        done.degraded.extend(degraded)
        await tell_kept(self.history, request, done, stored)
        metrics.ANSWERS.labels(reason.value).inc()
        yield _event(done=done)

    def _recalled(self, request: inference_pb2.AnswerRequest) -> Recalled:
        """The question as the model is asked it, with what is remembered of the past that it is
        about."""
        text = self._instructed(request)
        if not request.HasField("recall"):
            return Recalled(text)
        limit = self.model.spec.max_answer_tokens
        answer = min(request.question.max_tokens or limit, limit)
        room = self.engine.branch_tokens - answer - 2 * self.question_tokens
        return recalled(request.recall, text, self.model, room)

    async def _rounds(
        self, request: inference_pb2.AnswerRequest, degraded: list[str]
    ) -> list[Round]:
        wanted = min(self.history_rounds, self.model.spec.history_rounds)
        recalls = bool(request.recall.moments or request.recall.answer)
        if recalls and not self.model.spec.reads_instructions:
            return []  # they speak of another present than the picture that it is shown
        if request.history and not request.conversation:
            given = list(request.history)[-wanted:] if wanted else []
            return self._read(given)
        if self.history is None or not request.conversation or not wanted:
            return []
        turn = request.question.turn
        rounds = await self.history.context(request.conversation, wanted, before=turn)
        if not self.history.available:
            degraded.append("dialogue_unavailable")
        return self._read(rounds or [])

    def _read(self, rounds: list[dialogue_pb2.Round]) -> list[Round]:
        """Earlier rounds as the model reads them. One that reads no words never learned to tell
        what was said from memory, of another time, from what it said of its own."""
        read = [_round(each) for each in rounds if each.answer != UNFAMILIAR]
        if self.model.spec.reads_instructions:
            return read
        own = [(each, of_now(each.answer)) for each in read]
        return [replace(each, answer=now) for each, now in own if now or not each.answer]

    def _submit(
        self,
        request: inference_pb2.AnswerRequest,
        rounds: list[Round],
        asked: Recalled | None = None,
        form: Form | None = None,
        held: Any = None,
    ) -> tuple[Generation, BranchQueue, int]:
        """asked: the question as the model gets it, where it is known already."""
        asked = asked or self._recalled(request)
        question, text = request.question, asked.text
        alone = self.model.question_tokens([], text)
        most = self.question_tokens * (2 if request.HasField("recall") else 1)
        if len(alone) > most:
            raise InvalidArgumentError(f"the question has {len(alone)} tokens; at most {most} fit")
        limit = self.model.spec.max_answer_tokens
        max_tokens = min(question.max_tokens or limit, limit)
        shown = sum(picture.layout.segment_tokens for picture in asked.pictures)
        room = self.engine.branch_tokens - max_tokens - shown
        prompt = prompt_within(room, self.model, rounds, text, form)
        results = BranchQueue(asyncio.get_running_loop())
        job = Generation(
            prompt.tokens,
            max_tokens,
            results,
            sampling=sampling_of(question, self.model.sampling),
            before=prompt.before,
            needs_frame=not asked.alone,
            pictures=asked.pictures,
            alone=asked.alone,
            held=held,
        )
        self.engine.submit_branch(request.session_id, job)
        return job, results, prompt.rounds

    def _instructed(self, request: inference_pb2.AnswerRequest) -> str:
        """The question as the model reads it. A template's system message stands before the video,
        which is understood already; these words stand after it. Of what was said in the video, as
        much as there is room for: the newest."""
        question = request.question
        if not self.model.spec.reads_instructions:
            return question.text
        asked = "\n\n".join(text for text in (question.instructions, question.text) if text)
        lines = request.said.splitlines()
        while lines:
            text = "\n".join((SAID, *lines)) + f"\n\n{asked}"
            if len(self.model.question_tokens([], text)) <= self.question_tokens:
                return text
            del lines[: max(1, len(lines) // 4)]
        return asked

    def _start_speech(
        self, request: inference_pb2.AnswerRequest, degraded: list[str]
    ) -> Voice | None:
        if not request.speech:
            return None
        if self.speech is None:
            degraded.append("speech_unavailable")
            return None
        return Voice(self.speech, request.question.turn, request.voice)


def sampling_of(question: gateway_pb2.Question, usual: Sampling) -> Sampling:
    """Sampling that a question asks for, and the model's usual one where it says nothing. Without a
    seed every answer is drawn anew."""
    given = question.HasField
    return Sampling(
        temperature=question.temperature if given("temperature") else usual.temperature,
        top_k=question.top_k if given("top_k") else usual.top_k,
        top_p=question.top_p if given("top_p") else usual.top_p,
        repetition_penalty=question.repetition_penalty or usual.repetition_penalty,
        presence_penalty=question.presence_penalty,
        frequency_penalty=question.frequency_penalty,
        seed=question.seed if given("seed") else secrets.randbits(63),
    )


def _round(kept: dialogue_pb2.Round) -> Round:
    return Round(kept.question, kept.answer)


def _event(**fields: Any) -> inference_pb2.AnswerEvent:
    return inference_pb2.AnswerEvent(**fields)


def _delta(turn: str, text: str) -> inference_pb2.AnswerEvent:
    return _event(text_delta=gateway_pb2.TextDelta(turn=turn, text=text))
