"""Rate control, conversion and the ring between a decode thread and the event loop."""

import asyncio
import io
import random
import threading

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.common.tasks import QueueClosed
from services.gateway.frames.frame_size import FrameSize
from services.gateway.frames.sampler import FrameRate, Sampler
from services.gateway.sources.source import MAX_AHEAD_NS, DecodedFrame
from tests.eventually import PATIENCE_S
from tests.sources import START_NS

SECOND_NS = 1_000_000_000


def chosen(rate: FrameRate, times_ns: list[int]) -> list[int]:
    return [time_ns for time_ns in times_ns if rate.chooses(time_ns)]


def regular(fps: float, seconds: float, start_ns: int = START_NS) -> list[int]:
    return [start_ns + round(index * SECOND_NS / fps) for index in range(round(seconds * fps))]


# --- rate -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "wanted"), [(30, 8), (30, 15), (29.97, 8), (25, 10), (60, 1), (15, 14), (30, 29)]
)
def test_a_faster_source_is_thinned_to_a_regular_grid(source: float, wanted: float) -> None:
    times = chosen(FrameRate(wanted), regular(source, 60))
    assert len(times) == pytest.approx(60 * wanted, rel=0.02, abs=1)
    gaps = np.diff(times) / SECOND_NS
    # Each picture is at most half a source interval from its grid point.
    assert gaps.min() >= 1 / wanted - 1 / source - 1e-6
    assert gaps.max() <= 1 / wanted + 1 / source + 1e-6


