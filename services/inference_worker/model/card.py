"""A model's card: what it can honestly be asked, kept in card.json beside its weights.

A folder without one, such as one of the hub, gets a card from what is known: its family and size,
and the licence that its README names. So nobody has to guess what a model is for.
"""

import json
import logging
import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

MOST_LINES, MOST_CHARACTERS = 32, 1000
_LICENCE = re.compile(r"^license:\s*['\"]?([A-Za-z0-9][\w.+ -]{0,63}?)['\"]?\s*$", re.MULTILINE)
_HEAD_BYTES = 16 * 1024  # of a README, whose front matter is at its beginning


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """Lines for people. `questions` and `conditions` of watches are there to be tried; `notes` are
    the questions whose answers are a line of a session's memory."""

    summary: str = ""
    can: tuple[str, ...] = ()
    cannot: tuple[str, ...] = ()
    questions: tuple[str, ...] = ()
    conditions: tuple[str, ...] = ()
    licence: str = ""
    notes: tuple[str, ...] = ()


NO_CARD = Card()
NOTE = "Describe in one short sentence what can be seen and what is happening."


def card_of(folder: Path, name: str, parameters: int, *, published: bool) -> Card:
    """The card of a model's folder; `published`: in Hugging Face layout, with so many `parameters`,
    and not one of our own. One that cannot be read is logged, and made as if there were
    none: nobody's video waits for it."""
    file = folder / "card.json"
    if file.is_file():
        try:
            return _read(json.loads(file.read_text(encoding="utf-8")))
        except (OSError, ValueError, RecursionError) as error:
            log.warning("card not read", extra={"file": str(file), "reason": str(error)})
    if not published:
        return Card(
            summary=f"{name} was trained with Sightline. No card.json in its folder says for what."
        )
    return _of_published(folder, name, parameters)


def _read(content: Any) -> Card:
    """Raises ValueError for anything that is no card."""
    if not isinstance(content, dict):
        raise ValueError("a card is an object")
    read: dict[str, Any] = {}
    for field in fields(Card):
        value = content.get(field.name, field.default)
        if isinstance(field.default, str):
            if not isinstance(value, str) or len(value) > MOST_CHARACTERS:
                raise ValueError(f"{field.name} is no text of at most {MOST_CHARACTERS} characters")
            read[field.name] = value
            continue
        lines = list(value) if isinstance(value, list | tuple) else None
        if lines is None or len(lines) > MOST_LINES:
            raise ValueError(f"{field.name} is no list of at most {MOST_LINES} lines")
        if not all(isinstance(line, str) and len(line) <= MOST_CHARACTERS for line in lines):
            raise ValueError(f"{field.name} holds what is no line")
        read[field.name] = tuple(lines)
    return Card(**read)


def _of_published(folder: Path, name: str, parameters: int) -> Card:
    """Card of any published model that is served here."""
    short = name.rstrip("/").rpartition("/")[2] or name
    size = f" of {parameters / 1e9:.1f} billion parameters" if parameters else ""
    return Card(
        summary=(
            f"{short} is a published model{size} for pictures and video of any kind. It answers in "
            "its own words, and may be wrong in any of them."
        ),
        can=(
            "people, animals, things and places, and what is going on",
            "words that are large enough to be read",
            "what came before, as far back as the window of frames reaches",
            "follow-up questions",
        ),
        cannot=(
            "anything older than the window of frames it remembers",
            "sound",
            "what is too small in the frames that it is shown",
        ),
        questions=(
            "What do you see?",
            "What is happening?",
            "What has changed?",
            "How many people are there?",
            "What can be read in the picture?",
        ),
        conditions=("a person is there", "somebody is waving", "there is text in the picture"),
        notes=(NOTE,),
        licence=_licence(folder),
    )


def _licence(folder: Path) -> str:
    """Licence in the README's front matter; "" where it says nothing."""
    try:
        with (folder / "README.md").open(encoding="utf-8", errors="replace") as file:
            head = file.read(_HEAD_BYTES)
    except OSError:
        return ""
    if not head.startswith("---"):
        return ""
    found = _LICENCE.search(head[3:].partition("\n---")[0])
    return found[1] if found else ""
