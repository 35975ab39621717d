"""The next token is chosen as transformers' `generate` chooses it."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from transformers.generation.utils import GenerationMixin

from services.common.checks import check_question
from services.inference_worker.model.errors import ModelError
from services.inference_worker.model.published.folder import generation, stop_tokens, usual_sampling
from services.inference_worker.model.sampling import GREEDY, Sampling
from services.inference_worker.runner.sampling import draw, penalise, weights
from services.inference_worker.serving.answering import sampling_of
from sightline.errors import InvalidArgumentError
from sightline.v1 import gateway_pb2

VOCABULARY = 300
GENERATION = {  # as published with Qwen2-VL, Qwen2.5-VL, Qwen3-VL Instruct and Thinking, SmolVLM2
    "qwen2": {
        "do_sample": True,
        "repetition_penalty": 1.0,
        "temperature": 0.01,
        "top_p": 0.001,
        "top_k": 1,
    },
    "qwen2.5": {"do_sample": True, "repetition_penalty": 1.05, "temperature": 0.000001},
    "qwen3": {
        "do_sample": True,
        "top_k": 20,
        "top_p": 0.8,
        "repetition_penalty": 1.0,
        "temperature": 0.7,
    },
    "smolvlm2": {"_from_model_config": True},
}


def theirs(said: dict[str, Any], scores: torch.Tensor, before: list[int]) -> torch.Tensor:
    """Probabilities of `generate`: its own defaults, processors and their order."""
    config = transformers.GenerationConfig(**said)
    config.update(**config._get_default_generation_params(), defaults_only=True)
    model = SimpleNamespace(
        config=SimpleNamespace(is_encoder_decoder=False),
        _merge_criteria_processor_list=GenerationMixin._merge_criteria_processor_list,
    )
    model._merge_criteria_processor_list = lambda found, _: found
    processors = GenerationMixin._get_logits_processor(
        model, generation_config=config, input_ids_seq_length=len(before)
    )
    processed = processors(torch.tensor([before]), scores[None].clone())[0]
    if not config.do_sample:
        return torch.nn.functional.one_hot(processed.argmax(), len(scores)).float()
    return processed.softmax(-1)


def ours(sampling: Sampling, scores: torch.Tensor, before: list[int]) -> torch.Tensor:
    scores = scores.clone()
    penalise(scores, sampling, before, [])
    if not sampling.drawn:
        return torch.nn.functional.one_hot(scores.argmax(), len(scores)).float()
    tokens, found = weights(scores, sampling)
    return torch.zeros_like(scores).index_add(0, tokens, found / found.sum())


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    temperature=st.sampled_from([0.05, 0.3, 0.7, 1.0, 1.9]),
    top_k=st.sampled_from([None, 0, 1, 2, 20, 299, 300, 5000]),
    top_p=st.sampled_from([None, 0.001, 0.5, 0.8, 0.95, 1.0]),
    penalty=st.sampled_from([None, 0.7, 1.0, 1.05, 2.0]),
    coarse=st.booleans(),
)
def test_probabilities_are_those_of_transformers(
    seed: int,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    penalty: float | None,
    coarse: bool,
) -> None:
    """coarse: as of bfloat16, where many tokens are equally likely, also at the edge of top_k."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(VOCABULARY, generator=generator) * 4
    if coarse:
        scores = (scores * 2).round() / 2
        top_p = None  # which of equals the nucleus ends with is open
        assume(top_k != 1)  # we take the first of equals, without a die
    before = torch.randint(0, VOCABULARY, (40,), generator=generator).tolist()
    said = {
        "do_sample": True,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "repetition_penalty": penalty,
    }
    expected = theirs(said, scores, before)
    found = ours(usual_sampling(said), scores, before)
    assert torch.allclose(found, expected, atol=1e-5)
    assert (found > 0).sum() == (expected > 0).sum()


@pytest.mark.parametrize("said", GENERATION.values(), ids=GENERATION)
def test_published_defaults_are_those_of_transformers(said: dict[str, Any]) -> None:
    generator = torch.Generator().manual_seed(3)
    for _ in range(20):
        scores = torch.randn(VOCABULARY, generator=generator) * 4
        before = torch.randint(0, VOCABULARY, (60,), generator=generator).tolist()
        found = ours(usual_sampling(said), scores, before)
        assert torch.allclose(found, theirs(said, scores, before), atol=1e-4)


