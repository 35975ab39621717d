"""Several gateways with one Redis and a real worker: sessions outlive whichever of them ends."""

import asyncio
import contextlib
import io
import os
import signal
import socket
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import av
import grpc
import pytest
from aioice.ice import get_host_addresses

import sightline
from services.gateway.cluster.lease_store import LeaseStore
from services.gateway.config import GatewayConfig
from services.local.clip import Clip
from sightline.status import details_of
from sightline.v1 import gateway_pb2 as pb
from sightline.v1 import gateway_pb2_grpc, peer_pb2, peer_pb2_grpc
from tests.eventually import eventually, wait_until
from tests.processes import REDIS_TIMEOUT_S, SHAPES, RedisServer, ServiceProcess, free_port
from tests.publish import RtmpPublisher
from tests.sources import write_clip as write_tone
from tests.suite import write_clip
from tests.watcher import Watcher

pytestmark = [pytest.mark.needs("redis"), pytest.mark.option]

WORKER = {
    "WORKER_MODEL": str(SHAPES),
    "WORKER_THREADS": "1",
    "WORKER_KV_MEMORY_BYTES": str(256 << 20),
}
SECRET = "a secret of thirty-two characters"
WINDOW = 30
RECOVERY_S = 5.0
MAX_ROUNDS = 100  # that dialogue keeps


@dataclass(slots=True)
class Gateways:
    """Two gateways, a worker, dialogue and Redis."""

    redis: RedisServer
    one: ServiceProcess
    other: ServiceProcess
    clip: Clip
    rtmp_ports: dict[str, int]
    folder: Path
    sessions: list[str] = field(default_factory=list)

    @property
    def addresses(self) -> str:
        return f"{self.one.address},{self.other.address}"

    def third(self, **environment: str) -> ServiceProcess:
        """One more gateway, not started."""
        kinds = ("GRPC", "HTTP", "METRICS", "PEER", "RTMP")
        ports = {f"GATEWAY_{kind}_PORT": "0" for kind in kinds}
        return ServiceProcess("gateway", self.other.environment | ports | environment, self.folder)

    def create(self, at: ServiceProcess, **wanted: Any) -> pb.Session:
        if "source" not in wanted:
            wanted.setdefault("push", pb.Push())
        made = stub(at).CreateSession(pb.CreateSessionRequest(**wanted), timeout=30)
        self.sessions.append(made.id)
        return made

    def watch_clip(self, at: ServiceProcess, **options: Any) -> pb.Session:
        """A session that reads a file, with a full window."""
        options = {"loop": True, **options}
        source = self.clip.path.name
        made = self.create(at, source=source, options=pb.SessionOptions(**options))
        self.wait(at, made.id, lambda state: state.stats.frames_processed >= WINDOW)
        return made

    def wait(
        self, at: ServiceProcess, session: str, condition: Callable[[pb.Session], Any]
    ) -> pb.Session:
        """The session once `condition` holds for it, as a gateway tells."""

        def look() -> pb.Session | None:
            with contextlib.suppress(grpc.RpcError):
                state = get(at, session)
                return state if condition(state) else None
            return None

        found = wait_until(look, f"what {session} is to be at {at.address}")
        assert found is not None
        return found


def stub(at: ServiceProcess) -> gateway_pb2_grpc.SightlineServiceStub:
    return gateway_pb2_grpc.SightlineServiceStub(grpc.insecure_channel(at.address))


def get(at: ServiceProcess, session: str) -> pb.Session:
    return stub(at).GetSession(pb.GetSessionRequest(session=session), timeout=10)


def ask(at: ServiceProcess, session: str) -> pb.AnswerDone:
    question = pb.Question(text="what is in the scene")
    return stub(at).Ask(pb.AskRequest(session=session, question=question), timeout=60).answer


def refusal(call: Callable[[], Any]) -> tuple[str, str]:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value.code().name, details_of(caught.value.trailing_metadata()).reason


def said(at: ServiceProcess, message: str, session: str) -> list[dict[str, Any]]:
    """What a gateway logged of a session."""
    entries = at.log_entries()
    return [
        each for each in entries if (each["message"], each.get("session")) == (message, session)
    ]


