"""Dark, covered, frozen and repeating pictures are told; what people show for good is not."""

from collections.abc import Iterable
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from services.gateway.frames.picture_health import Condition, HealthLimits, PictureHealth

SECOND_NS = 1_000_000_000
FPS = 10
WIDTH, HEIGHT = 160, 90
MEDIA = Path(__file__).resolve().parents[3] / "shared" / "media"
SHORT = HealthLimits(dark_s=1, covered_s=1, frozen_s=3, repeating_s=3)
FORMATS = ("yuv420p", "yuvj420p", "rgb24", "nv12", "yuv420p10le", "gray")

Picture = NDArray[np.uint8]


def scene(seed: int = 0, noise: float = 2.0, move: int = 0) -> Picture:
    """Boxes before a wall, with the noise of a sensor."""
    picture = np.full((HEIGHT, WIDTH, 3), 120.0)
    picture[20:60, 30 + move : 70 + move] = (200, 60, 40)
    picture[50:80, 100:140] = (30, 90, 160)
    picture += np.random.default_rng(seed).normal(0, noise, picture.shape) if noise else 0
    clipped: Picture = np.clip(picture, 0, 255).astype(np.uint8)
    return clipped


def plain(level: int) -> Picture:
    return np.full((HEIGHT, WIDTH, 3), level, np.uint8)


def told(
    pictures: Iterable[Picture],
    limits: HealthLimits = SHORT,
    pixel_format: str = "yuv420p",
    fps: float = FPS,
) -> list[tuple[Condition, float]]:
    """Conditions in the order they came, each with its second."""
    health, changes = PictureHealth(limits), [(Condition.FINE, 0.0)]
    for number, picture in enumerate(pictures):
        frame = av.VideoFrame.from_ndarray(picture, "rgb24").reformat(format=pixel_format)
        health.look(frame, round(number * SECOND_NS / fps))
        if health.condition != changes[-1][0]:
            changes.append((health.condition, number / fps))
    return changes


def conditions(*arguments: object, **options: object) -> list[Condition]:
    return [condition for condition, _ in told(*arguments, **options)]  # type: ignore[arg-type]


@pytest.mark.parametrize("pixel_format", FORMATS)
def test_each_condition_is_told_and_taken_back_in_any_pixel_format(pixel_format: str) -> None:
    good = [scene(seed) for seed in range(30)]
    loop = [scene(seed) for seed in range(20)] * 4
    bad = {
        Condition.DARK: [plain(8)] * 20,
        Condition.COVERED: [plain(90)] * 20,
        Condition.FROZEN: [scene()] * 50,
        Condition.REPEATING: loop,
    }
    for condition, pictures in bad.items():
        changes = conditions([*good, *pictures, *good], pixel_format=pixel_format)
        assert changes == [Condition.FINE, condition, Condition.FINE], condition


def test_a_condition_is_told_after_its_time_and_not_for_what_is_shorter() -> None:
    good = [scene(seed) for seed in range(20)]
    for length, expected in ((9, []), (20, [Condition.DARK])):
        changes = conditions([*good, *[plain(5)] * length, *good])
        assert changes[1:-1] == expected
    (_, began_s) = told([*good, *[plain(5)] * 20])[1]
    assert 3.0 <= began_s <= 3.3  # 2 s of good ones and the limit, to the next look
    (_, began_s) = told([*good, *[scene()] * 60])[1]
    assert 5.0 <= began_s <= 5.3


def test_a_dark_picture_may_have_a_lamp_and_a_night_street_is_not_dark() -> None:
    lamp, street = plain(6), plain(6)
    lamp[4:8, 4:8] = 255
    street[60:90] = 90
    assert conditions([lamp] * 20)[-1] is Condition.DARK
    noisy = [
        np.clip(street + np.random.default_rng(n).integers(0, 9, street.shape), 0, 255)
        for n in range(20)
    ]
    assert conditions([each.astype(np.uint8) for each in noisy]) == [Condition.FINE]


def test_brightness_about_a_limit_does_not_flutter() -> None:
    level = round(SHORT.dark_level * 255)
    flutter = [plain(level - 3 + 6 * (n // 15 % 2)) for n in range(200)]
    assert conditions(flutter) == [Condition.FINE, Condition.DARK]


def test_a_still_scene_with_a_sensor_s_noise_is_not_frozen() -> None:
    assert conditions(scene(seed, noise=1.0) for seed in range(100)) == [Condition.FINE]


def test_a_slide_is_frozen_only_after_a_long_time_and_a_cursor_on_it_suffices() -> None:
    slide = plain(245)
    slide[30:34, 20:120] = 10
    limits = HealthLimits()
    assert conditions([slide] * 19 * FPS, limits) == [Condition.FINE]
    assert conditions([slide] * 21 * FPS, limits) == [Condition.FINE, Condition.FROZEN]
    cursor = [slide.copy() for _ in range(40 * FPS)]
    for number, each in enumerate(cursor):
        each[50:60, 40:44] = 10 if number // 5 % 2 else 245
    assert conditions(cursor, limits) == [Condition.FINE]


def test_frozen_pictures_are_told_though_a_codec_draws_each_keyframe_anew() -> None:
    kinds = [scene(noise=0) for _ in range(3)]
    for number, kind in enumerate(kinds):
        kind[number::7] += 3
    assert conditions([kinds[n // 5 % 3] for n in range(60)])[-1] is Condition.FROZEN


def test_few_pictures_far_apart_say_nothing() -> None:
    assert conditions([scene()] * 2, fps=0.1) == [Condition.FINE]


def test_a_loop_with_pauses_and_one_that_swings_are_found_and_movement_alone_is_none() -> None:
    paused = [scene(seed) for seed in range(12) for _ in range(3)]
    swing = [scene(seed) for seed in [*range(8), *range(6, 0, -1)]]
    for period in (paused, swing):
        assert conditions(period * (200 // len(period)))[-1] is Condition.REPEATING
    moving = (scene(seed, move=seed % 20) for seed in range(200))
    assert conditions(moving) == [Condition.FINE]


def test_a_loop_longer_than_what_is_kept_is_no_loop() -> None:
    loop = [scene(seed, noise=1) for seed in range(30)]
    assert conditions(loop * 4, HealthLimits(repeating_s=0)) == [Condition.FINE]


def test_what_is_set_to_none_is_never_told() -> None:
    off = HealthLimits(dark_s=0, covered_s=0, frozen_s=0, repeating_s=0)
    for pictures in ([plain(5)] * 60, [plain(90)] * 60, [scene()] * 60):
        assert conditions(pictures, off) == [Condition.FINE]


@pytest.mark.skipif(not MEDIA.is_dir(), reason=f"needs the clips in {MEDIA}")
@pytest.mark.parametrize("name", ["bottle-detection.mp4", "car-detection.mp4"])
def test_real_clips_are_fine(name: str) -> None:
    health, seen = PictureHealth(HealthLimits(frozen_s=3, repeating_s=3)), set()
    with av.open(str(MEDIA / name)) as container:
        for frame in container.decode(video=0):
            assert frame.time is not None
            health.look(frame, round(frame.time * SECOND_NS))
            seen.add(health.condition)
    assert seen == {Condition.FINE}
