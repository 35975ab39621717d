"""Pictures that hardly changed are not encoded again, and everything else is."""

import numpy as np
import pytest
import torch

from services.inference_worker.engine.stillness import largest_change
from services.inference_worker.model.family import Encoded
from services.inference_worker.model.layout import FrameLayout
from tests.unit.tiny import Bench, random_picture, tiny_model

QUESTION = [1, 10, 11, 12, 7]


class Encoder:
    """A bench that counts the pictures its encoder is given."""

    def __init__(self, reuse_below: float, burst: int = 1) -> None:
        self.bench = Bench(tiny_model(window=3), reuse_below=reuse_below, burst=burst)
        self.bench.open("s")
        self.num_encoded = 0
        encode = self.bench.model.encode

        def counting(frames: torch.Tensor) -> Encoded:
            self.num_encoded += len(frames)
            return encode(frames)

        self.bench.model.encode = counting  # type: ignore[method-assign]

    def show(self, *pictures: np.ndarray) -> "Encoder":
        for number, picture in enumerate(pictures):
            self.bench.push("s", picture, number)
            self.bench.run()
        return self

    def logits(self) -> torch.Tensor:
        self.bench.ask("s", QUESTION)
        self.bench.run()
        self.bench.cache.check_integrity()
        return self.bench.runner.logits[-1]


@pytest.fixture
def picture() -> np.ndarray:
    return random_picture(np.random.default_rng(0)).clip(20, 200)


def layout(width: int, height: int) -> FrameLayout:
    return FrameLayout(
        width=width, height=height, vision_tokens=1, segment_tokens=1, segment_advance=1
    )


@pytest.mark.parametrize("size", [(64, 64), (84, 56), (10, 7), (17, 33)])
def test_the_change_is_that_of_the_block_that_changed_most(size: tuple[int, int]) -> None:
    width, height = size
    rng = np.random.default_rng(1)
    old, new = (rng.integers(0, 256, (height, width, 3), dtype=np.uint8) for _ in range(2))
    difference = np.abs(old.astype(int) - new)
    expected = max(
        difference[y : y + 16, x : x + 16].mean()
        for y in range(0, height, 16)
        for x in range(0, width, 16)
    )
    found = largest_change([old.tobytes()], [new.tobytes()], layout(width, height))
    assert found == pytest.approx(expected)


def test_of_a_tubelet_every_frame_counts() -> None:
    black, grey = bytes(16 * 16 * 3), bytes([9]) * (16 * 16 * 3)
    assert largest_change([black, black], [black, grey], layout(16, 16)) == 9.0
    assert largest_change([black, black], [black, black], layout(16, 16)) == 0.0


def test_without_a_threshold_every_picture_is_encoded(picture: np.ndarray) -> None:
    exact = Encoder(0.0).show(*[picture] * 5)
    assert exact.num_encoded == 5


def test_identical_pictures_are_encoded_once_and_answer_alike(picture: np.ndarray) -> None:
    exact, reusing = (Encoder(below).show(*[picture] * 5) for below in (0.0, 2.0))
    assert reusing.num_encoded == 1
    assert torch.equal(exact.logits(), reusing.logits())


def test_identical_pictures_of_one_step_share_one_encoding(picture: np.ndarray) -> None:
    exact, reusing = Encoder(0.0, burst=4), Encoder(2.0, burst=4)
    for encoder in (exact, reusing):
        for number in range(4):
            encoder.bench.push("s", picture, number)
        encoder.bench.run()
    assert reusing.num_encoded == 1
    assert torch.allclose(exact.logits(), reusing.logits(), atol=1e-5)


def test_a_small_thing_that_moves_is_encoded(picture: np.ndarray) -> None:
    moved = picture.copy()
    moved[40:44, 40:44] = 255  # 16 of 4096 pixels
    exact, reusing = (Encoder(below).show(picture, moved) for below in (0.0, 2.0))
    assert np.abs(moved.astype(int) - picture).mean() < 2.0
    assert reusing.num_encoded == 2
    assert torch.equal(exact.logits(), reusing.logits())


def test_a_slow_drift_is_encoded_once_it_adds_up(picture: np.ndarray) -> None:
    encoder = Encoder(3.0)
    encoded = [encoder.show(picture + np.uint8(n)).num_encoded for n in range(8)]
    assert encoded == [1, 1, 1, 2, 2, 2, 3, 3]