@pytest.mark.parametrize(("source", "wanted"), [(5, 8), (8, 8), (29.97, 30), (14.9, 15), (1, 30)])
def test_a_source_that_is_not_faster_keeps_every_picture(source: float, wanted: float) -> None:
    times = [time_ns // 1_000_000 * 1_000_000 for time_ns in regular(source, 120)]  # as RTMP has it
    assert chosen(FrameRate(wanted), times) == times


def test_a_gap_is_not_followed_by_a_burst() -> None:
    before = regular(30, 5)
    after = regular(30, 5, start_ns=before[-1] + 7 * SECOND_NS)
    times = chosen(FrameRate(8), before + after)
    assert np.diff(times).min() >= SECOND_NS * (1 / 8 - 1 / 30)
    assert len(times) == pytest.approx(80, abs=2)


def test_pictures_of_one_moment_count_once() -> None:
    assert chosen(FrameRate(8), [START_NS] * 50) == [START_NS]


def test_a_burst_of_a_slow_source_is_thinned() -> None:
    times = regular(4, 10)
    burst = [times[-1] + index * 1_000_000 for index in range(1, 20)]
    assert len(chosen(FrameRate(8), times + burst)) == len(times)


@settings(deadline=None, max_examples=60)
@given(st.floats(1, 60), st.floats(1, 60), st.floats(0, 0.45), st.randoms(use_true_random=False))
def test_the_rate_holds_for_any_jitter(
    source: float, wanted: float, jitter: float, dice: random.Random
) -> None:
    times = sorted(
        time_ns + round(dice.uniform(-jitter, jitter) * SECOND_NS / source)
        for time_ns in regular(source, 300 / source)
    )
    picked = chosen(FrameRate(wanted), times)
    seconds = (times[-1] - times[0]) / SECOND_NS
    assert len(picked) <= max(wanted * 1.15, 1) * seconds + 3
    assert len(picked) >= min(wanted, source) * 0.75 * seconds - 3


def test_the_rate_can_change() -> None:
    rate = FrameRate(15)
    times = regular(30, 20)
    first = chosen(rate, times[:300])
    rate.set_fps(5)
    second = chosen(rate, times[300:])
    assert len(first) == pytest.approx(150, abs=2)
    assert len(second) == pytest.approx(50, abs=2)
    with pytest.raises(ValueError, match="positive"):
        rate.set_fps(0)


# --- conversion -----------------------------------------------------------------------------------


def solid(colour: tuple[int, int, int], width: int = 64, height: int = 48) -> av.VideoFrame:
    image = np.full((height, width, 3), colour, np.uint8)
    return av.VideoFrame.from_ndarray(image, format="rgb24")


def sampler(**options: object) -> Sampler:
    size = FrameSize(width=32, height=24)
    values = {"fps": 10.0, "size": size, "loop": asyncio.get_running_loop()} | options
    return Sampler(**values)  # type: ignore[arg-type]


def picture(frame: av.VideoFrame, index: int = 0, fps: float = 10) -> DecodedFrame:
    return DecodedFrame(frame, START_NS + round(index * SECOND_NS / fps), "stream")


@pytest.mark.parametrize("pixels", ["rgb24", "yuv420p", "yuvj420p", "nv12", "yuv444p10le", "gray"])
@pytest.mark.parametrize("size", [(64, 48), (16, 12), (333, 77), (33, 25)])
async def test_colours_and_sizes_survive_conversion(pixels: str, size: tuple[int, int]) -> None:
    colour = (200, 200, 200) if pixels == "gray" else (220, 30, 60)
    frame = solid(colour, *size).reformat(format=pixels, threads=1)
    ring = sampler(size=FrameSize(width=33, height=25))
    ring.take(picture(frame))
    taken = await ring.get()
    image = np.frombuffer(taken.pixels, np.uint8).reshape(25, 33, 3)
    assert (taken.width, taken.height, taken.capture_ns) == (33, 25, START_NS)
    assert np.abs(image.astype(int) - colour).max() <= 6


async def test_shrinking_averages() -> None:
    """Every second column white: a nearest-neighbour choice would give black or white."""
    image = np.zeros((48, 64, 3), np.uint8)
    image[:, ::2] = 255
    ring = sampler()
    ring.take(picture(av.VideoFrame.from_ndarray(image, format="rgb24")))
    pixels = np.frombuffer((await ring.get()).pixels, np.uint8)
    assert pixels.min() > 100
    assert pixels.max() < 155


async def test_the_source_may_change_its_size_but_frames_keep_theirs() -> None:
    ring = sampler()
    ring.take(picture(solid((255, 0, 0), 64, 48), 0))
    ring.take(picture(solid((0, 255, 0), 100, 30), 1))
    ring.take(picture(solid((0, 0, 255), 20, 20), 2))
    first, second, third = [await ring.get() for _ in range(3)]
    assert first.pixels == bytes([255, 0, 0]) * (32 * 24)
    assert second.pixels == bytes([0, 255, 0]) * (32 * 24)
    assert third.pixels == bytes([0, 0, 255]) * (32 * 24)
    counts = ring.counts()
    assert (counts.source_width, counts.source_height) == (20, 20)


async def test_the_first_picture_settles_a_free_size() -> None:
    ring = sampler(size=FrameSize(width=56, height=56, factor=28, min_pixels=784, max_pixels=4000))
    assert ring.size == (56, 56)
    ring.take(picture(solid((255, 0, 0), 160, 40), 0))
    ring.take(picture(solid((0, 255, 0), 40, 160), 1))
    for _ in range(2):
        frame = await ring.get()
        assert (frame.width, frame.height) == ring.size == (140, 28)


@settings(deadline=None, max_examples=300)
@given(
    st.integers(1, 8192),
    st.integers(1, 8192),
    st.sampled_from([28, 32]),
    st.integers(1, 2000),
    st.integers(0, 1999),
)
def test_a_fitted_size_keeps_the_rule_and_nearly_the_shape(
    width: int, height: int, factor: int, most: int, least: int
) -> None:
    most_pixels, least_pixels = most * factor**2, min(most, least) * factor**2
    rule = FrameSize(
        width=factor,
        height=factor,
        factor=factor,
        min_pixels=least_pixels,
        max_pixels=most_pixels,
    )
    fitted_width, fitted_height = rule.fit(width, height)
    assert fitted_width % factor == 0
    assert fitted_height % factor == 0
    assert factor**2 <= fitted_width * fitted_height <= most_pixels
    shape = width / height
    if 1 / 4 < shape < 4 and fitted_width > 8 * factor and fitted_height > 8 * factor:
        assert abs(fitted_width / fitted_height / shape - 1) < 0.15


# --- the ring -------------------------------------------------------------------------------------


async def test_the_newest_frames_win_and_every_drop_is_counted() -> None:
    ring = sampler(capacity=3)
    for index in range(10):
        ring.take(picture(solid((index, 0, 0)), index))
    assert len(ring) == 3
    reds = [(await ring.get()).pixels[0] for _ in range(3)]
    assert reds == [7, 8, 9]
    counts = ring.counts()
    assert (counts.received, counts.sampled, counts.dropped) == (10, 10, {"ring_full": 7})


async def test_only_sampled_pictures_count_as_sampled() -> None:
    ring = sampler(capacity=1000)
    for index in range(300):
        ring.take(picture(solid((0, 0, 0)), index, fps=30))
    counts = ring.counts()
    assert counts.received == 300
    assert counts.sampled == pytest.approx(100, abs=2)
    assert not counts.dropped


async def test_a_reader_is_woken_by_the_decode_thread() -> None:
    ring = sampler()
    reading = asyncio.create_task(ring.get())
    await asyncio.sleep(0)
    threading.Thread(target=ring.take, args=(picture(solid((1, 2, 3))),)).start()
    frame = await asyncio.wait_for(reading, PATIENCE_S)
    assert frame.pixels[:3] == bytes([1, 2, 3])


async def test_a_thousand_pictures_leave_one_callback_on_the_loop() -> None:
    callbacks = []

    class Loop:
        def call_soon_threadsafe(self, callback: object) -> None:
            callbacks.append(callback)

    ring = sampler(loop=Loop(), capacity=4)
    for index in range(1000):
        ring.take(picture(solid((0, 0, 0), 4, 4), index))
    assert len(callbacks) == 1


async def test_lossless_waits_for_room_and_loses_nothing() -> None:
    ring = sampler(capacity=2, lossless=True)
    frames = [picture(solid((index, 0, 0)), index) for index in range(40)]

    def decode() -> None:
        for frame in frames:
            ring.take(frame)

    thread = threading.Thread(target=decode)
    thread.start()
    reds = []
    for _ in frames:
        reds.append((await asyncio.wait_for(ring.get(), PATIENCE_S)).pixels[0])
        assert len(ring) <= 2
    thread.join(PATIENCE_S)
    assert reds == list(range(40))
    assert not ring.counts().dropped


async def test_closing_releases_a_waiting_thread_and_the_reader() -> None:
    ring = sampler(capacity=1, lossless=True)
    ring.take(picture(solid((0, 0, 0)), 0))
    thread = threading.Thread(target=ring.take, args=(picture(solid((0, 0, 0)), 1),))
    thread.start()
    ring.close()
    await asyncio.to_thread(thread.join, PATIENCE_S)
    assert not thread.is_alive()
    with pytest.raises(QueueClosed):
        await ring.get()
    ring.take(picture(solid((0, 0, 0)), 2))
    assert len(ring) == 0


async def test_a_closed_reader_stops_waiting() -> None:
    ring = sampler()
    reading = asyncio.create_task(ring.get())
    await asyncio.sleep(0)
    ring.close()
    with pytest.raises(QueueClosed):
        await asyncio.wait_for(reading, PATIENCE_S)


# --- capture times --------------------------------------------------------------------------------


async def test_a_publisher_that_starts_anew_with_earlier_times_goes_on() -> None:
    """A second push may count from zero again: its frames must not be lost."""
    ring = sampler(capacity=1000)
    for index in range(20):
        ring.take(picture(solid((0, 0, 0)), index))
    for index in range(20):
        ring.take(DecodedFrame(solid((0, 0, 0)), 1 + index * SECOND_NS // 10, "stream"))
    times = [(await ring.get()).capture_ns for _ in range(len(ring))]
    assert times == sorted(set(times))
    assert len(times) >= 38
    assert ring.counts().noted == {"non_monotonic": 1}


async def test_small_steps_back_are_clamped() -> None:
    ring = sampler(fps=100, capacity=100)
    for offset_ms in (0, 100, 90, 200):
        capture_ns = START_NS + offset_ms * 1_000_000
        ring.take(DecodedFrame(solid((0, 0, 0)), capture_ns, "stream"))
    times = [(await ring.get()).capture_ns for _ in range(len(ring))]
    assert [(time_ns - START_NS) // 1_000_000 for time_ns in times] == [0, 100, 200]
    assert ring.counts().noted == {"non_monotonic": 1}


async def test_times_far_ahead_of_our_clock_are_brought_back_and_pass() -> None:
    """Whatever a source says, also when it adds up over several publishers."""
    ring = sampler(fps=100, capacity=1000, clock_ns=lambda: START_NS)
    for start_ns in (START_NS, 2**63 - 1, 1, START_NS + 2 * MAX_AHEAD_NS, 5, 2**62, 2**63 - 9, 7):
        for number in range(3):
            capture_ns = start_ns + number * SECOND_NS // 100
            ring.take(DecodedFrame(solid((0, 0, 0)), capture_ns, "stream"))
    times = [(await ring.get()).capture_ns for _ in range(len(ring))]
    assert times == sorted(times)
    assert times[0] == START_NS
    assert times[-1] < START_NS + MAX_AHEAD_NS + 10 * SECOND_NS
    assert len(times) >= 12
    assert ring.counts().noted["capture_time_ahead"] > 0


# --- preview --------------------------------------------------------------------------------------


async def test_the_preview_is_the_newest_picture_in_its_own_shape() -> None:
    ring = sampler()
    assert await ring.preview() is None
    ring.take(picture(solid((0, 0, 0)), 0))
    ring.take(picture(solid((220, 30, 60), 1280, 720), 1))
    jpeg = await ring.preview()
    assert jpeg is not None
    with av.open(io.BytesIO(jpeg), format="jpeg_pipe") as file:
        image = next(file.decode(video=0)).to_ndarray(format="rgb24")
    assert image.shape == (360, 640, 3)
    assert np.abs(image.astype(int) - (220, 30, 60)).max() <= 8
    assert await ring.preview() is jpeg, "one picture is encoded once"
    ring.take(picture(solid((0, 200, 0), 50, 31), 2))
    small = await ring.preview()
    assert small is not None
    assert small is not jpeg
    with av.open(io.BytesIO(small), format="jpeg_pipe") as file:
        assert next(file.decode(video=0)).width == 50


async def test_a_moments_picture_is_what_the_model_saw_however_far_behind_it_is() -> None:
    ring = sampler()
    ring.take(picture(solid((220, 30, 60), 1280, 720), 0))
    frame = await ring.get()
    ring.take(picture(solid((0, 200, 0), 1280, 720), 1))
    assert await ring.picture_of(frame, 640) == await ring.preview(), "hardly newer"
    ring.take(picture(solid((0, 200, 0), 1280, 720), 1000))
    jpeg = await ring.picture_of(frame, 640)
    assert jpeg is not None
    with av.open(io.BytesIO(jpeg), format="jpeg_pipe") as file:
        image = next(file.decode(video=0)).to_ndarray(format="rgb24")
    assert image.shape == (360, 640, 3)
    assert np.abs(image.astype(int) - (220, 30, 60)).max() <= 8


async def test_a_preview_is_not_converted_unless_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    ring = sampler()
    monkeypatch.setattr(ring, "_encode_preview", lambda *_: pytest.fail("converted"))
    for index in range(10):
        ring.take(picture(solid((0, 0, 0)), index))
