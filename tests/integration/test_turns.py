"""Turns that outlive whoever made them: Redis is away or full while a worker ends, or dies."""

from collections.abc import Iterator

import pytest
import redis

import sightline
from tests.eventually import wait_until
from tests.suite import Suite, write_clip

QUESTION = "what is in the scene"


@pytest.fixture
def session(mended: Suite) -> Iterator[sightline.Session]:
    """A session that has seen something."""
    clip = write_clip(mended.media_root, seed=5, seconds=12)
    with sightline.connect(mended.address) as client:
        session = client.open(clip.path.name, on_server=True, loop=True)
        assert session.wait_for_picture()
        yield session


def test_turns_outlive_the_worker_that_could_not_store_them(
    mended: Suite, session: sightline.Session
) -> None:
    (worker,) = mended.workers
    said: list[sightline.AnswerResult] = []

    def is_kept() -> bool:
        said.append(session.ask(QUESTION).result())
        return said[-1].kept is True

    wait_until(is_kept)  # at once, but for a busy machine
    num_kept = len(said)
    mended.redis.kill()
    said += [session.ask(QUESTION).result() for _ in range(3)]
    worker.stop()  # it gives up what it holds
    worker.restart()
    said.append(session.ask(QUESTION).result())
    worker.kill()
    assert [each.kept for each in said[num_kept:]] == [False] * 4
    assert not [each for each in said[num_kept:] if "dialogue_unavailable" not in each.degraded]
    mended.redis.start()
    worker.restart()
    with sightline.connect(mended.address) as client:
        name = said[0].conversation

        def kept() -> list[str]:
            try:
                return [round_.answer for round_ in client.history(name)]
            except sightline.UnavailableError:
                return []

        wait_until(lambda: len(kept()) == len(said))
        assert kept() == [each.text for each in said]
        turns = [round_.turn for round_ in client.history(name)]
        assert len(set(turns)) == len(turns)
    after = session.ask(QUESTION).result()
    assert (after.kept, after.history_rounds) == (True, len(said))


def test_a_full_redis_is_told_and_gets_what_it_refused(
    mended: Suite, session: sightline.Session
) -> None:
    with redis.Redis.from_url(mended.redis.url) as client:
        first = session.ask(QUESTION).result()
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("maxmemory", "1")
        during = [session.ask(QUESTION).result() for _ in range(2)]
        assert [each.kept for each in during] == [False, False]
        assert "dialogue_unavailable" in during[1].degraded
        client.config_set("maxmemory", "0")
    with sightline.connect(mended.address) as reader:
        name = first.conversation
        wait_until(lambda: len(reader.history(name)) == 3)
        after: list[sightline.AnswerResult] = []

        def stored() -> bool:
            after.append(session.ask(QUESTION).result())
            return after[-1].kept is True

        wait_until(stored)  # the worker tries again soon, if not at once
        wait_until(lambda: len(reader.history(name)) == 3 + len(after))


@pytest.mark.parametrize("name", ["room 1", "käfer"])
def test_a_conversation_that_could_not_be_kept_is_refused_with_the_rule(
    session: sightline.Session, name: str
) -> None:
    refused = pytest.raises(sightline.InvalidArgumentError, match="A-Z a-z 0-9")
    with session.conversation(name) as conversation, refused:
        conversation.ask(QUESTION).result()
    with session.conversation("room_1") as conversation:
        assert conversation.ask(QUESTION).result().kept is True
