"""Sessions that move between two real workers: one is killed, drained, or stopped dead."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import grpc
import pytest

from services.local.clip import Clip
from sightline.v1 import gateway_pb2 as pb
from sightline.v1 import gateway_pb2_grpc
from tests.eventually import PATIENCE_S, wait_until
from tests.processes import SHAPES, ServiceProcess
from tests.suite import write_clip

pytestmark = pytest.mark.option

WORKER = {
    "WORKER_MODEL": str(SHAPES),
    "WORKER_THREADS": "1",
    "WORKER_KV_MEMORY_BYTES": str(256 << 20),
    "WORKER_DRAIN_S": "10",
}
WINDOW = 30


@dataclass(slots=True)
class Pair:
    """A gateway with two workers, and one live session."""

    workers: dict[str, ServiceProcess]  # by the name that viewers read
    gateway: ServiceProcess
    clip: Clip
    stub: gateway_pb2_grpc.SightlineServiceStub
    session: str = ""

    def get(self) -> pb.Session:
        return self.stub.GetSession(pb.GetSessionRequest(session=self.session), timeout=10)

    def wait(self, condition: Callable[[pb.Session], Any], patience_s: float = PATIENCE_S) -> Any:
        """The session once `condition` holds for it."""
        deadline = time.monotonic() + patience_s
        while not condition(state := self.get()):
            assert time.monotonic() < deadline, state
            time.sleep(0.02)
        return state

    def wait_for_both(self) -> None:
        """Until the gateway knows that both workers are ready."""
        deadline = time.monotonic() + PATIENCE_S
        request = pb.GetServerInfoRequest()
        while sum(m.workers for m in self.stub.GetServerInfo(request, timeout=10).models) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.1)

    def ask(self) -> pb.AnswerDone:
        question = pb.Question(text="what is in the scene")
        request = pb.AskRequest(session=self.session, question=question)
        return self.stub.Ask(request, timeout=PATIENCE_S).answer


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    folder = tmp_path_factory.mktemp("moves")
    media = folder / "media"
    media.mkdir()
    workers = [ServiceProcess("inference_worker", WORKER, folder) for _ in range(2)]
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(lambda worker: worker.start(120), workers))
    environment = {
        "GATEWAY_WORKERS": ",".join(worker.address for worker in workers),
        "GATEWAY_MEDIA_ROOT": str(media),
        "GATEWAY_RTMP_PORT": "0",
    }
    gateway = ServiceProcess("gateway", environment, folder)
    gateway.start()
    stub = gateway_pb2_grpc.SightlineServiceStub(grpc.insecure_channel(gateway.address))
    names = {f"worker {number}": worker for number, worker in enumerate(workers, 1)}
    yield Pair(names, gateway, write_clip(media, seed=5, seconds=12), stub)
    gateway.stop()
    for worker in workers:
        worker.kill()


@pytest.fixture
def pair(started: Pair) -> Iterator[Pair]:
    """Both workers are there, and a session on one of them has a full window."""
    for worker in started.workers.values():
        if worker.process is None:
            worker.restart(120)
    started.wait_for_both()
    options = pb.SessionOptions(loop=True)
    wanted = pb.CreateSessionRequest(source=started.clip.path.name, options=options)
    started.session = started.stub.CreateSession(wanted, timeout=30).id
    started.wait(lambda state: state.stats.frames_processed >= WINDOW)
    yield started
    started.stub.DeleteSession(pb.DeleteSessionRequest(session=started.session), timeout=10)


@contextlib.contextmanager
def _asking(pair: Pair) -> Iterator[list[pb.AnswerDone | grpc.RpcError]]:
    """One question after the other meanwhile; what became of them."""
    outcomes: list[pb.AnswerDone | grpc.RpcError] = []
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            try:
                outcomes.append(pair.ask())
            except grpc.RpcError as error:
                outcomes.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        yield outcomes
    finally:
        over.set()
        asking.join(PATIENCE_S)


def test_a_session_outlives_the_worker_that_was_killed(pair: Pair) -> None:
    before = pair.get()
    pair.workers[before.worker].kill()
    killed_s = time.monotonic()
    moved = pair.wait(lambda state: state.worker != before.worker)
    took_s = time.monotonic() - killed_s
    answer = pair.ask()  # at once: it waits until the window is there
    assert answer.text
    assert answer.frames_seen == WINDOW, "the window from before"
    after = pair.wait(
        lambda state: state.stats.frames_processed >= before.stats.frames_processed + 16
    )
    assert after.state == pb.SESSION_STATE_LIVE
    assert set(after.stats.degraded) <= {"rate_lowered"}  # which a busy machine may have done
    assert moved.id == before.id
    assert took_s < 20.0


@pytest.mark.parametrize("fault", [signal.SIGKILL, signal.SIGSTOP])
def test_no_question_is_lost_with_a_worker(pair: Pair, fault: signal.Signals) -> None:
    """Not those that it was answering, and not those that come while the session moves."""
    before = pair.get()
    process = pair.workers[before.worker].process
    assert process is not None
    with contextlib.ExitStack() as several:
        askers = [several.enter_context(_asking(pair)) for _ in range(4)]
        for outcomes in askers:
            wait_until(lambda outcomes=outcomes: outcomes)
        process.send_signal(fault)
        try:
            pair.wait(lambda state: state.worker != before.worker)
            for outcomes in askers:
                asked_before = len(outcomes)
                wait_until(lambda o=outcomes, n=asked_before: len(o) >= n + 3)
        finally:
            process.send_signal(signal.SIGCONT)
    outcomes = [each for asker in askers for each in asker]
    assert not [each for each in outcomes if isinstance(each, grpc.RpcError)]
    answers = [each for each in outcomes if isinstance(each, pb.AnswerDone)]
    assert all(each.text for each in answers)
    assert {each.frames_seen for each in answers} == {WINDOW}, "none before the window was there"
    if fault is signal.SIGKILL:
        pair.workers[before.worker].kill()  # it is known to be gone


def test_a_drained_worker_is_left_without_a_lost_question_or_frame(pair: Pair) -> None:
    before = pair.get()
    with _asking(pair) as outcomes:
        asked_before = len(outcomes)
        pair.workers[before.worker].stop()  # SIGTERM; exits 0, or fails here
        pair.wait(lambda state: state.worker != before.worker)
        deadline = time.monotonic() + PATIENCE_S
        while len(outcomes) < asked_before + 6:
            assert time.monotonic() < deadline, outcomes
            time.sleep(0.05)
    failed = [each for each in outcomes if isinstance(each, grpc.RpcError)]
    assert not failed
    after = pair.wait(
        lambda state: state.stats.frames_processed >= before.stats.frames_processed + 16
    )
    assert set(after.stats.degraded) <= {"rate_lowered"}  # which a busy machine may have done
    assert "worker_stream_broken" not in after.stats.dropped
    assert pair.ask().frames_seen == WINDOW


def test_a_worker_that_is_stopped_dead_is_left(pair: Pair) -> None:
    before = pair.get()
    process = pair.workers[before.worker].process
    assert process is not None
    os.kill(process.pid, signal.SIGSTOP)
    try:
        pair.wait(lambda state: state.worker != before.worker, 20)
        answer = pair.ask()
        assert answer.text
        assert answer.frames_seen == WINDOW
    finally:
        os.kill(process.pid, signal.SIGCONT)
    # What the first still holds is given up with the session.
    state = pair.get()
    assert state.state == pb.SESSION_STATE_LIVE