def stop_dead(at: ServiceProcess) -> None:
    assert at.process is not None
    os.kill(at.process.pid, signal.SIGSTOP)


def go_on(at: ServiceProcess) -> None:
    assert at.process is not None
    os.kill(at.process.pid, signal.SIGCONT)


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateways]:
    folder = tmp_path_factory.mktemp("gateways")
    (folder / "redis").mkdir()
    redis = RedisServer(folder / "redis")
    redis.start()
    dialogue = ServiceProcess("dialogue", {"DIALOGUE_REDIS_URL": redis.url}, folder)
    dialogue.start()
    worker = ServiceProcess(
        "inference_worker", WORKER | {"WORKER_DIALOGUE": dialogue.address}, folder
    )
    worker.start()
    environment = {
        "GATEWAY_WORKERS": worker.address,
        "GATEWAY_DIALOGUE": dialogue.address,
        "GATEWAY_MEDIA_ROOT": str(folder),
        "GATEWAY_REDIS_URL": redis.url,
        "GATEWAY_CLUSTER_SECRET": SECRET,
    }
    gateways, rtmp_ports = [], {}
    for _ in range(2):
        rtmp_port = free_port()
        own = {"GATEWAY_PEER_PORT": str(free_port()), "GATEWAY_RTMP_PORT": str(rtmp_port)}
        gateways.append(ServiceProcess("gateway", environment | own, folder))
        rtmp_ports[gateways[-1].environment["GATEWAY_PEER_PORT"]] = rtmp_port
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(lambda gateway: gateway.start(), gateways))
    clip = write_clip(folder, seed=5, seconds=12)
    running = Gateways(redis, gateways[0], gateways[1], clip, rtmp_ports, folder)
    yield running
    for service in (*gateways, worker, dialogue):
        if service.process is not None:
            service.stop()
    redis.kill()


@pytest.fixture
def gateways(started: Gateways) -> Iterator[Gateways]:
    """Both gateways run, and neither has a session."""
    for gateway in (started.one, started.other):
        if gateway.process is None:
            gateway.restart()
    yield started
    living = started.one if started.one.process is not None else started.other
    while started.sessions:
        request = pb.DeleteSessionRequest(session=started.sessions.pop())
        with contextlib.suppress(grpc.RpcError):
            stub(living).DeleteSession(request, timeout=10)


