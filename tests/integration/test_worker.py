"""The worker's contract, against the real process with the built-in model."""

import queue
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest

from services.common.protocol import PROTOCOL
from sightline.status import details_of
from sightline.v1 import gateway_pb2, inference_pb2
from sightline.v1.inference_pb2_grpc import InferenceServiceStub
from tests.eventually import wait_until
from tests.garbage import throw_at_methods, throw_at_port
from tests.processes import SHAPES, ServiceProcess

PATIENCE_S = 120.0
FIRST_FRAME_S = 3
NO_FRAME = "no frame has been understood yet"
METHODS = ("Describe", "StreamFrames", "Answer", "WatchSession", "ReleaseSession")


class Feeder:
    """One StreamFrames call, driven by hand."""

    def __init__(self, stub: InferenceServiceStub, session: str, **options: object) -> None:
        self._requests: queue.Queue[inference_pb2.StreamFramesRequest | None] = queue.Queue()
        opening = inference_pb2.OpenStream(session_id=session, **options)
        self._requests.put(inference_pb2.StreamFramesRequest(open=opening))
        self.call = stub.StreamFrames(iter(self._requests.get, None), timeout=PATIENCE_S)
        self.opened = next(self.call).opened
        self._sequence = 0

    def push(
        self, pixels: bytes, capture_ns: int, *, replayed: bool = False
    ) -> inference_pb2.FrameAck:
        """Send one frame and wait until it is understood."""
        self.send(pixels, capture_ns, replayed=replayed)
        return next(self.call).ack

    def send(self, pixels: bytes, capture_ns: int, *, replayed: bool = False) -> None:
        self._sequence += 1
        frame = inference_pb2.Frame(
            sequence=self._sequence, capture_ns=capture_ns, pixels=pixels, replayed=replayed
        )
        self._requests.put(inference_pb2.StreamFramesRequest(frame=frame))

    def close(self) -> None:
        """Half-close; what was sent is understood first."""
        self._requests.put(None)
        for _ in self.call:
            pass


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    environment = {
        "WORKER_MODEL": str(SHAPES),
        "WORKER_THREADS": "1",
        "WORKER_KV_MEMORY_BYTES": str(160 << 20),
        "WORKER_FIRST_FRAME_S": str(FIRST_FRAME_S),
    }
    process = ServiceProcess("inference_worker", environment, tmp_path_factory.mktemp("worker"))
    process.start(120)
    yield process
    process.stop()


@pytest.fixture(scope="module")
def stub(worker: ServiceProcess) -> Iterator[InferenceServiceStub]:
    with grpc.insecure_channel(worker.address) as channel:
        yield InferenceServiceStub(channel)


@pytest.fixture
def session(stub: InferenceServiceStub, request: pytest.FixtureRequest) -> Iterator[str]:
    name = request.node.name
    yield name
    stub.ReleaseSession(inference_pb2.ReleaseSessionRequest(session_id=name), timeout=10)


def picture(colour: tuple[int, int, int] = (60, 60, 60)) -> bytes:
    pixels = np.full((128, 128, 3), 60, np.uint8)
    pixels[40:80, 40:80] = colour
    return pixels.tobytes()


def answer(stub: InferenceServiceStub, session: str, text: str) -> gateway_pb2.AnswerDone:
    request = inference_pb2.AnswerRequest(
        session_id=session, question=gateway_pb2.Question(turn="t", text=text)
    )
    events = list(stub.Answer(request, timeout=PATIENCE_S))
    assert events[-1].WhichOneof("event") == "done"
    deltas = "".join(event.text_delta.text for event in events)
    assert deltas == events[-1].done.text
    return events[-1].done


def refused(call: Callable[[], object]) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value.code(), caught.value.details()


def outcome(call: Callable[[], object]) -> grpc.StatusCode:
    try:
        call()
    except grpc.RpcError as error:
        return error.code()  # type: ignore[attr-defined]
    return grpc.StatusCode.OK


def test_describe_tells_what_it_takes(stub: InferenceServiceStub) -> None:
    model = stub.Describe(inference_pb2.DescribeRequest(), timeout=10)
    assert (model.model, model.frame_width, model.frame_height) == ("shapes", 128, 128)
    assert (model.tubelet, model.tokens_per_segment, model.window_segments) == (1, 16, 30)
    assert 0 < model.free_sessions <= model.max_sessions
    assert model.frame_queue > 0


def test_describe_tells_the_protocol_and_the_models_card(stub: InferenceServiceStub) -> None:
    model = stub.Describe(inference_pb2.DescribeRequest(), timeout=10)
    assert (model.protocol_major, model.protocol_minor) == PROTOCOL
    assert "shapes" in model.card.summary
    assert model.card.can
    assert model.card.licence == "Apache-2.0"


