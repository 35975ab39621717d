"""Dialogue as its own process in front of a real Redis that is killed, filled and frozen."""

import json
import signal
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
import redis

from services.local.wiring import PREFIXES
from sightline.v1 import dialogue_pb2 as pb
from sightline.v1 import dialogue_pb2_grpc
from tests.eventually import wait_until
from tests.garbage import throw_at_methods, throw_at_port
from tests.processes import RedisServer, ServiceProcess, free_port

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
INVALID = grpc.StatusCode.INVALID_ARGUMENT
NOT_FOUND = grpc.StatusCode.NOT_FOUND

Started = tuple[ServiceProcess, dialogue_pb2_grpc.DialogueServiceStub]
Start = Callable[..., Started]


@pytest.fixture
def dialogue(
    redis_server: RedisServer, service_process: Callable[..., ServiceProcess]
) -> Iterator[Start]:
    """`dialogue(MAX_ROUNDS=5)`: the service, and a stub for it."""
    channels = []

    def start(**settings: object) -> Started:
        environment = {f"DIALOGUE_{name}": value for name, value in settings.items()}
        process = service_process(
            "dialogue", **{"DIALOGUE_REDIS_URL": redis_server.url, **environment}
        )
        channel = grpc.insecure_channel(process.address)
        channels.append(channel)
        return process, dialogue_pb2_grpc.DialogueServiceStub(channel)

    yield start
    for channel in channels:
        channel.close()


def _append(stub: Any, conversation: str, turn: str, answer: str = "yes", **options: Any) -> Any:
    round_ = pb.Round(turn=turn, question=f"question {turn}", answer=answer, capture_ns=7)
    request = pb.AppendRequest(conversation=conversation, round=round_)
    return stub.Append(request, timeout=10, **options)


def _turns(stub: Any, conversation: str) -> list[str]:
    found: list[str] = []
    while True:
        request = pb.HistoryRequest(conversation=conversation, offset=len(found))
        page = stub.History(request, timeout=10)
        found += [round_.turn for round_ in page.rounds]
        if not page.rounds or len(found) >= page.total:
            return found


def _code(call: Callable[..., Any], *arguments: Any, **options: Any) -> grpc.StatusCode:
    with pytest.raises(grpc.RpcError) as caught:
        call(*arguments, **options)
    code = caught.value.code()  # type: ignore[attr-defined]
    assert isinstance(code, grpc.StatusCode)
    return code


def _when_available(call: Callable[[], Any], timeout_s: float = 30) -> Any:
    """The first result that is not an UNAVAILABLE."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            return call()
        except grpc.RpcError as error:
            if error.code() is not UNAVAILABLE or time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def _metric(process: ServiceProcess, name: str) -> float:
    with urllib.request.urlopen(f"http://127.0.0.1:{process.metrics_port}/metrics") as page:
        for line in page.read().decode().splitlines():
            if line.startswith(f"{name} "):
                return float(line.split()[1])
    raise AssertionError(f"no {name}")


def _unready(process: ServiceProcess) -> str:
    """Why nobody should be sent there; "" where it is ready."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{process.metrics_port}/readyz") as page:
            found: dict[str, Any] = json.load(page)
    except urllib.error.HTTPError as error:
        found = json.load(error)
    assert found["ready"] == (not found["reason"])
    return str(found["reason"])


def test_rounds_stay_in_order_and_bounded_and_count_once(dialogue: Start) -> None:
    _, stub = dialogue(MAX_ROUNDS=25)
    opened = stub.Open(pb.OpenConversationRequest(session="s"), timeout=10)
    assert opened.id
    assert (opened.rounds, opened.session) == (0, "s")
    for number in range(40):
        reply = _append(stub, opened.id, f"t{number}")
        assert (reply.rounds, reply.duplicate) == (min(number + 1, 25), False)
    again = _append(stub, opened.id, "t39", answer="another")
    assert (again.rounds, again.duplicate) == (25, True)
    assert _turns(stub, opened.id) == [f"t{number}" for number in range(15, 40)]

    context = stub.Context(pb.ContextRequest(conversation=opened.id), timeout=10).rounds
    assert [round_.turn for round_ in context] == [f"t{number}" for number in range(30, 40)]
    assert context[-1].answer == "yes"
    assert context[-1].capture_ns == 7
    three = stub.Context(pb.ContextRequest(conversation=opened.id, rounds=3), timeout=10).rounds
    assert [round_.turn for round_ in three] == ["t37", "t38", "t39"]
    every = stub.Context(pb.ContextRequest(conversation=opened.id, rounds=10**9), timeout=10)
    assert len(every.rounds) == 25

    page = stub.History(pb.HistoryRequest(conversation=opened.id, offset=20, limit=3), timeout=10)
    assert ([round_.turn for round_ in page.rounds], page.total) == (["t35", "t36", "t37"], 25)
    beyond = stub.History(pb.HistoryRequest(conversation=opened.id, offset=99), timeout=10)
    assert (list(beyond.rounds), beyond.total) == ([], 25)
    living = stub.Open(pb.OpenConversationRequest(id=opened.id, session="other"), timeout=10)
    assert (living.rounds, living.session, living.created_ns) == (25, "s", opened.created_ns)


