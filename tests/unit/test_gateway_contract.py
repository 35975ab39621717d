"""What the contract promises about repeating, changing, listing and being told why."""

import asyncio
from typing import Any

import grpc
import pytest

from services.common.protocol import PROTOCOL
from services.gateway.workers import workers
from sightline.errors import InvalidArgumentError, NotFoundError, UnavailableError
from sightline.status import details_of
from sightline.v1 import gateway_pb2 as pb
from tests.eventually import eventually
from tests.unit.fake_worker import FakeWorker
from tests.unit.gateway_parts import KEY, picture, running

ID = "0123456789abcdef"


def _push(request_id: str = "", key: str = "", **options: Any) -> pb.CreateSessionRequest:
    return pb.CreateSessionRequest(
        push=pb.Push(key=key), options=pb.SessionOptions(**options), request_id=request_id
    )


async def _refused(call: Any) -> tuple[grpc.StatusCode, str, float | None]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    reason, retry_after_s = details_of(caught.value.trailing_metadata())
    return caught.value.code(), reason, retry_after_s


# --- repeating ------------------------------------------------------------------------------


async def test_creating_with_the_same_id_gives_the_same_session() -> None:
    async with running(FakeWorker()) as parts:
        together = [parts.stub.CreateSession(_push(ID)) for _ in range(3)]
        first, *others = await asyncio.gather(*together)
        assert all(each == first for each in others)
        assert first.key, "also whoever comes second is told the key"
        assert len(parts.sessions.all()) == 1
        assert (await parts.stub.CreateSession(_push())).id != first.id


async def test_an_id_stands_for_one_request_of_one_caller() -> None:
    async with running(FakeWorker()) as parts:
        mine = await parts.sessions.create(_push(ID), "here")
        assert (await parts.sessions.create(_push(ID), "there")).id != mine.id
        with pytest.raises(InvalidArgumentError) as refused:
            await parts.sessions.create(_push(ID, name="other"), "here")
        assert refused.value.reason == "REQUEST_ID_REUSED"
        for short in ("short", "x" * 129, "with space"):
            with pytest.raises(InvalidArgumentError):
                await parts.sessions.create(_push(short), "here")


async def test_a_deleted_session_does_not_come_back() -> None:
    async with running(FakeWorker()) as parts:
        session = await parts.sessions.create(_push(ID))
        parts.sessions.delete(session, "requested")
        with pytest.raises(NotFoundError):
            await parts.sessions.create(_push(ID))
        assert not parts.sessions.all()


async def test_a_refused_creation_may_be_tried_again() -> None:
    worker = FakeWorker()
    async with running(worker) as parts:
        worker.full = True
        assert (await _refused(parts.stub.CreateSession(_push(ID))))[0].name == "RESOURCE_EXHAUSTED"
        worker.full = False
        assert (await parts.stub.CreateSession(_push(ID))).id


async def test_a_turn_that_is_asked_again_is_answered_once() -> None:
    worker = FakeWorker()
    async with running(worker) as parts:
        session = await parts.push_session(seen=True)
        request = pb.AskRequest(
            session=session.id, conversation="c", question=pb.Question(turn="t", text="what?")
        )
        worker.pause_after = 1
        together = [asyncio.ensure_future(parts.stub.Ask(request)) for _ in range(2)]
        await worker.paused.wait()
        worker.go_on.set()
        first, second = await asyncio.gather(*together)
        assert first == second == await parts.stub.Ask(request)
        assert len(worker.asked) == 1
        request.question.text = "something else?"
        assert (await _refused(parts.stub.Ask(request)))[:2] == (
            grpc.StatusCode.INVALID_ARGUMENT,
            "TURN_REUSED",
        )
        request.conversation = "d"
        assert (await parts.stub.Ask(request)).conversation == "d"
        assert len(worker.asked) == 2


async def test_a_turn_without_a_conversation_is_answered_once_too() -> None:
    worker = FakeWorker()
    async with running(worker) as parts:
        session = await parts.push_session(seen=True)
        request = pb.AskRequest(session=session.id, question=pb.Question(turn="t", text="what?"))
        first = await parts.stub.Ask(request)
        assert await parts.stub.Ask(request) == first
        request.question.turn = ""
        assert (await parts.stub.Ask(request)).conversation != first.conversation
        assert len(worker.asked) == 2


async def test_a_failed_answer_is_tried_anew() -> None:
    worker = FakeWorker()
    async with running(worker) as parts:
        session = await parts.push_session(seen=True)
        request = pb.AskRequest(session=session.id, question=pb.Question(turn="t", text="what?"))
        worker.failures["Answer"] = [grpc.StatusCode.RESOURCE_EXHAUSTED]
        assert (await _refused(parts.stub.Ask(request)))[0].name == "RESOURCE_EXHAUSTED"
        assert (await parts.stub.Ask(request)).answer.text


