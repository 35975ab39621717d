"""The engine beside transformers and OpenVINO, on this machine's CPU: the shapes of SmolVLM2's two
small releases with random weights, the same for all, by turns in one run.

A new frame understood; the first token of a question about the last window of frames; a token in
the middle of an answer. Each peer does it as well as it can: `benchmarks.peer` says how.
"""

import gc
import statistics
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks.peer import OpenVino, Ours, Peer, Transformers
from benchmarks.published import noise, published_engine, write
from benchmarks.report import Report, Result, Table, Target
from benchmarks.samples import Ratio

PAUSE_S = 0.3  # lets the threads of whoever was asked before go to sleep
_COMMON = {
    "num_hidden_layers": 30,
    "vocab_size": 49_280,
    "rope_theta": 100_000.0,
    "max_position_embeddings": 8192,
    "vision_hidden_size": 768,
    "vision_intermediate_size": 3072,
    "vision_num_hidden_layers": 12,
    "vision_num_attention_heads": 12,
    "vision_image_size": 512,
    "vision_patch_size": 16,
    "scale_factor": 4,
    "tie_word_embeddings": True,
}
SHAPES: dict[str, dict[str, Any]] = {  # as their config.json says
    "SmolVLM2-256M": {
        **_COMMON,
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
    },
    "SmolVLM2-500M": {
        **_COMMON,
        "num_hidden_layers": 32,
        "hidden_size": 960,
        "intermediate_size": 2560,
        "num_attention_heads": 15,
        "num_key_value_heads": 5,
    },
}
SMALL = {  # of a quick run
    "num_hidden_layers": 4,
    "vision_num_hidden_layers": 2,
    "vision_image_size": 128,
}
KINDS = ("frame", "first token", "token")


@dataclass(slots=True)
class Measured:
    """Seconds that each peer took, by turns: `seconds[peer][kind]`. `absent`: why others are not
    there. `kept_s`: transformers' first token on a cache that was kept."""

    shape: str
    parameters: int
    window_tokens: int
    seconds: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    kept_s: list[float] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)

    def take(self, peer: Peer) -> None:
        """A turn of a peer."""
        mine = self.seconds.setdefault(peer.name, {kind: [] for kind in KINDS})
        for kind, ask in zip(KINDS, (peer.frame_s, peer.first_token_s, peer.token_s), strict=True):
            mine[kind].append(ask())
            time.sleep(PAUSE_S)

    def ratio(self, peer: str, kind: str) -> Ratio:
        """How many times longer a peer takes than Sightline."""
        return Ratio.of(self.seconds[peer][kind], self.seconds[Ours.name][kind])


def run(report: Report, *, quick: bool) -> Result:
    measured, dtype = list[Measured](), ""
    for index, (shape, sizes) in enumerate(SHAPES.items()):

        def tell(doing: str, done: float, shape: str = shape, index: int = index) -> None:
            report(f"{shape}, {doing}", (index + done) / len(SHAPES))

        with tempfile.TemporaryDirectory(prefix="sightline-") as folder:
            found, dtype = _measure(
                shape,
                {**sizes, **SMALL} if quick else sizes,
                Path(folder) / "model",
                frames=4 if quick else 16,
                turns=2 if quick else 3,
                length=8 if quick else 16,
                tell=tell,
            )
        measured.append(found)
        gc.collect()
    return _result(measured, dtype)


