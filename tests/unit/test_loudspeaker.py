"""What a client's loudspeaker is taken to play, and what of it is in its microphone."""

import numpy as np

from services.gateway.voice.loudspeaker import ALIKE, RATE, Loudspeaker, likeness
from tests.unit.voices import babble

HZ = 16_000


def pcm(samples: np.ndarray) -> bytes:
    return samples.astype(np.int16).tobytes()


def room(samples: np.ndarray, *, seed: int, decay_s: float = 0.08) -> np.ndarray:
    """The samples as a microphone hears them across a room: later, softer, with echoes of walls."""
    draw = np.random.default_rng(seed)
    times_s = np.arange(round(0.25 * HZ)) / HZ
    walls = draw.normal(0, 0.03, len(times_s)) * np.exp(-times_s / decay_s)
    walls[0] = 1.0
    heard = 0.2 * np.convolve(samples, walls)
    return np.concatenate((np.zeros(round(0.18 * HZ)), heard)) + draw.normal(
        0, 20, 2880 + len(heard)
    )


class Clock:
    now_s = 10.0

    def __call__(self) -> float:
        return self.now_s


def test_an_echo_is_like_what_was_played_and_another_voice_is_not() -> None:
    ours, other = babble(3.0, seed=1), babble(0.5, seed=2)
    echo = room(ours, seed=3)[HZ : HZ + HZ // 2]

    def halved(samples: np.ndarray) -> np.ndarray:
        return samples[: len(samples) // 2 * 2].reshape(-1, 2).mean(1)

    assert likeness(halved(echo), halved(ours)) > 1.5 * ALIKE
    assert likeness(halved(other), halved(ours)) < ALIKE / 1.5
    assert likeness(np.zeros(RATE), halved(ours)) == 0.0


def test_what_is_played_is_heard_while_it_may_be_in_the_air() -> None:
    clock = Clock()
    loudspeaker = Loudspeaker(clock)
    ours = babble(2.0, seed=1)
    echo = room(ours, seed=3)
    loudspeaker.hear(pcm(echo[:HZ]), HZ)
    assert not loudspeaker.is_heard(), "nothing was played"
    assert not loudspeaker.said("three circles", final=True)
    loudspeaker.say(pcm(ours), HZ, "There are three circles.")
    clock.now_s += 1
    assert loudspeaker.is_playing
    assert loudspeaker.is_heard()
    assert loudspeaker.said("three circles", final=True)
    assert not loudspeaker.said("four squares", final=True)
    loudspeaker.hear(pcm(babble(1.0, seed=2)), HZ)
    assert not loudspeaker.is_heard(), "it is somebody else"
    clock.now_s += 30
    loudspeaker.hear(pcm(echo[:HZ]), HZ)
    assert not loudspeaker.is_playing
    assert not loudspeaker.is_heard()
    assert not loudspeaker.said("three circles", final=True), "they may say it themselves now"


def test_somebody_louder_than_our_echo_is_found_and_when_they_began() -> None:
    clock = Clock()
    loudspeaker = Loudspeaker(clock)
    ours = babble(3.0, seed=1)
    echo = room(ours, seed=3)
    loudspeaker.hear(bytes(3200), HZ)
    loudspeaker.say(pcm(ours), HZ, "There are three circles.")
    clock.now_s += 1
    loudspeaker.hear(pcm(echo[:HZ]), HZ)
    loudness = loudspeaker.loudness
    assert loudspeaker.is_heard()
    assert loudspeaker.drowned_s(loudness) == 0.0
    assert loudspeaker.drowned_s(loudness / 10) == 0.0, "it is ours, if louder than before"
    clock.now_s += 0.4
    both = echo[HZ : HZ + HZ * 4 // 10] + babble(0.4, seed=2)
    loudspeaker.hear(pcm(np.clip(both, -32768, 32767)), HZ)
    assert not loudspeaker.is_heard()
    assert 0.3 <= loudspeaker.drowned_s(loudness) <= 0.5
    assert loudspeaker.drowned_s(20 * loudness) == 0.0, "it is no louder than that"


def test_what_was_stopped_is_not_played() -> None:
    clock = Clock()
    loudspeaker = Loudspeaker(clock)
    for text in ("There are three circles.", "One of them is red."):
        loudspeaker.say(pcm(babble(2.0, seed=1)), HZ, text)
    clock.now_s += 1
    loudspeaker.stop()
    clock.now_s += 1
    assert not loudspeaker.is_playing
    assert loudspeaker.said("three circles", final=True), "it may just have been heard"
    assert not loudspeaker.said("one of them is red", final=True)


def test_long_answers_are_remembered_by_their_end() -> None:
    loudspeaker = Loudspeaker(Clock())
    loudspeaker.hear(bytes(3200), HZ)
    for _ in range(300):
        loudspeaker.say(bytes(2 * HZ), HZ, "so")
    assert 50 < len(loudspeaker._pieces) <= 61


def test_what_stood_still_is_played_later() -> None:
    clock = Clock()
    loudspeaker = Loudspeaker(clock)
    ours = babble(2.0, seed=1)
    loudspeaker.hear(bytes(3200), HZ)
    loudspeaker.say(pcm(ours), HZ, "There are three circles.")
    clock.now_s += 7
    assert not loudspeaker.is_playing
    loudspeaker.wait(6.0)
    assert loudspeaker.is_playing
    loudspeaker.hear(pcm(room(ours, seed=3)[:HZ]), HZ)
    assert loudspeaker.is_heard()
