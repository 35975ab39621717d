"""The gateway with a real worker: every road for video, breaks, bad input, and an orderly end."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import grpc
import pytest

from services.common.jpeg import encode_jpeg
from services.local.clip import Clip
from sightline.v1 import gateway_pb2 as pb
from sightline.v1 import gateway_pb2_grpc
from tests.eventually import PATIENCE_S, wait_until
from tests.garbage import throw_at_methods, throw_at_port
from tests.processes import REPOSITORY, SHAPES, ServiceProcess, free_port
from tests.publish import RtmpPublisher
from tests.suite import write_clip

FOOTAGE = REPOSITORY.parent / "shared" / "media"
WORKER = {
    "WORKER_MODEL": str(SHAPES),
    "WORKER_THREADS": "1",
    "WORKER_KV_MEMORY_BYTES": str(512 << 20),
}


@dataclass(slots=True)
class Watching:
    """A gateway with one worker."""

    worker: ServiceProcess
    gateway: ServiceProcess
    media_root: Path
    rtmp_port: int
    stub: gateway_pb2_grpc.SightlineServiceStub

    def create(self, source: str = "", **options: Any) -> pb.Session:
        wanted = pb.CreateSessionRequest(options=pb.SessionOptions(**options))
        if source:
            wanted.source = source
        else:
            wanted.push.SetInParent()
        return self.stub.CreateSession(wanted, timeout=30)

    def get(self, session: str) -> pb.Session:
        return self.stub.GetSession(pb.GetSessionRequest(session=session), timeout=10)

    def list(self) -> list[pb.Session]:
        return list(self.stub.ListSessions(pb.ListSessionsRequest(), timeout=10).sessions)

    def delete(self, session: str) -> None:
        self.stub.DeleteSession(pb.DeleteSessionRequest(session=session), timeout=10)

    def ask(self, session: str, text: str) -> pb.AnswerDone:
        question = pb.Question(text=text)
        return self.stub.Ask(pb.AskRequest(session=session, question=question), timeout=60).answer

    def wait(self, session: str, condition: Callable[[pb.Session], Any]) -> pb.Session:
        """The session once `condition` holds for it."""
        [state] = wait_until(lambda: [now for now in (self.get(session),) if condition(now)])
        return state

    def rtmp(self, key: str) -> str:
        return f"rtmp://127.0.0.1:{self.rtmp_port}/live/{key}"


def _start(folder: Path, worker: ServiceProcess, **settings: object) -> Watching:
    media_root = folder / "media"
    media_root.mkdir()
    rtmp_port = free_port()
    environment = {
        "GATEWAY_WORKERS": worker.address,
        "GATEWAY_MEDIA_ROOT": str(media_root),
        "GATEWAY_RTMP_PORT": str(rtmp_port),
        **{f"GATEWAY_{name}": str(value) for name, value in settings.items()},
    }
    gateway = ServiceProcess("gateway", environment, folder)
    gateway.start()
    stub = gateway_pb2_grpc.SightlineServiceStub(grpc.insecure_channel(gateway.address))
    return Watching(worker, gateway, media_root, rtmp_port, stub)


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    running = ServiceProcess("inference_worker", WORKER, tmp_path_factory.mktemp("worker"))
    running.start(120)
    yield running
    running.stop()


@pytest.fixture(scope="module")
def watching(
    worker: ServiceProcess, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Watching]:
    running = _start(tmp_path_factory.mktemp("gateway"), worker, GRACE_S=2)
    yield running
    running.gateway.stop()


@pytest.fixture
def own(worker: ServiceProcess, tmp_path: Path) -> Iterator[Watching]:
    """A gateway to break, and the worker of all, if that is mended."""
    running = _start(tmp_path, worker)
    yield running
    if running.gateway.process is not None:
        running.gateway.stop()


@pytest.fixture(scope="module")
def clip(watching: Watching) -> Clip:
    return write_clip(watching.media_root, seed=5, seconds=12)


def lost(stats: pb.SessionStats) -> dict[str, int]:
    """Frames that were dropped, but for those that a busy machine does without on purpose."""
    return {reason: count for reason, count in stats.dropped.items() if reason != "rate_lowered"}


def _jpegs(path: Path, count: int) -> Iterator[tuple[int, bytes]]:
    """(presentation time in ns, JPEG) of a clip's first pictures."""
    with av.open(str(path)) as container:
        for number, frame in enumerate(container.decode(video=0)):
            if number == count:
                return
            small = frame.reformat(format="yuvj420p", threads=1)
            yield int(float(frame.time or 0) * 1e9), encode_jpeg(small)