def test_a_window_changes_while_a_session_runs(stub: InferenceServiceStub, session: str) -> None:
    feeder = Feeder(stub, session)
    number = 0

    def seen_after(frames: int, window: int) -> tuple[int, int]:
        nonlocal number
        request = inference_pb2.ResizeSessionRequest(session_id=session, window_segments=window)
        assert stub.ResizeSession(request, timeout=10).window_segments == (window or 30)
        for _ in range(frames):
            number += 1
            feeder.push(picture(), number)
        done = answer(stub, session, "What is in the scene?")
        return done.frames_seen, done.first_capture_ns

    assert seen_after(12, 8) == (8, 5)
    assert seen_after(0, 20) == (8, 5), "what was forgotten does not come back"
    assert seen_after(6, 20) == (14, 5)
    assert seen_after(0, 3) == (3, 16)
    assert seen_after(4, 0) == (7, 16)
    for window, code in ((10**6, "INVALID_ARGUMENT"), (0, "NOT_FOUND")):
        name = session if window else "nobody"
        request = inference_pb2.ResizeSessionRequest(session_id=name, window_segments=window)
        found, _ = refused(lambda request=request: stub.ResizeSession(request, timeout=10))
        assert found.name == code


def test_frames_are_acknowledged_and_answers_say_what_they_saw(
    stub: InferenceServiceStub, session: str
) -> None:
    feeder = Feeder(stub, session)
    assert not feeder.opened.resumed
    for number in range(1, 36):
        ack = feeder.push(picture(), number)
        assert ack.sequence == number
        assert ack.latency_ms >= ack.queue_ms >= 0
    assert ack.reused_segments > 0
    assert ack.recomputed_segments == 0
    done = answer(stub, session, "What is in the scene?")
    assert (done.frames_seen, done.first_capture_ns, done.last_capture_ns) == (30, 6, 35)
    assert done.answer_tokens > 0
    assert 0 < done.first_token_ms <= done.total_ms
    feeder.close()


def test_a_new_stream_continues_the_session_and_replaces_the_old(
    stub: InferenceServiceStub, session: str
) -> None:
    first = Feeder(stub, session)
    first.push(picture(), 1)
    second = Feeder(stub, session)
    assert second.opened.resumed
    code, _ = refused(lambda: next(first.call))
    assert code == grpc.StatusCode.FAILED_PRECONDITION
    second.push(picture(), 2)
    assert answer(stub, session, "What do you see?").frames_seen == 2
    second.close()


def test_who_fed_a_session_before_its_owner_is_refused(stub: InferenceServiceStub) -> None:
    session = "fenced"

    def release(fence: int) -> None:
        request = inference_pb2.ReleaseSessionRequest(session_id=session, fence=fence)
        stub.ReleaseSession(request, timeout=10)

    def refused_as_old(call: Callable[[], object]) -> None:
        with pytest.raises(grpc.RpcError) as caught:
            call()
        assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert details_of(caught.value.trailing_metadata()).reason == "NOT_OWNER"

    first = Feeder(stub, session, fence=1)
    first.push(picture(), 7)
    second = Feeder(stub, session, fence=2)
    assert (second.opened.resumed, second.opened.last_capture_ns) == (True, 7)
    first.send(picture(), 8)  # of a stream that is over
    assert refused(lambda: next(first.call))[0] is grpc.StatusCode.FAILED_PRECONDITION
    for fence in (0, 1):
        refused_as_old(lambda fence=fence: Feeder(stub, session, fence=fence))
        refused_as_old(lambda fence=fence: release(fence))
    second.push(picture(), 9)
    done = answer(stub, session, "What do you see?")
    assert (done.frames_seen, done.last_capture_ns) == (2, 9)
    release(2)
    refused_as_old(lambda: Feeder(stub, session, fence=1))  # also when the session is gone
    assert not Feeder(stub, session, fence=2).opened.resumed
    release(2)


def test_a_session_outlives_its_stream_for_the_grace_time_only(
    stub: InferenceServiceStub, session: str
) -> None:
    feeder = Feeder(stub, session, grace_s=0.3)
    feeder.push(picture(), 1)
    feeder.close()
    assert answer(stub, session, "What do you see?").frames_seen == 1
    ended = wait_until(
        lambda: {outcome(lambda: answer(stub, session, "What?"))} - {grpc.StatusCode.OK}
    )
    assert ended == {grpc.StatusCode.NOT_FOUND}


