"""Wording of each kind of question about the wide world, {} standing for what it is about."""

ASKED: dict[str, tuple[str, ...]] = {
    # real time
    "what": ("what is {at}", "what do you see {at}", "which thing is {at}", "what is there {at}"),
    "what_this": ("what is this", "which thing is this", "what do you see here"),
    "colour": (
        "what color is the {}",
        "which color is the {}",
        "what is the color of the {}",
        "tell me the color of the {}",
    ),
    "where": (
        "where is the {}",
        "where do you see the {}",
        "in which part of the picture is the {}",
        "where in the picture is the {}",
    ),
    "count": ("how many {} are there", "how many {} do you see", "count the {}", "how many {}"),
    "presence": (
        "is there {}",
        "do you see {}",
        "can you see {}",
        "is {} there",
        "is {} in the picture",
    ),
    "sign": (
        "what does the {} say",
        "what is written on the {}",
        "read the {}",
        "what can you read on the {}",
    ),
    "direction": (
        "which way is the {} moving",
        "in which direction is the {} going",
        "where is the {} going",
        "what direction is the {} moving",
    ),
    "speed": (
        "how fast is the {} moving",
        "is the {} moving fast or slowly",
        "is the {} fast or slow",
    ),
    "change": (
        "what changed just now",
        "what just happened",
        "what has just changed",
        "what is different now",
    ),
    "bigger": (
        "which is bigger the {} or the {}",
        "what is larger the {} or the {}",
        "is the {} or the {} bigger",
    ),
    "held": (
        "what is the hand holding",
        "what does the hand hold up",
        "what is in the hand",
        "which thing is held up",
    ),
    "price": (
        "how much is the {}",
        "what does the {} cost",
        "what is the price of the {}",
        "how many dollars is the {}",
    ),
    "prohibited": (
        "is anything prohibited shown",
        "do you see anything prohibited",
        "is there a prohibited thing",
    ),
    "which_prohibited": ("which prohibited thing is shown", "what prohibited thing do you see"),
    # backward
    "gone": (
        "what was there before",
        "what is no longer there",
        "what is missing now",
        "what is gone",
    ),
    "was_there": (
        "was there {} before",
        "has there been {}",
        "did you see {} earlier",
        "was {} there earlier",
    ),
    "order": (
        "which came first the {} or the {}",
        "what appeared first the {} or the {}",
        "did the {} or the {} come first",
    ),
    "newest": (
        "what came last",
        "which thing appeared last",
        "what is the newest thing",
        "what was added last",
    ),
    "appearances": (
        "how many times did the {} appear",
        "how often was the {} there",
        "how often did you see the {} come",
    ),
    "blinks": ("how many times did the {} blink", "how often did the {} blink"),
    "went": (
        "where did the {} go",
        "what happened to the {}",
        "how did the {} go away",
        "where has the {} gone",
    ),
    "origin": ("where did the {} come from", "how did the {} get here", "how did the {} appear"),
    "earlier_place": (
        "where was the {} before it moved",
        "where was the {} earlier",
        "where did the {} start",
    ),
    "crossed": ("which way did the {} cross the picture", "how did the {} cross"),
    "shown_before": (
        "what was held up before the {}",
        "what did the hand show before the {}",
        "which thing was shown before the {}",
    ),
    "old_price": (
        "what was the price before",
        "how much was it before",
        "what was the old price",
        "how much did it cost at first",
    ),
    "num_shown": (
        "how many things did the hand show",
        "how many things were held up",
        "how many different things has the hand held up",
    ),
    # dialogue
    "it_colour": ("what color is it", "which color is it", "what is its color", "and its color"),
    "it_where": (
        "where is it",
        "where is it now",
        "in which part of the picture is it",
        "and where is it",
    ),
    "it_direction": ("which way is it moving", "where is it going", "which way is it going"),
    "it_there": ("is it still there", "can you still see it", "is it there now"),
    "it_went": ("where did it go", "what happened to it", "where is it gone"),
    "it_price": (
        "how much is it",
        "what does it cost",
        "what is its price",
        "and its price",
        "and what does it cost",
    ),
    "it_place_then": ("where was it then", "where was it when i asked", "where was it before"),
    # captions
    "scene": (
        "describe the scene",
        "what do you see",
        "what is in the picture",
        "what is in the scene",
        "what is shown",
        "describe what you see now",
    ),
    "story": (
        "what has happened",
        "tell me what happened",
        "describe what happened so far",
        "what happened one after another",
    ),
    # watches
    "watch_there": ("{} is there", "there is {}", "{} appears", "you see {}", "{}"),
    "watch_gone": ("the {} is gone", "the {} is no longer there", "the {} disappears"),
    "watch_count": ("you see {} {}", "you see exactly {} {}", "{} {} in the picture"),
    "watch_held": (
        "the hand holds {}",
        "the hand is holding {}",
        "{} is held up",
        "the hand picks up {}",
        "{} is shown",
    ),
    "watch_moving": ("the {} is moving {}", "the {} goes {}"),
    "watch_place": ("the {} is {at}", "the {} arrives {at}"),
    "watch_sign": ("a sign says {}", "you can read {}", "the word {} is shown"),
    "watch_price": ("the price is {} dollars", "it costs {} dollars"),
    "watch_prohibited": (
        "something prohibited is shown",
        "there is anything prohibited",
        "a prohibited thing appears",
    ),
}
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def at(place: str) -> str:
    """ "at the top left", "in the middle"."""
    return "in the middle" if place == "middle" else f"at the {place}"
