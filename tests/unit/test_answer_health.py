"""What counts as an unhealthy answer, and what a session's health makes of a row of them."""

import math

import numpy as np
import pytest

from services.inference_worker.config import WorkerConfig
from services.inference_worker.engine.jobs import FinishReason
from services.inference_worker.serving.answer_health import AnswerHealth
from services.inference_worker.serving.fallback import environment_of
from services.inference_worker.serving.resizing import resized
from services.inference_worker.serving.symptoms import Outcome, Symptom, repeats, symptom_of
from sightline.v1 import gateway_pb2

SOUND = list(range(20))


def judged(
    tokens: list[int],
    text: str = "words",
    reason: FinishReason = FinishReason.STOP,
    chance: float = 0.5,
    **question: object,
) -> Symptom | None:
    outcome = Outcome(
        tokens=tokens, text=text, reason=reason, surprise=-len(tokens) * math.log(chance)
    )
    return symptom_of(outcome, gateway_pb2.Question(text="?", **question), 0.05)  # type: ignore[arg-type]


def test_a_sound_answer_has_no_symptom() -> None:
    assert judged(SOUND) is None
    assert judged([1], "yes", chance=0.01) is None, "one token says little of confidence"


@pytest.mark.parametrize(
    "tokens",
    [[7] * 16, [1, 2, 3] * 6, [9, 8, *([1, 2, 3, 4, 5] * 4)], [1, 2, 3, 4, *range(30), *[5] * 16]],
)
def test_one_part_said_again_and_again_is_a_repetition(tokens: list[int]) -> None:
    assert repeats(tokens)
    assert judged(tokens) is Symptom.REPEATS


@pytest.mark.parametrize(
    "tokens",
    [[], [7] * 15, [1, 2, 3, 4, 5] * 3, [*[5] * 16, 1], [1, 2, 3, 4, 1, 2, 3, 5] * 3],
)
def test_what_is_said_a_few_times_is_none(tokens: list[int]) -> None:
    assert not repeats(tokens)


def test_empty_unsure_and_endless_answers_are_told_apart() -> None:
    assert judged([], "") is Symptom.EMPTY
    assert judged([4], " \n") is Symptom.EMPTY
    assert judged(SOUND, chance=0.04) is Symptom.UNSURE
    assert judged(SOUND, reason=FinishReason.LENGTH) is Symptom.ENDLESS


def test_what_the_question_asked_for_is_no_symptom() -> None:
    assert judged(SOUND, reason=FinishReason.LENGTH, max_tokens=20) is None
    assert judged([], "", stop=["\n"]) is None
    assert judged(SOUND, reason=FinishReason.CANCELLED, chance=0.01) is None
    assert judged([7] * 20, temperature=1.5) is None
    assert judged([7] * 20, frequency_penalty=-1.0) is None


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_a_row_of_unhealthy_answers_degrades_and_a_sound_one_breaks_the_row() -> None:
    health = AnswerHealth(3, 60.0, Clock())
    for symptom in (Symptom.EMPTY, Symptom.REPEATS, None, Symptom.EMPTY, Symptom.UNSURE):
        assert not health.answered(symptom)
    assert not health.degraded
    assert health.answered(Symptom.EMPTY), "told once"
    assert health.degraded
    assert not health.answered(Symptom.EMPTY)


def test_healthy_probes_over_a_healthy_period_bring_the_questions_back() -> None:
    clock = Clock()
    health = AnswerHealth(2, 60.0, clock)
    assert not health.probed(None), "it is not degraded"
    health.answered(Symptom.EMPTY)
    health.answered(Symptom.EMPTY)
    assert health.probe_s == 30.0
    clock.now_s += 30
    assert not health.probed(None)
    assert not health.probed(None), "twice, but not for long enough"
    assert not health.probed(Symptom.REPEATS)
    clock.now_s += 59
    assert not health.probed(None)
    clock.now_s += 1
    assert health.probed(None)
    assert not health.degraded
    assert not health.answered(Symptom.EMPTY), "the row begins anew"


def test_without_a_number_nothing_degrades() -> None:
    health = AnswerHealth(0, 60.0)
    assert not any(health.answered(Symptom.EMPTY) for _ in range(100))


@pytest.mark.parametrize("wanted", [(32, 24), (128, 128), (7, 90), (64, 48)])
def test_resized_pictures_keep_their_look(wanted: tuple[int, int]) -> None:
    """A gradient stays one, and a colour that one."""
    width, height = 64, 48
    picture = np.zeros((height, width, 3), np.uint8)
    picture[..., 0] = np.linspace(0, 255, width)[None]
    picture[..., 1] = np.linspace(0, 255, height)[:, None]
    picture[..., 2] = 77
    small = np.frombuffer(resized(picture.tobytes(), (width, height), wanted), np.uint8)
    small = small.reshape(wanted[1], wanted[0], 3)
    assert (small[..., 2] == 77).all()
    expected = 255 * ((np.arange(wanted[0]) + 0.5) * width / wanted[0] - 0.5) / (width - 1)
    inner = slice(1, -1)
    assert np.abs(small[2, inner, 0] - expected[inner]).max() < 8
    assert (np.diff(small[:, 0, 1].astype(int)) >= 0).all()


def test_the_fallbacks_worker_has_its_own_settings() -> None:
    config = WorkerConfig(fallback_model="builtin", fallback_device="cpu")
    environ = {
        "PATH": "/bin",
        "WORKER_MODEL": "a/b",
        "WORKER_QUANTIZATION": "int8",
        "WORKER_FALLBACK_MODEL": "builtin",
        "WORKER_DIALOGUE": "d:1",
    }
    found = environment_of(config, 4711, environ)
    assert found == {
        "PATH": "/bin",
        "WORKER_DIALOGUE": "d:1",
        "WORKER_MODEL": "builtin",
        "WORKER_DEVICE": "cpu",
        "WORKER_HOST": "127.0.0.1",
        "WORKER_GRPC_PORT": "4711",
        "WORKER_GUARD_ANSWERS": "0",
    }