class Link:
    """A way to Redis that can be cut."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._door = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._door.getsockname()[1]
        self._ends: list[socket.socket] = [self._door]

    def __enter__(self) -> "Link":
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.cut()

    def cut(self) -> None:
        for end in self._ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                here, _ = self._door.accept()
                there = socket.create_connection(("127.0.0.1", self._target))
                self._ends += [here, there]
                for pair in ((here, there), (there, here)):
                    threading.Thread(target=_carry, args=pair, daemon=True).start()


def _carry(one: socket.socket, other: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := one.recv(65536):
            other.sendall(data)


class Asker:
    """A viewer who asks one question after the other, and reads every answer to its end."""

    def __init__(self, gateways: Gateways, session: str) -> None:
        self.client = sightline.connect(gateways.addresses)
        self.conversation = self.client.session(session).conversation()
        self.answers: list[sightline.AnswerResult] = []
        self.failures: list[Exception] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "Asker":
        self._thread.start()
        self.wait_for_more(3)
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(60)

    def wait_for_more(self, count: int) -> None:
        wanted = len(self.answers) + count
        wait_until(lambda: len(self.answers) >= wanted or self.failures, "more answers")
        assert not self.failures

    def check_history(self) -> None:
        """What was read is what is kept, in order, nothing missing, nothing twice."""
        kept = [each.answer for each in self.conversation.history()]
        read = [answer.text for answer in self.answers]
        assert len(kept) == min(len(read), MAX_ROUNDS)
        assert kept == read[-len(kept) :]

    def _run(self) -> None:
        while not self._over.is_set():
            try:
                self.answers.append(self.conversation.ask("what is in the scene").result())
            except sightline.SightlineError as error:
                self.failures.append(error)
                return


@contextlib.contextmanager
def published(gateways: Gateways, **options: Any) -> Iterator[sightline.Session]:
    """A session that the SDK plays a clip into, in real time, for ever; its window is full."""
    with sightline.connect(gateways.addresses) as client:
        session = client.open(gateways.clip.path, loop=True, **options)
        gateways.sessions.append(session.id)
        gateways.wait(
            gateways.one, session.id, lambda state: state.stats.frames_processed >= WINDOW
        )
        yield session


# --- when a gateway ends ------------------------------------------------------------------------


def test_publisher_and_viewer_go_on_when_their_gateway_is_killed(gateways: Gateways) -> None:
    with published(gateways) as session, Asker(gateways, session.id) as asker:
        before = get(gateways.one, session.id)
        gateways.one.kill()
        killed_s = time.monotonic()
        asker.wait_for_more(2)
        answered_s = time.monotonic() - killed_s
        after = gateways.wait(
            gateways.other,
            session.id,
            lambda state: (
                state.state == pb.SESSION_STATE_LIVE
                and state.stats.frames_processed > before.stats.frames_processed + 8
            ),
        )
        took_s = time.monotonic() - killed_s
        asker.wait_for_more(2)
    assert not asker.failures
    assert asker.answers[-1].frames_seen == WINDOW
    assert "window_lost" not in after.stats.degraded
    adopted = said(gateways.other, "session adopted", session.id)
    assert [each["resumed"] for each in adopted] == [True]
    asker.check_history()
    print(f"answered after {answered_s:.2f} s, published after {took_s:.2f} s")
    assert answered_s < RECOVERY_S
    assert took_s < RECOVERY_S


def test_a_request_makes_one_session_at_whichever_gateway_it_is_repeated(
    gateways: Gateways,
) -> None:
    both = (gateways.one, gateways.other)
    for number in range(5):  # at the same moment at both
        wanted = {"request_id": f"together-{number}", "push": pb.Push()}
        with ThreadPoolExecutor(2) as threads:
            makers = [threads.submit(gateways.create, at, **wanted) for at in both]
            first, second = (maker.result() for maker in makers)
        assert (first.id, first.key) == (second.id, second.key)
        assert len(first.key) >= 16
        assert gateways.create(gateways.other, **wanted).id == first.id
    made = gateways.create(gateways.one, request_id="before-it-dies", push=pb.Push())
    gateways.one.kill()
    again = gateways.create(gateways.other, request_id="before-it-dies", push=pb.Push())
    assert (again.id, again.key) == (made.id, made.key)
    code, reason = refusal(
        lambda: gateways.create(
            gateways.other, request_id="before-it-dies", push=pb.Push(key="another-key")
        )
    )
    assert (code, reason) == ("INVALID_ARGUMENT", "REQUEST_ID_REUSED")


def test_the_request_of_a_session_that_was_deleted_makes_no_other(gateways: Gateways) -> None:
    made = gateways.create(gateways.one, request_id="soon-deleted", push=pb.Push())
    stub(gateways.other).DeleteSession(pb.DeleteSessionRequest(session=made.id), timeout=10)
    for at in (gateways.other, gateways.one):
        found = refusal(
            lambda at=at: gateways.create(at, request_id="soon-deleted", push=pb.Push())
        )
        assert found == ("NOT_FOUND", "SESSION_NOT_FOUND")


def test_a_source_is_read_on_by_another_gateway_when_the_lease_runs_out(
    gateways: Gateways,
) -> None:
    made = gateways.watch_clip(gateways.one, labels={"place": "door"})
    before = get(gateways.one, made.id)
    gateways.one.kill()
    after = gateways.wait(
        gateways.other,
        made.id,
        lambda state: state.stats.frames_processed > before.stats.frames_processed + 8,
    )
    assert after.state == pb.SESSION_STATE_LIVE
    assert (after.name, dict(after.labels)) == (made.name, {"place": "door"})
    assert after.created_ns == made.created_ns
    assert ask(gateways.other, made.id).frames_seen == WINDOW


async def test_plain_http_asks_decides_and_listens_at_another_gateway(gateways: Gateways) -> None:
    made = gateways.watch_clip(gateways.one)
    gateways.wait(gateways.other, made.id, lambda state: state.stats.frames_processed > 8)
    address = f"http://127.0.0.1:{gateways.other.http_port}"
    one = f"/api/sessions/{made.id}"
    async with aiohttp.ClientSession(address) as client:
        async with client.post(f"{one}/ask", json={"question": "what is there"}) as reply:
            assert (await reply.json())["answer"]["frames_seen"] > 0
        questions = [{"statement": "a red circle is there"}] * 3
        async with client.post(f"{one}/decide", json={"questions": questions}) as reply:
            assert len((await reply.json())["decisions"]) == 3
        async with client.get(f"{one}/events?watch=a+red+circle+is+there") as reply:
            async for line in reply.content:
                if line.startswith(b"event: session_state"):
                    break
        body = {
            "model": f"sightline://{made.id}",
            "messages": [{"role": "user", "content": "what"}],
        }
        async with client.post("/v1/chat/completions", json=body) as reply:
            assert reply.status == 200, await reply.text()


def test_every_session_of_a_gateway_that_was_killed_is_adopted(gateways: Gateways) -> None:
    made = [gateways.create(gateways.one).id for _ in range(5)]
    gateways.one.kill()
    killed_s = time.monotonic()
    for each in made:
        wait_until(lambda each=each: said(gateways.other, "session adopted", each), each)
    took_s = time.monotonic() - killed_s
    print(f"{len(made)} sessions adopted after {took_s:.2f} s")
    assert took_s < 10.0
    states = {get(gateways.other, each).state for each in made}
    assert states == {pb.SESSION_STATE_WAITING}


def test_an_owner_that_was_stopped_dead_lets_the_session_go(gateways: Gateways) -> None:
    made = gateways.watch_clip(gateways.one)
    stop_dead(gateways.one)
    try:
        wait_until(lambda: said(gateways.other, "session adopted", made.id), "adoption")
    finally:
        go_on(gateways.one)
    wait_until(lambda: said(gateways.one, "session left", made.id), "the old owner's insight")
    before = get(gateways.other, made.id)
    after = gateways.wait(
        gateways.one,  # which tells what the other one does
        made.id,
        lambda state: state.stats.frames_processed > before.stats.frames_processed + 8,
    )
    assert after.state == pb.SESSION_STATE_LIVE
    assert len(said(gateways.other, "session adopted", made.id)) == 1
    assert not said(gateways.other, "frame stream broke", made.id), "fed by two"


def test_publisher_and_viewer_leave_a_gateway_that_was_stopped_dead(gateways: Gateways) -> None:
    with published(gateways) as session, Asker(gateways, session.id) as asker:
        before = get(gateways.one, session.id)
        stop_dead(gateways.one)
        stopped_s = time.monotonic()
        try:
            asker.wait_for_more(2)
            answered_s = time.monotonic() - stopped_s
            gateways.wait(
                gateways.other,
                session.id,
                lambda state: (
                    state.state == pb.SESSION_STATE_LIVE
                    and state.stats.frames_processed > before.stats.frames_processed + 8
                ),
            )
            took_s = time.monotonic() - stopped_s
        finally:
            go_on(gateways.one)
        asker.wait_for_more(2)
    print(f"answered after {answered_s:.2f} s, published after {took_s:.2f} s")
    assert not asker.failures
    asker.check_history()
    assert answered_s < 10.0  # silence is noticed after three
    assert took_s < 15.0


def test_of_two_gateways_that_want_a_session_one_gets_it(gateways: Gateways) -> None:
    """Once with real gateways, and many times where they meet."""
    made = gateways.watch_clip(gateways.one)
    third = gateways.third()
    third.start()
    try:
        gateways.one.kill()

        def adopters() -> list[Any]:
            both = (gateways.other, third)
            return [each for at in both for each in said(at, "session adopted", made.id)]

        wait_until(adopters, "adoption")
        time.sleep(1.5)  # in which the other looks again, twice
        assert len(adopters()) == 1
        for at in (gateways.other, third):
            assert get(at, made.id).id == made.id
    finally:
        third.stop()
    asyncio.run(_race(gateways, made.id))


async def _race(gateways: Gateways, session: str) -> None:
    config = GatewayConfig(
        redis_url=gateways.redis.url, cluster_secret=SECRET, redis_timeout_s=REDIS_TIMEOUT_S
    )
    stores = [LeaseStore(config, owner=f"racer-{number}") for number in range(4)]
    for number, store in enumerate(stores):
        store.address = f"nowhere:{number}"
    fence = 0
    for _ in range(50):
        lease = await stores[0].get(session)
        assert lease is not None
        taken = await asyncio.gather(*(store.take(session, lease.fence) for store in stores))
        winners = {each.owner for each in taken if each is not None}
        if lease.owner.startswith("racer"):
            # The one that has it is told so; the others want it from that.
            assert len(winners - {lease.owner}) == 1
        else:
            assert len(winners) == 1
        now = await stores[0].get(session)
        assert now is not None
        assert now.fence > fence
        fence = now.fence
    for store in stores:
        await store.aclose()


def test_a_gateway_that_ends_hands_its_sessions_over(gateways: Gateways) -> None:
    with published(gateways) as session, Asker(gateways, session.id) as asker:
        source = gateways.watch_clip(gateways.one)
        before = get(gateways.one, session.id)
        gateways.one.stop()  # exit 0, or fails here
        asker.wait_for_more(3)
        after = gateways.wait(
            gateways.other,
            session.id,
            lambda state: state.stats.frames_processed > before.stats.frames_processed + 8,
        )
        asker.wait_for_more(1)
    assert not asker.failures
    assert "window_lost" not in after.stats.degraded
    asker.check_history()
    for each in (session.id, source.id):
        adopted = said(gateways.other, "session adopted", each)
        assert [one["resumed"] for one in adopted] == [True]
    assert get(gateways.other, source.id).state == pb.SESSION_STATE_LIVE


def test_an_owner_without_redis_has_a_session_until_another_took_it(gateways: Gateways) -> None:
    with Link(gateways.redis.port) as link, contextlib.ExitStack() as stack:
        third = gateways.third(GATEWAY_REDIS_URL=f"redis://127.0.0.1:{link.port}/0")
        third.start()
        stack.callback(third.stop)
        made = gateways.watch_clip(third)
        link.cut()
        before = get(third, made.id)
        adopted = wait_until(
            lambda: (
                said(gateways.other, "session adopted", made.id)
                or said(gateways.one, "session adopted", made.id)
            )
        )
        assert adopted[0]["resumed"]
        wait_until(lambda: said(third, "session left", made.id), "the old owner's insight")
        gateways.wait(
            gateways.other,
            made.id,
            lambda state: state.stats.frames_processed > before.stats.frames_processed + 8,
        )


def test_the_only_gateway_may_be_replaced(gateways: Gateways) -> None:
    gateways.other.stop()
    with published(gateways) as session, Asker(gateways, session.id) as asker:
        source = gateways.watch_clip(gateways.one)
        before = get(gateways.one, session.id)
        gateways.one.stop()
        gateways.one.restart()
        asker.wait_for_more(2)
        gateways.wait(
            gateways.one,
            session.id,
            lambda state: state.stats.frames_processed > before.stats.frames_processed + 8,
        )
        gateways.wait(gateways.one, source.id, lambda state: state.state == pb.SESSION_STATE_LIVE)
    assert not asker.failures
    asker.check_history()
    for each in (session.id, source.id):
        assert said(gateways.one, "session adopted", each)[-1]["resumed"]


def test_while_redis_is_away_sessions_go_on(gateways: Gateways) -> None:
    made = gateways.watch_clip(gateways.one)
    gateways.redis.kill()
    try:
        time.sleep(4.5)  # longer than a lease
        before = get(gateways.one, made.id)
        assert before.state == pb.SESSION_STATE_LIVE
        assert ask(gateways.one, made.id).text
        new = gateways.create(gateways.one, options=pb.SessionOptions(name="in the dark"))
        unknown = refusal(lambda: get(gateways.other, made.id))
        assert unknown == ("UNAVAILABLE", "SESSIONS_AWAY")
    finally:
        gateways.redis.start()
    gateways.wait(gateways.other, made.id, lambda state: state.state == pb.SESSION_STATE_LIVE)
    gateways.wait(gateways.other, new.id, lambda state: state.name == "in the dark")
    time.sleep(3.0)  # the others have settled, and would take what was not renewed
    assert not said(gateways.one, "session left", made.id)
    assert get(gateways.one, made.id).stats.frames_processed > before.stats.frames_processed


# --- any gateway --------------------------------------------------------------------------------


def test_any_gateway_answers_about_any_session(gateways: Gateways) -> None:
    made = gateways.watch_clip(gateways.one, name="lobby")
    other = stub(gateways.other)
    assert get(gateways.other, "lobby").id == made.id
    listed = other.ListSessions(pb.ListSessionsRequest(), timeout=10).sessions
    assert made.id in [each.id for each in listed]
    answer = ask(gateways.other, "lobby")
    assert answer.frames_seen == WINDOW
    assert 0 < answer.newest_frame_age_ms < 3000
    changed = other.UpdateSession(pb.UpdateSessionRequest(session=made.id, fps=4), timeout=10)
    assert changed.fps == 4
    assert get(gateways.one, made.id).fps == 4
    delegated = pb.UpdateSessionRequest(
        session=made.id, delegate=pb.DELEGATE_MODE_ALWAYS, delegate_to=made.model
    )
    other.UpdateSession(delegated, timeout=10)
    assert get(gateways.one, made.id).delegate_to == made.model
    for gateway in (gateways.one, gateways.other):  # one has the pictures, the other asks for them
        told = ask(gateway, "lobby")
        assert (told.answered_by, list(told.degraded)) == (made.model, [])
    delegated.delegate = pb.DELEGATE_MODE_NEVER
    other.UpdateSession(delegated, timeout=10)
    assert not ask(gateways.other, "lobby").answered_by
    with sightline.connect(gateways.other.address) as client:
        watch = client.session("lobby").watch("a circle is there", interval_s=0.2)
        assert watch.next(timeout_s=20) is not None
        watch.close()
    pages = f"http://127.0.0.1:{gateways.other.http_port}/api/sessions/lobby"
    with urllib.request.urlopen(f"{pages}/preview.jpg?width=64", timeout=10) as reply:
        assert reply.read(2) == b"\xff\xd8"
    wanted = pb.GetTranscriptRequest(session="lobby")
    deaf = refusal(lambda: other.GetTranscript(wanted, timeout=10))
    assert deaf == ("FAILED_PRECONDITION", "NOT_LISTENING")  # as its owner says
    told = asyncio.run(_over_websocket(f"{pages}/converse"))
    assert {"started", "session_state", "answer_done"} <= told
    taken = pb.CreateSessionRequest(push=pb.Push(), options=pb.SessionOptions(name="lobby"))
    assert refusal(lambda: other.CreateSession(taken, timeout=10)) == (
        "ALREADY_EXISTS",
        "NAME_TAKEN",
    )
    other.DeleteSession(pb.DeleteSessionRequest(session=made.id), timeout=10)
    gone = ("NOT_FOUND", "SESSION_NOT_FOUND")
    assert refusal(lambda: get(gateways.one, made.id)) == gone
    wait_until(lambda: refusal(lambda: get(gateways.other, made.id)) == gone)


async def _over_websocket(url: str) -> set[str]:
    """Kinds of events of a page's viewer who asks one question, until it is answered."""
    told: set[str] = set()
    async with aiohttp.ClientSession() as client, client.ws_connect(url) as socket:
        await socket.send_json({"start": {}})
        await socket.send_json({"ask": {"turn": "t1", "text": "what is in the scene"}})
        async with asyncio.timeout(30):
            while not {"answer_done", "session_state"} <= told:
                told |= set(await socket.receive_json())
    return told