# --- every road for video -------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["bottle-detection.mp4", "car-detection.mp4"])
def test_footage_plays_at_its_own_rate_without_drops(watching: Watching, name: str) -> None:
    if not (FOOTAGE / name).exists():
        pytest.skip(f"{name} is not here")
    shutil.copy(FOOTAGE / name, watching.media_root)
    session = watching.create(name, loop=True)
    state = watching.wait(session.id, lambda state: state.stats.frames_processed >= 24)
    assert state.state == pb.SESSION_STATE_LIVE
    assert state.source_kind == "file"
    assert not lost(state.stats)
    assert state.stats.source_width > 600
    answer = watching.ask(session.id, "what is in the scene")
    assert answer.text
    assert answer.frames_seen >= 24
    watching.delete(session.id)


def test_a_file_comes_to_its_end_and_still_answers(watching: Watching, clip: Clip) -> None:
    session = watching.create(clip.path.name, delivery=pb.DELIVERY_LOSSLESS)
    state = watching.wait(
        session.id,
        lambda state: (
            state.state == pb.SESSION_STATE_ENDED
            and state.stats.frames_processed == state.stats.frames_sampled
        ),
    )
    assert state.stats.frames_processed == pytest.approx(clip.seconds * 8, abs=2)
    assert not lost(state.stats)
    assert watching.ask(session.id, "what changed").text
    watching.delete(session.id)


def test_pushed_pictures_are_all_understood(watching: Watching, clip: Clip) -> None:
    session = watching.create(delivery=pb.DELIVERY_LOSSLESS)
    begun_ns = time.time_ns()

    def messages() -> Iterator[pb.PushFramesRequest]:
        yield pb.PushFramesRequest(open=pb.PushOpen(session=session.id, key=session.key))
        for time_ns, jpeg in _jpegs(clip.path, 96):
            frame = pb.PushFrame(capture_ns=begun_ns + time_ns, jpeg=jpeg)
            yield pb.PushFramesRequest(frame=frame)
        yield pb.PushFramesRequest(end=pb.PushEnd())

    *_, last = watching.stub.PushFrames(messages(), timeout=PATIENCE_S)
    state = watching.get(session.id)
    assert last.received == 96
    assert last.understood == state.stats.frames_sampled == pytest.approx(96 / 24 * 8, abs=2)
    assert last.dropped == 0
    assert state.state == pb.SESSION_STATE_ENDED
    answer = watching.ask(session.id, "what is in the scene")
    assert answer.last_capture_ns == last.understood_capture_ns
    watching.delete(session.id)


def test_rtmp_publishers_come_leave_and_come_back(watching: Watching, clip: Clip) -> None:
    session = watching.create(name="camera")
    assert session.rtmp_url.endswith(f":{watching.rtmp_port}/live/{session.key}")
    with RtmpPublisher(clip.path, watching.rtmp("wrong-key-wrong-key")) as stranger:
        wait_until(lambda: stranger.error is not None)
    with RtmpPublisher(clip.path, watching.rtmp(session.key)):
        first = watching.wait(session.id, lambda state: state.stats.frames_processed >= 8)
        assert first.state == pb.SESSION_STATE_LIVE
        assert first.source_kind == "rtmp"
    watching.wait(session.id, lambda state: state.state == pb.SESSION_STATE_STALLED)
    with RtmpPublisher(clip.path, watching.rtmp(session.key)):
        again = watching.wait(
            session.id,
            lambda state: state.stats.frames_processed >= first.stats.frames_processed + 8,
        )
        assert again.state == pb.SESSION_STATE_LIVE
        assert watching.ask("camera", "what is in the scene").text
    # Its grace time of two seconds passes.
    wait_until(lambda: all(other.id != session.id for other in watching.list()))


def test_a_deleted_session_hangs_up_on_its_publisher(watching: Watching, clip: Clip) -> None:
    session = watching.create()
    with RtmpPublisher(clip.path, watching.rtmp(session.key)) as publisher:
        watching.wait(session.id, lambda state: state.stats.frames_received > 0)
        watching.delete(session.id)
        wait_until(lambda: publisher.error is not None)


# --- conversing -------------------------------------------------------------------------------


