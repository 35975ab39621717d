"""The article's claims about what makes it fast, each beside what this machine says.

Every comparison is of two ways to the same thing, which take turns in one run: stages of a stream
overlapped against in turn (5.2: three times the throughput), a window of history against all of it
(5.1: 40 % faster), fewer bits against float32 (5.1: two to four times as fast, accuracy within one
per cent), and a small picture encoder against ViT-Large (5.1: 80 % fewer parameters, 8 ms against
50). The article does not say on what it measured them; a CPU without matrix units for bfloat16 or
int8 has little to gain from these, and then that is what is found.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.clips import model_frames, write_h264
from benchmarks.feed import TIMEOUT_S, Feed, ask
from benchmarks.pipeline import STAGES, Stages, in_turn_s, overlapped_s
from benchmarks.report import Report, Result, Table, Target
from benchmarks.samples import Ratio
from services.inference_worker.assembly import build_engine
from services.inference_worker.config import WorkerConfig
from services.inference_worker.engine.thread import Engine

QUESTIONS = (
    "What is in the scene?",
    "What do you see?",
    "What is the hand holding?",
    "How many products are there?",
    "Is something prohibited shown?",
)
PRECISIONS = {"float32": "none", "bfloat16": "none", "bfloat16 + int8": "int8"}
VIT = {  # (width, layers, heads, mlp, patch): of a 224×224 picture
    "ViT-Base/16": (768, 12, 12, 3072, 16),
    "ViT-Large/14": (1024, 24, 16, 4096, 14),
}
PAUSE_S = 0.01


@dataclass(frozen=True, slots=True)
class Scale:
    """Extent of the measurement."""

    frames: int  # of a clip through the pipeline
    turns: int
    history: int  # segments that `all of it` is


FULL = Scale(120, 30, 240)
QUICK = Scale(10, 2, 40)


@dataclass(frozen=True, slots=True)
class Claim:
    """`article`: its words. `ratio`: the slower way's time over the faster one's, by turns."""

    title: str
    article: str
    ratio: Ratio
    rows: list[tuple[str, str]]
    target: Target
    figures: dict[str, Any] = field(default_factory=dict)
    more: tuple[Target, ...] = ()


def run(report: Report, *, quick: bool) -> Result:
    scale = QUICK if quick else FULL
    config = WorkerConfig.from_env()
    claims: list[Claim] = []
    parts: tuple[Callable[[WorkerConfig, Scale], Claim], ...] = (
        _pipeline,
        _window,
        _precision,
        _encoder,
    )
    for number, part in enumerate(parts):
        report(part.__name__.strip("_"), number / len(parts))
        claims.append(part(config, scale))
    dtype, device = claims[0].figures["dtype"], claims[0].figures["device"]
    return Result(
        name="article",
        tables=[
            Table(
                "The article's claims: how many times as fast",
                ("", "article", "here (least…most)"),
                [(claim.title, claim.article, str(claim.ratio)) for claim in claims],
            ),
            *(Table(claim.title, ("", "measured"), claim.rows) for claim in claims),
        ],
        targets=[target for claim in claims for target in (claim.target, *claim.more)],
        figures={claim.title: {"ratio": claim.ratio, **claim.figures} for claim in claims},
        draw=lambda figure: _draw(figure, claims),
        dtype=dtype,
        device=device,
        notes=[__doc__.strip().splitlines()[0]],
    )


def _engine(config: WorkerConfig) -> Engine:
    engine = build_engine(config)
    engine.start().result(TIMEOUT_S)
    return engine


def _ms(seconds: Sequence[float]) -> str:
    return f"{1000 * statistics.median(seconds):.2f} ms"


# --- 5.2: an asynchronous pipeline ----------------------------------------------------------------


def _pipeline(config: WorkerConfig, scale: Scale) -> Claim:
    engine = _engine(config)
    try:
        with tempfile.TemporaryDirectory() as folder:
            clip = Path(folder) / "clip.mp4"
            write_h264(clip, 30, max(2, scale.frames / 30))
            stages = Stages(clip, engine, scale.frames)
            in_turn_s(stages)  # warms up
            turns = max(2, scale.turns // 6)
            slow: list[float] = []
            fast: list[float] = []
            for _ in range(turns):
                slow.append(in_turn_s(stages))
                fast.append(overlapped_s(stages))
            alone = stages.seconds()
    finally:
        engine.stop()
    ratio = Ratio.of(slow, fast)
    most = sum(alone.values()) / max(alone.values())
    rows = [(f"{name}, a frame", f"{1000 * alone[name]:.2f} ms") for name in STAGES]
    rows += [
        ("in turn", f"{scale.frames / statistics.median(slow):.0f} frames/s"),
        ("overlapped", f"{scale.frames / statistics.median(fast):.0f} frames/s"),
        ("at most, by the longest stage", f"{most:.2f}×"),
    ]
    return Claim(
        "four stages overlapped against in turn",
        "3×",
        ratio,
        rows,
        Target("stages overlapped against in turn", ratio.median, 1.0, at_least=True),
        {
            "stage_s": alone,
            "in_turn_s": slow,
            "overlapped_s": fast,
            "most": most,
            "dtype": engine.dtype_name,
            "device": engine.device_name,
        },
    )


# --- 5.1: a window of history ---------------------------------------------------------------------


def _window(config: WorkerConfig, scale: Scale) -> Claim:
    engine = _engine(replace(config, max_window=scale.history))
    try:
        frames = model_frames(64)
        windowed = Feed(engine, "window", frames)
        whole = Feed(engine, "all", frames, scale.history)
        grown: dict[int, float] = {}
        recent: list[float] = []
        for number in range(1, scale.history + 1):
            recent.append(whole.step_s())
            if number % max(1, scale.history // 8) == 0:
                grown[number] = statistics.median(recent[-5:])
        for _ in range(engine.model.spec.window_segments):
            windowed.show()
        slow: list[float] = []
        fast: list[float] = []
        for _ in range(scale.turns):
            fast.append(windowed.step_s())
            time.sleep(PAUSE_S)
            slow.append(whole.step_s())
            time.sleep(PAUSE_S)
    finally:
        engine.stop()
    spec = engine.model.spec
    ratio = Ratio.of(slow, fast)
    rows = [
        (f"window of {spec.window_segments} frames", _ms(fast)),
        (f"all of {scale.history} frames", _ms(slow)),
        *((f"  when there were {n}", f"{1000 * s:.2f} ms") for n, s in grown.items()),
    ]
    return Claim(
        "a window against all of the history",
        "1.4×",
        ratio,
        rows,
        Target("a window against all of the history", ratio.median, 1.4, at_least=True),
        {
            "window_tokens": spec.window_segments * spec.layout.segment_tokens,
            "all_tokens": scale.history * spec.layout.segment_tokens,
            "windowed_s": fast,
            "all_s": slow,
            "all_s_by_frames": grown,
        },
    )


# --- 5.1: fewer bits ------------------------------------------------------------------------------


def _precision(config: WorkerConfig, scale: Scale) -> Claim:
    frames = model_frames(64)
    engines: dict[str, Engine] = {}
    feeds: dict[str, Feed] = {}
    steps: dict[str, list[float]] = {name: [] for name in PRECISIONS}
    answers: dict[str, list[list[int]]] = {name: [] for name in PRECISIONS}
    try:
        for name, bits in PRECISIONS.items():
            dtype = name.partition(" ")[0]
            engines[name] = _engine(replace(config, dtype=dtype, quantization=bits))
            feeds[name] = Feed(engines[name], "bench", frames)
            for _ in range(engines[name].model.spec.window_segments):
                feeds[name].show()
        for turn in range(scale.turns):
            for name, feed in feeds.items():
                steps[name].append(feed.step_s())
                question = QUESTIONS[turn % len(QUESTIONS)]
                answers[name].append(ask(engines[name], "bench", question, 12).tokens)
                time.sleep(PAUSE_S)
    finally:
        for engine in engines.values():
            engine.stop()
    plain = answers["float32"]
    same = {
        name: statistics.mean(float(a == b) for a, b in zip(found, plain, strict=True))
        for name, found in answers.items()
    }
    fewer = [name for name in steps if name != "float32"]
    fastest = min(fewer, key=lambda name: statistics.median(steps[name]))
    ratios = {name: Ratio.of(steps["float32"], found) for name, found in steps.items()}
    rows = [
        (name, f"{_ms(found)}, {ratios[name]}×, {100 * same[name]:.0f} % of the answers the same")
        for name, found in steps.items()
    ]
    return Claim(
        "fewer bits against float32",
        "2 to 4×",
        ratios["bfloat16"],
        rows,
        Target(
            "the faster of fewer bits against float32", ratios[fastest].median, 1.0, at_least=True
        ),
        {"step_s": steps, "ratios": ratios, "same_answers": same, "fastest": fastest},
        (
            Target(
                "answers that bfloat16 leaves as they are", same["bfloat16"], 0.95, at_least=True
            ),
        ),
    )


# --- 5.1: a small encoder -------------------------------------------------------------------------


@torch.inference_mode()
def _encoder(config: WorkerConfig, scale: Scale) -> Claim:
    engine = build_engine(config)  # for its model; never started
    model, layout = engine.model, engine.model.spec.layout
    assert isinstance(model, torch.nn.Module)
    weight = model.decoder.embedding.weight
    small = [p for name, p in model.named_parameters() if name.startswith("encoder.")]
    shape = (1, model.spec.tubelet, layout.height, layout.width, 3)
    picture = torch.randint(0, 256, shape, dtype=torch.uint8, device=weight.device)
    towers: dict[str, Callable[[], object]] = {"ours": lambda: model.encode(picture)}
    parameters = {"ours": sum(p.numel() for p in small)}
    for name in VIT:
        tower = _vit(name, weight.dtype, weight.device)
        pixels = torch.randn(1, 3, 224, 224, dtype=weight.dtype, device=weight.device)
        towers[name] = partial(tower, pixels)
        parameters[name] = sum(p.numel() for p in tower.parameters())
    seconds: dict[str, list[float]] = {name: [] for name in towers}
    for turn in range(max(3, scale.turns // 3) + 1):
        for name, encode in towers.items():
            started_s = time.perf_counter()
            encode()
            if weight.device.type == "cuda":
                torch.cuda.synchronize()
            if turn:  # the first warms up
                seconds[name].append(time.perf_counter() - started_s)
    ratio = Ratio.of(seconds["ViT-Large/14"], seconds["ours"])
    rows = [
        (name, f"{_ms(found)}, {parameters[name] / 1e6:.1f} M parameters")
        for name, found in seconds.items()
    ]
    return Claim(
        "a small encoder against ViT-Large",
        "6.3× (8 ms against 50)",
        ratio,
        rows,
        Target("a small encoder against ViT-Large", ratio.median, 50 / 8, at_least=True),
        {"seconds": seconds, "parameters": parameters},
    )


def _vit(name: str, dtype: torch.dtype, device: torch.device) -> torch.nn.Module:
    """A tower of that shape with random weights."""
    from transformers import CLIPVisionConfig, CLIPVisionModel

    width, layers, heads, mlp, patch = VIT[name]
    shape = CLIPVisionConfig(
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=mlp,
        patch_size=patch,
        image_size=224,
    )
    tower: torch.nn.Module = CLIPVisionModel(shape)
    return tower.to(device, dtype).eval()


def _draw(figure: Any, claims: list[Claim]) -> None:
    article = {"3×": 3.0, "1.4×": 1.4, "2 to 4×": 2.0}
    axes = figure.add_subplot()
    places = range(len(claims))
    said = [article.get(claim.article, 50 / 8) for claim in claims]
    found = [claim.ratio.median for claim in claims]
    for shift, heights, label in ((-0.2, said, "article"), (0.2, found, "here")):
        colour = "lightgrey" if label == "article" else None
        bars = axes.bar([p + shift for p in places], heights, 0.4, label=label, color=colour)
        axes.bar_label(bars, [f"{height:.3g}×" for height in heights], size=8)
    axes.axhline(1, color="black", linewidth=0.5)
    axes.set_xticks(places, [claim.title for claim in claims], size=8)
    axes.set_ylabel("times as fast")
    axes.set_yscale("log")
    axes.legend(loc="upper left")
