"""Pictures as people see them: turned, of oblong pixels, of two fields, of high dynamic range."""

import gc
import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from services.common.jpeg import decode_jpeg, encode_jpeg
from services.gateway.frames.display import Display, displayed_size
from services.gateway.frames.picture_health import HealthLimits, PictureHealth
from services.gateway.sources.container import open_file
from services.gateway.sources.source import aspect_of
from tests.sources import RecordingSink

WIDTH, HEIGHT = 96, 64
# The four corners of the upright picture, from the top left in reading order.
CORNERS = ((220, 30, 30), (30, 200, 30), (30, 30, 220), (220, 220, 30))


def upright() -> NDArray[np.uint8]:
    picture = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    for number, colour in enumerate(CORNERS):
        rows = slice(0, HEIGHT // 2) if number < 2 else slice(HEIGHT // 2, None)
        columns = slice(0, WIDTH // 2) if number % 2 == 0 else slice(WIDTH // 2, None)
        picture[rows, columns] = colour
    return picture


def written(
    path: Path, pixels: NDArray[np.uint8], *, degrees: int = 0, flip: bool = False
) -> av.VideoFrame:
    """The first picture of a file of these pixels that says how to turn them."""
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=5, options={"preset": "ultrafast", "crf": "10"})
        stream.height, stream.width = pixels.shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.set_display_rotation(degrees, hflip=flip)
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), "rgb24")
        for _ in range(3):
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    with av.open(str(path)) as container:
        return next(container.decode(video=0))


def corners(frame: av.VideoFrame) -> list[tuple[int, ...]]:
    width, height = displayed_size(frame)
    pixels = np.frombuffer(Display().rgb(frame, width, height), np.uint8)
    return _corners(pixels.reshape(height, width, 3))


