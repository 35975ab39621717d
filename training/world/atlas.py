"""The sprites and letters of the wide world in one file, so that nothing needs a font.

`atlas.npz` holds Noto Color Emoji (Google, SIL Open Font License 1.1, the copy that Debian packages
as fonts-noto-color-emoji) at 64 pixels and letters of DejaVu Sans and Serif Bold (Bitstream Vera
licence); `ATLAS-LICENCES.md` beside it says so too. `python -m training atlas` writes it anew.
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.world.catalogue import items

ATLAS = Path(__file__).with_name("atlas.npz")
EMOJI_FONT = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789$"
SIDE = 64
LETTER_HEIGHT = 32
_BITMAP_SIZE = 109  # the one size of the font's bitmaps


@dataclass(frozen=True, slots=True)
class Atlas:
    """sprites: [n, 64, 64, 4] uint8 straight RGBA, by index of `items()`, shapes left out.

    letters: [faces, len(LETTERS), 32, 32] uint8 coverage, left-aligned; advances: [faces,
    len(LETTERS)] widths in pixels.
    """

    sprites: NDArray[np.uint8]
    letters: NDArray[np.uint8]
    advances: NDArray[np.int64]


@lru_cache(maxsize=1)
def atlas() -> Atlas:
    with np.load(ATLAS) as stored:
        wanted = [item.code for item in items() if item.code]
        if list(stored["codes"]) != wanted:
            raise ValueError(f"{ATLAS} is of another catalogue: run python -m training atlas")
        return Atlas(stored["sprites"], stored["letters"], stored["advances"])


def write_atlas(path: Path = ATLAS, emoji_font: Path = EMOJI_FONT) -> None:
    """Draw every sprite and letter and write them to `path`. Needs Pillow and the emoji font."""
    import matplotlib
    from PIL import ImageFont

    font = ImageFont.truetype(str(emoji_font), _BITMAP_SIZE)
    codes = [item.code for item in items() if item.code]
    sprites = np.stack([_sprite(font, code) for code in codes])
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    faces = [
        ImageFont.truetype(str(folder / name), 30)
        for name in ("DejaVuSans-Bold.ttf", "DejaVuSerif-Bold.ttf")
    ]
    drawn = [[_letter(face, letter) for letter in LETTERS] for face in faces]
    np.savez_compressed(
        path,
        codes=np.array(codes),
        sprites=sprites,
        letters=np.array([[mask for mask, _ in face] for face in drawn]),
        advances=np.array([[advance for _, advance in face] for face in drawn]),
    )


def _sprite(font: object, code: str) -> NDArray[np.uint8]:
    """The emoji cut to what is drawn and centred in a square, [64, 64, 4]."""
    from PIL import Image, ImageDraw

    picture = Image.new("RGBA", (200, 200))
    ImageDraw.Draw(picture).text((20, 20), code, font=font, embedded_color=True)  # type: ignore[arg-type]
    box = picture.getbbox()
    if box is None:
        raise ValueError(f"the font has no {code}")
    cut = picture.crop(box)
    side = max(cut.size)
    square = Image.new("RGBA", (side, side))
    square.paste(cut, ((side - cut.width) // 2, (side - cut.height) // 2))
    small = np.array(square.resize((SIDE, SIDE), Image.Resampling.LANCZOS))
    small[small[..., 3] < 8] = 0  # what nobody sees, so that the file is small
    small[..., :3] &= 0xFC
    return small


def _letter(face: object, letter: str) -> tuple[NDArray[np.uint8], int]:
    from PIL import Image, ImageDraw

    picture = Image.new("L", (LETTER_HEIGHT, LETTER_HEIGHT))
    ImageDraw.Draw(picture).text((1, -2), letter, fill=255, font=face)  # type: ignore[arg-type]
    return np.array(picture), round(face.getlength(letter)) + 1  # type: ignore[attr-defined]