def test_draws_follow_the_weights() -> None:
    sampling = Sampling(temperature=0.8, top_k=12, top_p=0.9)
    scores = torch.randn(VOCABULARY, generator=torch.Generator().manual_seed(5)) * 2
    generator = torch.Generator().manual_seed(7)
    counts = torch.zeros(VOCABULARY)
    for _ in range(4000):
        counts[draw(scores, sampling, generator)] += 1
    expected = ours(sampling, scores, [0])
    assert not counts[expected == 0].any()
    assert float((counts / 4000 - expected).abs().sum()) < 0.06


@pytest.mark.parametrize("temperature", [0.0, 1e-300, 1e-30, 1e-8, 9e-6])
def test_temperatures_near_zero_are_greedy(temperature: float) -> None:
    assert not Sampling(temperature=temperature).drawn
    coldest = Sampling(temperature=1e-5)
    tokens, found = weights(torch.linspace(-60, 60, VOCABULARY), coldest)
    assert int(tokens[found.argmax()]) == VOCABULARY - 1
    assert found.isfinite().all()


def test_what_the_answer_has_loses_by_presence_and_frequency() -> None:
    """OpenAI's definition, which vLLM shares: of the answer alone, after the repetition penalty."""
    scores = torch.linspace(-2, 2, 8)
    sampling = Sampling(repetition_penalty=2.0, presence_penalty=0.5, frequency_penalty=-0.25)
    found = scores.clone()
    penalise(found, sampling, said=[0, 7, 7, 3], answered=[7, 7, 3])
    expected = scores.clone()
    expected[0], expected[7], expected[3] = scores[0] * 2, scores[7] / 2, scores[3] * 2
    expected[7] -= 0.5 - 2 * 0.25
    expected[3] -= 0.5 - 0.25
    assert torch.allclose(found, expected)


def test_a_question_says_otherwise() -> None:
    usual = usual_sampling(GENERATION["qwen3"])
    plain = replace(sampling_of(gateway_pb2.Question(), usual), seed=0)
    assert plain == usual
    seeds = {sampling_of(gateway_pb2.Question(), usual).seed for _ in range(3)}
    assert len(seeds) == 3  # every answer is drawn anew
    asked = gateway_pb2.Question(
        temperature=0.0,
        top_k=0,
        top_p=1.0,
        repetition_penalty=1.0,
        presence_penalty=1.5,
        frequency_penalty=0.5,
        seed=0,
    )
    assert sampling_of(asked, usual) == Sampling(presence_penalty=1.5, frequency_penalty=0.5)
    warm = sampling_of(gateway_pb2.Question(temperature=1.0, seed=4), usual)
    assert warm == replace(usual, temperature=1.0, seed=4)
    assert replace(sampling_of(gateway_pb2.Question(), GREEDY), seed=0) == GREEDY


@pytest.mark.parametrize(
    "fields",
    [
        {"top_k": 100_001},
        {"presence_penalty": 2.1},
        {"presence_penalty": float("nan")},
        {"frequency_penalty": float("-inf")},
        {"temperature": -0.1},
    ],
    ids=str,
)
def test_a_question_out_of_bounds_is_refused(fields: dict[str, Any]) -> None:
    check_question(gateway_pb2.Question(text="What?", top_k=100_000, presence_penalty=-2.0))
    with pytest.raises(InvalidArgumentError, match=next(iter(fields))):
        check_question(gateway_pb2.Question(text="What?", **fields))


@pytest.mark.parametrize(
    "said",
    [
        {"temperature": "warm"},
        {"temperature": -1},
        {"top_p": 1.5},
        {"top_k": -1},
        {"top_k": [1]},
        {"repetition_penalty": 0},
        {"repetition_penalty": float("nan")},
        {"temperature": 10**400},
    ],
    ids=str,
)
def test_values_without_meaning_are_named(said: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match=next(iter(said))):
        usual_sampling(said)


def test_every_end_is_heeded() -> None:
    assert stop_tokens([151645, 151643], 151645) == {151645, 151643}
    assert stop_tokens(0, None) == {0}
    assert stop_tokens(None, None) == frozenset()
    for wrong in ("</s>", 1.5, [True], {"a": 1}):
        with pytest.raises(ModelError, match="eos_token_id"):
            stop_tokens(wrong, None)


def test_an_unreadable_generation_config_counts_for_none(tmp_path: Path) -> None:
    """As in transformers, which falls back to its own defaults."""
    file = tmp_path / "generation_config.json"
    assert generation(tmp_path) == {}
    for text in ("{", "[]", "nonsense", ""):
        file.write_text(text)
        assert generation(tmp_path) == {}
