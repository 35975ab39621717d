"""`python -m benchmarks [NAME …]`; the names are those of `BENCHMARKS`."""

import argparse
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks import REPOSITORY, machine
from benchmarks.report import Result, show, write

BENCHMARKS = {
    "engine": "published families: frames, questions, answers, against transformers and the floor",
    "peers": "SmolVLM2's small shapes: the engine beside transformers and OpenVINO",
    "gpu": "7 and 8 billion parameters on one GPU: the article's rows, and attention alone",
    "batching": "ten sessions in shared steps against one",
    "reencode": "streaming against reading the window again for every question",
    "flat": "step time and memory after 200 and after 20,000 frames",
    "flat-long": "step time and memory over 100,000 frames, a young session beside them",
    "article": "the article's claims about speed, each beside what this machine says",
    "questions": "frame latency with 20 questions in flight and without",
    "decisions": "400 statements about a session in one call against one at a time",
    "rules": "what a shop's rules tell of stories whose truth is known, and what a hint spares",
    "askers": "a thousand questions at once about one session",
    "kernels": "steps of frames with compiled kernels against PyTorch's operators",
    "reuse": "steps of still footage without the encoder against steps with it",
    "decoding": "one live stream from packets to frames for the model, beside PyAV alone",
    "soak": "real footage by every road, then twenty loops of it",
    "chaos": "faults under load: whether anything that is asked, said or watched is lost",
    "overload": "a worker that suddenly manages a quarter of what comes, and later all of it",
    "capacity": "10,000 sessions on simulated workers: a zone's loss, a rollout, scale-out",
    "traffic": "memory, descriptors and tasks while publishers and viewers come and go",
    "loss": "a WHIP publisher behind a link that loses, delays and reorders packets",
    "playback": "watching live: how soon, how late, and fifty viewers of one stream",
    "publishers": "twenty RTMP and ten WHIP publishers: cores, memory, drops",
    "voice": "spoken questions: words heard wrong, first audio of an answer, interruptions",
    "memory": "questions about a moment up to an hour ago, and what remembering costs",
    "notes": "latency and throughput of frames while lines of memory are written",
    "unfamiliar": "wrong statements about real pictures that are withheld, and right ones that are",
    "rows": "the article's four rows, on the whole suite with real video",
}
# Each takes as long as all others together.
APART = (
    "engine",
    "peers",
    "gpu",
    "flat-long",
    "chaos",
    "capacity",
    "traffic",
    "publishers",
    "voice",
    "memory",
    "notes",
    "rules",
)
RESULTS = REPOSITORY / "benchmarks" / "results"
QUICK_RESULTS = REPOSITORY / ".cache" / "benchmarks"
QUIET = 0.1


def main() -> int:
    arguments = _parser().parse_args()
    console = Console()
    folder = arguments.output or (QUICK_RESULTS if arguments.quick else RESULTS)
    here = machine.describe()
    console.print(f"{here.cpu}, {here.cores} cores, torch {here.torch}, commit {here.commit}")
    if here.busy_before > QUIET:
        share = f"{100 * here.busy_before:.0f} %"
        console.print(f"[yellow]others use {share} of this machine: figures will be too high")
    missed = 0
    for name in arguments.names or [name for name in BENCHMARKS if name not in APART]:
        result = _run(name, arguments.quick, console)
        show(result, console)
        console.print(f"  written to {write(result, here, folder)}\n")
        missed += len(result.missed)
    if arguments.quick:
        console.print("a quick run: too short for its figures to mean anything")
        return 0
    return 1 if missed else 0


def _run(name: str, quick: bool, console: Console) -> Result:
    run: Callable[..., Result] = import_module(f"benchmarks.{name.replace('-', '_')}").run
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task(name, total=1.0)

        def report(doing: str, done: float) -> None:
            progress.update(bar, description=f"{name}: {doing}", completed=done)

        return run(report, quick=quick)


def _parser() -> argparse.ArgumentParser:
    listed = "\n".join(f"  {name:<10} {what}" for name, what in BENCHMARKS.items())
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=f"Measures what Sightline promises, on this machine:\n{listed}",
        epilog="The exit code is 1 when a target was missed.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    options: dict[str, Any] = {"nargs": "*", "choices": [*BENCHMARKS, []], "metavar": "name"}
    parser.add_argument(
        "names", help=f"which; without a name all but {', '.join(APART)}", **options
    )
    parser.add_argument("--quick", action="store_true", help="seconds instead of minutes")
    parser.add_argument("--output", type=Path, help="folder of the JSON and the plots")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
