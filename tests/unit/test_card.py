"""Cards of models: read from beside the weights, made where there is none, never in the way."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from services.inference_worker.model.card import Card, card_of
from services.inference_worker.model.registry import SHIPPED, WEIGHTS
from sightline.v1 import gateway_pb2

README = """---
language: en
license: apache-2.0
tags: [video]
---
# A model
license: not this one
"""


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_models_say_what_they_can_and_cannot(name: str) -> None:
    card = card_of(WEIGHTS / name, name, 5_000_000, published=False)
    assert card.summary
    assert card.can
    assert card.cannot
    assert card.questions
    assert card.conditions
    assert card.licence == "Apache-2.0"
    message = gateway_pb2.ModelCard(**asdict(card))
    assert list(message.can) == list(card.can)


def test_a_published_model_gets_a_card_from_what_is_known(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(README)
    card = card_of(tmp_path, "Some/Model-7B", 7_600_000_000, published=True)
    assert card.summary.startswith("Model-7B is a published model of 7.6 billion parameters")
    assert card.questions
    assert card.licence == "apache-2.0"


@pytest.mark.parametrize(
    "readme", [None, "", "# A model\nlicense: mit\n", "---\ntags: [a]\n---\nlicense: mit\n", "\0"]
)
def test_a_licence_that_nobody_names_is_none(tmp_path: Path, readme: str | None) -> None:
    if readme is not None:
        (tmp_path / "README.md").write_text(readme)
    assert card_of(tmp_path, "a/b", 0, published=True).licence == ""


def test_a_card_beside_the_weights_goes_before_what_is_known(tmp_path: Path) -> None:
    (tmp_path / "card.json").write_text(
        json.dumps({"summary": "it counts sheep", "can": ["sheep"]})
    )
    card = card_of(tmp_path, "mine", 0, published=True)
    assert card == Card(summary="it counts sheep", can=("sheep",))


@pytest.mark.parametrize(
    "content",
    [
        "not json",
        "[]",
        '{"summary": 5}',
        '{"can": "sheep"}',
        '{"can": [5]}',
        json.dumps({"can": ["x" * 2000]}),
        json.dumps({"can": ["x"] * 100}),
        "[" * 100_000,
    ],
)
def test_a_card_that_cannot_be_read_is_told_and_replaced(
    tmp_path: Path, content: str, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "card.json").write_text(content)
    card = card_of(tmp_path, "mine", 0, published=False)
    assert card.summary.startswith("mine was trained with Sightline")
    assert card.can == ()
    assert "card not read" in caplog.text
