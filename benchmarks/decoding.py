"""Cost of one live stream's way from packets to frames for the model, beside PyAV alone.

The same H.264 is decoded by a bare codec context and by the gateway: its decoder with the guard in
front, what viewers would be shown, and the sampler that converts as many pictures a second as a
model wants. The two take turns; what is compared is the time of processors. Wall clock with more
threads says which rates one source can have on this machine.
"""

import asyncio
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
from av.container import InputContainer
from av.video.frame import PictureType

from benchmarks.report import Report, Result, Table, Target
from benchmarks.samples import Ratio
from services.gateway.frames.frame_size import FrameSize
from services.gateway.frames.sampler import Sampler
from services.gateway.playback.broadcast import Broadcast
from services.gateway.sources.decoder import BitstreamDecoder, FrameOutlet
from services.gateway.sources.source import DecodeBudget, DecodedFrame, EncodedPacket

MAX_RATIO = 1.2
TURNS = 7
SECONDS = 1.0  # of video
MODEL_SIDE, MODEL_FPS = 224, 8.0  # of the built-in model's frames, as large as its kind has them
THREADS = (1, 2, 4)


@dataclass(frozen=True, slots=True)
class Kind:
    """A size and rate of video, and the bits that cameras and encoders give it."""

    name: str
    width: int
    height: int
    fps: int
    bits_per_second: int


KINDS = (
    Kind("360p 30", 640, 360, 30, 800_000),
    Kind("720p 30", 1280, 720, 30, 3_000_000),
    Kind("1080p 60", 1920, 1080, 60, 9_000_000),
    Kind("4K 60", 3840, 2160, 60, 40_000_000),
)


@dataclass(frozen=True, slots=True)
class Cost:
    """Findings of one kind. `bare_ms`, `own_ms`: of a processor for one picture, the least of all
    turns; `ratio`: own to bare; `cores`: what a stream takes of them; `rates`: pictures a second
    that one source reaches, by number of threads."""

    kind: str
    bare_ms: float
    own_ms: float
    ratio: Ratio
    cores: float
    rates: dict[int, float]


class _Sink:
    """A session's way for pictures, without a session."""

    def __init__(self, sampler: Sampler, broadcast: Broadcast) -> None:
        self.take: Callable[[DecodedFrame], None] = sampler.take
        self.dropped, self.noted = sampler.dropped, sampler.noted
        self.encoded, self.sound = broadcast.encoded, broadcast.sound.take
        self.budget = sampler.budget

    def ended(self, reason: str) -> None: ...


def run(report: Report, *, quick: bool) -> Result:
    kinds = KINDS[:1] if quick else KINDS
    costs = []
    for number, kind in enumerate(kinds):
        report(f"{kind.name}, encoded", number / len(kinds))
        packets, extradata = encoded(kind)
        report(f"{kind.name}, decoded", (number + 0.5) / len(kinds))
        costs.append(asyncio.run(_cost(kind, packets, extradata, 1 if quick else TURNS)))
    return _result(costs)


def encoded(kind: Kind) -> tuple[list[EncodedPacket], bytes]:
    """Packets of a noisy test picture as recorders write them, and their parameter sets."""
    source = f"testsrc2=size={kind.width}x{kind.height}:rate={kind.fps},noise=alls=12:allf=t"
    codec = av.CodecContext.create("libx264", "w")
    assert isinstance(codec, av.VideoCodecContext)
    codec.width, codec.height, codec.pix_fmt = kind.width, kind.height, "yuv420p"
    codec.time_base, codec.framerate = Fraction(1, kind.fps), Fraction(kind.fps)
    codec.bit_rate, codec.gop_size, codec.max_b_frames = kind.bits_per_second, 2 * kind.fps, 2
    codec.options = {"preset": "veryfast", "x264-params": "log-level=none:sliced-threads=0"}
    packets = []
    with av.open(source, format="lavfi") as pictures:
        assert isinstance(pictures, InputContainer)
        for index, picture in enumerate(pictures.decode(video=0)):
            if index == round(SECONDS * kind.fps):
                break
            frame = picture.reformat(format="yuv420p")
            frame.pts, frame.time_base = index, codec.time_base
            frame.pict_type = PictureType.NONE  # the source calls each of its own a keyframe
            packets += codec.encode(frame)
        packets += codec.encode(None)
    assert sum(packet.is_keyframe for packet in packets) < 4, "hardly anything but keyframes"
    step_ns = 1_000_000_000 // kind.fps
    return [
        EncodedPacket(bytes(packet), (packet.pts or 0) * step_ns, packet.is_keyframe)
        for packet in packets
    ], bytes(codec.extradata or b"")