@pytest.mark.parametrize(
    ("pixels", "capture_ns"),
    [
        (b"", 2),
        (b"x" * 100, 2),
        (bytes(128 * 128 * 3 + 1), 2),
        (picture(), 0),
        (picture(), 2**63 - 1),
        (picture(), -(2**63)),
    ],
    ids=["empty", "short", "long", "back in time", "the end of time", "before time"],
)
def test_bad_frames_end_their_stream_and_nothing_else(
    stub: InferenceServiceStub, session: str, pixels: bytes, capture_ns: int
) -> None:
    feeder = Feeder(stub, session)
    feeder.push(picture(), 1)
    feeder.send(pixels, capture_ns)
    code, details = refused(lambda: next(feeder.call))
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert "frame 2" in details
    assert answer(stub, session, "What do you see?").frames_seen == 1


def test_questions_that_cannot_be_answered_are_refused(
    stub: InferenceServiceStub, session: str
) -> None:
    code, _ = refused(lambda: answer(stub, "nobody", "What do you see?"))
    assert code == grpc.StatusCode.NOT_FOUND
    Feeder(stub, session).close()
    for text in ("", "   ", "what " * 2000):
        code, _ = refused(lambda text=text: answer(stub, session, text))
        assert code == grpc.StatusCode.INVALID_ARGUMENT
    code, details = refused(lambda: answer(stub, session, "What do you see?"))
    assert (code, details) == (grpc.StatusCode.FAILED_PRECONDITION, NO_FRAME)


def test_a_question_waits_for_the_first_frame_and_for_a_replay(
    stub: InferenceServiceStub, session: str
) -> None:
    feeder = Feeder(stub, session, replays=3)
    done: list[gateway_pb2.AnswerDone] = []
    asking = threading.Thread(target=lambda: done.append(answer(stub, session, "What is gone?")))
    watch = gateway_pb2.Watch(watch="w", condition="nothing is there", interval_s=0.05)
    events: list[gateway_pb2.WatchEvent] = []
    call = stub.WatchSession(
        inference_pb2.WatchRequest(session_id=session, watch=watch), timeout=PATIENCE_S
    )
    asking.start()
    threading.Thread(target=lambda: refused(lambda: events.extend(call)), daemon=True).start()
    for number in range(1, 3):
        time.sleep(0.2)
        feeder.push(picture(), number, replayed=True)
        assert not done
        assert not events
    feeder.push(picture(), 3, replayed=True)
    asking.join(PATIENCE_S)
    assert (done[0].frames_seen, done[0].last_capture_ns) == (3, 3)
    feeder.close()


def test_a_question_waits_for_a_replay_whose_stream_broke(
    stub: InferenceServiceStub, session: str
) -> None:
    Feeder(stub, session, replays=1).call.cancel()
    done: list[gateway_pb2.AnswerDone] = []
    asking = threading.Thread(target=lambda: done.append(answer(stub, session, "What is gone?")))
    asking.start()
    feeder = Feeder(stub, session, replays=1)
    feeder.push(picture(), 1, replayed=True)
    asking.join(PATIENCE_S)
    assert done[0].frames_seen == 1
    feeder.close()


def test_a_replay_that_never_comes_holds_nobody_for_ever(
    stub: InferenceServiceStub, session: str
) -> None:
    feeder = Feeder(stub, session, replays=3)
    code, details = refused(lambda: answer(stub, session, "What do you see?"))
    assert (code, details) == (grpc.StatusCode.FAILED_PRECONDITION, NO_FRAME)
    feeder.push(picture(), 1)
    assert answer(stub, session, "What do you see?").frames_seen == 1
    began_s = time.monotonic()
    assert answer(stub, session, "What do you see?").frames_seen == 1
    assert time.monotonic() - began_s < FIRST_FRAME_S, "waited for once"
    feeder.close()


def test_a_replay_has_credit_for_full_steps_until_it_is_over(
    stub: InferenceServiceStub, session: str
) -> None:
    feeder = Feeder(stub, session, replays=3)
    usual = stub.Describe(inference_pb2.DescribeRequest()).frame_queue
    most = feeder.opened.credit
    assert most > usual
    for number in range(1, most + 1):  # what waited to be sent follows the replays at once
        feeder.send(picture(), number, replayed=number < 3)
    acks = [next(feeder.call).ack for _ in range(most)]
    assert [ack.credit for ack in acks] == [most] * 2 + [usual] * (most - 2)
    feeder.close()


def test_the_first_message_must_open(stub: InferenceServiceStub) -> None:
    frame = inference_pb2.StreamFramesRequest(frame=inference_pb2.Frame(pixels=picture()))
    code, _ = refused(lambda: list(stub.StreamFrames(iter([frame]), timeout=10)))
    assert code == grpc.StatusCode.FAILED_PRECONDITION


