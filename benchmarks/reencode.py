"""Gain of streaming: a question on a live trunk against reading the window anew.

Re-encoding is done as well as it can be: one batched encode of the last 30 frames and one dense
forward over sink, frames and question, in the same dtype and with as many threads. The session has
seen exactly those 30 frames, so both compute the same first token, which is checked. The two take
turns. What streaming pays while frames come in is stated beside it.

Both are set against a floor: 2 × parameters × tokens (and the encoder's own count) at the rate
this machine multiplies large matrices.
"""

import statistics
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.clips import model_frames
from benchmarks.feed import Feed, ask, started_engine
from benchmarks.machine import matmul_rate
from benchmarks.report import Report, Result, Table, Target
from benchmarks.samples import Ratio
from services.inference_worker.engine.thread import Engine
from services.inference_worker.model.attention import DenseAttention
from services.inference_worker.model.family import StreamingModel

QUESTION = "What is in the scene?"
MIN_RATIO = 1.0  # below it, streaming would be pointless
PAUSE_S = 0.02  # lets the other side's threads go to sleep


class Reencoder:
    """The last frames, read again for a question in one forward."""

    def __init__(self, model: StreamingModel, num_frames: int, question: list[int]) -> None:
        self._model = model
        spec, sink = model.spec, model.sink_tokens()
        self._num_frames = num_frames
        self._sink = torch.tensor(sink, device=self._device)
        self._question = torch.tensor(question, device=self._device)
        # A token sees everything of its own moment and before: words are moments of their own.
        moments = list(range(len(sink)))
        positions = [(n, n, n) for n in moments]
        for frame in range(num_frames):
            cursor = len(sink) + frame * spec.layout.segment_advance
            moments += [len(sink) + frame] * spec.layout.segment_tokens
            positions += model.segment(model.spec.layout, cursor, 0.0).positions
        cursor = len(sink) + num_frames * spec.layout.segment_advance
        for n in range(len(question)):
            moments.append(len(sink) + num_frames + n)
            positions.append((cursor + n,) * 3)
        order = torch.tensor(moments, device=self._device)
        self._positions = torch.tensor([positions], device=self._device)
        self._attend = DenseAttention((order[None, :] <= order[:, None])[None, None])

    @property
    def _device(self) -> torch.device:
        return self._model.decoder.embedding.weight.device

    @property
    def num_tokens(self) -> int:
        return int(self._positions.shape[1])

    @torch.inference_mode()
    def first_token(self, frames: list[bytes]) -> int:
        """The model's first token about these frames."""
        spec, decoder = self._model.spec, self._model.decoder
        raw = torch.frombuffer(bytearray(b"".join(frames)), dtype=torch.uint8)
        shape = (self._num_frames, spec.tubelet, spec.layout.height, spec.layout.width, 3)
        pictures = self._model.encode(raw.view(shape).to(self._device)).tokens
        sink, question = decoder.embedding(self._sink), decoder.embedding(self._question)
        hidden = torch.cat((sink, pictures.flatten(0, 1).to(sink.dtype), question))[None]
        hidden = decoder(hidden, self._positions, self._attend)
        return int(decoder.logits(hidden[0, -1]).argmax())


@dataclass(frozen=True, slots=True)
class Floor:
    """The least work, and how long this machine's best rate would take for it."""

    flops: float
    floor_ms: float
    measured_ms: float

    def cells(self, name: str, tokens: str) -> tuple[str, ...]:
        return (
            name,
            tokens,
            f"{self.flops / 1e9:.2f}",
            f"{self.floor_ms:.2f}",
            f"{self.measured_ms:.2f}",
            f"{self.measured_ms / self.floor_ms:.1f}×",
        )


def run(report: Report, *, quick: bool) -> Result:
    turns = 5 if quick else 120
    engine = started_engine()
    try:
        model = engine.model
        window = model.spec.window_segments * model.spec.tubelet
        frames = model_frames(window)
        feed = Feed(engine, "bench", frames)
        step_s = [_step_s(feed) for _ in range(window)]
        question = model.question_tokens([], QUESTION)
        reencoder = Reencoder(model, window, question)
        reencoder.first_token(frames)
        streamed_s, reencoded_s, same = list[float](), list[float](), 0
        for turn in range(turns):
            report(f"turn {turn + 1} of {turns}", turn / turns)
            asked = ask(engine, feed.session, QUESTION, 2)
            streamed_s.append(asked.first_token_s)
            time.sleep(PAUSE_S)
            started_s = time.perf_counter()
            token = reencoder.first_token(frames)
            reencoded_s.append(time.perf_counter() - started_s)
            same += [token] == asked.tokens[:1] or (token in model.stop_tokens and not asked.tokens)
            time.sleep(PAUSE_S)
        feed.close()
        feed = Feed(engine, "steady", frames)
        for _ in range(window):
            feed.show()
        step_s = [_step_s(feed) for _ in range(turns)]
    finally:
        engine.stop()
    return _result(engine, reencoder, (streamed_s, reencoded_s, step_s), len(question), same)