@pytest.mark.skipif(not get_host_addresses(True, True), reason="ICE needs an address")
async def test_any_gateway_shows_the_video_and_the_recording_of_any_session(
    gateways: Gateways,
) -> None:
    owner = gateways.third(GATEWAY_RECORDING_S="60", GATEWAY_PEER_PORT=str(free_port()))
    await asyncio.to_thread(owner.start)
    clip = write_tone(gateways.folder / "tone.mp4", seconds=3, tone=1)
    made = gateways.create(owner, source=clip.name, options=pb.SessionOptions(loop=True))
    base = f"http://127.0.0.1:{gateways.one.http_port}"
    async with Watcher(base) as first, Watcher(base) as second, aiohttp.ClientSession() as http:
        await first.watch(made.id, sound=True)
        await eventually(lambda: len(first.pictures) > 10 and len(first.sounds) > 20)
        assert first.pictures[-1][1:] == (160, 120)
        await second.watch(made.id)
        await eventually(lambda: len(second.pictures) > 10)
        async with http.get(f"{base}/api/sessions/{made.id}/recording?from=-60") as reply:
            assert reply.status == 200, await reply.text()
            seen = io.BytesIO(await reply.read())
            length_s = float(reply.headers["Sightline-To"]) - float(reply.headers["Sightline-From"])
        with av.open(seen) as container:
            pictures = list(container.decode(video=0))
            assert (pictures[0].width, pictures[0].height) == (160, 120)
            assert pictures[-1].time == pytest.approx(length_s, abs=0.2)
        async with http.get(f"{base}/api/sessions/{made.id}/hls/index.m3u8") as reply:
            assert (await reply.text()).startswith("#EXTM3U"), reply.status
        async with http.get(f"{base}/api/sessions/{made.id}/hls/9.m4s") as reply:
            assert reply.status == 404
        await asyncio.to_thread(owner.stop)  # it hands the session over
        shown = len(second.pictures)  # it goes on, unless this gateway has the session now
        await eventually(lambda: second.ended or len(second.pictures) > shown + 5)
        async with Watcher(base) as again:
            await again.watch(made.id)
            await eventually(lambda: len(again.pictures) > 10)