def test_sessions_are_admitted_until_the_pool_is_full(stub: InferenceServiceStub) -> None:
    names: list[str] = []
    code = grpc.StatusCode.OK
    while code == grpc.StatusCode.OK and len(names) < 100:
        names.append(f"crowd-{len(names)}")
        code = outcome(lambda: Feeder(stub, names[-1]).close())
    for name in names:
        stub.ReleaseSession(inference_pb2.ReleaseSessionRequest(session_id=name), timeout=10)
    assert code == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert len(names) > 2
    load = next(stub.Load(inference_pb2.LoadRequest(), timeout=10))
    assert (load.sessions, load.kv_pages_used) == (0, 0)


def test_a_cancelled_answer_frees_its_pages(stub: InferenceServiceStub, session: str) -> None:
    def pages_used() -> int:
        return next(stub.Load(inference_pb2.LoadRequest(), timeout=10)).kv_pages_used

    feeder = Feeder(stub, session)
    opened = pages_used()
    feeder.push(picture(), 1)
    wait_until(lambda: pages_used() > opened)  # the load is told a little after the frame is
    before = pages_used()
    for _ in range(20):
        request = inference_pb2.AnswerRequest(
            session_id=session, question=gateway_pb2.Question(text="What is in the scene?")
        )
        call = stub.Answer(request, timeout=PATIENCE_S)
        next(call)
        call.cancel()
    wait_until(lambda: pages_used() <= before)
    feeder.close()


def test_many_questions_at_once_are_all_answered(stub: InferenceServiceStub, session: str) -> None:
    feeder = Feeder(stub, session)
    feeder.push(picture(), 1)
    texts: list[str] = []

    def ask() -> None:
        texts.append(answer(stub, session, "What is in the scene?").text)

    threads = [threading.Thread(target=ask) for _ in range(40)]
    for thread in threads:
        thread.start()
    for number in range(2, 12):  # the video goes on
        feeder.push(picture(), number)
    for thread in threads:
        thread.join(PATIENCE_S)
    assert len(texts) == 40
    feeder.close()


def test_a_watch_ends_when_its_session_does(stub: InferenceServiceStub, session: str) -> None:
    feeder = Feeder(stub, session)
    feeder.push(picture(), 1)
    watch = gateway_pb2.Watch(watch="w", condition="a red circle is there", interval_s=0.05)
    call = stub.WatchSession(
        inference_pb2.WatchRequest(session_id=session, watch=watch), timeout=PATIENCE_S
    )
    stub.ReleaseSession(inference_pb2.ReleaseSessionRequest(session_id=session), timeout=10)
    code, _ = refused(lambda: list(call))
    assert code == grpc.StatusCode.NOT_FOUND


def test_garbage_disturbs_nobody(
    worker: ServiceProcess, stub: InferenceServiceStub, session: str
) -> None:
    feeder = Feeder(stub, session)
    feeder.push(picture(), 1)
    throw_at_port(worker.grpc_port, seed=1)
    throw_at_port(worker.http_port, seed=2)
    methods = [f"/sightline.v1.InferenceService/{name}" for name in METHODS]
    assert grpc.StatusCode.OK not in throw_at_methods(worker.address, methods, seed=3, times=3)
    feeder.push(picture(), 2)
    assert worker.serving()
    feeder.close()


def test_idle_sessions_share_the_room_of_one(tmp_path: Path) -> None:
    """An idle session costs nothing, makes room, and remembers what it saw."""
    environment = {
        "WORKER_MODEL": str(SHAPES),
        "WORKER_THREADS": "1",
        "WORKER_DTYPE": "float32",
        "WORKER_KV_MEMORY_BYTES": str(56 << 20),
        "WORKER_PARK_AFTER_S": "0.3",
    }
    process = ServiceProcess("inference_worker", environment, tmp_path)
    process.start(120)
    try:
        with grpc.insecure_channel(process.address) as channel:
            stub = InferenceServiceStub(channel)
            colours = {"red": (255, 0, 0), "blue": (0, 0, 255)}
            feeders = {}
            for name, colour in colours.items():
                feeders[name] = Feeder(stub, name)
                for number in range(1, 9):
                    feeders[name].push(picture(colour), number)
                wait_for_idle_pool(stub)
            for number in range(9, 12):
                for name, colour in colours.items():
                    feeders[name].push(picture(colour), number)
                    done = answer(stub, name, "What colour is the square?")
                    assert (done.frames_seen, name in done.text) == (number, True)
                    wait_for_idle_pool(stub)
            load = next(stub.Load(inference_pb2.LoadRequest(), timeout=10))
            assert load.sessions == 2
            for feeder in feeders.values():
                feeder.close()
    finally:
        process.stop()


def wait_for_idle_pool(stub: InferenceServiceStub) -> None:
    wait_until(lambda: not next(stub.Load(inference_pb2.LoadRequest(), timeout=10)).kv_pages_used)
