"""Questions, events and watches by plain HTTP."""

import asyncio
from typing import Any

from sightline.v1 import gateway_pb2 as pb
from tests.eventually import eventually
from tests.unit.fake_worker import ANSWER, FakeWorker
from tests.unit.http_parts import events_of, served, until

SSE = {"Accept": "text/event-stream"}


async def test_a_question_is_answered_whole() -> None:
    worker = FakeWorker()
    async with served(worker) as (parts, client):
        await parts.push_session(name="cam", seen=True)
        question: Any
        for question in ("what is there", {"text": "what is there", "turn": "t1", "top_k": 5}):
            reply = await client.post("/api/sessions/cam/ask", json={"question": question})
            said = await reply.json()
            assert (reply.status, said["answer"]["text"]) == (200, ANSWER)
            assert said["answer"]["finish_reason"] == "FINISH_REASON_STOP"
            assert said["conversation"] == worker.asked[-1].conversation
        assert worker.asked[-1].question.top_k == 5
        # The same turn is not asked twice.
        again = await client.post("/api/sessions/cam/ask", json={"question": question})
        assert await again.json() == said
        assert len(worker.asked) == 2


async def test_a_question_is_answered_word_by_word() -> None:
    worker = FakeWorker()
    async with served(worker) as (parts, client):
        await parts.push_session(name="cam", seen=True)
        body = {"question": {"text": "what", "turn": "t"}, "conversation": "c1"}
        async with client.post("/api/sessions/cam/ask", json=body, headers=SSE) as reply:
            events = [event async for event in events_of(reply)]
        kinds = [event.kind for event in events]
        words = len(ANSWER.split())
        assert kinds == ["started", "answer_started", *["text_delta"] * words, "answer_done"]
        assert events[0].data["started"]["conversation"] == "c1"
        text = "".join(event.data["text_delta"]["text"] for event in events[2:-1])
        assert text == events[-1].data["answer_done"]["text"] == ANSWER
        assert [event.data["sequence"] for event in events] == [
            str(number + 1) for number in range(len(events))
        ]


async def test_refusals_of_questions_are_problems_whatever_was_accepted() -> None:
    async with served() as (parts, client):
        await parts.push_session(name="cam")
        cases = [
            ("none", {"question": "what"}, 404, "SESSION_NOT_FOUND"),
            ("cam", {"question": "what"}, 409, "NO_FRAME_YET"),
            ("cam", {"question": " "}, 400, "INVALID_ARGUMENT"),
            ("cam", {"question": 5}, 400, "INVALID_ARGUMENT"),
            ("cam", {"question": "\ud800"}, 400, "INVALID_ARGUMENT"),
            ("cam", {"question": "what", "conversation": "a b"}, 400, "INVALID_ARGUMENT"),
        ]
        for headers in ({}, SSE):
            for session, body, status, reason in cases:
                reply = await client.post(
                    f"/api/sessions/{session}/ask", json=body, headers=headers
                )
                problem = await reply.json()
                assert (reply.status, problem["reason"]) == (status, reason)
                assert reply.content_type == "application/problem+json"
                assert problem["status"] == status
                assert problem["type"] == f"urn:sightline:{reason}"
                assert problem["detail"] == problem["message"]


async def test_an_answer_that_breaks_off_ends_its_stream_with_an_error() -> None:
    worker = FakeWorker()
    async with served(worker, moving_s=0.0) as (parts, client):
        await parts.push_session(name="cam", seen=True)
        worker.break_at = 2
        body = {"question": "what"}
        async with client.post("/api/sessions/cam/ask", json=body, headers=SSE) as reply:
            *_, last = [event async for event in events_of(reply)]
        assert (last.kind, last.data["error"]["reason"]) == ("error", "UNAVAILABLE")


async def test_an_answer_that_nobody_waits_for_is_cancelled() -> None:
    worker = FakeWorker()
    async with served(worker) as (parts, client):
        await parts.push_session(name="cam", seen=True)
        worker.pause_after = 1
        for number, headers in enumerate(({}, SSE)):
            worker.paused.clear()
            asking = client.post(
                "/api/sessions/cam/ask", json={"question": "what"}, headers=headers
            )
            if headers:
                reply = await asking
                await worker.paused.wait()
                reply.close()
            else:
                task = asyncio.ensure_future(asking)
                await worker.paused.wait()
                task.cancel()
            await eventually(lambda count=number + 1: worker.cancelled_answers == count)