def test_of_a_turn_the_last_whole_answer_is_kept(dialogue: Start) -> None:
    _, stub = dialogue()
    stub.Open(pb.OpenConversationRequest(id="c"), timeout=10)

    def append(turn: str, answer: str, asked_ns: int, **flags: bool) -> bool:
        round_ = pb.Round(turn=turn, question="q", answer=answer, asked_ns=asked_ns, **flags)
        request = pb.AppendRequest(conversation="c", round=round_)
        return bool(stub.Append(request, timeout=10).duplicate)

    def kept() -> list[tuple[str, str]]:
        request = pb.ContextRequest(conversation="c")
        return [(each.turn, each.answer) for each in stub.Context(request, timeout=10).rounds]

    assert not append("t0", "zero", 10)
    assert not append("t1", "cut", 20, interrupted=True)
    assert not append("t2", "two", 30)
    assert append("t1", "cut again", 21, interrupted=True), "heard later"
    assert kept() == [("t0", "zero"), ("t1", "cut again"), ("t2", "two")]
    assert append("t1", "whole", 20)
    assert append("t1", "cut once more", 25, interrupted=True), "replaces no whole one"
    assert kept() == [("t0", "zero"), ("t1", "whole"), ("t2", "two")]
    assert append("t1", "made anew", 24)
    assert append("t1", "whole", 20), "the first comes late"
    assert append("t1", "made anew", 24)
    assert kept() == [("t0", "zero"), ("t1", "made anew"), ("t2", "two")]
    assert append("t1", "made", 24, interrupted=True, cut=True), "somebody spoke into it"
    assert append("t1", "made anew", 26), "a whole one that comes late"
    assert kept() == [("t0", "zero"), ("t1", "made"), ("t2", "two")]


def test_rounds_stand_in_the_order_of_asking_whenever_they_come(
    dialogue: Start, redis_server: RedisServer
) -> None:
    _, stub = dialogue(MAX_ROUNDS=6)
    stub.Open(pb.OpenConversationRequest(id="c"), timeout=10)

    def append(number: int) -> bool:
        round_ = pb.Round(turn=f"t{number}", question="q", answer="a", asked_ns=number + 1)
        request = pb.AppendRequest(conversation="c", round=round_)
        return bool(stub.Append(request, timeout=10).duplicate)

    for number in (3, 1, 2, 0, 5, 4):
        assert not append(number)
    assert _turns(stub, "c") == [f"t{number}" for number in range(6)]
    assert all(append(number) for number in range(6)), "each is found where it is now"
    for number in (8, 7, 6):
        append(number)
    assert _turns(stub, "c") == [f"t{number}" for number in range(3, 9)]
    with redis.Redis.from_url(redis_server.url) as client:
        fields = client.hkeys("sightline:dialogue:c")
    assert len(fields) == 4 + 2 * 6, "nothing is left of what was trimmed"


def test_conversations_of_an_earlier_release_go_on(
    dialogue: Start, redis_server: RedisServer
) -> None:
    """Their turns have no rank."""
    _, stub = dialogue()
    stub.Open(pb.OpenConversationRequest(id="c"), timeout=10)
    old = pb.Round(turn="old", question="q", answer="a", asked_ns=7)
    with redis.Redis.from_url(redis_server.url) as client:
        value = b"old\0" + old.SerializeToString()
        client.hset("sightline:dialogue:c", mapping={"r:0": value, "t:old": 0, "next": 1})
    assert not _append(stub, "c", "new").duplicate
    assert _append(stub, "c", "old").duplicate
    assert _turns(stub, "c") == ["old", "new"]


