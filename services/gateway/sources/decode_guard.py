"""The guard of one session's decoder, which holds it to its budget of memory and work."""

import contextlib
import re
import time
from collections.abc import Callable, Iterator

import av

from services.gateway.sources import source as base
from services.gateway.sources.parameter_sets import (
    MalformedError,
    Needs,
    needs_of,
    needs_of_configuration,
)
from services.gateway.sources.source import BeyondLimitsError, DecodeBudget

MAX_JPEG_SCANS = 100  # a progressive picture of a camera or a program has about ten …
MAX_JPEG_SCANNED_PIXELS = 640_000_000  # … and each scan visits every pixel
_SCAN = b"\xff\xda"
_FRAME_HEADER = re.compile(rb"\xff[\xc0-\xcf]...(..)(..)", re.DOTALL)
# Pictures that a decoder keeps at once, where the stream does not say so itself.
_KEPT = {"vp9": 10, "av1": 10, "vp8": 5, "mjpeg": 2}
_KEPT_OTHERWISE = 5


class DecodeGuard:
    """Stands before and behind one decoder. Each method raises BeyondLimitsError for what goes
    beyond the budget; `codec` is libavcodec's or our name."""

    def __init__(
        self,
        budget: DecodeBudget,
        codec: str,
        extradata: bytes = b"",
        clock_s: Callable[[], float] = time.thread_time,
    ) -> None:
        self._budget = budget
        self._codec = {"libdav1d": "av1"}.get(codec, codec)
        self._clock_s = clock_s
        self._length_bytes = 0
        self._seen: tuple[int, int, str] | None = None
        if self._codec in ("h264", "hevc"):
            with contextlib.suppress(MalformedError):  # the decoder itself will say so
                needs, self._length_bytes = needs_of_configuration(self._codec, extradata)
                self._check_needs(needs)

    def packet(self, data: bytes) -> bool:
        """Look at a packet before it is decoded; False when it is not worth decoding."""
        if self._codec in ("h264", "hevc"):
            try:
                self._check_needs(needs_of(self._codec, data, self._length_bytes))
            except MalformedError:
                return False
        elif self._codec == "mjpeg":
            check_scans(data)
        return True

    def picture(self, frame: av.VideoFrame) -> None:
        """Look at a picture before its successors are decoded."""
        seen = (frame.width, frame.height, frame.format.name)
        if seen == self._seen or self._codec in ("h264", "hevc"):
            return
        self._seen = seen
        kept = _KEPT.get(self._codec, _KEPT_OTHERWISE)
        bits = sum(
            component.bits * component.width * component.height
            for component in frame.format.components
        )
        stored = -(-bits // 8) if frame.format.components[0].bits <= 8 else 2 * (bits // 8)
        self._check(Needs(frame.width, frame.height, stored, kept))

    @contextlib.contextmanager
    def work(self) -> Iterator[None]:
        """Around the decoding of one packet, on the thread that does it."""
        began_s = self._clock_s()
        yield
        if self._clock_s() - began_s > self._budget.picture_s:
            raise BeyondLimitsError(
                f"a picture took longer than {self._budget.picture_s:g} s to decode"
            )

    def _check_needs(self, needs: list[Needs]) -> None:
        for one in needs:
            base.check_size(one.width, one.height)
            self._check(one)

    def _check(self, needs: Needs) -> None:
        kept = needs.num_pictures + self._budget.threads - 1  # each thread has one more at hand
        total_bytes = kept * needs.picture_bytes
        if total_bytes > self._budget.decoder_bytes:
            raise BeyondLimitsError(
                f"pictures of {needs.width}x{needs.height} pixels, {kept} kept at "
                f"once, take {total_bytes >> 20} MiB to decode; at most "
                f"{self._budget.decoder_bytes >> 20} MiB are allowed"
            )


def check_scans(data: bytes) -> None:
    """Raise BeyondLimitsError for a JPEG that would be decoded many times over.

    Scans and frame headers are looked for everywhere, also where a decoder would not.
    """
    scans = data.count(_SCAN)
    if scans <= 4:  # one for each component, as baseline pictures have at most
        return
    if scans > MAX_JPEG_SCANS:
        raise BeyondLimitsError(f"a JPEG picture of {scans} scans; at most {MAX_JPEG_SCANS}")
    pixels = max(
        (
            int.from_bytes(found[1]) * int.from_bytes(found[2])
            for found in _FRAME_HEADER.finditer(data)
        ),
        default=0,
    )
    if min(pixels, base.MAX_PIXELS) * scans > MAX_JPEG_SCANNED_PIXELS:
        raise BeyondLimitsError(f"a JPEG picture of {scans} scans is too large")
