"""Photographs that no training saw, shown to the running engine as a stream of one picture."""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from services.inference_worker.config import WorkerConfig
from training.answerers import EngineAnswerer
from training.recordings import SECOND_NS, frame_size
from training.resizing import resized
from training.world.catalogue import with_article
from training.world.goods import CLOTHES, photographs, read
from training.world.question import Question

FRAMES = 4  # that each is shown for
ASKED = "What is this?"
Advance = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Named:
    """How often each noun was shown, and what was said of it."""

    said: dict[str, Counter[str]]

    def share(self, nouns: set[str]) -> float:
        """Share of these nouns' photographs that were called what they are."""
        right = sum(self.said[noun][with_article(noun)] for noun in nouns)
        return right / max(sum(self.said[noun].total() for noun in nouns), 1)

    def precision(self, noun: str) -> float:
        """Share of those called so that are it."""
        answer = with_article(noun)
        claimed = sum(said[answer] for said in self.said.values())
        return self.said[noun][answer] / max(claimed, 1)

    @property
    def groups(self) -> dict[str, set[str]]:
        clothes = {noun for noun in self.said if noun in CLOTHES}
        return {"clothes": clothes, "groceries": {*self.said} - clothes}

    def as_json(self) -> str:
        groups = {
            name: {
                "photographs": sum(self.said[noun].total() for noun in nouns),
                "right": round(self.share(nouns), 4),
            }
            for name, nouns in self.groups.items()
        }
        nouns = {
            noun: {
                "photographs": said.total(),
                "right": round(self.share({noun}), 4),
                "precision": round(self.precision(noun), 4),
                "said": dict(said.most_common(4)),
            }
            for noun, said in sorted(self.said.items())
        }
        return json.dumps({"asked": ASKED, "groups": groups, "nouns": nouns}, indent=2) + "\n"


def examine(model: str, photos: Path, most: int, advance: Advance = lambda: None) -> Named:
    """Ask what each photograph of the examination shows, at most so many of one noun. Raises
    ConfigError and ModelError, and ValueError where there are no photographs."""
    shown = [each for each in photographs(photos) if each.split == "held_out"]
    if not shown:
        raise ValueError(f"no photographs of goods in {photos}")
    answerer = EngineAnswerer.start(replace(WorkerConfig.from_env(), model=model))
    found: dict[str, Counter[str]] = {}
    try:
        size = frame_size(answerer.engine.model.spec)
        for one in shown:
            said = found.setdefault(one.noun, Counter())
            if said.total() >= most:
                continue
            picture = read(one.path)
            width, height = size.fit(picture.shape[1], picture.shape[0])
            frame = resized(picture[None], width, height)[0]
            answerer.open()
            for number in range(FRAMES):
                answerer.push(frame, number * SECOND_NS // 8)
            answerer.settle()
            said.update(answerer.ask([Question("", ASKED, "")]))
            answerer.close()
            advance()
    finally:
        answerer.stop()
    return Named(found)


def told(found: Named) -> str:
    """Lines for people."""
    lines = []
    for name, nouns in found.groups.items():
        number = sum(found.said[noun].total() for noun in nouns)
        lines.append(f"{name}: {found.share(nouns):.3f} of {number}")
    for noun, said in sorted(found.said.items()):
        most = ", ".join(f"{answer} {times}" for answer, times in said.most_common(3))
        lines.append(f"  {noun:13} {found.share({noun}):.2f} of {said.total():3}  {most}")
    return "\n".join(lines)
