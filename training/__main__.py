"""`python -m training train | ablate | eval | examination | tune | clip | sheet | atlas`."""

import argparse
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from training.arguments import parser

if TYPE_CHECKING:
    from training.examination.worlds import Scope
    from training.recipe import Recipe

RESULTS = Path(__file__).resolve().parent.parent / "benchmarks" / "results"


_ELSEWHERE = "holds what is shipped; give another folder, or train with --replace-shipped"


def _is_shipped(output: Path) -> bool:
    """Whether a model saved there would replace one that comes with the worker."""
    return any(output.resolve().is_relative_to(folder.parent) for folder in _shipped().values())


def _shipped() -> dict[str, Path]:
    """Models whose weights are kept with the code, by the recipe that makes them."""
    from services.inference_worker.model.registry import SHIPPED
    from services.inference_worker.model.registry import WEIGHTS as SERVED
    from training.recipe import WEIGHTS

    served = {name: SERVED / name for name in SHIPPED}
    return served | {folder.name: folder for folder in WEIGHTS.iterdir() if folder.is_dir()}


def _train(arguments: argparse.Namespace) -> int:
    from training.processes import Launch, launch
    from training.recipe import FOLDER, RecipeError, load_recipe

    try:
        recipe = load_recipe(arguments.recipe)
    except RecipeError as error:
        print(f"cannot train: {error}", file=sys.stderr)
        return 2
    if arguments.seed is not None:
        recipe = replace(recipe, seed=arguments.seed)
    name = Path(arguments.recipe).stem
    output = arguments.output or FOLDER / name / "model"
    if arguments.replace_shipped:
        shipped = _shipped()
        if name not in shipped or arguments.output is not None:
            print(
                f"cannot train: --replace-shipped is for the recipes {' and '.join(shipped)}, "
                "without --output",
                file=sys.stderr,
            )
            return 2
        output = shipped[name]
    elif _is_shipped(output):
        print(f"cannot train: {output} {_ELSEWHERE}", file=sys.stderr)
        return 2
    if arguments.photos is not None and recipe.world == "goods":
        from training.world.goods import goods_folder

        there = (goods_folder() / "goods.json").exists()
        if not there and (refused := _cut(arguments.photos, goods_folder())):
            return refused
    folder = arguments.folder or FOLDER / name
    if recipe.trunk_steps and (refused := _tune_trunk(recipe, folder)):
        return refused
    processes = arguments.processes or 1
    if arguments.processes is None and arguments.device == "cpu":
        processes = min(os.cpu_count() or 1, 4)
    launch(
        Launch(
            recipe=recipe,
            folder=folder,
            output=output,
            device=arguments.device,
            processes=processes,
            port=arguments.port,
            workers=arguments.workers,
            steps=arguments.steps,
            resume=arguments.resume,
            compile=arguments.compile,
            photos=arguments.photos,
        )
    )
    return 0


def _tune_trunk(recipe: "Recipe", folder: Path) -> int:
    """Fine-tune the trunk that the recipe then freezes, unless SIGHTLINE_TRUNK names one."""
    from rich.console import Console

    from services.inference_worker.model.errors import ModelError
    from training.lite0 import NAMED
    from training.trunk import tune

    if os.environ.get(NAMED):
        return 0
    output = folder / "trunk.safetensors"
    try:
        tune(recipe, output, Console())
    except (ModelError, ValueError) as error:
        print(f"cannot train: {error}", file=sys.stderr)
        return 2
    os.environ[NAMED] = str(output)
    return 0