def test_pages_by_number_neither_repeat_nor_skip_while_rounds_come_and_go(dialogue: Start) -> None:
    _, stub = dialogue(MAX_ROUNDS=10)
    opened = stub.Open(pb.OpenConversationRequest(session="s"), timeout=10)
    for number in range(12):
        _append(stub, opened.id, f"t{number}")

    def page(number: int) -> pb.HistoryResponse:
        request = pb.HistoryRequest(conversation=opened.id, from_round=number, limit=3)
        return stub.History(request, timeout=10)

    first = page(0)
    assert [each.turn for each in first.rounds] == ["t2", "t3", "t4"]
    assert (first.first, first.end, first.total) == (2, 12, 10)
    assert (first.conversation.id, first.conversation.session) == (opened.id, "s")
    assert first.conversation.rounds == 10
    assert 0 < first.conversation.expires_in_s <= opened.expires_in_s
    _append(stub, opened.id, "t12")  # the oldest goes
    assert [each.turn for each in page(5).rounds] == ["t5", "t6", "t7"]
    end = page(13)
    assert (list(end.rounds), end.end) == ([], 13)
    assert list(page(2**63).rounds) == []
    unknown = pb.HistoryRequest(conversation="none", from_round=0)
    assert _code(stub.History, unknown, timeout=10) is NOT_FOUND


def test_delete_leaves_no_key_and_only_takes_its_own(
    dialogue: Start, redis_server: RedisServer
) -> None:
    _, stub = dialogue()
    for name in ("a", "b"):
        stub.Open(pb.OpenConversationRequest(id=name), timeout=10)
        for number in range(30):
            _append(stub, name, f"{name}{number}")
    delete = pb.DeleteConversationRequest(conversation="a")
    assert stub.Delete(delete, timeout=10).existed
    assert not stub.Delete(delete, timeout=10).existed
    with redis.Redis.from_url(redis_server.url) as client:
        left = list(client.scan_iter("*"))
    assert sorted(key.rpartition(b":")[0] for key in left) == [
        b"sightline:conversation-gone",
        b"sightline:dialogue",
    ]
    assert b"sightline:dialogue:b" in left
    assert _code(stub.Context, pb.ContextRequest(conversation="a"), timeout=10) is NOT_FOUND
    assert _code(_append, stub, "a", "late") is NOT_FOUND
    assert len(_turns(stub, "b")) == 30
    assert stub.Delete(pb.DeleteConversationRequest(conversation="b"), timeout=10).existed
    with redis.Redis.from_url(redis_server.url) as client:
        left = list(client.scan_iter("*"))
        assert all(key.startswith(b"sightline:conversation-gone:") for key in left)
        assert all(0 < client.ttl(key) <= 3600 for key in left)


def test_time_to_live_starts_anew_with_every_write_and_opening(
    dialogue: Start, redis_server: RedisServer
) -> None:
    _, stub = dialogue(TTL_S=1000)
    stub.Open(pb.OpenConversationRequest(id="c"), timeout=10)
    with redis.Redis.from_url(redis_server.url) as client:
        (key,) = client.scan_iter("*")
        for renew in (
            lambda: _append(stub, "c", "t"),
            lambda: _append(stub, "c", "t"),
            lambda: stub.Open(pb.OpenConversationRequest(id="c"), timeout=10),
        ):
            client.expire(key, 5)
            renew()
            assert 990 < client.ttl(key) <= 1000
        client.expire(key, 5)
        stub.Context(pb.ContextRequest(conversation="c"), timeout=10)
        assert client.ttl(key) <= 5  # reading alone keeps nothing alive
        client.pexpire(key, 1)
        time.sleep(0.01)
    assert _code(stub.Context, pb.ContextRequest(conversation="c"), timeout=10) is NOT_FOUND


def test_appends_from_everywhere_at_once_are_atomic(dialogue: Start) -> None:
    _, stub = dialogue(MAX_ROUNDS=1000)
    stub.Open(pb.OpenConversationRequest(id="c"), timeout=10)
    turns = [f"t{number}" for number in range(200)] * 3  # every turn three times, side by side
    with ThreadPoolExecutor(16) as pool:
        replies = list(pool.map(lambda turn: _append(stub, "c", turn), turns))
    assert sum(not reply.duplicate for reply in replies) == 200
    assert sorted(_turns(stub, "c")) == sorted(set(turns))