def test_questions_do_not_stop_the_video(watching: Watching, clip: Clip) -> None:
    session = watching.create(clip.path.name, loop=True, delivery=pb.DELIVERY_NEWEST)
    watching.wait(session.id, lambda state: state.stats.frames_processed >= 16)
    answers: dict[str, pb.AnswerDone] = {}
    before = watching.get(session.id).stats

    def requests() -> Iterator[pb.ClientEvent]:
        yield pb.ClientEvent(start=pb.Start(session=session.id))
        for number in range(8):
            question = pb.Question(turn=f"t{number}", text="what is in the scene")
            yield pb.ClientEvent(ask=question)
        finished.wait(PATIENCE_S)

    finished = threading.Event()
    begun = time.monotonic()
    call = watching.stub.Converse(requests(), timeout=PATIENCE_S)
    states = 0
    for event in call:
        assert not event.HasField("error"), event.error
        states += event.HasField("session_state")
        if event.HasField("answer_done"):
            answers[event.answer_done.turn] = event.answer_done
        if len(answers) == 8 and states >= 3:
            break
    seconds = time.monotonic() - begun
    finished.set()
    call.cancel()
    after = watching.get(session.id).stats
    assert all(answer.text for answer in answers.values())
    # On cores that others use as well the rate itself is no test; frames stuck behind answers are.
    sampled = after.frames_sampled - before.frames_sampled
    processed = after.frames_processed - before.frames_processed
    assert sampled > 4 * min(seconds, 2)
    assert processed >= sampled - sum(after.dropped.values()) - 20
    watching.delete(session.id)


def test_a_broken_line_is_resumed_over_the_network(watching: Watching, clip: Clip) -> None:
    session = watching.create(clip.path.name, loop=True)
    watching.wait(session.id, lambda state: state.stats.frames_processed >= 8)

    async def converse() -> None:
        async with grpc.aio.insecure_channel(watching.gateway.address) as channel:
            stub = gateway_pb2_grpc.SightlineServiceStub(channel)
            call = stub.Converse()
            await call.write(pb.ClientEvent(start=pb.Start(session=session.id)))
            started = (await call.read()).started
            question = pb.Question(turn="t1", text="what is in the scene")
            await call.write(pb.ClientEvent(ask=question))
            event = await call.read()
            while event.HasField("session_state"):
                event = await call.read()
            last = event.sequence
            call.cancel()
        async with grpc.aio.insecure_channel(watching.gateway.address) as channel:
            stub = gateway_pb2_grpc.SightlineServiceStub(channel)
            call = stub.Converse()
            start = pb.Start(
                session=session.id, resume_handle=started.resume_handle, last_sequence=last
            )
            await call.write(pb.ClientEvent(start=start))
            assert (await call.read()).started.resumed == "line"
            text = ""
            while not (event := await call.read()).HasField("answer_done"):
                text += event.text_delta.text
            assert event.answer_done.text == text
            call.cancel()

    asyncio.run(asyncio.wait_for(converse(), PATIENCE_S))
    watching.delete(session.id)


# --- bad input ------------------------------------------------------------------------------------


def test_garbage_at_every_port_disturbs_nobody(watching: Watching, clip: Clip) -> None:
    session = watching.create(clip.path.name, loop=True)
    before = watching.wait(session.id, lambda state: state.stats.frames_processed >= 8).stats
    for port in (watching.gateway.grpc_port, watching.gateway.http_port, watching.rtmp_port):
        throw_at_port(port, seed=port)
    service = "/sightline.v1.SightlineService/"
    methods = ["CreateSession", "GetSession", "PushFrames", "Converse", "Ask", "Speak"]
    codes = throw_at_methods(watching.gateway.address, [service + name for name in methods], seed=3)
    assert codes == {grpc.StatusCode.INVALID_ARGUMENT}
    after = watching.wait(
        session.id, lambda state: state.stats.frames_processed >= before.frames_processed + 8
    ).stats
    assert lost(after) == lost(before)
    assert after.frames_sampled > before.frames_sampled
    assert watching.ask(session.id, "what is in the scene").text
    watching.delete(session.id)
    errors = [entry for entry in watching.gateway.log_entries() if entry["level"] == "error"]
    assert not errors, errors


@pytest.mark.parametrize(
    ("source", "code"),
    [
        ("missing.mp4", "INVALID_ARGUMENT"),
        ("../outside.mp4", "INVALID_ARGUMENT"),
        ("/etc/passwd", "INVALID_ARGUMENT"),
        ("file:///etc/passwd", "INVALID_ARGUMENT"),
        ("concat:a|b", "INVALID_ARGUMENT"),
        ("http://127.0.0.1:1/nothing.mp4", "INVALID_ARGUMENT"),
    ],
)
def test_sources_that_are_none_are_refused(watching: Watching, source: str, code: str) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        watching.create(source)
    assert caught.value.code().name == code, caught.value.details()  # type: ignore[attr-defined]