def _ablate(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from training.ablation import ablate, report
    from training.recipe import FOLDER, RecipeError, load_recipe

    console = Console()
    try:
        recipe = load_recipe(arguments.recipe)
        if not isinstance(getattr(recipe, arguments.name, None), float):
            raise RecipeError(f"a recipe has no number {arguments.name!r}")
    except RecipeError as error:
        print(f"cannot train: {error}", file=sys.stderr)
        return 2
    folder = FOLDER / f"ablation-{Path(arguments.recipe).stem}"
    found = ablate(recipe, arguments.name, arguments.values, folder, arguments.device, console)
    path = arguments.report or RESULTS / f"ablation-{arguments.name}.json"
    report(arguments.name, found, recipe, path, console)
    return 0


def _clip(arguments: argparse.Namespace) -> int:
    from training.clips import write_sample
    from training.recipe import RecipeError, load_recipe
    from training.world.video import write_video

    world, trade = arguments.world, None
    if arguments.recipe is not None:
        try:
            recipe = load_recipe(arguments.recipe)
        except RecipeError as error:
            print(f"no clip: {error}", file=sys.stderr)
            return 2
        world, trade = recipe.world, recipe.trade
    what = (arguments.path, arguments.seed, arguments.seconds, arguments.scale, arguments.fps)
    if world == "shapes":
        write_sample(*what)
    else:
        shown: Any = "shop" if world == "wide" else world
        write_video(*what, world=shown, trade=trade, split=arguments.split)
    return 0


def _sheet(arguments: argparse.Namespace) -> int:
    from training.world.sheet import write_sheet

    seeds = range(arguments.seed, arguments.seed + arguments.clips)
    write_sheet(arguments.path, seeds, arguments.world, arguments.split, length=arguments.frames)
    return 0


def _goods(arguments: argparse.Namespace) -> int:
    from training.world.goods import goods_folder

    return _cut(arguments.photos, arguments.output or goods_folder())


def _cut(photos: Path, folder: Path) -> int:
    """Cut the goods of these photographs into a folder."""
    from rich.progress import Progress

    from training.world.goods import photographs, write_goods

    with Progress(transient=True) as progress:
        bar = progress.add_task("photographs", total=sum(1 for _ in photographs(photos)))
        try:
            number = write_goods(photos, folder, lambda: progress.advance(bar))
        except ValueError as error:
            print(f"cannot cut: {error}", file=sys.stderr)
            return 2
    print(f"{number} goods in {folder}")
    return 0


def _familiarity(arguments: argparse.Namespace) -> int:
    from rich.progress import Progress

    from services.inference_worker.model.errors import ModelError
    from training.familiarity import num_clips, write
    from training.recipe import FOLDER, RecipeError, load_recipe

    name = Path(arguments.recipe).stem
    folder = arguments.model or FOLDER / name / "model"
    if arguments.replace_shipped:
        folder = _shipped().get(name, folder)
    elif _is_shipped(folder):
        print(f"cannot measure: {folder} {_ELSEWHERE}", file=sys.stderr)
        return 2
    try:
        recipe = load_recipe(arguments.recipe)
        with Progress(transient=True) as progress:
            bar = progress.add_task("clips", total=num_clips(recipe))
            write(folder, recipe, arguments.photos, lambda: progress.advance(bar))
    except (ModelError, RecipeError, ValueError) as error:
        print(f"cannot measure: {error}", file=sys.stderr)
        return 2
    print(f"written to {folder}")
    return 0


def _atlas(arguments: argparse.Namespace) -> int:
    from training.world.atlas import write_atlas

    write_atlas(emoji_font=arguments.font)
    return 0


def _tune(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from services.common.config import ConfigError
    from services.inference_worker.model.errors import ModelError
    from training.recipe import FOLDER, weights_of
    from training.recordings import DataError
    from training.tune import Tuning, tune

    if _is_shipped(arguments.output):
        print(f"cannot tune: {arguments.output} {_ELSEWHERE}", file=sys.stderr)
        return 2
    tuning = Tuning(
        model=weights_of(arguments.model),
        data=arguments.data,
        output=arguments.output,
        folder=arguments.folder or FOLDER.parent / "tuning" / arguments.output.resolve().name,
        steps=arguments.steps,
        learning_rate=arguments.learning_rate,
        rank=arguments.rank,
        tower=arguments.tower,
        batch=arguments.batch,
        fps=arguments.fps,
        frame_pixels=arguments.frame_pixels,
        seed=arguments.seed,
        device=arguments.device,
    )
    try:
        tune(tuning, Console(), arguments.resume)
    except (ConfigError, DataError, ModelError) as error:
        print(f"cannot tune: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: the same command goes on from the last checkpoint", file=sys.stderr)
        return 130
    return 0


def _evaluate(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from services.common.config import ConfigError
    from services.inference_worker.model.errors import ModelError
    from training.examination.report import show
    from training.examination.run import Options, examine
    from training.recipe import RecipeError, weights_of
    from training.recordings import DataError

    console = Console()
    try:
        options = Options(
            model=weights_of(arguments.model),
            scope=_scope(arguments),
            data=arguments.data,
            clips=arguments.clips,
            setups=arguments.conditions,
            fps=arguments.fps,
            max_tokens=arguments.max_tokens,
            report=arguments.report,
        )
        report = examine(options, console)
    except (ConfigError, DataError, ModelError, RecipeError) as error:
        print(f"cannot examine: {error}", file=sys.stderr)
        return 2
    show(report, console)
    console.print(f"written to {options.path}; plot and mistakes beside it", markup=False)
    for miss in report.missed:
        console.print(f"[red]missed[/red] {miss}")
    return 1 if report.missed else 0


def _doubt(arguments: argparse.Namespace) -> int:
    from rich.progress import Progress

    from services.inference_worker.model.errors import ModelError
    from training.doubt import write

    if _is_shipped(arguments.model):
        print(f"cannot measure: {arguments.model} {_ELSEWHERE}", file=sys.stderr)
        return 2
    try:
        with Progress(transient=True) as progress:
            bar = progress.add_task("photographs", total=None)
            write(arguments.model, arguments.photos, advance=lambda: progress.advance(bar))
    except (ModelError, ValueError) as error:
        print(f"cannot measure: {error}", file=sys.stderr)
        return 2
    print(f"written to {arguments.model}")
    return 0


def _photographs(arguments: argparse.Namespace) -> int:
    from rich.progress import Progress

    from services.common.config import ConfigError
    from services.inference_worker.model.errors import ModelError
    from training.examination.photographs import examine, told

    try:
        with Progress(transient=True) as progress:
            bar = progress.add_task("photographs", total=None)
            found = examine(
                arguments.model, arguments.photos, arguments.most, lambda: progress.advance(bar)
            )
    except (ConfigError, ModelError, ValueError) as error:
        print(f"cannot examine: {error}", file=sys.stderr)
        return 2
    print(told(found))
    if arguments.report:
        arguments.report.write_text(found.as_json())
    return 0


def _examination(arguments: argparse.Namespace) -> int:
    from rich.progress import Progress

    from services.gateway.frames.frame_size import FrameSize
    from training.examination.exchange import write
    from training.examination.worlds import cases
    from training.world.shapes import SIZE

    side = int(SIZE) * arguments.scale
    made = cases(_scope(arguments), arguments.clips, FrameSize(width=side, height=side))
    with Progress(transient=True) as progress:
        bar = progress.add_task("clips", total=arguments.clips)
        number = write(arguments.path, made, lambda: progress.advance(bar))
    print(f"{number} clips in {arguments.path}")
    return 0


def _knows(arguments: argparse.Namespace) -> str:
    """The recipe of a shipped model, the built-in one's for any other."""
    model = getattr(arguments, "model", "")
    return model if model in _shipped() else "builtin"


def _scope(arguments: argparse.Namespace) -> "Scope":
    from training.examination.worlds import Scope

    if arguments.world:
        return Scope.of(arguments.world)
    return Scope.of_recipe(arguments.recipe or _knows(arguments))


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "train": _train,
    "ablate": _ablate,
    "tune": _tune,
    "clip": _clip,
    "sheet": _sheet,
    "goods": _goods,
    "familiarity": _familiarity,
    "atlas": _atlas,
    "eval": _evaluate,
    "doubt": _doubt,
    "photographs": _photographs,
    "examination": _examination,
}


def main() -> int:
    arguments = parser().parse_args()
    return COMMANDS[arguments.command](arguments)


if __name__ == "__main__":
    raise SystemExit(main())
