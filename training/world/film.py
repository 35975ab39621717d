"""Films a script: paints every frame, measures what shows of each thing, and writes the truth."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from training.rendering import Pixels
from training.world import camera as cameras
from training.world.camera import MARGIN, Backdrop, Camera
from training.world.clip import SIZE, Clip, Event, Thing, presence_of
from training.world.patches import STAGES, Patch, patch
from training.world.stage import Plan, Script

_SEEN_AT_ENDS = ("moved", "grew", "shrank", "swapped", "crossed")
_SLACK_S = 0.45  # between a plan and when it shows


def shoot(
    script: Script,
    backdrop: Backdrop,
    camera: Camera,
    times: NDArray[np.float64],
    rng: Generator,
    *,
    seed: int,
    world: str,
    fps: float,
    scale: float = 1,
) -> Clip:
    """Film the script at `times`; the picture is 128 × scale pixels a side."""
    things = tuple(actor.thing for actor in script.actors)
    shake = cameras.shaking(rng, camera, len(times))
    shake[1:][np.diff(times) == 0] = np.nan
    shake = _held(shake)
    ground = cameras.paint_backdrop(backdrop, rng, scale)
    pixels, boxes, visible, sizes = _paint(script, ground, times, shake, scale)
    presence = presence_of(things, visible)
    acts = np.stack([actor.doing(times) for actor in script.actors], axis=1)
    holding = np.full(len(times), -1, np.int16)
    for start, end, ident in script.holds:
        holding[(times >= start) & (times < end) & (presence[:, ident] == 1)] = ident
    return Clip(
        seed=seed,
        world=world,
        fps=fps,
        things=things,
        pixels=cameras.weather(pixels, camera, rng, fps),
        boxes=boxes,
        visible=visible,
        acts=acts,
        sizes=sizes,
        holding=holding,
        times=times,
        events=events_of(things, script.plans, presence, times),
        presence=presence,
    )


def _held(path: NDArray[np.float64]) -> NDArray[np.float64]:
    """Hold the value before each NaN: a repeated frame is the very same picture."""
    for frame in np.flatnonzero(np.isnan(path[:, 0])):
        path[frame] = path[frame - 1]
    return path


def _paint(
    script: Script,
    ground: NDArray[np.float32],
    times: NDArray[np.float64],
    shake: NDArray[np.float64],
    scale: float,
) -> tuple[Pixels, NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Pixels, boxes, visible shares and sizes, as in `clip.Clip`."""
    side, number = round(SIZE * scale), len(times)
    pixels = np.empty((number, side, side, 3), np.uint8)
    boxes = np.zeros((number, len(script.actors), 4), np.float32)
    visible = np.zeros((number, len(script.actors)), np.float32)
    order = sorted(script.actors, key=lambda actor: actor.layer)
    lives = {actor.thing.ident: actor.sample(times) for actor in order}
    sizes = np.zeros_like(visible)
    for ident, life in lives.items():
        sizes[:, ident] = life["size"]
    canvas = np.empty((side, side, 3), np.float32)
    for frame in range(number):
        if frame and times[frame] == times[frame - 1]:
            for copied in (pixels, boxes, visible):
                copied[frame] = copied[frame - 1]
            continue
        dx, dy = shake[frame]
        x0, y0 = round((MARGIN - dx) * scale), round((MARGIN - dy) * scale)
        canvas[:] = ground[y0 : y0 + side, x0 : x0 + side]
        laid: list[_Laid] = []
        for actor in order:
            life = lives[actor.thing.ident]
            if not life["shown"][frame]:
                continue
            found = patch(
                actor.thing.look,
                max(int(life["drawn"][frame] * STAGES), 1),
                float(life["size"][frame]) * scale,
                float(life["angle"][frame]),
                float(life["x"][frame] + dx) * scale,
                float(life["y"][frame] + dy) * scale,
            )
            whole = found.area
            if actor.thing.kind == "drawing":  # measured against the finished drawing
                whole = patch(
                    actor.thing.look, STAGES, float(life["size"][frame]) * scale, 0, 0, 0
                ).area
            _lay(found, actor.thing.ident, whole, canvas, laid)
        for item in laid:
            visible[frame, item.ident] = item.left.sum() / max(item.whole, 1e-6)
            boxes[frame, item.ident] = np.clip(np.array(item.box) / scale, 0, SIZE)
        pixels[frame] = np.clip(canvas, 0, 255)
    return pixels, boxes, np.minimum(visible, 1), sizes