@pytest.mark.parametrize("count", [200, pytest.param(2000, marks=pytest.mark.slow)])
def test_thousands_of_conversations_keep_apart(dialogue: Start, count: int) -> None:
    _, stub = dialogue()

    def talk(number: int) -> list[str]:
        name = f"c{number}"
        stub.Open(pb.OpenConversationRequest(id=name), timeout=30)
        _append(stub, name, f"{name}-1")
        _append(stub, name, f"{name}-2")
        reply = stub.Context(pb.ContextRequest(conversation=name), timeout=30)
        return [round_.turn for round_ in reply.rounds]

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(talk, range(count)))
    assert found == [[f"c{number}-1", f"c{number}-2"] for number in range(count)]


def test_redis_killed_while_appending(dialogue: Start, redis_server: RedisServer) -> None:
    process, stub = dialogue(MAX_ROUNDS=1000, REDIS_CHECK_S=0.1)
    stub.Open(pb.OpenConversationRequest(id="c"), timeout=10)
    acknowledged: list[str] = []
    refused: set[grpc.StatusCode] = set()
    enough = threading.Event()
    stop = threading.Event()

    def append_all_the_time() -> None:
        number = 0
        while not stop.is_set():
            turn = f"t{number}"
            try:
                _append(stub, "c", turn)
            except grpc.RpcError as error:
                refused.add(error.code())  # the same turn is tried again
                time.sleep(0.01)
                continue
            acknowledged.append(turn)
            number += 1
            if number == 50:
                enough.set()

    writer = threading.Thread(target=append_all_the_time)
    writer.start()
    try:
        assert enough.wait(30)
        redis_server.kill()
        with pytest.raises(grpc.RpcError) as caught:
            stub.Context(pb.ContextRequest(conversation="c"), timeout=10)
        assert caught.value.code() is UNAVAILABLE  # type: ignore[attr-defined]
        assert "Redis" in caught.value.details()  # type: ignore[attr-defined]
        wait_until(lambda: _metric(process, "sightline_dialogue_redis_up") == 0)
        assert process.serving()
        before = len(acknowledged)
        redis_server.start()
        wait_until(lambda: len(acknowledged) >= before + 50)
    finally:
        stop.set()
        writer.join(20)
    assert refused == {UNAVAILABLE}
    assert _turns(stub, "c") == acknowledged  # nothing lost, nothing twice, nothing out of order
    messages = [entry["message"] for entry in process.log_entries()]
    assert "degraded: redis is away" in messages
    assert messages.index("redis answers") < messages.index("degraded: redis is away")


def test_redis_away_from_the_start(dialogue: Start, redis_server: RedisServer) -> None:
    redis_server.kill()
    process, stub = dialogue(REDIS_CHECK_S=0.1)
    request = pb.OpenConversationRequest(id="c")
    assert _code(stub.Open, request, timeout=10) is UNAVAILABLE
    assert process.serving()
    assert _metric(process, "sightline_dialogue_redis_up") == 0
    assert "redis" in _unready(process)
    redis_server.start()
    assert _when_available(lambda: stub.Open(request, timeout=10)).id == "c"
    wait_until(lambda: _metric(process, "sightline_dialogue_redis_up") == 1)
    assert _unready(process) == ""


def test_dialogue_killed_and_started_again(dialogue: Start) -> None:
    process, stub = dialogue()
    stub.Open(pb.OpenConversationRequest(id="c", session="s"), timeout=10)
    for number in range(7):
        _append(stub, "c", f"t{number}")
    process.kill()
    assert _code(stub.Context, pb.ContextRequest(conversation="c"), timeout=10) is UNAVAILABLE
    process.restart()
    assert _when_available(lambda: _turns(stub, "c")) == [f"t{number}" for number in range(7)]
    assert _append(stub, "c", "t6").duplicate
    assert _append(stub, "c", "t7").rounds == 8


