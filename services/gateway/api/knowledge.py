"""What models can honestly be asked, for the page and for clients that look at /api/info."""

from typing import Any

SHAPES: dict[str, Any] = {
    "summary": (
        "This model is small and was trained on generated video only: plain coloured shapes on a "
        "plain ground. It watches real video without failing, but what it says about anything "
        "other than such shapes is a guess."
    ),
    "can": [
        "circles, squares, triangles and crosses in red, green, blue, yellow, pink and white",
        "the colour or the shape of one of them",
        "how many there are, up to three, all or of one kind",
        "whether a certain one is there",
        "which way one moves: left, right, up, down, or not at all",
        "what changed last: something appeared, disappeared or turned to another colour",
        "everything that is in the scene",
        'follow-up questions about "it"',
    ],
    "cannot": [
        "people, animals, vehicles, text, or any real object",
        "sizes, distances, exact positions or times",
        "anything older than the window of frames it remembers",
        "sound",
    ],
    "questions": [
        "What is in the scene?",
        "What changed?",
        "How many objects are there?",
        "Is there a red circle?",
        "Which way is the blue square moving?",
        "What colour is the triangle?",
    ],
    "conditions": [
        "a red circle is there",
        "there are two objects",
        "something blue is there",
        "nothing is there",
    ],
}


BUILTIN: dict[str, Any] = {
    "summary": (
        "The built-in model is small and was trained on generated video of one live shop: twenty "
        "products on a table and in a hand, price tags and banners. It watches real video without "
        "failing, but what it says about anything else is a guess."
    ),
    "can": [
        "shirts, dresses, scarves, gloves, socks, caps, heels, purses, books and yarn in red, "
        "yellow, green, blue and pink",
        "crowns, phones, cameras, teddies, guitars, footballs, robots and umbrellas; guns and "
        "knives, which are prohibited",
        "what there is, how many things, where one stands, which colour it has",
        "what the hand is holding, and what it held before",
        "prices and banners, and what a price was before",
        "what is gone, what was there, what came last",
        'follow-up questions about "it"',
    ],
    "cannot": [
        "people, animals, vehicles, or any real object",
        "sizes, distances, exact positions or times",
        "anything older than the window of frames it remembers",
        "sound",
    ],
    "questions": [
        "What do you see?",
        "What is the hand holding?",
        "What was held up before the phone?",
        "How much is the phone?",
        "What does the sign say?",
        "Is anything prohibited shown?",
    ],
    "conditions": [
        "a phone is there",
        "the hand is holding a red shirt",
        "something prohibited is shown",
    ],
}
KNOWN = {"builtin": BUILTIN, "shapes": SHAPES}


def knowledge_of(model: str) -> dict[str, Any]:
    """What is known about a model by its name; {} for one that nobody wrote about."""
    return KNOWN.get(model, {})