# --- being told why -------------------------------------------------------------------------


async def test_refusals_have_reasons() -> None:
    worker = FakeWorker()
    async with running(worker, max_sessions=1) as parts:
        stub = parts.stub
        status = grpc.StatusCode
        unknown = pb.GetSessionRequest(session="none")
        assert await _refused(stub.GetSession(unknown)) == (
            status.NOT_FOUND,
            "SESSION_NOT_FOUND",
            None,
        )
        missing = pb.CreateSessionRequest(source="missing.mp4")
        assert (await _refused(stub.CreateSession(missing)))[1] == "SOURCE_UNREADABLE"
        assert (await _refused(stub.CreateSession(_push(key="short"))))[1] == "INVALID_ARGUMENT"
        session = await parts.push_session(key=KEY)
        assert (await _refused(stub.CreateSession(_push())))[1] == "TOO_MANY_SESSIONS"
        unasked = pb.AskRequest(session=session.id, question=pb.Question(text="what?"))
        assert (await _refused(stub.Ask(unasked)))[1] == "NO_FRAME_YET"
        assert (await _refused(stub.Voices(pb.VoicesRequest())))[1] == "SPEECH_NOT_CONFIGURED"
        read = pb.GetConversationRequest(conversation="c")
        assert (await _refused(stub.GetConversation(read)))[1] == "CONVERSATIONS_NOT_CONFIGURED"
        parts.sessions.refuse()
        code, reason, retry_after_s = await _refused(stub.CreateSession(_push()))
        assert (code, reason) == (status.UNAVAILABLE, "DRAINING")
        assert retry_after_s
        assert retry_after_s > 0


# --- changing -------------------------------------------------------------------------------


async def test_a_session_changes_while_it_runs() -> None:
    worker = FakeWorker()
    async with running(worker) as parts:
        session = await parts.push_session(fps=2, labels={"room": "hall"})
        wish = pb.UpdateSessionRequest(session=session.id, window=9, fps=5, name="porch", grace_s=0)
        changed = await parts.stub.UpdateSession(wish)
        assert (changed.window, changed.fps, changed.name, changed.grace_s) == (9, 5, "porch", 0)
        assert dict(changed.labels) == {"room": "hall"}, "what is left out stays"
        assert changed == await parts.stub.GetSession(pb.GetSessionRequest(session="porch"))
        [resized] = worker.resized
        assert (resized.session_id, resized.window_segments) == (session.id, 9)
        for number in range(12):  # 1 s apart: all are chosen
            session.sampler.take(picture(number))
        await eventually(lambda: session.counts.processed == 12)
        await worker.restart(forget=True)
        await eventually(lambda: len(worker.frames.get(session.id, ())) >= 9)
        assert worker.opened[-1][0].window_segments == 9
        assert worker.opened[-1][0].replays == 9, "as many frames are kept as the window has"
        bare = pb.UpdateSessionRequest(session=session.id, window=0, labels=pb.Labels())
        changed = await parts.stub.UpdateSession(bare)
        assert changed.window == 4, "the model's own"
        assert not changed.labels


async def test_a_session_keeps_a_name() -> None:
    async with running(FakeWorker()) as parts:
        session = await parts.push_session(name="desk")
        nameless = pb.UpdateSessionRequest(session="desk", name="", fps=5)
        assert (await _refused(parts.stub.UpdateSession(nameless)))[0].name == "INVALID_ARGUMENT"
        assert session.name == "desk"


async def test_a_refused_window_changes_nothing() -> None:
    worker = FakeWorker()
    async with running(worker) as parts:
        session = await parts.push_session(name="desk")
        wish = pb.UpdateSessionRequest(session=session.id, window=9, name="porch")
        for told, code, reason in (
            ("RESOURCE_EXHAUSTED", "RESOURCE_EXHAUSTED", "RESOURCE_EXHAUSTED"),
            ("UNIMPLEMENTED", "FAILED_PRECONDITION", "NOT_CHANGEABLE"),
            ("NOT_FOUND", "UNAVAILABLE", "MODEL_AWAY"),
        ):
            worker.failures["ResizeSession"] = [grpc.StatusCode[told]]
            refused = await _refused(parts.stub.UpdateSession(wish))
            assert (refused[0].name, refused[1]) == (code, reason)
            assert session.name == "desk"
            assert session.message().window == 4


