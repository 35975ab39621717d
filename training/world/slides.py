"""Clips of photographs, one after another, of which only the truth is made: each fills the picture
for a while and is as it was."""

import numpy as np
from numpy.random import Generator

from training.world.clip import SIZE, Clip, Thing, presence_of
from training.world.film import events_of
from training.world.patches import Look
from training.world.stage import Plan

_FPS = 8.0
_SHORTEST = 4  # frames that one is shown for


def slides(nouns: list[str], length: int, rng: Generator) -> Clip:
    """`length` frames in which things of these nouns come one after another, in this order."""
    number = min(len(nouns), length // _SHORTEST)
    room = length - number * _SHORTEST
    cuts = np.sort(rng.integers(0, room + 1, number - 1)) + _SHORTEST * np.arange(1, number)
    bounds = [0, *cuts.tolist(), length]
    things = tuple(
        Thing(ident, "object", noun, Look(whole=0), group="product")
        for ident, noun in enumerate(nouns[:number])
    )
    visible = np.zeros((length, number), np.float32)
    plans: list[Plan] = []
    for ident in range(number):
        start, end = bounds[ident], bounds[ident + 1]
        visible[start:end, ident] = 1.0
        plans += [
            Plan(kind, frame / _FPS, frame / _FPS, (ident,))
            for kind, frame in (("came", start), ("went", end))
        ]
    boxes = np.zeros((length, number, 4), np.float32)
    boxes[visible > 0] = (0, 0, SIZE, SIZE)
    times = np.arange(length) / _FPS
    presence = presence_of(things, visible)
    return Clip(
        seed=int(rng.integers(1 << 30)),
        world="photographs",
        fps=_FPS,
        things=things,
        pixels=np.zeros((length, 0, 0, 3), np.uint8),
        boxes=boxes,
        visible=visible,
        acts=np.zeros((length, number), np.int8),
        sizes=np.full((length, number), SIZE, np.float32),
        holding=np.full(length, -1, np.int16),
        times=times,
        events=events_of(things, plans, presence, times),
        presence=presence,
    )
