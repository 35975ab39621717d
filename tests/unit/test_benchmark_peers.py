"""What the engine is compared with computes the same: otherwise its speed would say nothing."""

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.published import SIZES, Growing, Theirs, noise
from tests.checkpoints import FAMILIES
from tests.published import Pair, Transcript


def test_every_family_has_a_size() -> None:
    assert set(SIZES) == set(FAMILIES)


@pytest.mark.parametrize("family", FAMILIES)
def test_reads_a_window_as_the_oracle_does(family: str, tmp_path: Path) -> None:
    pair = Pair.of(family, tmp_path / "model")
    ours = pair.ours
    layout, question = ours.spec.layout, ours.question_tokens([], "What changed?")
    frames = noise(ours, 3 * ours.tubelet)
    tubelets = [frames[n : n + ours.tubelet] for n in range(0, len(frames), ours.tubelet)]
    transcript = Transcript(pair)
    for number, tubelet in enumerate(tubelets):
        pixels = [np.frombuffer(frame, np.uint8) for frame in tubelet]
        shape = (layout.height, layout.width, 3)
        transcript.show([frame.reshape(shape) for frame in pixels], 0.25 * number)
    expected = transcript.asked(question).logits()[-1]

    theirs = Theirs(ours, pair.folder)
    window = theirs.window(tubelets, question)
    with torch.inference_mode():
        logits = theirs.model(**window, use_cache=False, logits_to_keep=1).logits[0, -1]
    torch.testing.assert_close(logits, expected, rtol=1e-3, atol=1e-3)
    assert theirs.first_token(window)[0] == int(expected.argmax())


@pytest.mark.parametrize("family", FAMILIES)
def test_a_growing_cache_holds_every_token(family: str, tmp_path: Path) -> None:
    pair = Pair.of(family, tmp_path / "model")
    ours = pair.ours
    growing = Growing(Theirs(ours, pair.folder), noise(ours, 4))
    held = len(ours.sink_tokens())
    for number in range(3):
        segment = ours.segment(ours.spec.layout, 0, number * ours.tubelet / 8)
        growing.show()
        held += len(segment.tokens)
        assert growing.cache.get_seq_length() == held
    assert growing.shown == 3 * ours.tubelet