def test_a_publisher_may_come_to_any_gateway(gateways: Gateways) -> None:
    made = gateways.create(gateways.one)
    port = gateways.rtmp_ports[gateways.other.environment["GATEWAY_PEER_PORT"]]
    with sightline.connect(gateways.one.address) as client:
        conversation = client.session(made.id).conversation()
        with RtmpPublisher(gateways.clip.path, f"rtmp://127.0.0.1:{port}/live/{made.key}"):
            gateways.wait(
                gateways.one, made.id, lambda state: state.stats.frames_processed >= WINDOW
            )
            assert said(gateways.one, "session left", made.id)
            assert said(gateways.other, "session adopted", made.id)
            assert conversation.ask("what is in the scene").result().frames_seen == WINDOW
            # Nobody else may publish meanwhile, wherever they come.
            opening = pb.PushFramesRequest(open=pb.PushOpen(session=made.id, key=made.key))
            busy = refusal(lambda: list(stub(gateways.one).PushFrames(iter([opening]))))
            assert busy == ("FAILED_PRECONDITION", "PUBLISHER_PRESENT")
    opening.open.key = "not-the-key"
    wrong = refusal(lambda: list(stub(gateways.one).PushFrames(iter([opening]))))
    assert wrong == ("UNAUTHENTICATED", "WRONG_KEY")


@pytest.mark.parametrize("metadata", [(), (("sightline-peer", "0 0"),), (("sightline-peer", ""),)])
def test_strangers_may_not_call_as_gateways(gateways: Gateways, metadata: Any) -> None:
    made = gateways.create(gateways.one)
    port = gateways.one.environment["GATEWAY_PEER_PORT"]
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        peer = peer_pb2_grpc.PeerServiceStub(channel)
        service = peer_pb2.DESCRIPTOR.services_by_name["PeerService"]
        for method in service.methods:
            request = getattr(pb, method.input_type.name, None) or getattr(
                peer_pb2, method.input_type.name
            )
            call = getattr(peer, method.name)
            if method.server_streaming:
                call = lambda *asked, call=call, **named: list(call(*asked, **named))  # noqa: E731
            code, _ = refusal(
                lambda call=call, request=request: call(
                    request(session=made.id), metadata=metadata, timeout=10
                )
            )
            assert code == "UNAUTHENTICATED", method.name
    assert get(gateways.one, made.id).id == made.id