async def _cost(kind: Kind, packets: list[EncodedPacket], extradata: bytes, turns: int) -> Cost:
    """Both ways in turns, each on a thread, as sources have theirs."""
    loop = asyncio.get_running_loop()
    bare, own = [], []
    rates = {count: 0.0 for count in THREADS if count <= (os.cpu_count() or 1)}
    for _ in range(turns):
        bare.append(await asyncio.to_thread(_timed, lambda: _bare(packets, extradata)))
        own.append(await asyncio.to_thread(_timed, lambda: _own(packets, extradata, loop, 1)))
    for count in rates:
        for _ in range(min(2, turns)):
            began_s = time.perf_counter()
            await asyncio.to_thread(_own, packets, extradata, loop, count)
            rate = len(packets) / (time.perf_counter() - began_s)
            rates[count] = max(rates[count], rate)
    per_picture_ms = 1e3 / len(packets)
    return Cost(
        kind=kind.name,
        bare_ms=min(bare) * per_picture_ms,
        own_ms=min(own) * per_picture_ms,
        ratio=Ratio.of(own, bare),
        cores=min(own) / SECONDS,
        rates=rates,
    )


def _timed(work: Callable[[], None]) -> float:
    """Seconds of processors that it took."""
    began_s = time.process_time()
    work()
    return time.process_time() - began_s


def _bare(packets: list[EncodedPacket], extradata: bytes) -> None:
    context = av.CodecContext.create("h264", "r")
    context.extradata = extradata
    context.thread_count = 1
    count = 0
    for packet in packets:
        unit: av.Packet[Any] = av.Packet(packet.data)
        unit.pts = packet.capture_ns
        count += len(context.decode(unit))
    count += len(context.decode(None))
    assert count == len(packets), "pictures are missing"


def _own(
    packets: list[EncodedPacket], extradata: bytes, loop: asyncio.AbstractEventLoop, threads: int
) -> None:
    sampler = Sampler(
        fps=MODEL_FPS,
        size=FrameSize(width=MODEL_SIDE, height=MODEL_SIDE),
        loop=loop,
        budget=DecodeBudget(threads=threads),
    )
    sink = _Sink(sampler, Broadcast("benchmark", loop))
    decoder = BitstreamDecoder(FrameOutlet(sink), "h264", extradata)
    count = 0
    for packet in packets:
        sink.encoded("h264", extradata, packet)
        count += decoder.decode(packet)
    count += decoder.flush()
    assert count == len(packets), "pictures are missing"


def _result(costs: list[Cost]) -> Result:
    rows = [
        (
            cost.kind,
            f"{cost.bare_ms:.2f}",
            f"{cost.own_ms:.2f}",
            str(cost.ratio),
            f"{cost.cores:.2f}",
            ", ".join(f"{rate:.0f} ({count})" for count, rate in cost.rates.items()),
        )
        for cost in costs
    ]
    headings = ("", "PyAV, ms", "gateway, ms", "ratio", "cores", "pictures/s (threads)")

    def draw(figure: Any) -> None:
        axes = figure.add_subplot()
        names = [cost.kind for cost in costs]
        places = range(len(names))
        axes.bar([place - 0.2 for place in places], [one.bare_ms for one in costs], 0.4)
        axes.bar([place + 0.2 for place in places], [one.own_ms for one in costs], 0.4)
        axes.set_xticks(list(places), names)
        axes.set_ylabel("ms of a processor per picture")
        axes.legend(["PyAV alone", "gateway"])

    return Result(
        name="decoding",
        tables=[Table("One live stream, from packets to frames", headings, rows)],
        targets=[
            Target(f"{cost.kind}: gateway to PyAV", cost.ratio.median, MAX_RATIO) for cost in costs
        ],
        figures={"costs": costs, "model_fps": MODEL_FPS, "model_side": MODEL_SIDE},
        draw=draw,
        dtype="uint8",
        device="cpu",
        notes=["H.264 of veryfast x264 with B-frames, a noisy picture, one slice each"],
    )
