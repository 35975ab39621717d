"""The asynchronous SDK against a fake gateway: calls, answers, watches, broken lines, pushes."""

import asyncio
import random
from collections.abc import AsyncIterator
from itertools import pairwise

import grpc
import pytest

import sightline
from sightline import aio
from sightline.calls import ATTEMPTS, backoff_s
from sightline.types import Said, SourceCondition
from sightline.v1 import gateway_pb2 as pb
from sightline.v1.dialogue_pb2 import Round
from tests.eventually import PATIENCE_S, eventually
from tests.unit.fake_gateway import ANSWER, CREDIT, FakeGateway
from tests.unit.test_sdk_frames import write_video

FAST = sightline.Timeouts(connect_s=5, call_s=5, answer_s=10, reconnect_s=1.0, push_s=5)


@pytest.fixture
async def gateway() -> AsyncIterator[FakeGateway]:
    fake = FakeGateway()
    await fake.start()
    yield fake
    await fake.aclose()


@pytest.fixture
async def client(gateway: FakeGateway) -> AsyncIterator[aio.Client]:
    async with aio.connect(gateway.address, timeouts=FAST) as connected:
        yield connected


@pytest.fixture
async def session(client: aio.Client) -> aio.Session:
    return await client.open(push=True, name="desk")


async def test_nobody_there_is_unavailable(tmp_path) -> None:
    timeouts = sightline.Timeouts(connect_s=0.1)
    with pytest.raises(sightline.UnavailableError, match="cannot reach unix:"):
        async with aio.connect(f"unix:{tmp_path}/nobody", timeouts=timeouts):
            pass


async def test_unary_calls_are_retried_while_unavailable(gateway, client) -> None:
    gateway.failures["ListSessions"] = [grpc.StatusCode.UNAVAILABLE] * 2
    assert await client.sessions() == []
    assert gateway.calls["ListSessions"] == 3


async def test_retries_are_bounded(gateway, client) -> None:
    gateway.failures["ListSessions"] = [grpc.StatusCode.UNAVAILABLE] * 20
    with pytest.raises(sightline.UnavailableError, match="told to fail"):
        await client.sessions()
    assert gateway.calls["ListSessions"] == ATTEMPTS


async def test_every_try_to_create_a_session_has_the_same_id(gateway, client) -> None:
    gateway.failures["CreateSession"] = [grpc.StatusCode.UNAVAILABLE] * 2
    await client.open(push=True)
    await client.open(push=True)
    first, second, third, other = gateway.requests
    assert first == second == third != other
    assert len(first) >= 16


async def test_errors_say_why_and_when_to_try_again(gateway, client, session) -> None:
    with pytest.raises(sightline.NotFoundError) as caught:
        await client.history("nothing")
    assert caught.value.reason == sightline.Reason.CONVERSATION_NOT_FOUND
    assert caught.value.retry_after_s is None
    with pytest.raises(sightline.ResourceExhaustedError) as refused:
        await session.ask("fail").result()
    assert refused.value.reason == "MODEL_FULL"
    assert refused.value.retry_after_s == 2.5
    gateway.failures["GetSession"] = [grpc.StatusCode.NOT_FOUND]  # by a server of before
    with pytest.raises(sightline.NotFoundError) as old:
        await session.refresh()
    assert old.value.reason == "NOT_FOUND"


async def test_what_an_earlier_server_cannot_do_is_said(gateway, client) -> None:
    gateway.failures["GetServerInfo"] = [grpc.StatusCode.UNIMPLEMENTED]
    with pytest.raises(sightline.SightlineError, match="earlier version, which cannot") as caught:
        await client.info()
    assert caught.value.reason == "UNIMPLEMENTED"


async def test_a_wait_that_the_server_names_is_kept(gateway, monkeypatch) -> None:
    waits: list[float] = []
    slept = asyncio.sleep

    async def sleep(seconds: float) -> None:
        waits.append(seconds)
        await slept(0)

    calls = 0

    async def refuse(request, context) -> pb.GetServerInfoResponse:
        nonlocal calls
        calls += 1
        if calls == 1:
            error = sightline.UnavailableError("bye", reason="DRAINING", retry_after_s=2.0)
            await gateway.refuse(context, error)
        return pb.GetServerInfoResponse(version="1")

    monkeypatch.setattr(gateway, "GetServerInfo", refuse)
    await gateway.stop()
    await gateway.start()
    async with aio.connect(gateway.address, timeouts=FAST) as client:
        monkeypatch.setattr("sightline.calls.asyncio.sleep", sleep)
        assert (await client.info()).version == "1"
    assert 2.0 in waits


