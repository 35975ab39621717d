"""An examination from its options to its report: models are loaded once for all their setups."""

import hashlib
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.progress import Progress, TaskID

from services.inference_worker.config import WorkerConfig
from services.inference_worker.engine.thread import Engine
from services.inference_worker.model.builtin import BuiltinModel
from services.inference_worker.model.errors import ModelError
from services.inference_worker.model.family import StreamSpec
from services.inference_worker.model.registry import model_folder
from training.answerers import ANSWER_TOKENS, EngineAnswerer
from training.examination import exchange, worlds
from training.examination.cases import Case
from training.examination.report import MAJORITY, Identity, Report, begin, write_mistakes
from training.examination.scoring import column, majority, mistakes
from training.examination.setups import FULL, SETUPS, sit_all
from training.examination.worker import WorkerAnswerer
from training.recordings import frame_size

DEFAULT_CLIPS = 60
_SETTINGS = ("frame_pixels", "quantization", "kv_dtype", "reuse_below")  # that change answers
RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """data: a JSONL, whose name then stands for the world. clips: None are all of it, 60 of a
    world. fps: of sampling the JSONL's videos; None is what the model streams at."""

    model: str = "builtin"
    scope: worlds.Scope = worlds.SHAPES
    data: Path | None = None
    clips: int | None = None
    setups: Sequence[str] = tuple(name for name, setup in SETUPS.items() if setup.is_default)
    fps: float | None = None
    max_tokens: int = ANSWER_TOKENS
    report: Path | None = None

    @property
    def subject(self) -> str:
        return self.data.stem if self.data else self.scope.name

    @property
    def path(self) -> Path:
        names = dict.fromkeys((Path(self.model).name, self.subject))
        return self.report or RESULTS / f"eval-{'-'.join(names)}.json"


def examine(options: Options, console: Console) -> Report:
    """Sit every setup and write the report after each. Raises ConfigError for the environment,
    ModelError for the model and DataError for the data."""
    with tempfile.TemporaryDirectory(prefix="examination-") as folder:
        examination = _Examination(options, console, Path(folder))
        for quantization in dict.fromkeys(SETUPS[name].quantization for name in options.setups):
            examination.sit(quantization)
    if examination.report is None:
        raise ModelError("nothing was examined")
    return examination.report


class _Examination:
    """An examination's run. `folder` holds the frames of videos."""

    def __init__(self, options: Options, console: Console, folder: Path) -> None:
        self.options = options
        self.console = console
        self.folder = folder
        self.report: Report | None = None
        self._read: list[Case] = []

    def sit(self, quantization: str) -> None:
        """Every setup for which the model's weights are of this kind."""
        names = [n for n in self.options.setups if SETUPS[n].quantization == quantization]
        config = replace(WorkerConfig.from_env(), model=self.options.model)
        if quantization != "none":
            config = replace(config, quantization=quantization)
        try:
            answerer = EngineAnswerer.start(config, self.options.max_tokens)
        except ModelError as error:
            if quantization == "none" or "needs" not in str(error):
                raise
            self.console.print(f"[yellow]skipped[/yellow] {', '.join(names)}: {error}")
            return
        try:
            cases = self._cases(answerer.engine.model.spec)
            if self.report is None:
                self.report = self._begin(answerer, list(cases()))
            with Progress(console=self.console, transient=True) as progress:
                for name in names:
                    bar = progress.add_task(SETUPS[name].title, total=self.report.identity.clips)
                    self._column(
                        self.report, name, answerer, config, _advancing(progress, bar, cases)
                    )
        finally:
            answerer.stop()

    def _cases(self, spec: StreamSpec) -> Callable[[], Iterable[Case]]:
        """Source of the cases once more, for each setup."""
        options, size = self.options, frame_size(spec)
        if options.data is None:
            return lambda: worlds.cases(options.scope, options.clips or DEFAULT_CLIPS, size)
        if not self._read:
            fps = options.fps or spec.preferred_fps
            self._read = exchange.read(options.data, fps, size, self.folder)[: options.clips]
        return lambda: self._read

    def _begin(self, answerer: EngineAnswerer, cases: list[Case]) -> Report:
        identity = _identity(self.options, answerer.engine, cases)
        report = begin(identity, self.options.path)
        report.columns[MAJORITY] = majority(cases, identity.free)
        return report

    def _column(
        self,
        report: Report,
        name: str,
        answerer: EngineAnswerer,
        config: WorkerConfig,
        cases: Iterable[Case],
    ) -> None:
        started_s, setup, free = time.monotonic(), SETUPS[name], report.identity.free
        if setup.worker_changes:
            worker = WorkerAnswerer(answerer.engine, config, self.options.max_tokens)
            try:
                sat = sit_all(worker, cases, setup)
            finally:
                worker.stop()
        else:
            sat = sit_all(answerer, cases, setup)
        report.add(name, column(sat, free, time.monotonic() - started_s))
        if name == FULL:
            sheet = self.options.path.with_name(f"{self.options.path.stem}-mistakes.png")
            write_mistakes(report, mistakes(sat, free), sheet)
        report.write(self.options.path)


def _advancing(
    progress: Progress, bar: TaskID, cases: Callable[[], Iterable[Case]]
) -> Iterator[Case]:
    for case in cases():
        yield case
        progress.advance(bar)


def _identity(options: Options, engine: Engine, cases: list[Case]) -> Identity:
    asked = repr([(case.items, case.standings) for case in cases])
    folder = model_folder(options.model)
    weights = hashlib.sha256()
    for file in sorted(folder.glob("*.safetensors")):
        with file.open("rb") as opened:
            weights.update(hashlib.file_digest(opened, "sha256").digest())
    chosen, usual = WorkerConfig.from_env(), WorkerConfig()
    fps = worlds.FRAMES_PER_SECOND
    if options.data is not None:
        fps = options.fps or engine.model.spec.preferred_fps
    return Identity(
        model=Path(options.model).name,
        weights=weights.hexdigest()[:16],
        world=options.subject,
        clips=len(cases),
        fps=fps,
        questions=hashlib.sha256(asked.encode()).hexdigest()[:16],
        free=not isinstance(engine.model, BuiltinModel),
        dtype=engine.dtype_name,
        device=engine.device_name,
        max_tokens=min(options.max_tokens, engine.model.spec.max_answer_tokens),
        settings={
            name: getattr(chosen, name)
            for name in _SETTINGS
            if getattr(chosen, name) != getattr(usual, name)
        },
    )
