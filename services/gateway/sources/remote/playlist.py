"""Master playlists of HLS (RFC 8216): which of their variants is watched.

Left alone, libavformat opens every variant and reads a segment of each before it chooses.
"""

import re
from dataclasses import dataclass

USEFUL_LINES = 720  # more than models look at: the smallest variant of so many is taken
USEFUL_BPS = 2_500_000  # where variants do not say how large they are
_ATTRIBUTE = re.compile(r'([A-Z0-9-]+)=("[^"]*"|[^",]*)')
_RESOLUTION = re.compile(r"([0-9]{1,5})x([0-9]{1,5})")
# Codecs that carry no pictures (RFC 6381); what is not known may be video.
_SOUND = re.compile(
    r"(mp4a|ac-3|ec-3|ac-4|opus|flac|fLaC|vorbis|alac|dts|stpp|wvtt)", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Variant:
    """One stream of a master playlist. `lines`: height of its pictures, 0 where it is not said."""

    location: str
    lines: int
    bits_per_second: int
    pictures: bool

    @property
    def excess(self) -> tuple[bool, bool, float]:
        """How far it is from what is useful: the least is taken. Too little is worse than too
        much."""
        size, useful = (
            (self.lines, USEFUL_LINES) if self.lines else (self.bits_per_second, USEFUL_BPS)
        )
        return not self.pictures, size < useful, abs(size - useful) / useful


def variant_of(playlist: str) -> str | None:
    """Location of the variant to watch; None for a playlist that has none, but segments."""
    variants = _variants(playlist)
    if not variants:
        return None
    # Of several that are equally large the one of more bits is the finer.
    best = min(variants, key=lambda one: (one.excess, -one.bits_per_second))
    return best.location


def _variants(playlist: str) -> list[Variant]:
    found: list[Variant] = []
    told: dict[str, str] | None = None
    for line in playlist.splitlines():
        line = line.strip()
        if line.startswith("#EXT-X-STREAM-INF:"):
            told = {name: value.strip('"') for name, value in _ATTRIBUTE.findall(line)}
        elif line and not line.startswith("#") and told is not None:
            found.append(_variant(line, told))
            told = None
    return found


def _variant(location: str, told: dict[str, str]) -> Variant:
    size = _RESOLUTION.fullmatch(told.get("RESOLUTION", ""))
    rate = told.get("BANDWIDTH", "")
    codecs = [codec for codec in told.get("CODECS", "").split(",") if codec.strip()]
    return Variant(
        location,
        min(int(size[1]), int(size[2])) if size else 0,  # of upright video the width
        int(rate) if rate.isascii() and rate.isdigit() and len(rate) < 16 else 0,
        pictures=not codecs or not all(_SOUND.match(codec.strip()) for codec in codecs),
    )
