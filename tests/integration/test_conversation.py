"""One conversation about the sample stream stays true, however long it gets."""

from collections.abc import Callable
from pathlib import Path

import pytest

import sightline
from services.local.clip import SEED, Fact, read_clip
from tests.eventually import wait_until
from tests.integration.test_suite import pictures_until, true_at
from tests.suite import Suite
from training.recipe import load_recipe
from training.world.video import write_video

SECONDS = 60
QUESTIONS = 20
PATIENCE_S = 120.0


@pytest.mark.slow  # a suite of its own, with the built-in model: half a minute
def test_twenty_questions_in_one_conversation_are_all_answered_rightly(
    fresh_suite: Callable[..., Suite], tmp_path: Path
) -> None:
    """Frames are pushed as fast as the worker takes them; questions wait for their moment."""
    suite = fresh_suite(environment={"inference_worker": {"WORKER_MODEL": "builtin"}}, speech=False)
    path = tmp_path / "clip.mp4"
    write_video(path, SEED, SECONDS, 2, 8, trade=load_recipe("builtin").trade)
    facts = read_clip(path).facts
    asked: list[tuple[float, str, str, str]] = []
    with sightline.connect(suite.address) as client:
        session = client.open(push=True, lossless=True)
        with session.pusher() as pusher, session.conversation() as talk:
            kinds: list[str] = []
            for picture, capture_ns in pictures_until(path, SECONDS):
                pusher.send(picture, capture_ns)
                moment = capture_ns / 1e9
                if moment < 4 or moment < len(asked) * (SECONDS - 6) / QUESTIONS + 4:
                    continue
                fact = _least_asked(true_at(facts, moment), kinds)
                if fact is None:
                    continue
                _understood(session, moment)
                answer = talk.ask(fact.question).result()
                assert answer.history_rounds == min(len(asked), 10)
                kinds.append(fact.kind)
                asked.append((round(moment, 2), fact.question, fact.answer, answer.text))
                if len(asked) == QUESTIONS:
                    break
    assert len(asked) == QUESTIONS
    assert len(set(kinds)) >= 4
    wrong = [each for each in asked if each[2] != each[3]]
    assert not wrong


def _least_asked(facts: list[Fact], kinds: list[str]) -> Fact | None:
    """Descriptions and short answers in turn."""
    return min(facts, key=lambda fact: (kinds.count(fact.kind), fact.question), default=None)


def _understood(session: sightline.Session, moment: float) -> None:
    wait_until(
        lambda: session.refresh().stats.last_capture_ns / 1e9 >= moment - 0.13, timeout_s=PATIENCE_S
    )