def _step_s(feed: Feed) -> float:
    receipt = feed.show()
    return receipt.latency_s - receipt.queue_s


def _result(
    engine: Engine,
    reencoder: Reencoder,
    seconds: tuple[list[float], list[float], list[float]],
    question_tokens: int,
    same: int,
) -> Result:
    streamed_s, reencoded_s, step_s = seconds
    model = engine.model
    weights = model.decoder.embedding.weight
    config = model.decoder.config
    large = [matmul_rate(n, n, n, weights.dtype, weights.device) for n in (512, 1024, 2048)]
    own_rate = matmul_rate(
        model.spec.layout.segment_tokens,
        config.hidden_size,
        2 * config.mlp_size,
        weights.dtype,
        weights.device,
    )
    rate = max(*large, own_rate)
    parameters = sum(p.numel() for p in model.decoder.layers.parameters())
    head = 2.0 * config.vocab_size * config.hidden_size
    window = model.spec.window_segments
    encoder = _encoder_flops(model)

    def floor(tokens: int, frames: int, measured_s: list[float], answers: bool) -> Floor:
        flops = 2.0 * parameters * tokens + encoder * frames + head * answers
        return Floor(flops, 1000 * flops / rate, 1000 * statistics.median(measured_s))

    question = floor(question_tokens, 0, streamed_s, True)
    again = floor(reencoder.num_tokens, window, reencoded_s, True)
    frame = floor(model.spec.layout.segment_tokens, 1, step_s, False)
    ratio = Ratio.of(reencoded_s, streamed_s)
    table = Table(
        f"First token of a question about the last {window} frames",
        ("", "tokens", "GFLOP at least", "floor ms", "median ms", "off by"),
        [
            question.cells("streaming: on the live trunk", str(question_tokens)),
            again.cells(f"re-encoding {window} frames", str(reencoder.num_tokens)),
            frame.cells("one frame into the trunk", str(model.spec.layout.segment_tokens)),
        ],
    )
    turns = len(streamed_s)
    return Result(
        name="reencode",
        tables=[table],
        targets=[
            Target("re-encoding against streaming", ratio.median, MIN_RATIO, at_least=True),
            Target("turns with the same first token", same / turns, 0.95, at_least=True),
        ],
        figures={
            "streamed_ms": [1000 * s for s in streamed_s],
            "reencoded_ms": [1000 * s for s in reencoded_s],
            "frame_step_ms": [1000 * s for s in step_s],
            "ratio": ratio,
            "decoder_parameters": parameters,
            "encoder_flops_per_frame": encoder,
            "matmul_flops_per_s": rate,
            "matmul_flops_per_s_512_1024_2048": large,
            "matmul_flops_per_s_at_one_frame": own_rate,
            "floors": {"question": question, "reencoding": again, "frame": frame},
        },
        draw=lambda figure: _draw(figure, streamed_s, reencoded_s),
        dtype=engine.dtype_name,
        device=engine.device_name,
        notes=[
            f"re-encoding takes {ratio} times as long; the frames were already paid for, one by "
            f"one: {frame.measured_ms:.1f} ms each, asked about or not",
            f"floor: at {rate / 1e9:.0f} GFLOP/s, this machine's best on a matrix product; one "
            f"frame's tokens by a layer's weights reach {own_rate / 1e9:.0f}",
        ],
    )


def _encoder_flops(model: StreamingModel) -> float:
    spec = model.spec
    shape = (1, spec.tubelet, spec.layout.height, spec.layout.width, 3)
    pictures = torch.zeros(shape, dtype=torch.uint8, device=model.decoder.embedding.weight.device)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        model.encode(pictures)
    return float(counter.get_total_flops())


def _draw(figure: Any, streamed_s: list[float], reencoded_s: list[float]) -> None:
    axes = figure.add_subplot()
    turns = range(1, len(streamed_s) + 1)
    for seconds, label in ((reencoded_s, "re-encoding the window"), (streamed_s, "streaming")):
        axes.plot(turns, [1000 * s for s in seconds], ".", label=label)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("turn")
    axes.set_ylabel("first token (ms)")
    axes.legend(loc="lower right")
