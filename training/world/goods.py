"""Real goods: things cut out of photographs, and photographs to lie before, kept in a folder.

The photographs are not ours to ship: `python -m training goods --photos DIR` cuts them once, into
the folder that `SIGHTLINE_GOODS` names. Clothes are split by who sent the photograph, groceries by
photograph: what a model is examined on was in no picture that it has seen.
"""

import csv
import json
import os
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from services.gateway.frames.display import Display
from training.rendering import Pixels
from training.resizing import resized
from training.world.cutting import cut_out

SIDE = 112  # pixels of a cut-out
WHOLE = 192  # … of a whole photograph
GROUND = 160  # … and of a ground
GROUNDS = 400
MOST = 160  # cut-outs of one noun and split
MOST_WHOLE = 360
_EXAMINED_ONE_IN = 5  # senders

# What the labels of the photographs are called here.
_CLOTHING = {
    "Dress": "dress",
    "Hat": "hat",
    "Longsleeve": "pullover",
    "Outwear": "jacket",
    "Pants": "pants",
    "Shirt": "shirt",
    "Shoes": "shoe",
    "Shorts": "shorts",
    "Skirt": "skirt",
    "T-Shirt": "tee",
}
_GROCERIES = {
    **{name: name.lower() for name in ("Apple", "Avocado", "Banana", "Kiwi", "Lemon", "Lime")},
    **{name: name.lower() for name in ("Mango", "Melon", "Nectarine", "Papaya", "Peach", "Pear")},
    **{name: name.lower() for name in ("Pineapple", "Plum", "Pomegranate", "Asparagus", "Leek")},
    **{name: name.lower() for name in ("Cabbage", "Cucumber", "Garlic", "Ginger", "Mushroom")},
    **{name: name.lower() for name in ("Onion", "Pepper", "Potato", "Tomato", "Zucchini")},
    **{"Aubergine": "aubergine", "Carrots": "carrot", "Red-Beet": "beet", "Juice": "juice"},
    **{"Red-Grapefruit": "grapefruit", "Milk": "milk", "Oat-Milk": "milk", "Soy-Milk": "milk"},
    **{"Yoghurt": "yoghurt", "Oatghurt": "yoghurt", "Soyghurt": "yoghurt"},
    **{"Orange": "orange", "Satsumas": "satsuma", "Passion-Fruit": "passionfruit"},
    **{"Sour-Cream": "cream", "Sour-Milk": "sourmilk"},
}
REAL_WORLDS = ("goods", "photographs")
CLOTHES = tuple(_CLOTHING.values())
REAL_NOUNS = tuple(dict.fromkeys([*CLOTHES, *_GROCERIES.values()]))

Advance = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Photograph:
    """A photograph of a thing, and the split that may see it."""

    path: Path
    noun: str
    split: str

    @property
    def measures(self) -> bool:
        """Whether it is of the half of those held out by which a model's doubt is measured; the
        other half is its examination."""
        return self.split == "held_out" and zlib.crc32(self.path.stem.encode()) % 2 == 0


@dataclass(frozen=True, slots=True)
class Goods:
    """pictures: [n, 112, 112, 4] uint8 straight RGBA. wholes: [n, 192, 192, 3] uint8, photographs
    squeezed into a square as a stream is. cut, whole: their numbers by noun and split. grounds: [n,
    160, 160, 3] uint8, of training alone."""

    pictures: NDArray[np.uint8]
    wholes: NDArray[np.uint8]
    grounds: NDArray[np.uint8]
    cut: Mapping[tuple[str, str], list[int]]
    whole: Mapping[tuple[str, str], list[int]]


def _places(kinds: list[list[str]]) -> dict[tuple[str, str], list[int]]:
    found: dict[tuple[str, str], list[int]] = {}
    for number, (noun, split) in enumerate(kinds):
        found.setdefault((noun, split), []).append(number)
    return found


def goods_folder() -> Path:
    """Folder of the cut-outs."""
    named = os.environ.get("SIGHTLINE_GOODS")
    return Path(named) if named else Path(__file__).parents[2] / ".cache" / "training" / "goods"


@lru_cache(maxsize=1)
def goods() -> Goods:
    """The goods of this machine. Raises ValueError where none were cut."""
    folder = goods_folder()
    try:
        told = json.loads((folder / "goods.json").read_text())
        pictures, wholes, grounds = (
            np.load(folder / f"{name}.npy", mmap_mode="r")
            for name in ("pictures", "wholes", "grounds")
        )
    except FileNotFoundError as error:
        raise ValueError("no real goods: run python -m training goods --photos DIR") from error
    return Goods(pictures, wholes, grounds, _places(told["cut"]), _places(told["whole"]))


