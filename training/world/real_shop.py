"""The director of a shop of real goods: photographs' cut-outs beside what is drawn, before
photographs or before nothing."""

from dataclasses import replace

from numpy.random import Generator

from training.world.camera import Backdrop
from training.world.catalogue import Item, is_held_out
from training.world.goods import REAL_NOUNS, goods
from training.world.patches import Look
from training.world.shop import Shop
from training.world.stage import Actor

REAL = 0.75  # share of products that are real
_PHOTOGRAPHED = 0.5  # share of the grounds


class RealShop(Shop):
    """Casts real goods as products. Of what a split may not see no cut-out is taken."""

    def cast(self, groups: tuple[str, ...], *acts: str) -> tuple[Item, str] | None:
        if "product" not in groups or not self.chance(REAL):
            return super().cast(groups, *acts)
        taken = {actor.thing.noun for actor in self.script.actors}
        wants_held_out = self.split == "held_out" and bool(acts) and self.chance(0.7)
        for _ in range(40):
            noun = self.one(REAL_NOUNS)
            if noun in taken or not self.allows(noun, *acts) or not self._cuts(noun):
                continue
            if wants_held_out and not any(is_held_out(noun, act) for act in acts):
                continue
            return Item(noun, "", "real"), ""
        return None

    def add_item(
        self, item: Item, colour: str, x: float, y: float, size: float, layer: float = 0.0
    ) -> Actor:
        if item.group != "real":
            return super().add_item(item, colour, x, y, size, layer)
        cuts = self._cuts(item.noun)
        photo = cuts[int(self.rng.integers(len(cuts)))]
        look = Look(photo=photo, mirrored=self.chance(0.4))
        actor = self.add("object", item.noun, look, x, y, 1.2 * size, layer)
        actor.jump("angle", -1e8, self.between(-25, 25))
        return actor

    def _cuts(self, noun: str) -> list[int]:
        return goods().of(noun, self.split)


def before_photograph(backdrop: Backdrop, rng: Generator) -> Backdrop:
    """The backdrop, or now and then a photograph in its place, with or without the table."""
    if rng.random() >= _PHOTOGRAPHED:
        return backdrop
    grounds = goods().grounds
    photo = int(rng.integers(len(grounds)))
    red, green, blue = (float(each) for each in grounds[photo].reshape(-1, 3).mean(0))
    table = backdrop.table if rng.random() < 0.5 else None
    return replace(backdrop, photo=photo, ground=(red, green, blue), table=table)
