"""Scoring: how likely each of many statements is, as branches of one session's trunk."""

import asyncio
import contextlib
from dataclasses import dataclass, field

from services.inference_worker.serving.brain import Brain
from services.inference_worker.serving.watching import score
from sightline.errors import InvalidArgumentError
from sightline.v1 import inference_pb2

LONG = 16  # statements of a call that takes its turn among others like it
LONG_AT_ONCE = 4


@dataclass(slots=True)
class Scorer:
    """Scores statements. `question_tokens`: of the longest; `at_once`: of one call, so that
    questions still find room. `withholds`: nothing shall happen because of unfamiliar pictures.

    Every statement is a branch of its own, which reads the pages of the video that the session
    holds anyway; those that are under way together share the engine's steps. Long calls take turns:
    side by side, all of them would end when the last does, and each would be of many moments.
    """

    engine: Brain
    question_tokens: int
    at_once: int
    withholds: bool = True
    _turns: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(LONG_AT_ONCE))

    async def score(
        self, session_id: str, statements: list[str]
    ) -> inference_pb2.ScoreStatementsResponse:
        """Probabilities in the order of the statements. Raises InvalidArgumentError for one that is
        too long, and what the engine raises."""
        model = self.engine.model
        prompts = {text: model.watch_tokens(text) for text in statements}
        for tokens in prompts.values():
            if len(tokens) > self.question_tokens:
                raise InvalidArgumentError(f"a statement has {len(tokens)} tokens; too many")
        reply = inference_pb2.ScoreStatementsResponse(
            prompt_tokens=sum(len(tokens) for tokens in prompts.values())
        )
        found: dict[str, float] = {}
        waiting = iter(prompts.items())

        async def work() -> None:
            for text, tokens in waiting:
                found[text], seen = await score(self.engine, session_id, list(tokens))
                first_ns = reply.first_capture_ns or seen.first_capture_ns
                reply.first_capture_ns = min(first_ns, seen.first_capture_ns)
                reply.last_capture_ns = max(reply.last_capture_ns, seen.last_capture_ns)
                reply.frames_seen = max(reply.frames_seen, seen.num_frames)
                reply.strangeness = max(reply.strangeness, seen.strangeness)
                reply.cannot_tell |= seen.unfamiliar and self.withholds

        turn = self._turns if len(prompts) > LONG else contextlib.nullcontext()
        async with turn, asyncio.TaskGroup() as tasks:
            for number in range(min(self.at_once, len(prompts))):
                tasks.create_task(work(), name=f"{session_id}:score:{number}")
        reply.probabilities.extend(found[text] for text in statements)
        return reply