async def test_a_field_that_holds_what_it_cannot_is_named(gateway, client, session) -> None:
    with pytest.raises(sightline.InvalidArgumentError, match="window cannot be -4"):
        await client.open(push=True, window=-4)
    with pytest.raises(sightline.InvalidArgumentError, match="fps cannot be 'slow'"):
        await session.update(fps="slow")
    assert not gateway.updates


async def test_what_a_server_is(gateway, client) -> None:
    info = await client.info()
    assert (info.version, info.contract_version) == ("0.1.0", "1.1")
    ready, loading = info.models
    assert ready.ready
    assert ready.card.can == ("red circles",)
    assert ready.free_sessions == 3
    assert (loading.ready, loading.loading) == (False, "Loading big: 41 %")
    assert info.limits["question_bytes"] == 4096


async def test_lists_are_read_to_their_end_and_found_by_labels(gateway, client) -> None:
    for number in range(5):
        await client.open(push=True, labels={"parity": str(number % 2), "n": str(number)})
    assert [info.labels["n"] for info in await client.sessions()] == list("01234")
    assert [info.labels["n"] for info in await client.sessions(labels={"parity": "0"})] == list(
        "024"
    )


async def test_no_grace_time_is_not_the_usual_one(gateway, client) -> None:
    assert (await client.open(push=True)).info.grace_s == 60
    assert (await client.open(push=True, grace_s=0)).info.grace_s == 0


async def test_a_session_changes_while_it_runs(gateway, session) -> None:
    changed = await session.update(window=12, grace_s=0)
    assert (changed.window, changed.grace_s, session.info.window) == (12, 0, 12)
    [request] = gateway.updates
    assert not request.HasField("fps")
    assert not request.HasField("labels")
    await session.update(labels={})
    assert gateway.updates[-1].HasField("labels")


async def test_statements_are_decided_and_the_newest_picture_is_shown(session) -> None:
    one, other = await session.decide("a phone is there", "a cup is there")
    assert (one.statement, one.probability, one.value) == ("a phone is there", 0.25, "")
    assert (other.statement, other.probabilities) == ("a cup is there", {})
    for options in ({"choices": ["full", "empty"]}, {"levels": ["full", "empty"]}):
        [cup] = await session.decide("the cup is {}", **options)
        assert (cup.value, cup.probabilities) == ("full", {"full": 0.5, "empty": 0.5})
    assert await session.picture(width=320) == b"\xff\xd8320"


async def test_what_was_said_is_read(session) -> None:
    assert await session.transcript(from_ns=3) == [Said("A red circle.", 3, 9, "en")]


async def test_conversations_are_read_and_forgotten(gateway, client, session) -> None:
    gateway.rounds["c-1"] = [Round(turn=f"t{n}", question=f"q{n}", answer="a") for n in range(5)]
    conversation = session.conversation("c-1")
    rounds = await conversation.history()
    assert [each.question for each in rounds] == [f"q{n}" for n in range(5)]
    assert await conversation.forget() is True
    assert await client.forget("c-1") is False
    with pytest.raises(sightline.NotFoundError):
        await conversation.history()


async def test_a_watch_may_look_at_every_frame(gateway, session) -> None:
    for interval_s in (None, 0.0, 2.0):
        session.watch("a cat is there", interval_s=interval_s)
    await eventually(lambda: len(gateway.watched) == 3)
    usual, every, slow = gateway.watched
    assert not usual.HasField("interval_s")
    assert every.HasField("interval_s")
    assert (every.interval_s, slow.interval_s) == (0, 2)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (grpc.StatusCode.NOT_FOUND, sightline.NotFoundError),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, sightline.ResourceExhaustedError),
        (grpc.StatusCode.INVALID_ARGUMENT, sightline.InvalidArgumentError),
    ],
)
async def test_other_errors_come_at_once_and_typed(gateway, client, code, kind) -> None:
    gateway.failures["GetSession"] = [code]
    with pytest.raises(kind):
        await client.session("x")
    assert gateway.calls["GetSession"] == 1


