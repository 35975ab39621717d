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
from training.world.catalogue import Split
from training.world.cutting import cut_out
from training.world.real_hands import cut_hand
from training.world.real_hands import hands as photographed

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
    """A photograph of a thing. split: as of a stage; of what training never sees one half measures
    a model's doubt, the other is its examination."""

    path: Path
    noun: str
    split: Split


@dataclass(frozen=True, slots=True)
class Goods:
    """pictures: [n, 112, 112, 4] uint8 straight RGBA. wholes: [n, 192, 192, 3] uint8, photographs
    squeezed into a square as a stream is. hands: [n, 112, 112, 4] uint8, fingers up, the wrist at
    the lower edge. cut, whole: numbers of pictures and wholes by noun and split; held_up: of hands
    by split. grounds: [n, 160, 160, 3] uint8, of training alone."""

    pictures: NDArray[np.uint8]
    wholes: NDArray[np.uint8]
    hands: NDArray[np.uint8]
    grounds: NDArray[np.uint8]
    held_up: Mapping[str, list[int]]
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
        pictures, wholes, hands, grounds = (
            np.load(folder / f"{name}.npy", mmap_mode="r")
            for name in ("pictures", "wholes", "hands", "grounds")
        )
    except FileNotFoundError as error:
        raise ValueError("no real goods: run python -m training goods --photos DIR") from error
    held_up: dict[str, list[int]] = {}
    for number, split in enumerate(told["hands"]):
        held_up.setdefault(split, []).append(number)
    places = _places(told["cut"]), _places(told["whole"])
    return Goods(pictures, wholes, hands, grounds, held_up, *places)


def photographs(folder: Path) -> Iterator[Photograph]:
    """Every photograph of a noun in the folders `clothing` and `grocery`."""
    table = folder / "clothing" / "labels.csv"
    if table.is_file():
        with table.open(newline="") as file:
            for row in csv.DictReader(file):
                if noun := _CLOTHING.get(row["label"]):
                    examined = zlib.crc32(row["sender"].encode()) % _EXAMINED_ONE_IN == 0
                    path = table.parent / "images" / row["file"]
                    yield Photograph(path, noun, _split(path, is_train=not examined))
    table = folder / "grocery" / "classes.csv"
    if table.is_file():
        with table.open(newline="") as file:
            rows = [*csv.reader(file)][1:]
        coarse = {row[3].strip(): row[2].strip() for row in rows}
        for name in ("train", "val", "test"):
            for line in (table.parent / f"{name}.txt").read_text().splitlines():
                place, _, kind = (part.strip() for part in line.split(","))
                if noun := _GROCERIES.get(coarse[kind]):
                    path = table.parent / place
                    yield Photograph(path, noun, _split(path, is_train=name == "train"))


def _split(path: Path, *, is_train: bool) -> Split:
    if is_train:
        return "train"
    return "measured" if zlib.crc32(path.stem.encode()) % 2 == 0 else "held_out"


def write_goods(photos: Path, folder: Path, advance: Advance = lambda: None) -> int:
    """Cut the things, and the hands, out of these photographs into a folder; how many things.
    advance: called for each photograph of things. Raises ValueError where there are none."""
    rng = np.random.default_rng(1)
    wanted = [*photographs(photos)]
    cut: list[list[str]] = []
    whole: list[list[str]] = []
    pictures: list[NDArray[np.uint8]] = []
    wholes: list[NDArray[np.uint8]] = []
    grounds: list[NDArray[np.uint8]] = []
    for number in rng.permutation(len(wanted)):
        one = wanted[number]
        kind: list[str] = [one.noun, one.split]
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
    found = [(hand.split, cut_hand(read(hand.path), hand)) for hand in photographed(photos)]
    hands = [(split, hand) for split, hand in found if hand is not None]
    held_up = [_square(_in_square(hand, down=1), SIDE) for _, hand in hands]
    np.save(folder / "hands.npy", np.stack(held_up or [np.zeros((SIDE, SIDE, 4), np.uint8)]))
    kinds = {"cut": cut, "whole": whole, "hands": [split for split, _ in hands]}
    (folder / "goods.json").write_text(json.dumps(kinds))
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
    return _square(_in_square(cut), SIDE)


def _in_square(cut: NDArray[np.uint8], down: float = 0.5) -> NDArray[np.uint8]:
    """A cut-out in the middle of a square, or farther down: 1 is its lower edge."""
    height, width = cut.shape[:2]
    square = np.zeros((max(height, width),) * 2 + (4,), np.uint8)
    top, left = round((len(square) - height) * down), (len(square) - width) // 2
    square[top : top + height, left : left + width] = cut
    return square


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
