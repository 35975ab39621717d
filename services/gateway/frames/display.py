"""Decoded pictures as a person would see them: upright, in their true shape, in plain colours.

Phones write videos on their side with a display matrix, recorders pixels that are not square,
broadcasters two fields in one picture, and new phones high dynamic range. libavcodec leaves all of
that to its caller.
"""

from fractions import Fraction
from functools import cache
from typing import Any, Literal, NamedTuple

import av
import av.filter
import numpy as np
from av.sidedata.sidedata import SideDataContainer
from av.video.reformatter import ColorTrc, Interpolation, VideoReformatter
from numpy.typing import NDArray

from services.common.jpeg import encode_jpeg

_TICK = Fraction(1, 25)
_PQ, _HLG = int(ColorTrc.SMPTE2084), int(ColorTrc.ARIB_STD_B67)
_HDR = {_PQ: "pq", _HLG: "hlg"}
_WHITE_NITS = 203.0  # of a white sheet of paper (ITU-R BT.2408)
_PEAK = 1000.0 / _WHITE_NITS  # what is as bright becomes white
_KNEE = 0.7
_LEVELS = 65_536  # of 16 bits a channel
# Linear light of BT.2020 in that of BT.709 (ITU-R BT.2087).
_TO_709 = np.array(
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]],
    np.float32,
)

Pixels = NDArray[np.uint8]


class _Turn(NamedTuple):
    """Turn of a picture by a display matrix: rows become columns, then either axis is
    reversed."""

    transposed: bool = False
    mirrored: bool = False
    upside_down: bool = False

    def of(self, pixels: Pixels) -> Pixels:
        """The picture [height, width, 3], turned."""
        if self.transposed:
            pixels = pixels.swapaxes(0, 1)
        return pixels[:: -1 if self.upside_down else 1, :: -1 if self.mirrored else 1]


_AS_IT_IS = _Turn()


def displayed_size(frame: av.VideoFrame, aspect: float = 1.0) -> tuple[int, int]:
    """Width and height in which a picture is seen. `aspect`: of a pixel, its width to its
    height."""
    width, height = frame.width, frame.height
    if aspect > 1:  # no pixel is thrown away
        width = max(1, round(width * aspect))
    elif aspect < 1:
        height = max(1, round(height / aspect))
    return (height, width) if _turn_of(frame).transposed else (width, height)


class Display:
    """The converter of one source's pictures; not thread-safe. It keeps what it has set up for the
    last kind of picture."""

    def __init__(self) -> None:
        self._reformatter = VideoReformatter()
        self._fields: tuple[tuple[object, ...], av.filter.Graph] | None = None

    def rgb(self, frame: av.VideoFrame, width: int, height: int) -> bytes:
        """RGB24 of a displayed size, rows from the top, as the model sees it.

        Averages when it shrinks, so that small things do not flicker.
        """
        turn = _turn_of(frame)
        if turn == _AS_IT_IS and frame.color_trc not in _HDR:
            return _rows(self._scaled(frame, width, height, "rgb24"), 3)
        return np.ascontiguousarray(self._pixels(frame, turn, width, height)).tobytes()

    def jpeg(self, frame: av.VideoFrame, width: int, height: int) -> bytes:
        """JPEG of a displayed size with even sides."""
        return encode_jpeg(self._picture(frame, width, height, "yuvj420p", "JPEG"))

    def yuv(self, frame: av.VideoFrame, width: int, height: int) -> av.VideoFrame:
        """YUV 4:2:0 of a displayed size with even sides, in the range of video."""
        return self._picture(frame, width, height, "yuv420p", "MPEG")

    def _picture(
        self,
        frame: av.VideoFrame,
        width: int,
        height: int,
        pixel_format: str,
        color_range: Literal["JPEG", "MPEG"],
    ) -> av.VideoFrame:
        turn = _turn_of(frame)
        if turn == _AS_IT_IS and frame.color_trc not in _HDR:
            return self._scaled(frame, width, height, pixel_format, color_range)
        pixels = np.ascontiguousarray(self._pixels(frame, turn, width, height))
        upright = av.VideoFrame.from_ndarray(pixels, "rgb24")
        return upright.reformat(width, height, pixel_format, dst_color_range=color_range, threads=1)

    def _pixels(self, frame: av.VideoFrame, turn: _Turn, width: int, height: int) -> Pixels:
        if turn.transposed:
            width, height = height, width
        transfer = _HDR.get(frame.color_trc)
        if transfer is None:
            data = _rows(self._scaled(frame, width, height, "rgb24"), 3)
            return turn.of(np.frombuffer(data, np.uint8).reshape(height, width, 3))
        data = _rows(self._scaled(frame, width, height, "rgb48le"), 6)
        light = np.frombuffer(data, np.uint16).reshape(height, width, 3)
        return turn.of(_toned(light, transfer))

    def _scaled(
        self,
        frame: av.VideoFrame,
        width: int,
        height: int,
        pixel_format: str,
        color_range: Literal["JPEG", "MPEG"] | None = None,
    ) -> av.VideoFrame:
        """One thread: with more, libswscale sometimes hands out rows it has not finished."""
        if frame.interlaced_frame:
            frame = self._one_field(frame)
        shrinks = width < frame.width or height < frame.height
        return self._reformatter.reformat(
            frame,
            width,
            height,
            pixel_format,
            interpolation=Interpolation.AREA if shrinks else Interpolation.BILINEAR,
            dst_color_range=color_range,
            threads=1,
        )

    def _one_field(self, frame: av.VideoFrame) -> av.VideoFrame:
        """Every second row of a picture whose others were taken a moment later."""
        kind = (frame.width, frame.height, frame.format.name)
        if self._fields is None or self._fields[0] != kind:
            graph = av.filter.Graph()
            start = graph.add_buffer(
                width=frame.width, height=frame.height, format=frame.format, time_base=_TICK
            )
            graph.link_nodes(start, graph.add("field", "type=top"), graph.add("buffersink"))
            graph.configure()
            self._fields = (kind, graph)
        graph = self._fields[1]
        graph.push(frame)
        field = graph.pull()
        assert isinstance(field, av.VideoFrame)
        return field