def test_backoff_grows_to_a_bound_and_is_spread() -> None:
    rng = random.Random(1)
    for attempt, ceiling in [(0, 0.1), (1, 0.2), (3, 0.8), (9, 2.0)]:
        waits = [backoff_s(attempt, rng) for _ in range(50)]
        assert ceiling / 2 <= min(waits) < max(waits) <= ceiling


async def test_session_by_name(client, session) -> None:
    found = await client.session("desk")
    assert found.id == session.id
    assert [info.name for info in await client.sessions()] == ["desk"]
    assert session.key == "generated"
    assert session.rtmp_url == "rtmp://here/live/generated"


async def test_leaving_a_session_deletes_it(gateway, client) -> None:
    async with await client.open(push=True):
        assert len(gateway.sessions) == 1
    assert not gateway.sessions


async def test_answer_comes_in_deltas_and_whole(session) -> None:
    answer = session.ask("What changed?")
    deltas = [delta async for delta in answer]
    assert deltas == ["a", " red", " circle", " moved", " left"]
    result = await answer.result()
    assert result.text == ANSWER
    assert result.frames_seen == 30
    assert result.conversation
    assert not result.restarted
    assert [delta async for delta in answer] == deltas  # readers may come late


async def test_questions_share_the_line_and_the_conversation(gateway, session) -> None:
    first, second = session.ask("one"), session.ask("two")
    results = await asyncio.gather(first.result(), second.result())
    assert results[0].conversation == results[1].conversation
    assert len(gateway.starts) == 1


async def test_separate_conversations_are_separate(session) -> None:
    async with session.conversation() as one, session.conversation() as two:
        await one.ask("q").result()
        await two.ask("q").result()
        assert one.id != two.id


async def test_speech_comes_beside_the_text(session) -> None:
    async with session.conversation(speech=True) as conversation:
        answer = conversation.ask("q")
        audio = [chunk async for chunk in answer.audio()]
    assert [chunk.pcm.decode() for chunk in audio] == ANSWER.split()
    assert audio[0].sample_rate == 22050


async def test_refused_question_raises_its_error(session) -> None:
    with pytest.raises(sightline.ResourceExhaustedError, match="no room"):
        await session.ask("fail").result()
    assert (await session.ask("q").result()).text == ANSWER


async def test_cancel_ends_an_answer(gateway, session) -> None:
    gateway.pause_after = 2
    answer = session.ask("q")
    await gateway.paused.wait()
    result = await answer.cancel()
    assert result.finish_reason is sightline.FinishReason.CANCELLED
    assert result.text == "a red"


async def test_an_answer_has_a_deadline(gateway, session) -> None:
    gateway.pause_after = 2
    answer = session.ask("q", timeout_s=0.1)
    with pytest.raises(sightline.DeadlineExceededError, match=r"no whole answer in 0\.1 s"):
        await answer.result()


async def test_an_answer_goes_on_over_a_broken_line(gateway, session) -> None:
    gateway.pause_after = 2
    answer = session.ask("q")
    deltas = aiter(answer)
    assert [await anext(deltas), await anext(deltas)] == ["a", " red"]
    gateway.break_line()
    gateway.go_on.set()
    assert [delta async for delta in deltas] == [" circle", " moved", " left"]
    result = await answer.result()
    assert result.text == ANSWER
    assert not result.restarted
    assert gateway.starts[1].resume_handle
    assert gateway.starts[1].last_sequence >= 3
    assert {question.turn for question in gateway.asked} == {answer.turn}


async def test_an_answer_survives_a_lost_gateway(gateway, session) -> None:
    gateway.pause_after = 2
    answer = session.ask("q")
    deltas = aiter(answer)
    assert [await anext(deltas), await anext(deltas)] == ["a", " red"]
    await gateway.stop()
    gateway.forget_lines()
    gateway.go_on.set()
    await gateway.start()
    assert [delta async for delta in deltas] == [" circle", " moved", " left"]
    result = await answer.result()
    assert result.restarted
    assert [question.turn for question in gateway.asked] == [answer.turn] * 2
    assert gateway.starts[1].conversation == result.conversation


async def test_a_different_second_answer_is_told_whole(gateway, session) -> None:
    gateway.answers = ["a red circle moved", "a blue square came"]
    gateway.pause_after = 2
    answer = session.ask("q")
    deltas = aiter(answer)
    assert [await anext(deltas), await anext(deltas)] == ["a", " red"]
    gateway.forget_lines()
    gateway.go_on.set()
    gateway.break_line()
    assert "".join([delta async for delta in deltas]) == "\na blue square came"
    assert (await answer.result()).text == "a blue square came"