def test_nothing_secret_is_logged(watching: Watching, clip: Clip) -> None:
    session = watching.create()
    with RtmpPublisher(clip.path, watching.rtmp(session.key)):
        watching.wait(session.id, lambda state: state.stats.frames_received > 0)
    assert session.key not in watching.gateway.log()
    watching.delete(session.id)


# --- breaks and ends ------------------------------------------------------------------------------


def test_a_worker_that_dies_and_returns_is_given_the_window_again(own: Watching) -> None:
    clip = write_clip(own.media_root, seed=5, seconds=12)
    session = own.create(clip.path.name, loop=True)
    before = own.wait(session.id, lambda state: state.stats.frames_processed >= 32).stats
    own.worker.kill()
    own.wait(session.id, lambda state: "worker_unavailable" in state.stats.degraded)
    own.worker.restart(120)
    after = own.wait(
        session.id,
        lambda state: (
            not state.stats.degraded and state.stats.frames_processed >= before.frames_processed + 8
        ),
    )
    assert after.state == pb.SESSION_STATE_LIVE
    answer = own.ask(session.id, "what is in the scene")
    assert answer.text
    assert answer.frames_seen == 30, "the window from before is there again"


def test_two_hundred_questions_at_once_are_all_answered(watching: Watching) -> None:
    """By default settings, from one client, while frames come; and none of them is lost."""
    clip = write_clip(watching.media_root, seed=8, seconds=12)
    session = watching.create(clip.path.name, loop=True)
    before = watching.wait(session.id, lambda state: state.stats.frames_processed > 0).stats
    question = pb.Question(text="what is in the scene")
    request = pb.AskRequest(session=session.id, question=question)
    asked = [watching.stub.Ask.future(request, timeout=PATIENCE_S) for _ in range(200)]
    answers = [future.result().answer for future in asked]
    assert all(answer.frames_seen and answer.text for answer in answers)
    after = watching.get(session.id).stats
    assert after.frames_processed > before.frames_processed
    assert lost(after) == lost(before)
    watching.delete(session.id)


