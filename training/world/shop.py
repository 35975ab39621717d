"""The director of a live shop: a host's hand shows one product after another, with its price.

Products lie on a table or come from below it; a tag with the price appears beside what is held up
and may drop to a lower one; a banner says what banners say. Now and then something prohibited is
shown.
"""

from dataclasses import dataclass

from numpy.random import Generator

from training.world.catalogue import TINTS, Item, Split, in_groups, is_held_out, items
from training.world.hand import lower_hand, pick_up, put_down, raise_hand
from training.world.patches import Look
from training.world.stage import Actor, Script, Stage

PRICES = (*range(3, 20), 24, 25, 29, 35, 39, 45, 49, 59, 65, 69, 75, 79, 85, 89, 95, 99)
BANNERS = ("sale", "new", "hot", "live", "last deal", "best deal", "sold out", "free gift", "today")
_TABLE_Y = 106.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Trade:
    """Trade that a shop deals in; sizes and places in units.

    nouns: everything it has, () for all there is. A narrow shop that names them has no prices but
    `prices`, and holds out nouns at a price and nouns that a hand picks up from the table; the wide
    one holds out nouns that are held up at all.
    """

    nouns: tuple[str, ...] = ()
    tints: tuple[str, ...] = TINTS
    prices: tuple[int, ...] = PRICES
    banners: tuple[str, ...] = BANNERS
    shelves: tuple[float, ...] = (18.0, 46.0, 82.0, 110.0)
    shelf_size: tuple[float, float] = (21.0, 25.0)
    held_size: tuple[float, float] = (34.0, 42.0)
    tag_width: float = 27.0
    tag_away: float = 38.0


