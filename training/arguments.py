"""Arguments of `python -m training`: every command with what it takes."""

import argparse
from collections.abc import Callable
from pathlib import Path


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


def parser() -> argparse.ArgumentParser:
    from training.examination.setups import SETUPS
    from training.examination.worlds import WORLDS
    from training.world.atlas import EMOJI_FONT

    made = argparse.ArgumentParser(prog="python -m training")
    commands = made.add_subparsers(dest="command", required=True)
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
    ablate = commands.add_parser("ablate", help="train with one number changed, and compare")
    ablate.add_argument("--recipe", default="consistency", help="as of train")
    ablate.add_argument("--name", default="consistency_weight", help="of the recipe's number")
    ablate.add_argument("--values", type=float, nargs="+", default=[0.0, 0.5])
    ablate.add_argument("--device", default="cpu")
    ablate.add_argument("--report", type=Path, help="JSON; the plot goes beside it")
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
    clip = commands.add_parser("clip", help="write a sample video and its truth as .json")
    clip.add_argument("path", type=Path)
    clip.add_argument("--seed", type=int, default=1)
    clip.add_argument("--seconds", type=float, default=24.0)
    clip.add_argument("--scale", type=int, default=4, help="times 128 pixels")
    clip.add_argument("--fps", type=int, default=24)
    shown = clip.add_mutually_exclusive_group()
    shown.add_argument("--world", choices=("shapes", "street", "shop"), default="shapes")
    shown.add_argument("--recipe", help="what a model trained by it knows of its world")
    clip.add_argument("--split", choices=("train", "held_out"), default="train")
    sheet = commands.add_parser("sheet", help="draw clips with questions and answers as a PNG")
    sheet.add_argument("path", type=Path)
    sheet.add_argument("--seed", type=int, default=1)
    sheet.add_argument("--clips", type=int, default=5)
    sheet.add_argument("--frames", type=int, default=40)
    sheet.add_argument(
        "--world",
        choices=("street", "shop", "goods", "photographs", "laid", "sketch"),
        default="street",
    )
    sheet.add_argument("--split", choices=("train", "held_out"), default="train")
    cut = commands.add_parser("goods", help="cut real goods out of photographs, once")
    cut.add_argument("--photos", type=Path, required=True, help="holds clothing and grocery")
    cut.add_argument("--output", type=Path, help="SIGHTLINE_GOODS; .cache/training/goods")
    familiar = commands.add_parser(
        "familiarity", help="measure what pictures of its training look like to a model"
    )
    familiar.add_argument("--recipe", default="builtin", help="that the model was trained by")
    familiar.add_argument("--model", type=Path, help="folder; .cache/training/<recipe>/model")
    familiar.add_argument("--photos", type=Path, required=True, help="of other things")
    familiar.add_argument("--replace-shipped", action="store_true", help="of the shipped model")
    atlas = commands.add_parser(
        "atlas", help="draw the sprites of the wide world from an emoji font"
    )
    atlas.add_argument("--font", type=Path, default=EMOJI_FONT, help="NotoColorEmoji.ttf")
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
    doubted = commands.add_parser("doubt", help="measure how sure a model must be of each name")
    doubted.add_argument("--model", type=Path, required=True, help="folder of a goods model")
    doubted.add_argument("--photos", type=Path, required=True, help="that it did not learn from")
    named = commands.add_parser(
        "photographs", help="ask the running engine what photographs show that it never saw"
    )
    named.add_argument("--model", required=True, help="what the worker's WORKER_MODEL takes")
    named.add_argument("--photos", type=Path, required=True, help="folders clothing and grocery")
    named.add_argument("--most", type=_positive(int), default=60, help="of one noun")
    named.add_argument("--report", type=Path, help="JSON")
    write = commands.add_parser("examination", help="write an examination for other systems")
    write.add_argument("path", type=Path, help="the JSONL; its videos go into a folder beside it")
    whose = write.add_mutually_exclusive_group()
    whose.add_argument("--world", choices=WORLDS)
    whose.add_argument("--recipe", help="what a model trained by it knows; the built-in one's")
    write.add_argument("--clips", type=_positive(int), default=60)
    write.add_argument("--scale", type=_positive(int), default=1, help="times 128 pixels")
    return made