@pytest.mark.parametrize(
    ("second", "told"),
    [
        ("a red circle moved left", "a red circle moved left"),
        ("a red circle", "a red circle"),
        ("a blue square", "a red\na blue square"),
        ("a", "a red\na"),
    ],
)
async def test_an_answer_whose_worker_was_lost_is_told_as_what_it_became(
    gateway, session, second, told
) -> None:
    gateway.answers = ["a red circle moved", second, ANSWER]
    gateway.restart_at = 2
    gateway.kept = False
    answer = session.ask("q")
    assert "".join([delta async for delta in answer]) == told
    result = await answer.result()
    assert result.text == second
    assert result.restarted
    assert result.kept is False
    again = await session.ask("q").result()
    assert not again.restarted


async def test_an_idle_line_that_broke_opens_again_at_the_next_question(gateway, session) -> None:
    first = await session.ask("q").result()
    gateway.break_line()
    second = await session.ask("q").result()
    assert second.conversation == first.conversation
    assert not second.restarted


async def test_without_a_server_an_answer_fails_in_bounded_time(gateway, session) -> None:
    gateway.pause_after = 2
    answer = session.ask("q")
    await gateway.paused.wait()
    await gateway.stop()
    with pytest.raises(sightline.UnavailableError, match="tried for 1 s"):
        await answer.result()


async def test_a_deleted_session_ends_its_line_without_retries(gateway, session) -> None:
    gateway.pause_after = 2
    answer = session.ask("q")
    await gateway.paused.wait()
    gateway.sessions.clear()
    gateway.break_line()
    with pytest.raises(sightline.NotFoundError):
        await answer.result()
    assert gateway.calls["Converse"] == 2


def _line(gateway: FakeGateway):
    return list(gateway.lines.values())[-1]


def _fire(gateway: FakeGateway, active: bool, capture_ns: int) -> None:
    watch = gateway.watched[-1]
    _line(gateway).add(
        watch_event=pb.WatchEvent(
            watch=watch.watch, condition=watch.condition, active=active, capture_ns=capture_ns
        )
    )


async def test_watch_tells_events_until_closed(gateway, session) -> None:
    watch = session.watch("a red circle is there", interval_s=0.5)
    await eventually(lambda: gateway.watched)
    assert gateway.watched[0].interval_s == 0.5
    _fire(gateway, True, 7)
    _fire(gateway, False, 8)
    async for event in watch:
        if not event.active:
            break
    assert event.capture_ns == 8
    assert event.condition == "a red circle is there"
    watch.close()
    await eventually(lambda: gateway.unwatched == [watch.id])
    assert await watch.next() is None


async def test_a_watch_with_a_bound_ends_by_itself(gateway, session) -> None:
    watch = session.watch("motion", limit=1, timeout_s=30)
    seen = asyncio.create_task(_all(watch))
    await eventually(lambda: gateway.watched)
    _fire(gateway, True, 1)
    _fire(gateway, False, 2)
    assert len(await asyncio.wait_for(seen, PATIENCE_S)) == 1
    assert await asyncio.wait_for(_all(session.watch("motion", timeout_s=0.05)), PATIENCE_S) == []
    await eventually(lambda: len(gateway.unwatched) == 2)


async def _all(watch: sightline.aio.Watch) -> list[sightline.Event]:
    return [event async for event in watch]


async def test_watch_is_registered_again_and_tells_only_news(gateway, session) -> None:
    watch = session.watch("motion")
    await eventually(lambda: gateway.watched)
    _fire(gateway, True, 1)
    assert (await watch.next(5)).active
    gateway.forget_lines()
    gateway.break_line()
    await eventually(lambda: len(gateway.watched) == 2 and gateway.lines)
    _fire(gateway, True, 2)  # the state it told before the break
    _fire(gateway, False, 3)
    event = await watch.next(5)
    assert (event.active, event.capture_ns) == (False, 3)


async def test_a_slow_watcher_loses_the_oldest_events_and_knows(gateway, session) -> None:
    watch = session.watch("motion")
    await eventually(lambda: gateway.watched)
    for number in range(300):
        _fire(gateway, number % 2 == 0, number)
    await eventually(lambda: watch.dropped == 300 - 256)
    assert (await watch.next(5)).capture_ns == 300 - 256


