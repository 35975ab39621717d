"""What the engine is compared with computes the same: otherwise its speed would say nothing."""

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import peer, peers
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


def test_a_turn_leaves_the_peers_stream_as_it_was(tmp_path: Path) -> None:
    pair = Pair.of("smolvlm", tmp_path / "model")
    theirs = peer.Transformers(pair.ours, tmp_path / "model", noise(pair.ours, 3), 4)
    question = len(pair.ours.question_tokens([], peer.QUESTION))
    seen = len(theirs.window) - question
    for measure in (
        theirs.frame_s,
        theirs.first_token_s,
        theirs.kept_first_token_s,
        theirs.token_s,
    ):
        assert measure() > 0
        assert theirs._cache.get_seq_length() == seen
    per_frame = (seen - len(pair.ours.sink_tokens())) // 3
    assert len(theirs.frame) == per_frame


class _Slow:
    """A peer that takes so many times as long as Sightline."""

    def __init__(self, name: str, times: float) -> None:
        self.name, self._times = name, times

    def frame_s(self) -> float:
        return 0.1 * self._times

    def first_token_s(self) -> float:
        return 0.02 * self._times

    def token_s(self) -> float:
        return 0.01 / self._times

    def close(self) -> None:
        pass


def test_peers_are_compared_turn_by_turn_and_who_is_absent_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(peer, "OPENVINO", tmp_path)
    monkeypatch.setattr(peers, "PAUSE_S", 0.0)
    absent = peer.OpenVino.start(tmp_path, {}, int8=True)
    assert absent == "OpenVINO is not measured: `make peers` installs it"
    found = peers.Measured("SmolVLM2-256M", 256_000_000, 2000, kept_s=[0.03], absent=[absent])
    for _ in range(3):
        found.take(_Slow("Sightline", 1))
        found.take(_Slow("transformers", 5))
    result = peers._result([found], "bfloat16")
    assert [round(target.value, 6) for target in result.targets] == [5, 5]  # not of tokens
    assert not result.missed
    [table] = result.tables
    assert table.rows[0][:4] == ("Sightline", "100.0", "20.0", "100.0")
    assert table.rows[1][:4] == ("transformers", "500.0", "100.0", "500.0")
    assert absent in result.notes