def test_a_password_comes_from_a_file_and_is_in_no_text(
    dialogue: Start, redis_server: RedisServer, tmp_path: Path
) -> None:
    password = "open-sesame-7"
    file = tmp_path / "password"
    file.write_text(f"{password}\n")
    with redis.Redis.from_url(redis_server.url) as client:
        client.config_set("requirepass", password)
        process, stub = dialogue(REDIS_PASSWORD_FILE=file, LOG_LEVEL="debug")
        stub.Open(pb.OpenConversationRequest(id="c"), timeout=10)
        assert _append(stub, "c", "t0").rounds == 1
        with_url = redis_server.url.replace("//", f"//:{password}@")
        other, stub = dialogue(REDIS_URL=with_url, LOG_LEVEL="debug")
        assert _append(stub, "c", "t1").rounds == 2
        client.config_set("requirepass", "changed")
        client.client_kill_filter(skipme=True)
        for each in (other, process):
            wait_until(lambda each=each: _metric(each, "sightline_dialogue_redis_up") == 0)
            wait_until(lambda each=each: "refuses our credentials" in each.log())
            assert password not in each.log()
        client.config_set("requirepass", "")


def test_redis_out_of_memory_refuses_writes_whole_and_still_reads(
    dialogue: Start, redis_server: RedisServer
) -> None:
    process, stub = dialogue()
    stub.Open(pb.OpenConversationRequest(id="c"), timeout=10)
    _append(stub, "c", "before")
    with redis.Redis.from_url(redis_server.url) as client:
        client.config_set("maxmemory", "1")
        full = grpc.StatusCode.RESOURCE_EXHAUSTED
        assert _code(_append, stub, "c", "during") is full
        assert _code(stub.Open, pb.OpenConversationRequest(id="new"), timeout=10) is full
        assert _turns(stub, "c") == ["before"]
        assert process.serving()
        client.config_set("maxmemory", "0")
        assert not client.exists("sightline:dialogue:new")
    assert not _append(stub, "c", "during").duplicate
    assert _turns(stub, "c") == ["before", "during"]


def test_what_is_deleted_is_gone_also_from_a_redis_that_is_full(
    dialogue: Start, redis_server: RedisServer
) -> None:
    """And stays gone: what was on its way is kept away when there is room again."""
    _, stub = dialogue()
    for conversation, session in (("one", "s"), ("two", "s"), ("alone", "")):
        stub.Open(pb.OpenConversationRequest(id=conversation, session=session), timeout=10)
        _append(stub, conversation, "said")
    rated = pb.RateTurnRequest(conversation="one", turn="said", rating=pb.RATING_UP)
    stub.RateTurn(rated, timeout=10)
    kept = pb.KeepMomentRequest(session="s", moment=_moment(1, picture=b"jpeg"))
    stub.KeepMoment(kept, timeout=10)
    with redis.Redis.from_url(redis_server.url) as client:
        client.config_set("maxmemory", "1")
        rated.rating = pb.RATING_UNSPECIFIED  # it is taken back
        stub.RateTurn(rated, timeout=10)
        (said,) = stub.History(pb.HistoryRequest(conversation="one"), timeout=10).rounds
        assert said.rating == pb.RATING_UNSPECIFIED
        stub.ForgetMoments(pb.ForgetMomentsRequest(session="s"), timeout=10)
        assert stub.Delete(pb.DeleteConversationRequest(conversation="alone"), timeout=10).existed
        deleted = stub.DeleteOfSession(pb.DeleteOfSessionRequest(session="s"), timeout=10)
        assert deleted.conversations == 2
        client.config_set("maxmemory", "0")
        assert stub.KeepMoment(kept, timeout=10).left_out
        assert all("-gone:" in key.decode() for key in client.scan_iter())


def test_redis_that_cannot_write_to_disk(dialogue: Start, redis_server: RedisServer) -> None:
    _, stub = dialogue()
    stub.Open(pb.OpenConversationRequest(id="c"), timeout=10)
    gone = redis_server.folder / "gone"
    gone.mkdir()
    with redis.Redis.from_url(redis_server.url) as client:
        client.config_set("save", "3600 1")
        client.config_set("dir", str(gone))
        gone.rmdir()
        client.bgsave()
        wait_until(lambda: client.info("persistence")["rdb_last_bgsave_status"] == "err")
        with pytest.raises(grpc.RpcError, match="disk") as caught:
            _append(stub, "c", "t")
        assert caught.value.code() is UNAVAILABLE  # type: ignore[attr-defined]
        client.config_set("stop-writes-on-bgsave-error", "no")
    assert _append(stub, "c", "t").rounds == 1