async def test_session_state_events_refresh_the_stats(gateway, session) -> None:
    await session.ask("q").result()
    state = pb.Session(id=session.id, name="desk", stats=pb.SessionStats(fps_in=25.0))
    _line(gateway).add(session_state=state)
    await eventually(lambda: session.stats.fps_in == 25.0)


async def test_the_health_of_pictures_comes_as_it_is_and_with_every_change(
    gateway, session
) -> None:
    def tell(condition: pb.SourceCondition, since_ns: int) -> None:
        health = pb.SourceHealth(condition=condition, since_ns=since_ns)
        _line(gateway).add(source_health=health)

    told = session.source_health()
    assert await told.next(PATIENCE_S) == (SourceCondition.UNKNOWN, 0)
    tell(pb.SOURCE_CONDITION_FROZEN, 5)
    assert await told.next(PATIENCE_S) == (SourceCondition.FROZEN, 5)
    later = session.source_health(timeout_s=0.2)
    assert [health async for health in later] == [(SourceCondition.FROZEN, 5)]
    state = pb.Session(id=session.id, source_health=pb.SourceHealth(condition=1, since_ns=7))
    tell(pb.SOURCE_CONDITION_FROZEN, 5)
    _line(gateway).add(session_state=state)
    assert await told.next(PATIENCE_S) == (SourceCondition.FINE, 7)
    assert session.info.source_health == (SourceCondition.FINE, 7)
    told.close()
    assert await told.next(PATIENCE_S) is None


async def test_the_health_of_pictures_is_heard_of_again_after_a_break(gateway, session) -> None:
    told = session.source_health()
    await told.next(PATIENCE_S)
    gateway.sessions[session.id].source_health.condition = pb.SOURCE_CONDITION_DARK
    gateway.break_line()
    assert (await told.next(10)).condition is SourceCondition.DARK


JPEG = b"\xff\xd8 picture"


async def test_push_counts_what_became_of_the_frames(gateway, session) -> None:
    report = await session.push([(JPEG, 5), (JPEG, 6)])
    assert (report.received, report.understood, report.understood_capture_ns) == (2, 2, 6)
    assert gateway.pushed[0].open.key == "generated"
    assert gateway.pushed[0].open.codec == ""


async def test_frames_without_a_time_are_spread_by_fps(gateway, session) -> None:
    await session.push([JPEG] * 3, fps=10)
    times = [message.frame.capture_ns for message in gateway.pushed[1:]]
    assert times[1] - times[0] == times[2] - times[1] == 100_000_000


async def test_packets_announce_their_codec(gateway, session) -> None:
    packets = [sightline.Packet(b"\0\0\0\1x", 9, keyframe=True)]
    await session.push(packets, codec="hevc", extradata=b"hvcC")
    assert gateway.pushed[0].open.codec == "hevc"
    assert gateway.pushed[0].open.extradata == b"hvcC"
    assert gateway.pushed[1].packet.keyframe


async def test_lossless_pushing_never_outruns_the_credit(gateway, client, monkeypatch) -> None:
    monkeypatch.setattr("sightline.push.FIRST_CREDIT", CREDIT)  # before the server says its own
    session = await client.open(push=True, lossless=True)
    report = await session.push([JPEG] * 50, fps=8)
    assert report.understood == 50
    assert gateway.most_in_flight <= CREDIT


async def test_a_refused_frame_is_the_pushers_error(gateway, session) -> None:
    gateway.refuse_pictures = True
    with pytest.raises(sightline.InvalidArgumentError, match="frame 1 is bad"):
        await session.push([JPEG] * 3)


async def test_pushing_needs_the_key(client, session) -> None:
    other = await client.session("desk", key="wrong key")
    with pytest.raises(sightline.UnauthenticatedError):
        await other.push(JPEG)


async def test_a_file_played_live_joins_again_at_a_keyframe(gateway, client, tmp_path) -> None:
    write_video(tmp_path / "clip.mp4", b_frames=0, rate=50)  # 40 frames, keyframes 0 and 30
    gateway.break_push_at = 5
    session = await client.open(tmp_path / "clip.mp4")
    await session.wait()
    opens = [at for at, message in enumerate(gateway.pushed) if message.HasField("open")]
    assert len(opens) == 2
    again = gateway.pushed[opens[1] + 1].packet
    assert again.keyframe
    assert again.capture_ns == session.start_ns + 600_000_000
    assert len(gateway.pushed) - opens[1] - 1 == 10


