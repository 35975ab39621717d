"""Watches of the world of shapes: conditions with their truth at every frame."""

from numpy.random import Generator

from training import phrasings
from training.questions import motion_of
from training.vocabulary import COLOURS, DIRECTIONS, SHAPES
from training.world.forward import Condition, Make, Truth
from training.world.question import pick
from training.world.shapes import Clip


def _some_frame(clip: Clip, rng: Generator) -> int:
    return int(rng.integers(len(clip)))


def _there(clip: Clip, asked: int, rng: Generator) -> Condition:
    """Something that is in the clip at some time, or is not."""
    present = clip.present(_some_frame(clip, rng))
    colour, shape = pick(rng, COLOURS), pick(rng, SHAPES)
    if present and rng.random() < 0.8:
        thing = pick(rng, present)
        colour, shape = thing.colour, thing.shape
    style = rng.random()
    if style < 0.25:
        shape = ""
        text = pick(rng, phrasings.WATCH_COLOUR).format(colour)
    else:
        colour = "" if style < 0.5 else colour
        text = pick(rng, phrasings.WATCH).format(f"{colour} {shape}".strip())

    def holds(clip: Clip, frame: int) -> Truth:
        like = [
            t
            for t in clip.frames[frame]
            if (not colour or t.colour == colour) and (not shape or t.shape == shape)
        ]
        if any(t.inside and not t.on_the_edge for t in like):
            return True
        return None if any(t.on_the_edge for t in like) else False

    return Condition(text, holds)


def _count(clip: Clip, asked: int, rng: Generator) -> Condition:
    wanted = len(clip.present(_some_frame(clip, rng)))

    def holds(clip: Clip, frame: int) -> Truth:
        return len(clip.present(frame)) == wanted if clip.settled(frame) else None

    return Condition(pick(rng, phrasings.WATCH_COUNT[wanted]), holds)


def _moving(clip: Clip, asked: int, rng: Generator) -> Condition | None:
    """Debatable while the thing is not there: the condition takes it for granted."""
    present = clip.present(_some_frame(clip, rng))
    if not present:
        return None
    thing = pick(rng, present)
    way = thing.motion if thing.motion in DIRECTIONS else pick(rng, DIRECTIONS)

    def holds(clip: Clip, frame: int) -> Truth:
        for other in clip.present(frame):
            if (other.colour, other.shape) == (thing.colour, thing.shape):
                motion = motion_of(clip, frame, other)
                return None if motion is None or other.on_the_edge else motion == way
        return None

    return Condition(f"the {thing.colour} {thing.shape} is moving {way}", holds)


def _colour(clip: Clip, asked: int, rng: Generator) -> Condition | None:
    """Colour that one of its shape may turn to."""
    turned = [change for change in clip.changes if change.kind == "turned"]
    if not turned:
        return None
    change = pick(rng, turned)

    def holds(clip: Clip, frame: int) -> Truth:
        found = [t for t in clip.present(frame) if t.shape == change.shape]
        return found[0].colour == change.colour if len(found) == 1 else None

    return Condition(f"the {change.shape} is {change.colour}", holds)


CONDITIONS: dict[str, tuple[Make, float]] = {
    "there": (_there, 3.0),
    "count": (_count, 1.5),
    "moving": (_moving, 1.5),
    "colour": (_colour, 1.0),
}
