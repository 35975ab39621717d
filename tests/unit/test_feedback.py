"""What people think of answers, as lines that training reads."""

import json
from pathlib import Path

from sightline.feedback import pairs, records
from sightline.types import RatedRound, Round
from training.preference import read_preferences

SECOND = 1_000_000_000
BEGAN_NS = 1_700_000_000 * SECOND


def _rated(answer: str, rating: str, at_s: float, better: str = "") -> RatedRound:
    said = Round(
        turn=answer,
        question="What is shown?",
        answer=answer,
        asked_ns=BEGAN_NS,
        capture_ns=BEGAN_NS + int(at_s * SECOND),
        interrupted=False,
        rating="up" if rating == "up" else "down",
        better=better,
    )
    return RatedRound(conversation="c", session="s", round=said)


def test_training_reads_the_pairs_that_are_exported(tmp_path: Path) -> None:
    (tmp_path / "shop.mp4").write_bytes(b"video")
    rated = [
        _rated("a bag", "down", 8, better="a red bag"),
        _rated("a dog", "down", 20),
        _rated("a cat", "up", 22),
        _rated("a cup", "down", 60),  # nobody knows what was right then
        _rated("early", "down", -5, better="before the recording"),
    ]
    lines = [json.dumps(each) for each in pairs(rated, "shop.mp4", BEGAN_NS)]
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(lines))
    read = read_preferences(path, before_s=4)
    assert [(each.recording.turns[0].answer, each.rejected) for each in read] == [
        ("a red bag", "a bag"),
        ("a cat", "a dog"),
    ]
    assert [each.recording.turns[0].at_s for each in read] == [8.0, 20.0]


def test_records_hold_all_that_is_known() -> None:
    (record,) = records([_rated("a bag", "down", 8, better="a red bag")])
    assert (record["conversation"], record["session"]) == ("c", "s")
    assert (record["rating"], record["better"]) == ("down", "a red bag")
