"""`python -m training train | ablate | eval | examination | tune | clip | sheet | atlas`."""

import argparse
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from training.examination.worlds import Scope

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
    processes = arguments.processes or 1
    if arguments.processes is None and arguments.device == "cpu":
        processes = min(os.cpu_count() or 1, 4)
    launch(
        Launch(
            recipe=recipe,
            folder=arguments.folder or FOLDER / name,
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
        write_video(*what, world="shop" if world == "wide" else world, trade=trade)
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


def _conditions(text: str) -> tuple[str, ...]:
    from training.examination.setups import SETUPS

    names = tuple(name.strip() for name in text.split(",") if name.strip())
    unknown = [name for name in names if name not in SETUPS]
    if unknown or not names:
        raise argparse.ArgumentTypeError(f"{text}: there are {', '.join(SETUPS)}")
    return tuple(name for name in SETUPS if name in names)


def _positive(kind: type[int] | type[float]) -> Callable[[str], float]:
    """A number above zero; argparse says so where it is not."""

    def number(text: str) -> float:
        value = kind(text)
        if not 0 < value < float("inf"):
            raise argparse.ArgumentTypeError(f"{text} is not above zero")
        return value

    return number


def _parser() -> argparse.ArgumentParser:
    from training.examination.setups import SETUPS
    from training.examination.worlds import WORLDS
    from training.world.atlas import EMOJI_FONT

    parser = argparse.ArgumentParser(prog="python -m training", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    train = commands.add_parser("train", help="train a model by a recipe")
    train.add_argument("--recipe", default="builtin", help="of training/recipes, or a TOML file")
    train.add_argument(
        "--photos", type=Path, help="folders of photographs: what is familiar, goods"
    )
    train.add_argument("--seed", type=int, help="another than the recipe's")
    train.add_argument("--device", default="cpu")
    train.add_argument("--folder", type=Path, help="checkpoint, curve, plot")
    train.add_argument(
        "--output", type=Path, help="the model's folder; .cache/training/<recipe>/model"
    )
    train.add_argument(
        "--replace-shipped", action="store_true", help="write over the shipped model of this name"
    )
    train.add_argument("--processes", type=int, help="share every batch among these (cores, ≤ 4)")
    train.add_argument("--workers", type=int, default=1, help="each process's makers of batches")
    train.add_argument("--port", type=int, default=29517, help="where these processes meet")
    train.add_argument("--steps", type=int, help="stop after this many further steps")
    train.add_argument("--resume", action=argparse.BooleanOptionalAction, default=True)
    train.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True)
    train.set_defaults(run=_train)
    ablate = commands.add_parser("ablate", help="train with one number changed, and compare")
    ablate.add_argument("--recipe", default="consistency", help="as of train")
    ablate.add_argument("--name", default="consistency_weight", help="of the recipe's number")
    ablate.add_argument("--values", type=float, nargs="+", default=[0.0, 0.5])
    ablate.add_argument("--device", default="cpu")
    ablate.add_argument("--report", type=Path, help="JSON; the plot goes beside it")
    ablate.set_defaults(run=_ablate)
    tune = commands.add_parser("tune", help="teach a model from your own video")
    tune.add_argument("--model", default="builtin", help="`builtin`, a folder, or of the hub")
    tune.add_argument("--data", type=Path, required=True, help="JSONL: training/recordings.py")
    tune.add_argument("--output", type=Path, required=True, help="the tuned model's folder")
    tune.add_argument("--folder", type=Path, help="checkpoint and curve; .cache/tuning/<output>")
    tune.add_argument("--steps", type=_positive(int), default=200)
    tune.add_argument("--batch", type=_positive(int), default=4, help="clips of a step")
    tune.add_argument("--learning-rate", type=_positive(float), help="1e-4 built-in, 2e-4 LoRA")
    tune.add_argument("--rank", type=_positive(int), default=16, help="of LoRA")
    tune.add_argument("--tower", action="store_true", help="LoRA in the vision tower too")
    tune.add_argument("--fps", type=_positive(float), help="of sampling; the model's own")
    tune.add_argument("--frame-pixels", type=_positive(int), default=200_704)
    tune.add_argument("--seed", type=int, default=1)
    tune.add_argument(
        "--device", default="auto", help="`cpu`, `cuda`, `cuda:N`; a GPU where one is"
    )
    tune.add_argument("--resume", action=argparse.BooleanOptionalAction, default=True)
    tune.set_defaults(run=_tune)
    clip = commands.add_parser("clip", help="write a sample video and its truth as .json")
    clip.add_argument("path", type=Path)
    clip.add_argument("--seed", type=int, default=1)
    clip.add_argument("--seconds", type=float, default=24.0)
    clip.add_argument("--scale", type=int, default=4, help="times 128 pixels")
    clip.add_argument("--fps", type=int, default=24)
    shown = clip.add_mutually_exclusive_group()
    shown.add_argument("--world", choices=("shapes", "street", "shop"), default="shapes")
    shown.add_argument("--recipe", help="what a model trained by it knows of its world")
    clip.set_defaults(run=_clip)
    sheet = commands.add_parser("sheet", help="draw clips with questions and answers as a PNG")
    sheet.add_argument("path", type=Path)
    sheet.add_argument("--seed", type=int, default=1)
    sheet.add_argument("--clips", type=int, default=5)
    sheet.add_argument("--frames", type=int, default=40)
    sheet.add_argument(
        "--world", choices=("street", "shop", "goods", "photographs"), default="street"
    )
    sheet.add_argument("--split", choices=("train", "held_out"), default="train")
    sheet.set_defaults(run=_sheet)
    cut = commands.add_parser("goods", help="cut real goods out of photographs, once")
    cut.add_argument("--photos", type=Path, required=True, help="holds clothing and grocery")
    cut.add_argument("--output", type=Path, help="SIGHTLINE_GOODS; .cache/training/goods")
    cut.set_defaults(run=_goods)
    familiar = commands.add_parser(
        "familiarity", help="measure what pictures of its training look like to a model"
    )
    familiar.add_argument("--recipe", default="builtin", help="that the model was trained by")
    familiar.add_argument("--model", type=Path, help="folder; .cache/training/<recipe>/model")
    familiar.add_argument("--photos", type=Path, required=True, help="of other things")
    familiar.add_argument("--replace-shipped", action="store_true", help="of the shipped model")
    familiar.set_defaults(run=_familiarity)
    atlas = commands.add_parser(
        "atlas", help="draw the sprites of the wide world from an emoji font"
    )
    atlas.add_argument("--font", type=Path, default=EMOJI_FONT, help="NotoColorEmoji.ttf")
    atlas.set_defaults(run=_atlas)
    check = commands.add_parser("eval", help="measure a model through the running engine")
    check.add_argument("--model", default="builtin", help="what the worker's WORKER_MODEL takes")
    asked = check.add_mutually_exclusive_group()
    asked.add_argument("--world", choices=WORLDS)
    asked.add_argument(
        "--recipe", help="what a model trained by it knows of its world; a shipped model's own"
    )
    asked.add_argument("--data", type=Path, help="JSONL in the world's place: docs/evaluation.md")
    check.add_argument("--clips", type=_positive(int), help="60 of a world, all of a JSONL")
    check.add_argument("--fps", type=_positive(float), help="of a JSONL's videos; the model's own")
    columns = check.add_mutually_exclusive_group()
    default = [name for name, setup in SETUPS.items() if setup.is_default]
    columns.add_argument(
        "--conditions", type=_conditions, default=tuple(default), help=f"of {', '.join(SETUPS)}"
    )
    columns.add_argument(
        "--all", action="store_const", const=tuple(SETUPS), dest="conditions", help="every one"
    )
    check.add_argument("--max-tokens", type=_positive(int), default=96, help="of an answer")
    check.add_argument("--report", type=Path, help="JSON; plot and mistakes go beside it")
    check.set_defaults(run=_evaluate)
    doubted = commands.add_parser("doubt", help="measure how sure a model must be of each name")
    doubted.add_argument("--model", type=Path, required=True, help="folder of a goods model")
    doubted.add_argument("--photos", type=Path, required=True, help="that it did not learn from")
    doubted.set_defaults(run=_doubt)
    named = commands.add_parser(
        "photographs", help="ask the running engine what photographs show that it never saw"
    )
    named.add_argument("--model", required=True, help="what the worker's WORKER_MODEL takes")
    named.add_argument("--photos", type=Path, required=True, help="folders clothing and grocery")
    named.add_argument("--most", type=_positive(int), default=60, help="of one noun")
    named.add_argument("--report", type=Path, help="JSON")
    named.set_defaults(run=_photographs)
    write = commands.add_parser("examination", help="write an examination for other systems")
    write.add_argument("path", type=Path, help="the JSONL; its videos go into a folder beside it")
    whose = write.add_mutually_exclusive_group()
    whose.add_argument("--world", choices=WORLDS)
    whose.add_argument("--recipe", help="what a model trained by it knows; the built-in one's")
    write.add_argument("--clips", type=_positive(int), default=60)
    write.add_argument("--scale", type=_positive(int), default=1, help="times 128 pixels")
    write.set_defaults(run=_examination)
    return parser


def main() -> int:
    arguments = _parser().parse_args()
    return int(arguments.run(arguments))


if __name__ == "__main__":
    raise SystemExit(main())