def test_redis_turned_into_a_replica(dialogue: Start, redis_server: RedisServer) -> None:
    _, stub = dialogue()
    stub.Open(pb.OpenConversationRequest(id="c"), timeout=10)
    with redis.Redis.from_url(redis_server.url) as client:
        client.replicaof("127.0.0.1", str(free_port()))
        with pytest.raises(grpc.RpcError, match="read-only") as caught:
            _append(stub, "c", "t")
        assert caught.value.code() is UNAVAILABLE  # type: ignore[attr-defined]
        client.replicaof("NO", "ONE")
    assert _append(stub, "c", "t").rounds == 1


def test_a_frozen_redis_costs_callers_the_timeout_and_no_more(
    dialogue: Start, redis_server: RedisServer
) -> None:
    process, stub = dialogue(REDIS_TIMEOUT_S=1.0, REDIS_CONNECTIONS=4)
    _when_available(lambda: stub.Open(pb.OpenConversationRequest(id="c"), timeout=10))
    assert redis_server.process is not None
    redis_server.process.send_signal(signal.SIGSTOP)
    try:
        started = time.monotonic()
        with ThreadPoolExecutor(12) as pool:  # three times as many as there are connections
            calls = [pool.submit(_code, _append, stub, "c", f"t{number}") for number in range(12)]
            assert {call.result() for call in calls} == {UNAVAILABLE}
        assert time.monotonic() - started < 9  # one after the other they would take twelve
        assert process.serving()
    finally:
        redis_server.process.send_signal(signal.SIGCONT)
    assert _when_available(lambda: _append(stub, "c", "after")).rounds >= 1
    assert "after" in _turns(stub, "c")


def test_absurd_requests_are_refused_clearly(dialogue: Start) -> None:
    _, stub = dialogue(MAX_ANSWER_BYTES=1000)
    stub.Open(pb.OpenConversationRequest(id="c"), timeout=10)

    def append(conversation: str = "c", **fields: Any) -> Any:
        round_ = pb.Round(**({"turn": "t", "question": "q", "answer": "a"} | fields))
        request = pb.AppendRequest(conversation=conversation, round=round_)
        return stub.Append(request, timeout=10)

    for name in ("", "a b", "x" * 129, "*", "é", "a\n"):
        assert _code(append, name) is INVALID
    assert _code(stub.Open, pb.OpenConversationRequest(id="a b"), timeout=10) is INVALID
    session = pb.OpenConversationRequest(session="s" * 129)
    assert _code(stub.Open, session, timeout=10) is INVALID
    assert _code(append, turn="") is INVALID
    assert _code(append, turn="t\0t") is INVALID
    assert _code(append, question="") is INVALID
    assert _code(append, question="q" * 1_000_000) is INVALID
    assert _code(append, answer="é" * 501) is INVALID
    assert _code(append, turn="é") is INVALID
    assert append(turn="t" * 128, answer="é" * 500, question="q" * 4096).rounds == 1
    assert append(turn="t2", answer="").rounds == 2  # an interrupted answer may be empty


def test_long_answers_come_by_shorter_pages(dialogue: Start) -> None:
    _, stub = dialogue(MAX_ANSWER_BYTES=1_000_000, REDIS_TIMEOUT_S=10)
    stub.Open(pb.OpenConversationRequest(id="c"), timeout=10)
    for number in range(6):
        _append(stub, "c", f"t{number}", answer="x" * 900_000)
    context = stub.Context(pb.ContextRequest(conversation="c"), timeout=10)
    assert [round_.turn for round_ in context.rounds] == ["t4", "t5"]
    assert _turns(stub, "c") == [f"t{number}" for number in range(6)]


def test_garbage_disturbs_nobody(dialogue: Start) -> None:
    process, stub = dialogue()
    stub.Open(pb.OpenConversationRequest(id="c"), timeout=10)
    throw_at_port(process.grpc_port, seed=1)
    throw_at_port(process.http_port, seed=2)
    service = "/sightline.v1.DialogueService/"
    methods = [service + name for name in ("Open", "Context", "Append", "History", "Delete")]
    assert throw_at_methods(process.address, methods, seed=3) == {INVALID}
    assert throw_at_methods(process.address, [service + "Nothing"], seed=4) == {
        grpc.StatusCode.UNIMPLEMENTED
    }
    assert process.serving()
    assert _append(stub, "c", "t").rounds == 1
    assert _metric(process, "sightline_dialogue_redis_up") == 1
    assert "Traceback" not in process.log()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DIALOGUE_REDIS_URL", "http://user:secret@host"),
        ("DIALOGUE_TTL_S", "0"),
        ("DIALOGUE_MAX_ROUNDS", "many"),
    ],
)
def test_bad_configuration_is_named_and_ends_with_2(name: str, value: str, tmp_path: Path) -> None:
    said = _refused({name: value}, tmp_path)
    assert name in said
    assert "secret" not in said


