"""What models can honestly be asked, for the page and for clients that look at /api/info."""

from typing import Any

BUILTIN: dict[str, Any] = {
    "summary": (
        "The built-in model is small and was trained on generated video only: plain coloured "
        "shapes on a plain ground. It watches real video without failing, but what it says about "
        "anything other than such shapes is a guess."
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


def knowledge_of(model: str) -> dict[str, Any]:
    """What is known about a model by its name; {} for one that nobody wrote about."""
    return BUILTIN if "builtin" in model.lower() else {}