async def test_a_lossless_push_that_breaks_is_an_error(gateway, client, tmp_path) -> None:
    write_video(tmp_path / "clip.mp4", b_frames=0)
    gateway.break_push_at = 5
    session = await client.open(tmp_path / "clip.mp4", realtime=False)
    with pytest.raises(sightline.UnavailableError):
        await session.wait()


async def test_a_file_that_cannot_be_pushed_leaves_no_session(gateway, client, tmp_path) -> None:
    write_video(tmp_path / "clip.mp4", b_frames=0)
    gateway.refuse_pictures = True
    with pytest.raises(sightline.InvalidArgumentError, match="frame 1 is bad"):
        await client.open(tmp_path / "clip.mp4")
    assert not gateway.sessions


async def test_a_looped_file_goes_on_in_time(gateway, client, tmp_path) -> None:
    write_video(tmp_path / "clip.mp4", b_frames=0, rate=200)
    session = await client.open(tmp_path / "clip.mp4", loop=True)
    await eventually(lambda: len(gateway.pushed) > 100)
    await session.aclose()
    times = [message.packet.capture_ns for message in gateway.pushed[1:]]
    steps = {round((late - early) / 1e6) for early, late in pairwise(times)}
    assert steps == {5}


async def test_a_server_that_goes_away_gracefully_is_followed(gateway, session) -> None:
    gateway.pause_after = 2
    answer, watch = session.ask("q"), session.watch("motion")
    await gateway.paused.wait()
    _line(gateway).add(go_away=pb.GoAway(reason="draining", reconnect_within_s=5))
    gateway.go_on.set()
    assert (await answer.result()).text == ANSWER
    await eventually(lambda: len(gateway.starts) == 2)  # for the watch
    _fire(gateway, True, 1)
    assert (await watch.next(5)).active


async def test_a_question_that_an_ending_server_refuses_is_asked_of_the_next(
    gateway, session
) -> None:
    gateway.draining = True
    answer = session.ask("q")
    await eventually(lambda: gateway.asked)
    gateway.draining = False
    result = await answer.result()
    assert (result.text, result.restarted) == (ANSWER, False)
    assert len(gateway.starts) == 2
    assert {question.turn for question in gateway.asked} == {answer.turn}


async def test_a_silent_server_is_left(gateway, session, monkeypatch) -> None:
    monkeypatch.setattr("sightline.line.SILENCE_S", 0.2)
    gateway.pause_after = 2
    channel = session._calls.channel
    answer = session.ask("q")
    await gateway.paused.wait()
    await eventually(lambda: len(gateway.starts) > 1)
    gateway.go_on.set()
    assert (await answer.result()).text == ANSWER
    assert session._calls.channel is not channel


async def test_a_pusher_goes_on_after_a_break(gateway, session, monkeypatch) -> None:
    monkeypatch.setattr("sightline.push.backoff_s", lambda attempt, rng: 0.0)
    gateway.break_push_at = 3

    async def camera() -> AsyncIterator[bytes]:
        while len([each for each in gateway.pushed if each.HasField("open")]) < 2:
            await asyncio.sleep(0)
            yield JPEG
        for _ in range(3):
            yield JPEG

    report = await session.push(camera())
    assert report.received >= 3, "of the second stream"


async def test_async_sources_of_frames(gateway, session) -> None:
    async def camera() -> AsyncIterator[bytes]:
        for _ in range(3):
            await asyncio.sleep(0)
            yield JPEG

    assert (await session.push(camera())).received == 3


async def test_speak(client) -> None:
    chunks = [chunk async for chunk in client.speak("hello there")]
    assert chunks == [(22050, b"hello"), (22050, b"there")]


async def test_urls_go_to_the_server_and_missing_files_do_not(gateway, client, tmp_path) -> None:
    session = await client.open("rtmp://camera/live")
    assert gateway.sessions[session.id].source == "rtmp://camera/live"
    session = await client.open("there.mp4", on_server=True)
    assert gateway.sessions[session.id].source == "there.mp4"
    with pytest.raises(FileNotFoundError, match="on_server=True"):
        await client.open(tmp_path / "no.mp4")
    assert gateway.calls["CreateSession"] == 2
