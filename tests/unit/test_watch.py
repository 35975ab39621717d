"""When a standing question fires."""

from types import SimpleNamespace
from typing import cast

import pytest
from tokenizers import Tokenizer

from services.inference_worker.model.builtin import BuiltinModel
from services.inference_worker.serving.watch_rule import NS, WatchRule, WatchState
from tests.processes import REPOSITORY

BUILTIN = REPOSITORY / "services" / "inference_worker" / "weights" / "builtin"


def fired(rule: WatchRule, scores: list[tuple[float, float]]) -> list[tuple[float, bool]]:
    """Feed (seconds, score); gives (seconds, active) of every event."""
    state = WatchState(rule)
    return [(at_s, state.active) for at_s, score in scores if state.update(score, int(at_s * NS))]


def test_each_change_is_one_event() -> None:
    scores = [(0, 0.1), (1, 0.9), (2, 0.8), (3, 0.2), (4, 0.1)]
    assert fired(WatchRule(), scores) == [(1, True), (3, False)]


def test_a_condition_that_holds_at_first_fires() -> None:
    assert fired(WatchRule(), [(0, 0.9)]) == [(0, True)]


def test_debounce_ignores_a_flicker() -> None:
    scores = [(0, 0.1), (1, 0.9), (2, 0.1), (3, 0.9), (4, 0.9), (5, 0.9)]
    assert fired(WatchRule(debounce_s=2), scores) == [(5, True)]


def test_cooldown_holds_an_event_back_until_it_is_over() -> None:
    scores = [(0, 0.9), (1, 0.1), (2, 0.1), (5, 0.1), (6, 0.9), (7, 0.1), (12, 0.1)]
    assert fired(WatchRule(cooldown_s=5), scores) == [(0, True), (5, False)]


@pytest.mark.parametrize("score", [0.5, 0.0])
def test_half_sure_is_not_yes(score: float) -> None:
    assert fired(WatchRule(), [(0, score), (1, score)]) == []


def test_a_watch_that_goes_on_elsewhere_tells_changes_of_what_was_told() -> None:
    on = WatchState(WatchRule(), active=True, fired_ns=3 * NS)
    assert not on.update(0.9, 4 * NS), "that is known"
    assert on.update(0.1, 5 * NS), "it ended while nobody looked"
    off = WatchState(WatchRule(cooldown_s=5), active=False, fired_ns=3 * NS)
    assert not off.update(0.9, 4 * NS), "too soon after the last"
    assert off.update(0.9, 8 * NS)


def test_the_builtin_model_knows_which_words_it_has_never_learned() -> None:
    tokenizer = Tokenizer.from_file(str(BUILTIN / "tokenizer.json"))
    model = SimpleNamespace(tokenizer=tokenizer)
    unknown = BuiltinModel.unknown_words(cast(BuiltinModel, model), "A phone is behind a Zeppelin!")
    assert unknown == ["Zeppelin"]
    assert BuiltinModel.unknown_words(cast(BuiltinModel, model), "a phone is there") == []