def _measure(
    shape: str,
    sizes: Mapping[str, Any],
    folder: Path,
    *,
    frames: int,
    turns: int,
    length: int,
    tell: Report,
) -> tuple[Measured, str]:
    tell("writing the checkpoint", 0.0)
    write("smolvlm", folder, sizes)
    tell("filling windows", 0.1)
    engine, model = published_engine(folder, sizes["vision_image_size"] ** 2)
    try:
        shown = noise(model, frames)
        ours = Ours(engine, shown, length)
        reference = Transformers(model, folder, shown, length)
        stream = {
            "window": reference.window,
            "frame": reference.frame,
            "frames": frames,
            "side": sizes["vision_image_size"],
            "length": length,
        }
        tell("OpenVINO's conversion", 0.2)
        theirs = [OpenVino.start(folder, stream, int8=int8) for int8 in (False, True)]
        found = Measured(
            shape,
            sum(p.numel() for part in (model.decoder, model.tower) for p in part.parameters()),
            len(reference.window),
            absent=[peer for peer in theirs if isinstance(peer, str)],
        )
        peers: list[Peer] = [ours, reference]
        peers += [peer for peer in theirs if not isinstance(peer, str)]
        for turn in range(turns + 1):
            tell("turns", 0.4 + 0.6 * turn / (turns + 1))
            if turn == 1:  # the first was to warm up
                found.seconds.clear()
                found.kept_s.clear()
            for peer in peers:
                found.take(peer)
            found.kept_s.append(reference.kept_first_token_s())
        for peer in peers:
            peer.close()
    finally:
        engine.stop()
    return found, engine.dtype_name


def _result(measured: list[Measured], dtype: str) -> Result:
    targets = [
        Target(
            f"{found.shape}: {kind}, {peer} against Sightline",
            found.ratio(peer, kind).median,
            1.0,
            at_least=True,
        )
        for found in measured
        for peer in found.seconds
        if peer != Ours.name
        for kind in KINDS[:2]
    ]
    absent = list(dict.fromkeys(why for found in measured for why in found.absent))
    return Result(
        name="peers",
        tables=[_table(found) for found in measured],
        targets=targets,
        figures={"shapes": measured, "threads": torch.get_num_threads()},
        draw=lambda figure: _draw(figure, measured),
        dtype=dtype,
        device="cpu",
        notes=[
            "random weights; pictures prepared beforehand; windows of "
            + ", ".join(f"{found.window_tokens} tokens ({found.shape})" for found in measured),
            "first token: Sightline on what it understood when the frames came, the others on the "
            "window read anew, as their interfaces do; with a cache that is kept by hand, which "
            "only ever grows, transformers takes "
            + ", ".join(f"{_ms(found.kept_s)} ms ({found.shape})" for found in measured),
            *absent,
        ],
    )


def _table(found: Measured) -> Table:
    rows = [
        (
            peer,
            *(_ms(seconds[kind]) for kind in KINDS[:2]),
            f"{1 / statistics.median(seconds['token']):.1f}",
            *("" if peer == Ours.name else str(found.ratio(peer, kind)) for kind in KINDS),
        )
        for peer, seconds in found.seconds.items()
    ]
    headings = (
        f"{found.shape}, {found.parameters / 1e6:.0f} M",
        "a frame, ms",
        "first token, ms",
        "tokens/s",
        *(f"{kind}, ×" for kind in KINDS),
    )
    return Table("A live stream on this CPU, by turns; ×: times Sightline's", headings, rows)


def _ms(seconds: list[float]) -> str:
    return f"{1000 * statistics.median(seconds):.1f}"


def _draw(figure: Any, measured: list[Measured]) -> None:
    for number, kind in enumerate(KINDS, 1):
        axes = figure.add_subplot(1, len(KINDS), number)
        for row, found in enumerate(measured):
            for column, (peer, seconds) in enumerate(found.seconds.items()):
                place = row + 0.8 * column / len(found.seconds)
                height = 1000 * statistics.median(seconds[kind])
                axes.bar(
                    place,
                    height,
                    0.7 / len(found.seconds),
                    color=f"C{column}",
                    label=peer if not row else None,
                )
        axes.set_yscale("log")
        axes.set_xticks(
            range(len(measured)), [found.shape.rpartition("-")[2] for found in measured]
        )
        axes.set_title(f"{kind} (ms)")
    figure.axes[0].legend(fontsize="small")
