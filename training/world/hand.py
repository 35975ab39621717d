"""A hand that brings things up into the picture, holds them there and takes them away."""

from training.world.patches import ARM
from training.world.stage import Actor, Stage

LIFTED = 1.5  # how much larger a thing is near the camera


def hand_size(held: float) -> float:
    """Longer side of the hand and arm that suit a held thing of this size."""
    return max(held * 0.62, 14.0) * ARM


def grip(held: float) -> float:
    """The way from the middle of a held thing down to the middle of its hand and arm."""
    longest = hand_size(held)
    return held * 0.42 + longest / 2 - longest / ARM * 0.42


def new_hand(stage: Stage, x: float, y: float, longest: float) -> Actor:
    return stage.add("hand", "hand", stage.hand_look(), x, y, longest, layer=4)


def raise_hand(stage: Stage, actor: Actor, x: float, y: float, time: float) -> float:
    """Raise the hand from below the picture to (x, y) in the returned seconds; the hand is the
    newest actor."""
    held = actor.at("size", time)
    longest = hand_size(held)
    below = 128 + held
    hand = new_hand(stage, x, below, longest)
    needs = stage.between(0.35, 0.7)
    for moved, target in ((actor, y), (hand, y + grip(held))):
        moved.jump("x", time - 0.02, x)
        moved.jump("y", time - 0.02, below + (target - y))
        moved.show(time)
        moved.go("y", time, time + needs, target)
        moved.acts.append((time, time + needs, "hold"))
    actor.busy_until = 1e9
    stage.plan("came", time, time + needs, actor, how="hand")
    stage.plan("held", time, time + needs, actor)
    actor.acts.append((time + needs, 1e9, "hold"))
    actor.held_by = hand
    actor.held_since = time + needs
    return needs


def lower_hand(stage: Stage, actor: Actor, time: float) -> float:
    """Back down out of the picture; when both are gone."""
    hand = actor.held_by
    assert hand is not None
    end = time + stage.between(0.35, 0.6)
    below = 128 + actor.at("size", time)
    actor.acts[-1] = (actor.held_since, end, "hold")
    for moved in (actor, hand):
        moved.go("y", time, end, moved.at("y", time) + below - actor.at("y", time))
        moved.hide(end)
    stage.script.holds.append((actor.held_since - 1e-6, time, actor.thing.ident))
    actor.held_by = None
    actor.busy_until = end + 0.5
    stage.plan("went", time, end, actor, how="hand")
    return end


def pick_up(stage: Stage, actor: Actor, x: float, y: float, time: float) -> float:
    """A hand comes for a thing that lies there and lifts it to (x, y), larger; since when held."""
    longest = hand_size(actor.at("size", time))
    from_x, from_y = actor.at("x", time), actor.at("y", time)
    size = actor.at("size", time)
    reached = time + stage.between(0.3, 0.5)
    held = reached + stage.between(0.4, 0.7)
    hand = new_hand(stage, from_x, 128 + longest / 2, longest)
    hand.show(time)
    hand.go("y", time, reached, from_y + grip(size))
    hand.go("x", reached, held, x)
    hand.go("y", reached, held, y + grip(size * LIFTED))
    hand.go("size", reached, held, longest * LIFTED)
    actor.layer = 3
    for channel, value in (("x", x), ("y", y), ("size", size * LIFTED)):
        actor.go(channel, reached, held, value)
    stage.plan("held", reached, held, actor)
    actor.acts.append((reached, 1e9, "hold"))
    actor.held_by, actor.held_since = hand, held
    actor.rest = (from_x, from_y, size)
    return held


def put_down(stage: Stage, actor: Actor, time: float) -> float:
    """Back to where it was picked up; when the hand is gone."""
    hand = actor.held_by
    assert hand is not None
    x, y, size = actor.rest
    longest = hand.at("size", time) / LIFTED
    down = time + stage.between(0.35, 0.6)
    gone = down + stage.between(0.25, 0.45)
    for channel, value in (("x", x), ("y", y), ("size", size)):
        actor.go(channel, time, down, value)
    hand.go("x", time, down, x)
    hand.go("y", time, down, y + grip(size))
    hand.go("size", time, down, longest)
    hand.go("y", down, gone, 128 + longest / 2)
    hand.hide(gone)
    actor.acts[-1] = (actor.acts[-1][0], down, "hold")
    stage.script.holds.append((actor.held_since - 1e-6, time, actor.thing.ident))
    actor.held_by = None
    stage.plan("freed", time, down, actor)
    return gone
