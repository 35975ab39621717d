"""`python -m training train | eval | clip`."""

import argparse
import os
from pathlib import Path


def _train(arguments: argparse.Namespace) -> int:
    from training.processes import Launch, launch
    from training.recipe import Recipe

    processes = arguments.processes or 1
    if arguments.processes is None and arguments.device == "cpu":
        processes = min(os.cpu_count() or 1, 4)
    launch(
        Launch(
            recipe=Recipe(seed=arguments.seed),
            folder=arguments.folder,
            output=arguments.output,
            device=arguments.device,
            processes=processes,
            port=arguments.port,
            workers=arguments.workers,
            steps=arguments.steps,
            resume=arguments.resume,
            compile=arguments.compile,
        )
    )
    return 0


def _clip(arguments: argparse.Namespace) -> int:
    from training.clips import write_sample

    write_sample(arguments.path, arguments.seed, arguments.seconds, arguments.scale, arguments.fps)
    return 0


def _evaluate(arguments: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.progress import Progress

    from training import evaluate
    from training.answerers import EngineAnswerer

    console = Console()
    answerer = EngineAnswerer.start(arguments.model)
    try:
        with Progress(console=console, transient=True) as progress:
            bar = progress.add_task("held-out clips", total=arguments.clips)
            asked = evaluate.examine(
                answerer, arguments.clips, lambda done: progress.update(bar, completed=done)
            )
    finally:
        answerer.stop()
    results = evaluate.summarise(asked)
    evaluate.show(results, console)
    evaluate.write(results, asked, arguments.report)
    console.print(f"written to {arguments.report}")
    missed = evaluate.missed_targets(results)
    for miss in missed:
        console.print(f"[red]missed[/red] {miss}")
    return 1 if missed else 0


def _parser() -> argparse.ArgumentParser:
    from services.inference_worker.model.family import BUILTIN_FOLDER
    from training.recipe import FOLDER

    parser = argparse.ArgumentParser(prog="python -m training", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    train = commands.add_parser("train", help="train the built-in model from nothing")
    train.add_argument("--seed", type=int, default=1)
    train.add_argument("--device", default="cpu")
    train.add_argument("--folder", type=Path, default=FOLDER, help="checkpoint and curve")
    train.add_argument("--output", type=Path, default=BUILTIN_FOLDER, help="the model's folder")
    train.add_argument("--processes", type=int, help="share every batch among these (cores, ≤ 4)")
    train.add_argument("--workers", type=int, default=1, help="each process's makers of batches")
    train.add_argument("--port", type=int, default=29517, help="where these processes meet")
    train.add_argument("--steps", type=int, help="stop after this many further steps")
    train.add_argument("--resume", action=argparse.BooleanOptionalAction, default=True)
    train.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True)
    train.set_defaults(run=_train)
    clip = commands.add_parser("clip", help="write a sample video and its truth as .json")
    clip.add_argument("path", type=Path)
    clip.add_argument("--seed", type=int, default=1)
    clip.add_argument("--seconds", type=float, default=24.0)
    clip.add_argument("--scale", type=int, default=4, help="times 128 pixels")
    clip.add_argument("--fps", type=int, default=24)
    clip.set_defaults(run=_clip)
    check = commands.add_parser("eval", help="measure a model through the running engine")
    check.add_argument("--clips", type=int, default=60)
    check.add_argument("--model", default="builtin", help="`builtin`, or a model folder")
    report = FOLDER.parent.parent / "benchmarks" / "results" / "eval-builtin.json"
    check.add_argument("--report", type=Path, default=report, help="JSON; the plot goes beside it")
    check.set_defaults(run=_evaluate)
    return parser


def main() -> int:
    arguments = _parser().parse_args()
    return int(arguments.run(arguments))


if __name__ == "__main__":
    raise SystemExit(main())