# By degrees against the clock. That something is mirrored, these do not say.
_TURNS = {
    90: _Turn(True, mirrored=False, upside_down=True),
    -90: _Turn(True, mirrored=True, upside_down=False),
    180: _Turn(False, mirrored=True, upside_down=True),
    -180: _Turn(False, mirrored=True, upside_down=True),
}


def _turn_of(frame: av.VideoFrame) -> _Turn:
    """The turn that a display matrix [[a, b, u], [c, d, v], …] asks for: x' = ax + cy and
    y' = bx + dy, to the nearest quarter."""
    # Not `frame.side_data`: the frame would keep that, and so itself until garbage is collected.
    try:
        matrix: Any = SideDataContainer(frame).get("DISPLAYMATRIX")  # type: ignore[call-arg]
    except ValueError:  # beside it is what PyAV has no name for, as the EXIF of a photograph
        return _TURNS.get(frame.rotation, _AS_IT_IS)
    if matrix is None or matrix.buffer_size < 36:
        return _AS_IT_IS
    a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5].tolist()
    if abs(b) + abs(c) > abs(a) + abs(d):
        return _Turn(True, mirrored=c < 0, upside_down=b < 0)
    return _Turn(False, mirrored=a < 0, upside_down=d < 0)


def _toned(light: NDArray[np.uint16], transfer: str) -> Pixels:
    """Pixels of standard range of those of high dynamic range in BT.2020 primaries. What is darker
    than `_KNEE` of a white sheet stays as it is; the brightest channel above is rolled off, so that
    hues stay."""
    linear = np.maximum(_linear(transfer)[light] @ _TO_709.T, 0.0)
    bright = np.maximum(linear.max(axis=-1, keepdims=True), 1e-6)
    over = np.maximum(bright - _KNEE, 0.0) / (1 - _KNEE)
    most = (_PEAK - _KNEE) / (1 - _KNEE)
    rolled = np.minimum(bright, _KNEE) + (1 - _KNEE) * over / (1 + over) * (1 + 1 / most)
    shown = linear * (rolled / bright)
    steps = np.minimum(shown * (len(_GAMMA) - 1), len(_GAMMA) - 1).astype(np.int32)
    levels: Pixels = _GAMMA[steps]
    return levels


@cache
def _linear(transfer: str) -> NDArray[np.float32]:
    """Light of every level, 1 being a white sheet (SMPTE ST 2084; ITU-R BT.2100 for HLG, with the
    system gamma of a display of 1,000 nits applied to each channel)."""
    signal = np.linspace(0.0, 1.0, _LEVELS)
    if transfer == "pq":
        m1, m2 = 2610 / 16384, 2523 / 4096 * 128
        c1, c2, c3 = 3424 / 4096, 2413 / 4096 * 32, 2392 / 4096 * 32
        power = signal ** (1 / m2)
        nits = 10_000 * (np.maximum(power - c1, 0) / (c2 - c3 * power)) ** (1 / m1)
    else:
        a, b, c = 0.17883277, 0.28466892, 0.55991073
        scene = np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12)
        nits = 1000 * scene**1.2
    return (nits / _WHITE_NITS).astype(np.float32)


def _gamma() -> Pixels:
    """Levels of a display for 4,096 steps of light (sRGB)."""
    light = np.linspace(0.0, 1.0, 4096)
    shown = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return np.round(255 * shown).astype(np.uint8)


_GAMMA = _gamma()


def _rows(frame: av.VideoFrame, pixel_bytes: int) -> bytes:
    """The pixels without the padding that libavutil puts at the end of rows."""
    plane = frame.planes[0]
    row = frame.width * pixel_bytes
    data = memoryview(plane)
    if plane.line_size == row:
        return bytes(data[: row * frame.height])
    size = plane.line_size
    return b"".join(data[start : start + row] for start in range(0, frame.height * size, size))