class _Laid:
    """A thing on the canvas: where it lies and the alpha of it that still shows."""

    __slots__ = ("box", "ident", "left", "whole", "x", "y")

    def __init__(self, ident: int, x: int, y: int, found: Patch, left: NDArray[np.float32]) -> None:
        self.ident, self.x, self.y = ident, x, y
        self.box, self.left = found.box, left
        self.whole = found.area


def _lay(
    found: Patch, ident: int, whole: float, canvas: NDArray[np.float32], laid: list[_Laid]
) -> None:
    """Paint one patch over all before it, which shows less of what lies below."""
    side = canvas.shape[0]
    height, width = found.pixels.shape[:2]
    x0, y0 = max(found.left, 0), max(found.top, 0)
    x1, y1 = min(found.left + width, side), min(found.top + height, side)
    if x0 >= x1 or y0 >= y1:
        return
    part = found.pixels[y0 - found.top : y1 - found.top, x0 - found.left : x1 - found.left]
    alpha = part[..., 3]
    region = canvas[y0:y1, x0:x1]
    region *= 1 - alpha[..., None]
    region += part[..., :3]
    for below in laid:
        bottom, right = below.y + below.left.shape[0], below.x + below.left.shape[1]
        left, top = max(x0, below.x), max(y0, below.y)
        right, bottom = min(x1, right), min(y1, bottom)
        if left < right and top < bottom:
            shows = below.left[top - below.y : bottom - below.y, left - below.x : right - below.x]
            shows *= 1 - alpha[top - y0 : bottom - y0, left - x0 : right - x0]
    new = _Laid(ident, x0, y0, found, alpha.copy())
    new.whole = whole
    laid.append(new)


def events_of(
    things: Sequence[Thing],
    plans: Sequence[Plan],
    presence: NDArray[np.int8],
    times: NDArray[np.float64],
) -> tuple[Event, ...]:
    """Events that can be seen, in the order of their completion.

    Coming and going is read off what shows; the plans say how. The rest is planned, and `sure` only
    where all of it lies in the film and its things were there before and after.
    """
    found: list[Event] = []
    blinks = [plan for plan in plans if plan.kind == "blinked"]
    for thing in things:
        if thing.kind in ("hand", "host"):
            continue
        states, known, since = presence[:, thing.ident], -1, 0
        for frame, state in enumerate(states):
            if state < 0 or (known == state):
                since = frame if state >= 0 else since
                continue
            if frame == 0 or (known < 0 and state == 0):
                known, since = int(state), frame
                continue
            was_known, known, start = known, int(state), min(since + 1, frame)
            since = frame
            span = (float(times[max(start - 1, 0)]), float(times[frame]))
            if any(_matches(plan, thing.ident, span, -0.2) for plan in blinks):
                continue
            kind = "came" if state == 1 else "went"
            plan = next(
                (p for p in plans if p.kind == kind and _matches(p, thing.ident, span)), None
            )
            whose, how = (plan.things, plan.how) if plan else ((thing.ident,), "?")
            # What nobody planned is something else passing over it.
            sure = was_known >= 0 and plan is not None
            found.append(Event(kind, start, frame, whose, how, sure))
    for plan in plans:
        if plan.kind in ("came", "went"):
            continue
        # Motion shows after its first moment, a blink in it.
        side: Literal["left", "right"] = "left" if plan.kind == "blinked" else "right"
        start = int(np.searchsorted(times, plan.start, side))
        frame = int(np.searchsorted(times, plan.end - 1e-6, "left"))
        if start >= len(times) or (frame == 0 and plan.end <= times[0]):
            continue
        if start == 0 or frame >= len(times):  # begun before the film, or not over with it
            found.append(Event(plan.kind, start, frame, plan.things, plan.how, sure=False))
            continue
        seen = presence[start - 1 : frame + 1][:, list(plan.things)]
        if plan.kind == "blinked":
            column = seen[:, 0]
            number = int((np.diff((column == 1).astype(int)) == 1).sum())
            sure = bool(number == int(plan.how) and column[0] == 1 and column[-1] == 1)
        elif plan.kind in _SEEN_AT_ENDS:
            sure = bool((seen[[0, -1]] == 1).all())
        else:
            sure = bool((seen[-1] == 1).all())
        found.append(Event(plan.kind, start, frame, plan.things, plan.how, sure))
    return tuple(sorted(found, key=lambda event: (event.frame, event.start)))


def _matches(plan: Plan, ident: int, span: tuple[float, float], slack_s: float = _SLACK_S) -> bool:
    return ident == plan.things[0] and span[1] > plan.start - 1e-6 and span[0] < plan.end + slack_s
