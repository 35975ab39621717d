"""Pictures that a program pushes over gRPC: JPEG, raw RGB, or encoded packets."""

import time
from collections.abc import Callable
from functools import partial

import av
import numpy as np

from services.common.threads import Lane, on_thread
from services.gateway.sources.bitstream import is_keyframe, jpeg_size
from services.gateway.sources.decode_guard import check_scans
from services.gateway.sources.decoder import (
    BitstreamDecoder,
    FrameOutlet,
    PacketDecoder,
)
from services.gateway.sources.source import (
    MAX_AHEAD_NS,
    ClockSource,
    EncodedPacket,
    FrameSink,
    check_size,
)
from sightline.errors import FailedPreconditionError, InvalidArgumentError

CLOSE_TIMEOUT_S = 5.0


class PushSource:
    """One pusher's stream into a sink.

    `picture` methods return when their picture is with the sink, so the caller's own reading is
    pushed back. Packets are decoded on a thread: lossless ones are awaited too, live ones are
    queued and dropped when decoding falls behind. One coroutine calls the methods, in order.

    `codec`, `extradata` are `PushOpen`'s; "" means that no packets will come. Raises
    InvalidArgumentError for an unknown codec.
    """

    kind = "push"

    def __init__(
        self,
        sink: FrameSink,
        *,
        codec: str = "",
        extradata: bytes = b"",
        lossless: bool = False,
        name: str = "push",
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._sink = sink
        self._clock_ns = clock_ns
        self._outlet = FrameOutlet(sink)
        self._codec = codec
        self._live: PacketDecoder | None = None
        self._bitstream: BitstreamDecoder | None = None
        self._jpeg: BitstreamDecoder | None = None
        if codec and lossless:
            self._bitstream = BitstreamDecoder(self._outlet, codec, extradata)
        elif codec:
            self._live = PacketDecoder(sink, codec, extradata, name=name)
        self._lane = Lane(name)
        self._closed = False

    async def start(self) -> None:
        if self._live is not None:
            self._live.start()

    @property
    def delivered_s(self) -> float | None:
        """Time at which the newest picture came out, of time.monotonic(); None before the first."""
        return (self._live or self._outlet).delivered_s

    async def jpeg(self, data: bytes, capture_ns: int = 0) -> None:
        """Take one JPEG picture. Raises InvalidArgumentError when it is broken or absurd."""
        self._no_codec()
        check_size(*jpeg_size(data))
        check_scans(data)
        await self._on_thread(self._decode_jpeg, data, *self._captured(capture_ns))

    async def rgb(self, width: int, height: int, data: bytes, capture_ns: int = 0) -> None:
        """Take one raw picture of height * width * 3 bytes, rows from the top.

        Raises InvalidArgumentError when the size is absurd or does not match the data.
        """
        self._no_codec()
        check_size(width, height)
        if len(data) != width * height * 3:
            raise InvalidArgumentError(
                f"a raw picture of {width}x{height} has {width * height * 3} bytes, not {len(data)}"
            )
        await self._on_thread(self._deliver_rgb, width, height, data, *self._captured(capture_ns))

    async def packet(self, data: bytes, capture_ns: int = 0, keyframe: bool = False) -> None:
        """Take one access unit. A broken one is counted; an absurd picture size raises
        InvalidArgumentError, as does a packet when no codec was named."""
        if not self._codec:
            raise InvalidArgumentError("packets need a codec in `open`")
        if not data:
            raise InvalidArgumentError("an empty packet")
        keyframe = keyframe or is_keyframe(self._codec, data)
        unit = EncodedPacket(data, *self._stamped(capture_ns, keyframe))
        if self._bitstream is not None:
            await self._on_thread(self._bitstream.decode, unit)
        elif self._live is not None:
            self._live.submit(unit)

    async def end(self) -> None:
        """No more is coming: everything still inside reaches the sink, then it gets `ended`."""
        await self._close("end", flush=True)

    async def aclose(self) -> None:
        """The pusher is gone. The sink gets `ended` unless `end` already told it.

        A lossless sink that blocks must be closed by its owner, or it keeps the thread.
        """
        await self._close("publisher_left", flush=False)

    # --- inside -------------------------------------------------------------------------------

    async def _close(self, reason: str, *, flush: bool) -> None:
        if self._closed:
            return
        self._closed = True
        try:
            if flush and self._bitstream is not None:
                await self._lane.run(self._bitstream.flush)
            if self._live is not None:
                closing = partial(self._live.close, flush=flush, timeout_s=CLOSE_TIMEOUT_S)
                await on_thread(closing, name="close:push")
        finally:
            self._lane.close()
            self._sink.ended(reason)

    def _no_codec(self) -> None:
        if self._codec:
            raise InvalidArgumentError("`open` named a codec, so packets are expected")

    def _captured(self, capture_ns: int) -> tuple[int, ClockSource]:
        now_ns = self._clock_ns()
        if capture_ns < 0:
            raise InvalidArgumentError("capture_ns must not be negative")
        if capture_ns - now_ns > MAX_AHEAD_NS:
            raise InvalidArgumentError(
                f"capture_ns {capture_ns} is more than a day later than this server's clock"
            )
        return (capture_ns, "stream") if capture_ns else (now_ns, "arrival")

    def _stamped(self, capture_ns: int, keyframe: bool) -> tuple[int, bool, ClockSource]:
        stamp_ns, clock_source = self._captured(capture_ns)
        return stamp_ns, keyframe, clock_source

    async def _on_thread(self, work: Callable[..., object], *args: object) -> None:
        if self._closed:
            raise FailedPreconditionError("the push has ended")
        await self._lane.run(work, *args)

    def _decode_jpeg(self, data: bytes, capture_ns: int, clock_source: ClockSource) -> None:
        if self._jpeg is None:
            self._jpeg = BitstreamDecoder(self._outlet, "mjpeg")
        if not self._jpeg.decode(EncodedPacket(data, capture_ns, True, clock_source)):
            raise InvalidArgumentError("not a readable JPEG picture")

    def _deliver_rgb(
        self, width: int, height: int, data: bytes, capture_ns: int, clock_source: ClockSource
    ) -> None:
        pixels = np.frombuffer(data, np.uint8).reshape(height, width, 3)
        frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
        self._outlet.deliver(frame, capture_ns, clock_source)
