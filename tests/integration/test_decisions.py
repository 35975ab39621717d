"""Four hundred decisions about a running session, by a real worker."""

from typing import Any

from services.local.clip import Clip
from tests.eventually import wait_until
from tests.suite import Suite

COLOURS = ("red", "blue", "green", "yellow")
SHAPES = ("circle", "square", "triangle", "star")


def test_four_hundred_are_decided_together_and_as_one_by_one(suite: Suite, clip: Clip) -> None:
    # Lossless, so that it has seen all of the clip, at whose end nothing is there.
    options = {"name": "decided", "delivery": "DELIVERY_LOSSLESS", "loop": False}
    suite.open(clip.path.name, **options)
    one = "api/sessions/decided"
    wait_until(lambda: suite.api("GET", one)["state"] == "SESSION_STATE_ENDED")

    def decide(questions: list[dict[str, Any]]) -> dict[str, Any]:
        reply: dict[str, Any] = suite.api("POST", f"{one}/decide", {"questions": questions})
        return reply

    statements = [f"a {colour} {shape} is there" for colour in COLOURS for shape in SHAPES]
    together = decide([{"statement": text} for text in statements * 25])
    found = [each.get("probability", 0.0) for each in together["decisions"]]
    assert len(found) == 400
    assert found[:16] == found[-16:]
    assert all(0 <= each <= 1 for each in found)
    for number in (0, 7):
        [alone] = decide([{"statement": statements[number]}])["decisions"]
        assert abs(alone.get("probability", 0.0) - found[number]) < 0.05
    assert together["frames_seen"] > 8
    suite.delete_sessions()