@pytest.mark.parametrize(
    "options",
    [
        {"fps": -1.0},
        {"fps": float("nan")},
        {"grace_s": 1e9},
        {"name": "x" * 81},
        {"labels": {"no spaces": "x"}},
        {"labels": {"": "x"}},
        {"labels": {"key": "x" * 129}},
        {"labels": {"key": "\n"}},
        {"labels": {f"k{n}": "" for n in range(17)}},
    ],
)
async def test_what_no_session_can_be_is_refused_early_and_late(options: dict[str, Any]) -> None:
    worker = FakeWorker()
    async with running(worker) as parts:
        with pytest.raises(InvalidArgumentError):
            await parts.sessions.create(_push(**options))
        session = await parts.push_session()
        if "labels" in options:
            options = {"labels": pb.Labels(labels=options["labels"])}
        wish = pb.UpdateSessionRequest(session=session.id, window=9, **options)
        with pytest.raises(InvalidArgumentError):
            await parts.sessions.update(wish)
        assert not worker.resized


async def test_no_grace_time_is_none() -> None:
    async with running(FakeWorker()) as parts:
        assert (await parts.push_session(key="first-key")).spec.grace_s == 60
        session = await parts.push_session(grace_s=0)
        with session.admit("rtmp") as publisher:
            publisher.sink.take(picture(0))
            await eventually(lambda: session.message().state == pb.SESSION_STATE_LIVE)
        parts.sessions.tick(session.since_s + 0.001)
        assert session not in parts.sessions.all()


# --- listing --------------------------------------------------------------------------------


async def test_pages_of_sessions_neither_repeat_nor_skip() -> None:
    async with running(FakeWorker(max_sessions=20)) as parts:
        made = [
            await parts.push_session(key=f"key-{n:08}", labels={"parity": str(n % 2)})
            for n in range(7)
        ]
        seen: list[str] = []
        request = pb.ListSessionsRequest(page_size=3)
        while True:
            reply = await parts.stub.ListSessions(request)
            seen += [session.id for session in reply.sessions]
            if not reply.next_page_token:
                break
            request.page_token = reply.next_page_token
            if len(seen) == 3:
                parts.sessions.delete(made[2], "requested")  # the last one of the page
                parts.sessions.delete(made[4], "requested")
        assert seen == [made[n].id for n in (0, 1, 2, 3, 5, 6)]
        odd = await parts.stub.ListSessions(pb.ListSessionsRequest(labels={"parity": "1"}))
        assert [session.id for session in odd.sessions] == [made[n].id for n in (1, 3, 5)]
        assert not odd.next_page_token
        forged = pb.ListSessionsRequest(page_token="forged")
        assert (await _refused(parts.stub.ListSessions(forged)))[0].name == "INVALID_ARGUMENT"


# --- the protocol's version -----------------------------------------------------------------


@pytest.mark.parametrize("protocol", [(0, 0), (PROTOCOL[0], 0), (PROTOCOL[0], PROTOCOL[1] + 7)])
async def test_workers_of_other_minor_versions_serve(protocol: tuple[int, int]) -> None:
    worker = FakeWorker()
    worker.protocol = protocol
    async with running(worker) as parts:
        assert (await parts.push_session()).message().model == "builtin"


async def test_a_worker_of_another_major_version_is_refused_until_it_is_replaced(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(workers, "INCOMPATIBLE_S", 0.01)
    worker, ours = FakeWorker(), FakeWorker()
    worker.protocol = (PROTOCOL[0] + 1, 0)
    async with running(worker) as parts:
        with pytest.raises(UnavailableError) as refused:
            await parts.push_session()
        assert refused.value.reason == "VERSION_MISMATCH"
        assert not worker.opened
        assert workers.metrics.WORKERS.labels("incompatible")._value.get() == 1
        worker.protocol = PROTOCOL
        await eventually(lambda: parts.workers.descriptions())
        assert (await parts.push_session()).id
        assert workers.metrics.WORKERS.labels("incompatible")._value.get() == 0
    said = [each for each in caplog.records if "another version" in each.message]
    assert len(said) == 1, "operators are told once, not with every look"
    worker.protocol = (PROTOCOL[0] + 1, 0)
    async with running(worker, ours) as parts:
        await eventually(lambda: parts.workers.descriptions())
        assert (await parts.push_session()).feed.placement.worker.address == ours.address


# --- what a server is -----------------------------------------------------------------------


async def test_a_server_says_what_it_is() -> None:
    async with running(FakeWorker(max_sessions=4), FakeWorker(max_sessions=2)) as parts:
        await eventually(lambda: len(parts.workers.descriptions()) == 2)
        info = await parts.stub.GetServerInfo(pb.GetServerInfoRequest())
        [model] = info.models
        assert (model.name, model.workers, model.max_sessions) == ("builtin", 2, 6)
        assert model.card.summary == "it sees circles"
        assert info.version
        assert info.contract_version == "1.4"
        assert info.limits.sessions == parts.config.max_sessions
        assert (info.speech, info.conversations) == (False, False)