class Shop(Stage):
    """Shows products until the film ends."""

    def __init__(
        self,
        rng: Generator,
        ground: tuple[float, float, float],
        split: Split,
        seconds: float,
        trade: Trade | None = None,
    ) -> None:
        super().__init__(rng, ground, split)
        self.seconds = seconds
        self.trade = trade or Trade()
        self.tints = self.trade.tints
        self.narrow = bool(self.trade.nouns)
        self.shelf: dict[float, Actor] = {}
        self.banner: Actor | None = None
        self.prices: dict[int, int] = {}  # of what was shown before
        self.side = self.one(("left", "right"))

    def direct(self) -> Script:
        time = -self.between(0.0, 2.5)
        self._set(time - 5)
        while time < self.seconds:
            roll = self.rng.random()
            if roll < 0.12:
                time = self._change_banner(time)
            elif roll < 0.55 and self.shelf:
                time = self._show_from_table(time)
            elif roll < 0.97:
                time = self._show_from_below(time)
            else:
                time += self.between(0.3, 0.8)
        return self.script

    def offered(self, groups: tuple[str, ...]) -> tuple[Item, ...]:
        nouns = self.trade.nouns
        return tuple(i for i in in_groups(*groups) if not nouns or i.noun in nouns)

    def _set(self, time: float) -> None:
        if self.chance(0.7):
            hosts = [index for index, item in enumerate(items()) if item.group == "host"]
            look = Look(hosts[int(self.rng.integers(len(hosts)))])
            x = 24.0 if self.side == "left" else 104.0
            self.add("host", "host", look, x, self.between(34, 42), 42, layer=-2).show(time)
        # In training everything may lie there, though not be picked up.
        lifts = ("lift",) if self.narrow and self.split == "held_out" else ()
        shelves = self.trade.shelves
        number = int(self.rng.integers(1, min(len(shelves), 3) + 1))
        for index in self.rng.permutation(len(shelves))[:number]:
            found = self.cast(("product",), *lifts)
            if found is None:
                continue
            x = shelves[int(index)]
            y, size = _TABLE_Y + self.between(-3, 3), self.between(*self.trade.shelf_size)
            actor = self.add_item(*found, x, y, size)
            actor.show(time)
            self.shelf[x] = actor
        if self.chance(0.6):
            self._change_banner(time)

    def _change_banner(self, time: float) -> float:
        """Put up another banner; the old one goes in the same moment."""
        old = self.banner
        texts = [b for b in self.trade.banners if old is None or b != old.thing.text]
        if old is not None:
            old.hide(time)
            self.plan("went", time, time, old)
        if old is not None and self.chance(0.25):
            self.banner = None
            return time + 0.3
        x = 90.0 if self.side == "left" else 38.0
        self.banner = self.add_sign(self.one(texts), x, 12.0, self.between(50, 64))
        self.banner.show(time)
        self.plan("came", time, time, self.banner)
        return time + self.between(0.3, 0.6)

    def _show_from_table(self, time: float) -> float:
        """Pick a product up, show it, lay it back."""
        act = "lift" if self.narrow else "hold"
        places = [x for x, a in self.shelf.items() if self.allows(a.thing.noun, act)]
        if not places:
            return time + 0.1
        x = places[int(self.rng.integers(len(places)))]
        actor = self.shelf[x]
        held = pick_up(self, actor, 64 + self.between(-6, 6), self.between(50, 58), time)
        return put_down(self, actor, self._present(actor, held)) + self.between(0.1, 0.5)

    def _show_from_below(self, time: float) -> float:
        """Bring up something that was not on the table; one in seven is prohibited."""
        found = self.cast(("prohibited",) if self.chance(0.15) else ("product",), "hold")
        if found is None:
            return time + 0.1
        actor = self.add_item(*found, 64.0, 64.0, self.between(*self.trade.held_size), layer=3)
        x, y = 64 + self.between(-8, 8), self.between(48, 58)
        held = time + raise_hand(self, actor, x, y, time)
        return lower_hand(self, actor, self._present(actor, held)) + self.between(0.1, 0.6)

    def _present(self, actor: Actor, time: float) -> float:
        """Hold it up for a while, mostly with its price beside it; until when."""
        end = time + self.between(0.9, 2.6)
        if actor.thing.group == "prohibited" or self.chance(0.12):
            return end
        prices = self._prices(actor.thing.noun)
        price = self.prices.setdefault(actor.thing.ident, int(self.rng.choice(prices)))
        tag = self._tag(actor, price, time + 0.25)
        if self.chance(0.35) and price > max(prices[0], 5):
            middle = time + 0.25 + self.between(0.5, 1.0)
            end = max(end, middle + 0.6)
            tag.hide(middle)
            lower = max(int(price * self.between(0.5, 0.85)), 2)
            if self.narrow:
                lower = max([p for p in prices if p <= lower], default=prices[0])
            self.prices[actor.thing.ident] = lower
            cheaper = self._tag(actor, lower, middle)
            self.plan("repriced", middle - 0.01, middle, actor, how=f"{price} {lower}")
            tag = cheaper
        tag.hide(end)
        self.plan("went", end, end, tag)
        return end

    def _prices(self, noun: str) -> list[int]:
        """Prices that a thing may have. Held-out clips mostly show what is held out."""
        held_out = [p for p in self.trade.prices if is_held_out(noun, f"${p}")]
        if not self.narrow:
            return list(self.trade.prices)
        if self.split == "held_out" and held_out and self.chance(0.7):
            return held_out
        return [p for p in self.trade.prices if self.allows(noun, f"${p}")]

    def _tag(self, actor: Actor, price: int, time: float) -> Actor:
        x = actor.at("x", time)
        away = self.trade.tag_away
        x += away if self.side == "left" else -away  # away from the host's face
        look = Look(paint="yellow", text=f"${price}", ink="black", face=0)
        width = self.trade.tag_width
        tag = self.add("tag", "price", look, min(max(x, 20), 108), 42.0, width, layer=6)
        tag.belongs_to(actor)
        tag.show(time)
        self.plan("came", time, time, tag)
        return tag
