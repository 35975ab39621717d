"""What is deleted is gone: Redis is read, key by key, for words that were said."""

from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
import redis

import sightline
from sightline.v1 import dialogue_pb2 as pb
from sightline.v1 import dialogue_pb2_grpc
from tests.eventually import PATIENCE_S, wait_until
from tests.suite import Suite

QUESTION = "where is the aardvark?"


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Suite]:
    made = Suite(
        tmp_path_factory.mktemp("erasure"),
        speech=False,
        environment={"inference_worker": {"WORKER_THREADS": "1", "WORKER_MAX_SESSIONS": "4"}},
    )
    made.start()
    yield made
    assert not made.stop()


def everything(suite: Suite) -> dict[str, str]:
    """All that Redis holds, as text."""
    found: dict[str, str] = {}
    with redis.Redis.from_url(suite.redis.url) as client:
        for key in client.scan_iter("*"):
            match client.type(key):
                case b"hash":
                    value: object = client.hgetall(key)
                case b"set":
                    value = client.smembers(key)
                case _:
                    value = client.get(key)
            found[key.decode()] = repr(value)
    return found


def traces(suite: Suite, *words: str) -> list[str]:
    return [
        key
        for key, value in everything(suite).items()
        if any(word in key or word in value for word in words)
    ]


def asked(suite: Suite, client: sightline.Client) -> tuple[sightline.Session, str]:
    """A session that was asked something, and the conversation, once that is kept."""
    session = client.open(push=True, name="room")
    session.push(np.zeros((128, 128, 3), np.uint8))
    talk = session.conversation()
    assert talk.ask(QUESTION).result().text
    wait_until(lambda: talk.id in "".join(traces(suite, "aardvark")))
    assert len(client.history(talk.id)) == 1
    return session, talk.id


def test_a_conversation_that_is_deleted_leaves_nothing(suite: Suite) -> None:
    with sightline.connect(suite.address) as client:
        session, conversation = asked(suite, client)
        assert traces(suite, "aardvark")
        assert client.forget(conversation)
        assert traces(suite, "aardvark", conversation, session.id) == []
        session.delete()


def test_a_session_takes_its_conversations_with_it_where_that_is_said(suite: Suite) -> None:
    with sightline.connect(suite.address) as client:
        session, conversation = asked(suite, client)
        session.delete()
        assert traces(suite, "aardvark"), "they stay until they expire"
        assert client.forget(conversation)
        session, conversation = asked(suite, client)
        other, kept = asked(suite, client)
        session.delete(conversations=True)
        assert traces(suite, conversation, session.id) == []
        assert len(client.history(kept)) == 1
        suite.api("DELETE", f"api/sessions/{other.id}?conversations=1")
        assert traces(suite, "aardvark", kept, other.id) == []


def test_rounds_on_their_way_do_not_bring_a_conversation_back(suite: Suite) -> None:
    """A worker writes a round of an answer that was under way, as it does when one is cut off."""
    with grpc.insecure_channel(suite.dialogue.address) as channel:
        stub = dialogue_pb2_grpc.DialogueServiceStub(channel)

        def write(conversation: str, asked_ns: int, session: str = "s-1") -> None:
            stub.Open(
                pb.OpenConversationRequest(id=conversation, session=session), timeout=PATIENCE_S
            )
            round_ = pb.Round(turn="t", question=QUESTION, answer="no", asked_ns=asked_ns)
            stub.Append(
                pb.AppendRequest(conversation=conversation, round=round_), timeout=PATIENCE_S
            )

        write("talk", 1)
        stub.Delete(pb.DeleteConversationRequest(conversation="talk"), timeout=PATIENCE_S)
        write("talk", 2)
        assert traces(suite, "aardvark", "talk", "s-1") == []
        write("talk", 2**62)  # asked later: it begins anew
        assert traces(suite, "aardvark", "talk")
        stub.Delete(pb.DeleteConversationRequest(conversation="talk"), timeout=PATIENCE_S)

        deleted = stub.DeleteOfSession(pb.DeleteOfSessionRequest(session="s-2"), timeout=PATIENCE_S)
        assert deleted.conversations == 0
        write("first", 2, session="s-2")  # of a conversation that nobody had heard of yet
        assert traces(suite, "aardvark", "first", "s-2") == []


def test_pictures_are_never_written_anywhere(suite: Suite) -> None:
    """Neither into Redis nor into a file of any of the processes."""
    with sightline.connect(suite.address) as client, client.open(push=True) as session:
        picture = np.random.default_rng(7).integers(0, 255, (128, 128, 3), np.uint8)
        session.push(picture)
        assert session.ask(QUESTION).result().text
        assert all(len(value) < 4096 for value in everything(suite).values())
        for service in suite.services:
            assert service.process is not None
            for link in Path(f"/proc/{service.process.pid}/fd").iterdir():
                target = link.readlink() if link.is_symlink() else link
                written = str(target)
                regular = written.startswith("/") and not written.startswith(("/dev", "/proc"))
                if regular and Path(written).suffix not in (".log", ".so"):
                    flags = Path(f"/proc/{service.process.pid}/fdinfo/{link.name}").read_text()
                    mode = int(flags.split("flags:")[1].split()[0], 8) & 3
                    assert mode == 0, f"{service.name} writes to {written}"