def _corners(pixels: NDArray[np.uint8]) -> list[tuple[int, ...]]:
    height, width = pixels.shape[:2]
    places = [(row, column) for row in (1, 3) for column in (1, 3)]
    return [
        tuple(pixels[row * height // 4, column * width // 4].tolist()) for row, column in places
    ]


def as_stored(degrees: int, flip: bool) -> NDArray[np.uint8]:
    """What a camera stores that is shown upright after a turn to the left and then a mirror."""
    shown = upright()[:, ::-1] if flip else upright()
    return np.rot90(shown, -degrees // 90)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_every_orientation_of_a_phone_is_seen_upright(
    tmp_path: Path, degrees: int, flip: bool
) -> None:
    frame = written(tmp_path / "phone.mp4", as_stored(degrees, flip), degrees=degrees, flip=flip)
    assert displayed_size(frame) == (WIDTH, HEIGHT)
    assert np.abs(np.array(corners(frame)) - CORNERS).max() < 40
    preview = Display().jpeg(frame, WIDTH, HEIGHT)
    with av.open(_file(tmp_path / "preview.jpg", preview)) as picture:
        seen = next(picture.decode(video=0)).to_ndarray(format="rgb24")
    assert np.abs(np.array(_corners(seen)) - CORNERS).max() < 40


@pytest.mark.parametrize(("orientation", "quarters"), [(1, 0), (6, 1), (3, 2), (8, 3)])
def test_a_photograph_is_seen_upright(orientation: int, quarters: int) -> None:
    """As telephones write them: JPEG with EXIF, for which PyAV has no name."""
    stored = np.ascontiguousarray(np.rot90(upright(), quarters))
    jpeg = encode_jpeg(av.VideoFrame.from_ndarray(stored, "rgb24").reformat(format="yuvj420p"))
    entry = struct.pack("<HHIHH", 0x0112, 3, 1, orientation, 0)
    exif = b"Exif\0\0II*\0\x08\0\0\0\1\0" + entry + bytes(4)
    segment = b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif
    frame = decode_jpeg(jpeg[:2] + segment + jpeg[2:])
    assert np.abs(np.subtract(corners(frame), CORNERS)).max() < 40


def _file(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    return str(path)


def test_oblong_pixels_are_widened_or_heightened_never_thrown_away(tmp_path: Path) -> None:
    frame = written(tmp_path / "wide.mp4", upright())
    assert displayed_size(frame, 2.0) == (2 * WIDTH, HEIGHT)
    assert displayed_size(frame, 0.5) == (WIDTH, 2 * HEIGHT)
    turned = written(tmp_path / "turned.mp4", as_stored(90, False), degrees=90)
    assert displayed_size(turned, 0.5) == (2 * WIDTH, HEIGHT)


def test_a_files_word_for_its_pixels_is_taken_unless_it_is_nonsense(tmp_path: Path) -> None:
    path = tmp_path / "dv.mp4"
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=5)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(16, 11)
        output.mux(stream.encode(av.VideoFrame.from_ndarray(upright(), "rgb24")))
        output.mux(stream.encode(None))
    reading = open_file(path, RecordingSink())
    assert reading.aspect == pytest.approx(16 / 11)
    reading.close()
    assert aspect_of(Fraction(0), None, Fraction(4, 3)) == pytest.approx(4 / 3)
    assert aspect_of(Fraction(1, 4000)) == aspect_of(None) == 1.0


def test_one_field_of_two_is_seen(tmp_path: Path) -> None:
    """A bright bar moves by half the picture between two fields: a comb, of which one half is
    true."""
    pixels = np.full((HEIGHT, WIDTH, 3), 16, np.uint8)
    pixels[::2, 8:24] = 235
    pixels[1::2, 56:72] = 235
    frame = av.VideoFrame.from_ndarray(pixels, "rgb24").reformat(format="yuv422p")
    path = tmp_path / "fields.mkv"
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=5, options={"x264-params": "tff=1", "crf": "1"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv422p"
        output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    with av.open(str(path)) as container:
        woven = next(container.decode(video=0))
    assert woven.interlaced_frame
    seen = np.frombuffer(Display().rgb(woven, WIDTH, HEIGHT), np.uint8).reshape(HEIGHT, WIDTH, 3)
    row = seen[HEIGHT // 2, :, 0].astype(int)
    assert row[12:20].min() > 180
    assert row[60:68].max() < 60


@pytest.mark.parametrize("transfer", [16, 18])  # PQ, HLG
def test_high_dynamic_range_is_seen_as_on_a_plain_display(transfer: int) -> None:
    nits = np.array([0.0, 20.0, 100.0, 203.0, 1000.0])
    signal = _pq(nits) if transfer == 16 else _hlg(nits)
    frame = av.VideoFrame(len(nits) * 16, 16, "yuv420p10le")
    luma = np.repeat(np.round(64 + 876 * signal), 16).astype(np.uint16)
    for plane, row in zip(frame.planes, (luma, None, None), strict=True):
        data = np.full((plane.height, plane.line_size // 2), 512, np.uint16)
        if row is not None:
            data[:, : len(row)] = row
        plane.update(data.tobytes())
    frame.color_trc, frame.color_primaries = transfer, 9
    frame.colorspace, frame.color_range = 9, 1
    seen = np.frombuffer(Display().rgb(frame, frame.width, 16), np.uint8).reshape(16, -1, 3)
    levels = seen[8, 8::16].astype(int)
    assert np.ptp(levels, axis=1).max() <= 2  # grey stays grey
    black, dark, middle, white, highlight = levels[:, 0].tolist()
    assert black <= 2
    # As 20 and 100 nits are shown where a white sheet is 203: sRGB of their share of it.
    assert dark == pytest.approx(89, abs=6)
    assert middle == pytest.approx(185, abs=8)
    assert 225 <= white < highlight


def _pq(nits: NDArray[np.float64]) -> NDArray[np.float64]:
    power = (nits / 10_000) ** (2610 / 16384)
    c1, c2, c3 = 3424 / 4096, 2413 / 128, 2392 / 128
    return ((c1 + c2 * power) / (1 + c3 * power)) ** (2523 / 32)


def _hlg(nits: NDArray[np.float64]) -> NDArray[np.float64]:
    scene = (nits / 1000) ** (1 / 1.2)
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    with np.errstate(invalid="ignore", divide="ignore"):
        upper = a * np.log(12 * scene - b) + c
    return np.where(scene <= 1 / 12, np.sqrt(3 * scene), upper)


def test_a_picture_that_was_looked_at_is_freed_at_once() -> None:
    """Decoded pictures are megabytes: in a circle of references they would pile up until garbage is
    collected, and the decoder's next ones could not take their place."""

    def look() -> None:
        frame = av.VideoFrame(64, 48, "yuv420p")
        health = PictureHealth(HealthLimits())
        health.look(frame, 0)
        displayed_size(frame)
        display = Display()
        display.rgb(frame, 32, 24)
        display.yuv(frame, 32, 24)
        display.jpeg(frame, 32, 24)

    look()
    gc.collect()
    gc.disable()
    try:
        look()
        assert not [one for one in gc.get_objects() if isinstance(one, av.VideoFrame)]
        gc.collect()
    finally:
        gc.enable()