def test_a_taken_port_is_named(dialogue: Start, tmp_path: Path) -> None:
    process, _ = dialogue()
    said = _refused({f"{PREFIXES['dialogue']}GRPC_PORT": str(process.grpc_port)}, tmp_path)
    assert "DIALOGUE_GRPC_PORT" in said
    assert str(process.grpc_port) in said


def _refused(settings: dict[str, str], folder: Path) -> str:
    """What a service says that ends with 2, for settings that it cannot have."""
    settings = {"DIALOGUE_REDIS_URL": "redis://127.0.0.1:1/0", **settings}
    service = ServiceProcess("dialogue", settings, folder)
    service.spawn()
    assert service.process is not None
    assert service.process.wait(30) == 2, service.log()
    return service.log()


def _moment(number: int, *, every_s: int = 15, picture: bytes = b"") -> pb.Moment:
    start_ns = (1_800_000_000 + number * every_s) * 1_000_000_000
    return pb.Moment(
        start_ns=start_ns,
        end_ns=start_ns + every_s * 1_000_000_000,
        line=f"line {number}",
        pictures=[picture] if picture else [],
    )


def test_moments_are_listed_bounded_and_erased(dialogue: Start, redis_server: RedisServer) -> None:
    _, stub = dialogue(MEMORY_BYTES_PER_HOUR=20_000, MEMORY_S=7200)

    def keep(moment: pb.Moment, session: str = "s") -> pb.KeepMomentResponse:
        return stub.KeepMoment(pb.KeepMomentRequest(session=session, moment=moment), timeout=10)

    def listed(**options: Any) -> list[pb.Moment]:
        request = pb.ListMomentsRequest(session="s", **options)
        return list(stub.ListMoments(request, timeout=10).moments)

    # Pictures are left out once an hour has its bytes, then moments, and the next hour has its own
    replies = [keep(_moment(n, picture=bytes(2000))) for n in range(30)]
    assert not replies[0].pictures_left_out
    assert replies[-1].pictures_left_out
    assert not replies[-1].left_out
    assert sum(reply.stored_bytes for reply in replies) <= 20_000
    assert keep(_moment(250, picture=bytes(2000))).stored_bytes > 2000
    assert keep(_moment(250)).stored_bytes == 0, "once"
    refused = pb.KeepMomentRequest(session="s", moment=_moment(251, picture=bytes(300_000)))
    with pytest.raises(grpc.RpcError) as caught:
        stub.KeepMoment(refused, timeout=10)
    assert caught.value.code() is INVALID

    # Read: the newest first, by times, by pages, one alone, with pictures
    moments = listed()
    assert [moment.line for moment in moments[:2]] == ["line 250", "line 29"]
    assert [moment.num_pictures for moment in moments[:2]] == [1, 0]
    assert not moments[0].pictures
    times = {"from_ns": _moment(3).start_ns, "to_ns": _moment(5).start_ns}
    assert [moment.line for moment in listed(**times)] == ["line 4", "line 3"]
    assert [moment.line for moment in listed(limit=1, **times)] == ["line 4"]
    pages = [listed(limit=20), listed(limit=20, before=listed(limit=20)[-1].id)]
    assert [each.id for page in pages for each in page] == [each.id for each in moments]
    (alone,) = listed(id=moments[-1].id, pictures=True)
    assert (alone.line, len(alone.pictures[0])) == ("line 0", 2000)

    # What is older than is kept leaves with the next, and all of it is the session's
    keep(_moment(600))
    assert [moment.line for moment in listed()] == ["line 600", "line 250"]
    with redis.Redis.from_url(redis_server.url) as client:
        assert len(client.hgetall("sightline:memory-pictures:s")) == 1 + 2  # and the hour's count
        assert 0 < client.ttl("sightline:memory:s") <= 7200
        stub.ForgetMoments(pb.ForgetMomentsRequest(session="s"), timeout=10)
        assert keep(_moment(601)).left_out, "it was on its way"
        assert listed() == []
        assert client.exists("sightline:memory:s", "sightline:memory-pictures:s") == 0
        assert keep(_moment(1), session="other").stored_bytes