def photographs(folder: Path) -> Iterator[Photograph]:
    """Every photograph of a noun in the folders `clothing` and `grocery`."""
    table = folder / "clothing" / "labels.csv"
    if table.is_file():
        with table.open(newline="") as file:
            for row in csv.DictReader(file):
                if noun := _CLOTHING.get(row["label"]):
                    examined = zlib.crc32(row["sender"].encode()) % _EXAMINED_ONE_IN == 0
                    path = table.parent / "images" / row["file"]
                    yield Photograph(path, noun, "held_out" if examined else "train")
    table = folder / "grocery" / "classes.csv"
    if table.is_file():
        with table.open(newline="") as file:
            rows = [*csv.reader(file)][1:]
        coarse = {row[3].strip(): row[2].strip() for row in rows}
        for name, split in (("train", "train"), ("val", "held_out"), ("test", "held_out")):
            for line in (table.parent / f"{name}.txt").read_text().splitlines():
                place, _, kind = (part.strip() for part in line.split(","))
                if noun := _GROCERIES.get(coarse[kind]):
                    yield Photograph(table.parent / place, noun, split)


def write_goods(photos: Path, folder: Path, advance: Advance = lambda: None) -> int:
    """Cut the things out of these photographs into a folder; how many. advance: called for each
    photograph. Raises ValueError where there are none."""
    rng = np.random.default_rng(1)
    wanted = [*photographs(photos)]
    cut: list[list[str]] = []
    whole: list[list[str]] = []
    pictures: list[NDArray[np.uint8]] = []
    wholes: list[NDArray[np.uint8]] = []
    grounds: list[NDArray[np.uint8]] = []
    for number in rng.permutation(len(wanted)):
        one = wanted[number]
        kind = [one.noun, one.split]
        advance()
        if whole.count(kind) >= MOST_WHOLE:
            continue
        picture = read(one.path)
        wholes.append(resized(picture[None], WHOLE, WHOLE)[0])
        whole.append(kind)
        is_grocery = "grocery" in one.path.parts
        if one.split == "train" and len(grounds) < GROUNDS and is_grocery:
            grounds.append(_square(picture, GROUND))
        if cut.count(kind) >= MOST:
            continue
        alpha = None if is_grocery else cut_out(picture)  # what lies in heaps has no edge
        if alpha is None and not is_grocery:
            continue  # half a floor is no garment
        pictures.append(picture_of(picture, alpha))
        cut.append(kind)
    if not pictures:
        raise ValueError(f"no photographs of goods in {photos}")
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "pictures.npy", np.stack(pictures))
    np.save(folder / "wholes.npy", np.stack(wholes))
    np.save(folder / "grounds.npy", np.stack(grounds or [np.full((8, 8, 3), 128, np.uint8)]))
    (folder / "goods.json").write_text(json.dumps({"cut": cut, "whole": whole}))
    goods.cache_clear()
    return len(pictures)


def read(path: Path) -> Pixels:
    """A photograph [height, width, 3], upright."""
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
    raw = Display().rgb(frame, frame.width, frame.height)
    return np.frombuffer(raw, np.uint8).reshape(frame.height, frame.width, 3)


def picture_of(whole: Pixels, alpha: NDArray[np.float32] | None) -> NDArray[np.uint8]:
    """The thing cut to what shows and centred in a square. Without a mask its middle, round and
    soft at the edge: a close look at what lies in a crate."""
    if alpha is None:
        side = min(whole.shape[:2]) * 4 // 5
        top, left = ((length - side) // 2 for length in whole.shape[:2])
        whole = whole[top : top + side, left : left + side]
        y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
        alpha = np.clip((1 - (np.abs(x) ** 3 + np.abs(y) ** 3)) * 6, 0, 1).astype(np.float32)
    rows, columns = (np.flatnonzero(alpha.max(axis=axis) > 0.5) for axis in (1, 0))
    box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    cut = np.concatenate([whole[box], (255 * alpha[box][..., None]).astype(np.uint8)], axis=2)
    height, width = cut.shape[:2]
    square = np.zeros((max(height, width),) * 2 + (4,), np.uint8)
    top, left = (len(square) - height) // 2, (len(square) - width) // 2
    square[top : top + height, left : left + width] = cut
    return _square(square, SIDE)


def _square(picture: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """The middle of a picture in another size."""
    least = min(picture.shape[:2])
    top, left = ((length - least) // 2 for length in picture.shape[:2])
    middle = picture[top : top + least, left : left + least]
    step = max(1, least // side)  # the mean of several pixels, not one of them
    cut = least // step * step
    blocks = middle[:cut, :cut].reshape(cut // step, step, cut // step, step, -1)
    return np.asarray(np.clip(sampled(blocks.mean((1, 3)), side) + 0.5, 0, 255), np.uint8)


def sampled(picture: NDArray[np.generic], side: int) -> NDArray[np.float32]:
    """A square picture [n, n, channels] at another size, between its pixels."""
    wide = np.asarray(picture, np.float32)
    at = np.clip((np.arange(side) + 0.5) * len(wide) / side - 0.5, 0, len(wide) - 1)
    low = at.astype(int)
    high = np.minimum(low + 1, len(wide) - 1)
    share = (at - low).astype(np.float32)
    rows = wide[low] * (1 - share)[:, None, None] + wide[high] * share[:, None, None]
    found: NDArray[np.float32] = (
        rows[:, low] * (1 - share)[:, None] + rows[:, high] * share[:, None]
    )
    return found
