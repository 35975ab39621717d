"""The synchronous SDK: the same behaviour, waited for from ordinary threads."""

import threading
from collections.abc import Iterator

import pytest

import sightline
from sightline.background import background
from tests.unit.fake_gateway import ANSWER, FakeGateway

FAST = sightline.Timeouts(connect_s=5, call_s=5, answer_s=10, reconnect_s=1.0, push_s=5)
JPEG = b"\xff\xd8 picture"


@pytest.fixture
def gateway() -> Iterator[FakeGateway]:
    async def start() -> FakeGateway:
        fake = FakeGateway()
        await fake.start()
        return fake

    fake = background.run(start())
    yield fake
    background.run(fake.aclose())


@pytest.fixture
def client(gateway: FakeGateway) -> Iterator[sightline.Client]:
    with sightline.connect(gateway.address, timeouts=FAST) as connected:
        yield connected


def test_the_promised_lines(gateway, client) -> None:
    session = client.open(push=True)
    text = ""
    for delta in session.ask("What changed?"):
        text += delta
    assert text == ANSWER
    assert session.push([JPEG, JPEG]).understood == 2
    assert client.session(session.id).id == session.id
    assert [info.id for info in client.sessions()] == [session.id]
    session.delete()
    with pytest.raises(sightline.NotFoundError):
        session.refresh()


def test_result_cancel_and_options(gateway, client) -> None:
    with client.open(push=True) as session, session.conversation() as conversation:
        result = conversation.ask("q", max_tokens=3, temperature=0.5, seed=2).result()
        assert result.text == ANSWER
        assert conversation.id == result.conversation
        question = gateway.asked[0]
        assert (question.max_tokens, question.temperature, question.seed) == (3, 0.5, 2)
    assert not gateway.sessions


def test_leaving_a_watch_loop_unregisters_it(gateway, client) -> None:
    session = client.open(push=True)
    session.ask("q").result()
    watch = session.watch("motion", interval_s=0.1)

    async def fire() -> None:
        from sightline.v1 import gateway_pb2 as pb

        line = next(iter(gateway.lines.values()))
        request = gateway.watched[0]
        for active in (True, False):
            line.add(watch_event=pb.WatchEvent(watch=request.watch, active=active))

    while not gateway.watched:
        session.refresh()
    background.run(fire())
    for event in watch:
        assert event.active
        break
    for _ in range(1000):
        if gateway.unwatched:
            break
        session.refresh()
    assert gateway.unwatched == [gateway.watched[0].watch]


def test_frames_may_come_from_a_generator_of_the_callers_thread(client) -> None:
    session = client.open(push=True, lossless=True)
    threads = set()

    def camera() -> Iterator[bytes]:
        for _ in range(20):
            threads.add(threading.current_thread())
            yield JPEG

    assert session.push(camera(), fps=8).understood == 20
    assert threads == {threading.current_thread()}


def test_pusher_sends_one_at_a_time(gateway, client) -> None:
    session = client.open(push=True)
    with session.pusher(fps=4) as pusher:
        for _ in range(3):
            pusher.send(JPEG)
    assert pusher.report.understood == 3
    times = [message.frame.capture_ns for message in gateway.pushed[1:]]
    assert times[2] - times[0] == 500_000_000


def test_many_threads_may_ask_one_session(client) -> None:
    session = client.open(push=True)
    texts: list[str] = []
    askers = [
        threading.Thread(target=lambda: texts.append(session.ask("q").result().text))
        for _ in range(8)
    ]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join()
    assert texts == [ANSWER] * 8


def test_speak(client) -> None:
    for rate, pcm in client.speak("hello"):
        assert (rate, pcm) == (22050, b"hello")


def test_errors_arrive_as_themselves(client) -> None:
    with pytest.raises(sightline.NotFoundError):
        client.session("nobody")
    with pytest.raises(FileNotFoundError):
        client.open("no-such-file.mp4")
    with pytest.raises(sightline.InvalidArgumentError, match="not both"):
        client.open("clip.mp4", push=True)
