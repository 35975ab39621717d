"""Notes: a line about what a session shows now, which its memory keeps when the window is past.

They are branches like any question's, so that the trunk never hears of them, and run while nobody
asks anything. A model that is asked in its own kind of question says what the newest frame shows by
itself: a window in which a scene has just changed is half of the one before. Such a line needs no
window, so that it waits for others: one step writes a word of each at hardly more than the price of
one.
"""

import asyncio
from dataclasses import dataclass, field

from services.inference_worker.engine.jobs import Generation, PastPicture, Seen
from services.inference_worker.model.sampling import GREEDY
from services.inference_worker.serving.brain import Brain
from services.inference_worker.serving.branch_queue import BranchQueue
from services.inference_worker.serving.company import Company
from services.inference_worker.serving.detokenizer import AnswerText
from sightline.v1 import inference_pb2

MOST_TOKENS = 64  # of a line
MOST_TOGETHER = 8


@dataclass(slots=True)
class Noter:
    """Takes notes by the questions that the model's card has for that. `wait_s`: how long a line
    may wait for others."""

    engine: Brain
    withholds: bool = True
    wait_s: float = 0.0
    _company: Company = field(init=False)

    def __post_init__(self) -> None:
        self._company = Company(MOST_TOGETHER, self.wait_s)

    async def note(self, session_id: str) -> inference_pb2.NoteResponse:
        """What the model says of the newest frames now, and their embedding. Raises what the engine
        raises; cancelling it cancels the branch."""
        card, spec = self.engine.model.card, self.engine.model.spec
        newest = await asyncio.wrap_future(self.engine.newest(session_id))
        alone = None if newest is None or spec.reads_instructions else newest.picture
        if alone is not None:
            await self._company.wait()
        reply = inference_pb2.NoteResponse()
        lines: list[str] = []
        for question in card.notes or card.questions[:1]:
            line, seen = await self._ask(session_id, question, alone)
            lines += [line] if line and line not in lines else []
            reply.last_capture_ns = seen.last_capture_ns if alone is None else alone.capture_ns
        reply.line = "; ".join(lines)
        reply.embedding = b"" if newest is None else newest.embedding
        return reply

    async def _ask(
        self, session_id: str, question: str, alone: PastPicture | None
    ) -> tuple[str, Seen]:
        model = self.engine.model
        results = BranchQueue(asyncio.get_running_loop())
        job = Generation(
            model.question_tokens([], question),
            min(MOST_TOKENS, model.spec.max_answer_tokens),
            results,
            sampling=GREEDY,
            needs_frame=alone is None,
            pictures=() if alone is None else (alone,),
            alone=alone is not None,
            background=True,
        )
        self.engine.submit_branch(session_id, job)
        seen, text = Seen(0, 0, 0), AnswerText(model.text, [])
        try:
            while True:
                kind, value = await results.queue.get()
                if kind == "started":
                    seen = value
                elif kind == "token":
                    text.add(value)
                elif kind == "failed":
                    raise value
                elif kind == "finished":
                    text.rest()
                    if seen.unfamiliar and self.withholds:
                        return "", seen  # the picture alone is worth keeping
                    return " ".join(text.text.split()), seen
        finally:
            self.engine.cancel(job)
