"""Who is scored when many sessions' statements wait: long calls take turns."""

import asyncio
from typing import Any

from services.inference_worker.engine.jobs import Generation, Seen
from services.inference_worker.serving.scoring import LONG, LONG_AT_ONCE, Scorer
from tests.eventually import eventually


class Model:
    def watch_tokens(self, text: str) -> list[int]:
        return [1, 2]


class Brain:
    """Takes branches, and answers them when told."""

    model = Model()

    def __init__(self) -> None:
        self.asked: list[tuple[str, Generation]] = []

    def submit_branch(self, session_id: str, job: Generation) -> None:
        self.asked.append((session_id, job))

    def cancel(self, job: Generation) -> None:
        self.asked = [each for each in self.asked if each[1] is not job]

    def answer(self) -> None:
        for _, job in self.asked:
            job.sink.started(Seen(1, 2, 3))
            job.sink.scored(0.5)

    @property
    def sessions(self) -> set[str]:
        return {session for session, _ in self.asked}


def statements(count: int) -> list[str]:
    return [f"statement {n}" for n in range(count)]


async def test_long_calls_take_turns_and_short_ones_do_not_wait_for_them() -> None:
    brain: Any = Brain()
    scorer = Scorer(brain, question_tokens=8, at_once=64)
    async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
        long = [
            tasks.create_task(scorer.score(f"long {n}", statements(LONG + 1)))
            for n in range(LONG_AT_ONCE + 2)
        ]
        await eventually(lambda: len(brain.asked) == LONG_AT_ONCE * (LONG + 1))
        assert brain.sessions == {f"long {n}" for n in range(LONG_AT_ONCE)}
        short = tasks.create_task(scorer.score("short", statements(LONG)))
        await eventually(lambda: "short" in brain.sessions)
        long[0].cancel()  # whose caller has left
        await eventually(lambda: f"long {LONG_AT_ONCE}" in brain.sessions)
        assert f"long {LONG_AT_ONCE + 1}" not in brain.sessions
        while not all(task.done() for task in (*long, short)):
            brain.answer()
            await asyncio.sleep(0)
    assert [len(task.result().probabilities) for task in long[1:]] == [LONG + 1] * (
        LONG_AT_ONCE + 1
    )