async def test_events_are_what_a_viewer_hears() -> None:
    worker = FakeWorker()
    async with served(worker) as (parts, client):
        session = await parts.push_session(name="cam", seen=True)
        path = "/api/sessions/cam"
        async with client.get(f"{path}/events?watch=a+red+circle") as reply:
            events = events_of(reply)
            handle = (await until(events, "started")).data["started"]["resume_handle"]
            assert session.viewers == 1
            # What was watched by the address, and what comes by the handle.
            worker.watch_events.put_nowait(pb.WatchEvent(active=True, score=0.9))
            seen = (await until(events, "watch_event")).data["watch_event"]
            assert (seen["condition"], seen["active"]) == ("a red circle", True)
            on_it = f"?handle={handle}"
            wanted = {"watch": "w2", "condition": "a blue square", "interval_s": 2}
            made = await client.post(f"{path}/watches{on_it}", json=wanted)
            assert (made.status, await made.json()) == (201, {"handle": handle, "watch": wanted})
            listed = (await (await client.get(f"{path}/watches{on_it}")).json())["watches"]
            assert [watch["watch"] for watch in listed] == ["a red circle", "w2"]
            assert (await client.delete(f"{path}/watches/w2{on_it}")).status == 204
            assert (await client.delete(f"{path}/watches/w2{on_it}")).status == 404
            # A question whose answer is heard here, and one that is cancelled.
            asked = await client.post(f"{path}/ask{on_it}", json={"question": "what"})
            assert asked.status == 202
            turn = (await asked.json())["turn"]
            done = (await until(events, "answer_done")).data["answer_done"]
            assert (done["turn"], done["text"]) == (turn, ANSWER)
            worker.pause_after = 0
            await client.post(
                f"{path}/ask{on_it}", json={"question": {"text": "what", "turn": "t"}}
            )
            assert (await client.delete(f"{path}/answers/t{on_it}")).status == 204
            done = (await until(events, "answer_done")).data["answer_done"]
            assert done["finish_reason"] == "FINISH_REASON_CANCELLED"
        await eventually(lambda: session.viewers == 0)


async def test_events_that_were_missed_come_again() -> None:
    worker = FakeWorker()
    async with served(worker) as (parts, client):
        session = await parts.push_session(name="cam", seen=True)
        path = "/api/sessions/cam/events?watch=a+red+circle&only=watch_event"
        reply = await client.get(path)
        started = await until(events_of(reply), "started")
        reply.close()
        await eventually(lambda: session.viewers == 0)
        worker.watch_events.put_nowait(pb.WatchEvent(active=True, score=0.9))
        [viewer] = parts.viewers.all()
        await eventually(lambda: len(viewer._outbox) == 1)
        async with client.get(path, headers={"Last-Event-ID": started.number}) as reply:
            events = events_of(reply)
            again = await until(events, "started")
            assert again.data["started"]["resumed"] == "line"
            assert (await anext(events)).kind == "watch_event"
        assert len(worker.watched) == 1


async def test_a_watch_without_a_stream_is_heard_by_its_handle() -> None:
    worker = FakeWorker()
    async with served(worker) as (parts, client):
        await parts.push_session(name="cam", seen=True)
        reply = await client.post("/api/sessions/cam/watches", json={"condition": "a phone"})
        made = await reply.json()
        assert made["watch"]["watch"]
        worker.watch_events.put_nowait(pb.WatchEvent(active=True, score=0.8))
        async with client.get(f"/api/sessions/cam/events?handle={made['handle']}") as reply:
            seen = (await until(events_of(reply), "watch_event")).data["watch_event"]
        assert seen["watch"] == made["watch"]["watch"]


async def test_what_is_wrong_with_a_line_is_a_problem() -> None:
    async with served(max_watches=1) as (parts, client):
        session = await parts.push_session(name="cam", seen=True)
        path = "/api/sessions/cam"
        cases: list[tuple[str, str, dict[str, Any] | None, int, str]] = [
            ("GET", "/events?only=nonsense", None, 400, "INVALID_ARGUMENT"),
            ("GET", "/events?conversation=a+b", None, 400, "INVALID_ARGUMENT"),
            ("POST", "/watches", {"condition": ""}, 400, "INVALID_ARGUMENT"),
            ("POST", "/watches?handle=x", {"condition": "a"}, 404, "HANDLE_NOT_FOUND"),
            ("GET", "/watches", None, 404, "HANDLE_NOT_FOUND"),
            ("POST", "/ask?handle=x", {"question": "what"}, 404, "HANDLE_NOT_FOUND"),
            ("DELETE", "/answers/t?handle=x", None, 404, "HANDLE_NOT_FOUND"),
        ]
        for method, rest, body, status, reason in cases:
            reply = await client.request(method, path + rest, json=body)
            assert (reply.status, (await reply.json())["reason"]) == (status, reason), rest
        made = await client.post(f"{path}/watches", json={"condition": "a"})
        handle = (await made.json())["handle"]
        full = await client.post(f"{path}/watches?handle={handle}", json={"condition": "b"})
        assert (full.status, (await full.json())["reason"]) == (429, "TOO_MANY_WATCHES")
        other = await parts.push_session(name="other", key="other-key-1")
        elsewhere = await client.get(f"/api/sessions/{other.id}/watches?handle={handle}")
        assert elsewhere.status == 404
        reply = await client.get(f"{path}/events?handle={handle}")
        events = events_of(reply)
        await until(events, "started")
        await parts.sessions.remove(session.id)
        goodbye = await until(events, "go_away")
        assert goodbye.data["go_away"]["reason"] == "session_deleted"
        assert [event async for event in events] == []