def test_sigterm_lets_answers_end(own: Watching) -> None:
    clip = write_clip(own.media_root, seed=5, seconds=12)
    session = own.create(clip.path.name, loop=True)
    own.wait(session.id, lambda state: state.stats.frames_processed > 0)
    assert own.ask(session.id, "what is in the scene").text  # one that ended before
    question = pb.Question(text="what is in the scene")
    request = pb.AskRequest(session=session.id, question=question)
    asked: list[Any] = []
    deadline = time.monotonic() + PATIENCE_S
    while not asked or _in_flight(own) < 20:
        assert time.monotonic() < deadline
        time.sleep(0.02)  # more connections a second are refused
        # Those of before may be answered by the time that anybody looks.
        asked = [future for future in asked if not future.done()]
        while len(asked) < 80:
            asked.append(own.stub.Ask.future(request, timeout=PATIENCE_S))
    own.gateway.stop()  # exits 0, or fails here
    codes = [future.code() for future in asked]
    # gRPC itself cancels what had not been read when the port closed.
    ends = {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
    assert set(codes) <= ends
    assert codes.count(grpc.StatusCode.OK) >= 20
    messages = [entry["message"] for entry in own.gateway.log_entries()]
    assert "answers are cut off by the drain's end" not in messages
    assert "drain timed out" not in messages


def _in_flight(own: Watching) -> float:
    """Answers, as the gateway's metrics say."""
    url = f"http://127.0.0.1:{own.gateway.metrics_port}/metrics"
    with urllib.request.urlopen(url, timeout=PATIENCE_S) as reply:
        page = reply.read().decode()
    return next(
        float(line.split()[1])
        for line in page.splitlines()
        if line.startswith("sightline_answers_in_flight ")
    )


def test_sigterm_sends_viewers_away_and_frees_the_worker(own: Watching) -> None:
    clip = write_clip(own.media_root, seed=5, seconds=12)
    session = own.create(clip.path.name, loop=True)
    pushed = own.create()
    with RtmpPublisher(clip.path, own.rtmp(pushed.key)):
        for each in (session, pushed):
            own.wait(each.id, lambda state: state.stats.frames_processed > 0)
        still = threading.Event()

        def requests() -> Iterator[pb.ClientEvent]:
            yield pb.ClientEvent(start=pb.Start(session=session.id))
            still.wait(PATIENCE_S)

        call = own.stub.Converse(requests(), timeout=PATIENCE_S)
        assert next(call).HasField("started")
        own.gateway.stop()  # exits 0, or fails here
        reasons = [event.go_away.reason for event in call if event.HasField("go_away")]
        still.set()
        assert reasons == ["draining"]
    with pytest.raises(grpc.RpcError):
        own.get(session.id)
    messages = [entry["message"] for entry in own.gateway.log_entries()]
    assert "drain timed out" not in messages
    assert "task failed" not in messages
    assert "session not released" not in messages


@pytest.mark.parametrize("name", ["RTMP_PORT", "GRPC_PORT", "HTTP_PORT", "METRICS_PORT"])
def test_a_busy_port_is_named_with_its_variable(
    watching: Watching, tmp_path: Path, name: str
) -> None:
    ports = {
        "RTMP_PORT": watching.rtmp_port,
        "GRPC_PORT": watching.gateway.grpc_port,
        "HTTP_PORT": watching.gateway.http_port,
        "METRICS_PORT": watching.gateway.metrics_port,
    }
    environment = {"GATEWAY_RTMP_PORT": "0", f"GATEWAY_{name}": str(ports[name])}
    second = ServiceProcess("gateway", environment, tmp_path)
    second.spawn()
    assert second.process is not None
    assert second.process.wait(60) == 2
    assert f"GATEWAY_{name}" in second.log()
    assert "Traceback" not in second.log()


def test_who_reaches_the_page_does_not_reach_the_figures(watching: Watching) -> None:
    import urllib.error
    import urllib.request

    page = f"http://127.0.0.1:{watching.gateway.http_port}"
    with urllib.request.urlopen(f"{page}/healthz", timeout=10) as reply:
        assert json.load(reply)["serving"]
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(f"{page}/metrics", timeout=10)
    figures = f"http://127.0.0.1:{watching.gateway.metrics_port}"
    with urllib.request.urlopen(f"{figures}/readyz", timeout=10) as reply:
        assert json.load(reply) == {"service": "gateway", "ready": True, "reason": ""}
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(f"{figures}/", timeout=10)


def test_a_gateway_that_knows_no_worker_serves_and_is_not_ready(tmp_path: Path) -> None:
    environment = {"GATEWAY_WORKERS": f"127.0.0.1:{free_port()}", "GATEWAY_RTMP_PORT": "0"}
    gateway = ServiceProcess("gateway", environment, tmp_path)
    gateway.start()
    try:
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"http://127.0.0.1:{gateway.metrics_port}/readyz", timeout=10)
        assert refused.value.code == 503
        assert json.load(refused.value)["reason"] == "no worker answers"
        assert gateway.serving()
    finally:
        gateway.stop()


def test_what_helm_test_asks_is_answered(watching: Watching) -> None:
    script = REPOSITORY / "deploy" / "helm" / "sightline" / "files" / "ask.py"
    done = subprocess.run(
        [sys.executable, "-c", script.read_text()],
        cwd=REPOSITORY,
        env={**os.environ, "GATEWAY": watching.gateway.address},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert "16 frames understood; '" in done.stdout
    refused = subprocess.run(
        [sys.executable, "-c", script.read_text()],
        cwd=REPOSITORY,
        env={**os.environ, "GATEWAY": watching.gateway.address, "MODEL": "another"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert refused.returncode != 0
    assert "there is no model or pool 'another'" in refused.stderr


def test_metrics_have_the_suite_s_names(watching: Watching, clip: Clip) -> None:
    import urllib.request

    session = watching.create(clip.path.name, loop=True)
    watching.wait(session.id, lambda state: state.stats.frames_processed >= 8)
    url = f"http://127.0.0.1:{watching.gateway.metrics_port}/metrics"
    with urllib.request.urlopen(url, timeout=10) as reply:
        text = reply.read().decode()
    for metric in (
        'sightline_frames_received_total{source="file"}',
        'sightline_frames_sampled_total{source="file"}',
        "sightline_frames_processed_total",
        'sightline_sessions{state="live"}',
        'sightline_workers{condition="ready"} 1.0',
        "sightline_answers_total",
        "sightline_first_token_seconds_bucket",
        'sightline_frame_latency_seconds_bucket{delivery="newest",le="0.2"}',
        'sightline_newest_frame_age_seconds{of="max",state="live"}',
    ):
        assert metric in text, metric
    assert session.id not in text
    assert json.dumps(session.name) not in text
    watching.delete(session.id)
