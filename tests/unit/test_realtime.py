"""The Realtime wire over a WebSocket: events as OpenAI's clients send and expect them."""

import asyncio
import base64
from fractions import Fraction
from pathlib import Path
from typing import Any

import aiohttp
import av
import numpy as np
import pytest
from aiohttp import WSMsgType

from services.gateway.api.realtime.client_secrets import ClientSecrets
from services.gateway.auth.caller import Caller, Permission
from services.gateway.auth.keys import Keys, new_key
from sightline.errors import UnauthenticatedError
from sightline.v1 import gateway_pb2 as pb
from tests.eventually import PATIENCE_S, eventually
from tests.unit.fake_worker import ANSWER, FakeWorker
from tests.unit.realtime_parts import Line, line_to, served_realtime
from tests.unit.test_realtime_codec import LIVEKIT


async def test_a_question_by_text_is_answered_event_by_event() -> None:
    async with line_to() as line:
        created = line.events[0]["session"]
        assert created["type"] == "realtime"
        assert created["model"] == "builtin"
        assert created["sightline"]["name"] == "kitchen"
        await line.send("session.update", session={"type": "realtime", **LIVEKIT})
        updated = (await line.until("session.updated"))["session"]
        assert updated["instructions"] == "be brief"
        assert updated["output_modalities"] == ["text"], "there is no speech here"
        assert updated["tracing"] is None
        await line.say("what is there", id="q1")
        assert line.events[-1]["item"]["id"] == "q1"
        line.events.clear()
        await line.send("response.create", response={"metadata": {"client_event_id": "x1"}})
        done = (await line.until("response.done"))["response"]
        words = len(ANSWER.split())
        assert line.kinds() == [
            "response.created",
            "response.output_item.added",
            "conversation.item.added",
            "response.content_part.added",
            *["response.output_text.delta"] * words,
            "response.output_text.done",
            "response.content_part.done",
            "response.output_item.done",
            "conversation.item.done",
            "response.done",
        ]
        first = line.events[0]["response"]
        assert first["status"] == "in_progress"
        assert first["metadata"] == done["metadata"] == {"client_event_id": "x1"}
        assert line.events[2]["previous_item_id"] == "q1"
        assert line.events[3]["part"] == {"type": "text", "text": ""}
        deltas = [event["delta"] for event in line.events if "delta" in event]
        assert "".join(deltas) == ANSWER
        assert done["id"] == first["id"]
        assert done["status"] == "completed"
        assert done["output"][0]["content"] == [{"type": "output_text", "text": ANSWER}]
        assert done["output"][0]["status"] == "completed"
        assert {"total_tokens", "input_tokens", "output_tokens"} <= set(done["usage"])
        await line.send("conversation.item.retrieve", item_id=done["output"][0]["id"])
        kept = (await line.until("conversation.item.retrieved"))["item"]
        assert kept == done["output"][0]


async def test_what_is_asked_is_what_was_said_since_the_last_answer() -> None:
    worker = FakeWorker()
    async with line_to(worker) as line:
        await line.ask("what is there")
        await line.say("and then")
        sampling = {"temperature": 1.5, "top_k": 9, "stop": "\n"}
        await line.send("session.update", session={"type": "realtime", **sampling})
        await line.ask("where", max_output_tokens=7, temperature=0.5, seed=3)
        first, second = worker.asked
        assert first.question.text == "what is there"
        assert second.question.text == "and then\nwhere"
        assert (second.question.max_tokens, second.question.temperature) == (7, 0.5)
        assert (second.question.top_k, second.question.seed) == (9, 3)
        assert list(second.question.stop) == ["\n"]
        assert not first.speech
        assert not first.history
        assert [(each.question, each.answer) for each in second.history] == [
            ("what is there", ANSWER)
        ]
        assert not second.conversation, "what is said stays with the client"
        # Without a question the instructions of one response are.
        await line.send("session.update", session={"instructions": "You are kind."})
        await line.until("session.updated")
        instructions = "You are kind.\nDescribe what you see."
        await line.send("response.create", response={"instructions": instructions})
        await line.until("response.done")
        assert worker.asked[2].question.text == "Describe what you see."
        assert worker.asked[2].question.instructions == "You are kind."
        await line.ask("what is there", instructions="Be brief.")
        assert worker.asked[3].question.instructions == "Be brief."


async def test_a_model_is_given_what_the_items_say_was_said() -> None:
    """LiveKit brings a conversation along that was had elsewhere, and takes items out of it."""
    worker = FakeWorker()
    async with line_to(worker) as line:
        for number, (role, text) in enumerate(
            [
                ("assistant", "hello"),
                ("user", "who are you"),
                ("user", "please"),
                ("assistant", "a camera"),
                ("assistant", "of the kitchen"),
                ("user", "what was that"),
                ("assistant", "nonsense"),
            ]
        ):
            kind = "output_text" if role == "assistant" else "input_text"
            content = [{"type": kind, "text": text}]
            item = {"id": f"i{number}", "type": "message", "role": role, "content": content}
            await line.send("conversation.item.create", item=item)
            await line.until("conversation.item.done")
        for deleted in ("i5", "i6"):
            await line.send("conversation.item.delete", item_id=deleted)
            assert (await line.until("conversation.item.deleted"))["item_id"] == deleted
        await line.ask("what is there")
        assert worker.asked[0].question.text == "what is there"
        assert [(each.question, each.answer) for each in worker.asked[0].history] == [
            ("who are you\nplease", "a camera\nof the kitchen")
        ]


async def test_a_response_aside_leaves_no_item() -> None:
    worker = FakeWorker()
    async with line_to(worker) as line:
        await line.say("what is there", id="q1")
        asked = {"type": "message", "role": "user", "content": [{"type": "text", "text": "aside"}]}
        line.events.clear()
        wish = {"conversation": "none", "input": [asked], "metadata": {"topic": "a"}}
        await line.send("response.create", response=wish)
        done = (await line.until("response.done"))["response"]
        assert done["metadata"] == {"topic": "a"}
        assert worker.asked[0].question.text == "aside"
        assert "conversation.item.added" not in line.kinds()
        await line.send("response.create")
        await line.until("response.done")
        assert worker.asked[1].question.text == "what is there"


async def test_a_response_is_cancelled_and_another_asked() -> None:
    worker = FakeWorker()
    worker.pause_after = 2
    async with line_to(worker) as line:
        await line.say("what is there")
        await line.send("response.create")
        await line.until("response.output_text.delta")
        await line.until("response.output_text.delta")
        await line.send("response.create", event_id="again")
        error = (await line.next())["error"]
        assert error["code"] == "conversation_already_has_active_response"
        assert (error["type"], error["event_id"]) == ("invalid_request_error", "again")
        await line.send("response.cancel")
        done = (await line.until("response.done"))["response"]
        assert done["status"] == "cancelled"
        assert done["status_details"] == {"type": "cancelled", "reason": "client_cancelled"}
        assert done["output"][0]["status"] == "incomplete"
        assert done["output"][0]["content"][0]["text"] == " ".join(ANSWER.split()[:2])
        await eventually(lambda: worker.cancelled_answers == 1)
        await line.send("response.cancel")
        error = (await line.next())["error"]
        assert error["code"] == "response_cancel_not_active"
        assert error["message"].startswith("Cancellation failed")
        worker.pause_after = None
        assert (await line.ask("and now"))["status"] == "completed"
        assert worker.asked[-1].question.text == "and now"


async def test_a_response_is_cancelled_before_a_word_of_it() -> None:
    worker = FakeWorker()
    worker.answering.clear()
    async with line_to(worker) as line:
        await line.say("what is there")
        await line.send("response.create")
        created = (await line.until("response.created"))["response"]
        await line.send("response.cancel", response_id=created["id"])
        done = (await line.until("response.done"))["response"]
        assert (done["status"], done["output"]) == ("cancelled", [])
        worker.answering.set()
        await line.ask("and now")
        assert worker.asked[-1].question.text == "and now"


async def test_an_answer_is_spoken_and_its_words_come_as_transcript() -> None:
    worker = FakeWorker()
    async with line_to(worker, speech=True) as line:
        assert line.events[0]["session"]["output_modalities"] == ["audio"]
        await line.send("session.update", session={"audio": {"output": {"voice": "joe"}}})
        session = (await line.until("session.updated"))["session"]
        assert session["audio"]["output"]["voice"] == "joe"
        done = await line.ask("what is there")
        assert (worker.asked[0].speech, worker.asked[0].voice) == (True, "joe")
        assert "response.output_text.delta" not in line.kinds()
        transcript = [
            event["delta"]
            for event in line.events
            if event["type"] == "response.output_audio_transcript.delta"
        ]
        assert "".join(transcript) == ANSWER
        audio = b"".join(
            base64.b64decode(event["delta"])
            for event in line.events
            if event["type"] == "response.output_audio.delta"
        )
        samples = 16 * len(ANSWER.split())  # of 16 kHz
        assert len(audio) / 2 == pytest.approx(samples * 1.5, abs=2)
        ends = [kind for kind in line.kinds() if kind.endswith("done")]
        assert ends[-6:] == [
            "response.output_audio.done",
            "response.output_audio_transcript.done",
            "response.content_part.done",
            "response.output_item.done",
            "conversation.item.done",
            "response.done",
        ]
        assert done["output"][0]["content"] == [{"type": "output_audio", "transcript": ANSWER}]
        await line.send("session.update", session={"audio": {"output": {"voice": "marin"}}})
        session = (await line.until("session.updated"))["session"]
        assert session["audio"]["output"]["voice"] == "en", "a name of OpenAI's is our own voice"
        await line.ask("in writing", output_modalities=["text"])
        assert not worker.asked[1].speech


async def test_an_answer_is_cut_to_what_was_heard_of_it() -> None:
    worker = FakeWorker()
    async with line_to(worker, speech=True) as line:
        done = await line.ask("what is there")
        item = done["output"][0]["id"]
        # 16 samples of 16 kHz for each word make 1 ms.
        await line.send("conversation.item.truncate", item_id=item, content_index=0, audio_end_ms=2)
        assert (await line.until("conversation.item.truncated"))["audio_end_ms"] == 2
        await line.send("conversation.item.retrieve", item_id=item)
        kept = (await line.until("conversation.item.retrieved"))["item"]
        heard = kept["content"][0]["transcript"]
        assert ANSWER.startswith(heard)
        assert len(heard) < len(ANSWER)
        await line.ask("go on")
        assert worker.asked[1].history[0].answer == heard


async def test_an_answer_that_comes_anew_is_another_item() -> None:
    worker = FakeWorker()
    worker.break_at = 2
    async with line_to(worker, moving_s=10) as line:
        await line.say("what is there")
        await line.send("response.create")
        for _ in range(2):
            await line.until("response.output_text.delta")
        worker.break_at = None
        done = (await line.until("response.done"))["response"]
        assert done["status"] == "completed"
        assert [item["status"] for item in done["output"]] == ["incomplete", "completed"]
        assert done["output"][1]["content"][0]["text"] == ANSWER


async def test_a_watch_rides_along() -> None:
    worker = FakeWorker()
    async with line_to(worker) as line:
        watch = {"id": "w1", "condition": "a phone is there", "interval_s": 0.5}
        await line.send("sightline.watch.create", watch=watch)
        assert (await line.until("sightline.watch.created"))["watch_id"] == "w1"
        worker.watch_events.put_nowait(pb.WatchEvent(active=True, score=0.75))
        event = await line.until("sightline.watch.event")
        assert (event["watch_id"], event["condition"]) == ("w1", "a phone is there")
        assert (event["active"], event["score"]) == (True, 0.75)
        assert worker.watched[0].watch.interval_s == 0.5
        [viewer] = line.parts.viewers.all()
        spoken = pb.Said(text="This one is red.", start_ns=2 * 10**9, end_ns=3 * 10**9)
        viewer.put(pb.ServerEvent(said=spoken))
        said = await line.until("sightline.said")
        assert (said["text"], said["started_at"], said["ended_at"]) == ("This one is red.", 2, 3)
        await line.send("sightline.watch.delete", watch_id="w1")
        await line.until("sightline.watch.deleted")
        await line.send("sightline.watch.create", watch={"id": "w2", "condition": " "})
        failed = await line.until("sightline.watch.failed")
        assert (failed["watch_id"], failed["error"]["code"]) == ("w2", "invalid_argument")


async def test_what_cannot_be_answered_ends_the_response_and_not_theline_to() -> None:
    """Errors end the line of some clients, responses that failed do not."""
    async with line_to(attached=False) as line:
        done = await line.ask("what is there")
        assert done["status"] == "failed"
        assert done["status_details"]["error"]["code"] == "no_session"
        await line.send("session.update", session={"sightline": {"session": "kitchen"}})
        session = (await line.until("session.updated"))["session"]
        assert session["sightline"]["name"] == "kitchen"
        assert (await line.ask("what is there"))["status"] == "completed"
        await line.send("response.create")
        done = (await line.until("response.done"))["response"]
        assert done["status_details"]["error"]["code"] == "no_question"
        done = await line.ask("call it", tool_choice="required")
        assert done["status_details"]["error"]["code"] == "invalid_argument"
        done = await line.ask("x" * 5000)
        assert done["status_details"]["error"]["code"] == "invalid_argument"


RING = {"type": "function", "name": "ring", "parameters": {"type": "object", "properties": {}}}


async def test_a_function_is_called_and_its_output_answered() -> None:
    worker = FakeWorker()
    async with line_to(worker) as line:
        wishes = {"tools": [RING, {"type": "mcp", "server_label": "x"}], "tool_choice": "auto"}
        await line.send("session.update", session={"type": "realtime", **wishes})
        said = (await line.until("session.updated"))["session"]
        assert said["tools"] == wishes["tools"]
        worker.answer = "One moment."
        worker.tool_calls = [pb.ToolCall(id="call_1", name="ring", arguments='{"a": 1}')]
        await line.say("ring the bell", id="q1")
        line.events.clear()
        await line.send("response.create")
        done = (await line.until("response.done"))["response"]
        kinds = line.kinds()
        assert kinds[-8:] == [
            "conversation.item.done",
            "response.output_item.added",
            "conversation.item.added",
            "response.function_call_arguments.delta",
            "response.function_call_arguments.done",
            "response.output_item.done",
            "conversation.item.done",
            "response.done",
        ]
        words, call = done["output"]
        assert words["content"] == [{"type": "output_text", "text": "One moment."}]
        assert (call["type"], call["call_id"], call["name"]) == ("function_call", "call_1", "ring")
        assert (call["arguments"], call["status"]) == ('{"a": 1}', "completed")
        arguments = line.events[-4]
        assert (arguments["call_id"], arguments["output_index"]) == ("call_1", 1)
        assert arguments["arguments"] == '{"a": 1}'
        [asked] = worker.asked
        assert [tool.name for tool in asked.question.tools] == ["ring"]
        assert asked.question.tool_choice == "auto"

        worker.answer, worker.tool_calls = "It rang.", []
        output = {"type": "function_call_output", "call_id": "call_1", "output": "rung"}
        await line.send("conversation.item.create", item=output)
        await line.until("conversation.item.done")
        await line.send("response.create", response={"tool_choice": "none"})
        done = (await line.until("response.done"))["response"]
        assert done["output"][0]["content"][0]["text"] == "It rang."
        _, again = worker.asked
        assert (again.question.text, again.question.tool_choice) == ("ring the bell", "none")
        assert [(each.name, each.output) for each in again.question.called] == [("ring", "rung")]
        assert not again.history

        await line.ask("thank you")
        last = worker.asked[-1]
        assert not last.question.called
        assert [(each.question, each.answer) for each in last.history] == [
            ("ring the bell", "One moment.\nIt rang.")
        ]


async def test_an_answer_that_is_a_call_alone_has_no_message() -> None:
    worker = FakeWorker()
    async with line_to(worker, speech=True) as line:
        worker.answer = ""
        worker.tool_calls = [pb.ToolCall(id=f"call_{n}", name="ring") for n in range(2)]
        done = await line.ask(
            "ring", tools=[RING], tool_choice={"type": "function", "name": "ring"}
        )
        assert [item["type"] for item in done["output"]] == ["function_call"] * 2
        assert "response.content_part.added" not in line.kinds()
        assert worker.asked[0].question.tool_choice == "ring"


async def test_what_is_wrong_with_an_event_is_an_error_with_its_id() -> None:
    async with line_to(attached=False) as line:
        cases = [
            ("response.nonsense", {}, "invalid_value"),
            ("session.update", {"session": {"type": "transcription"}}, "invalid_value"),
            ("session.update", {"session": {"sightline": {"session": "x"}}}, "session_not_found"),
            ("conversation.item.delete", {"item_id": "x"}, "item_delete_invalid_item_id"),
            ("sightline.watch.delete", {"watch_id": "x"}, "no_session"),
            ("input_audio_buffer.commit", {}, "input_audio_not_supported"),
        ]
        for kind, fields, code in cases:
            await line.send(kind, event_id="mine", **fields)
            error = (await line.next())["error"]
            assert (error["code"], error["event_id"]) == (code, "mine"), kind
        await line.socket.send_str("{")
        assert (await line.next())["error"]["code"] == "invalid_json"
        await line.send("session.update", session={"instructions": "still here"})
        assert (await line.until("session.updated"))["session"]["instructions"] == "still here"


async def test_a_session_that_is_deleted_ends_theline_to() -> None:
    async with line_to() as line:
        line.parts.sessions.delete(line.parts.sessions.all()[0], "deleted")
        message = await line.socket.receive(timeout=PATIENCE_S)
        assert message.type is WSMsgType.CLOSE
        assert message.extra == "session_deleted"


async def test_a_viewer_leaves_with_itsline_to() -> None:
    worker = FakeWorker()
    worker.pause_after = 1
    async with line_to(worker) as line:
        await line.say("what is there")
        await line.send("response.create")
        await line.until("response.output_text.delta")
        session = line.parts.sessions.all()[0]
        assert session.viewers == 1
        await line.socket.close()
        await eventually(lambda: session.viewers == 0 and worker.cancelled_answers == 1)


# --- pictures -----------------------------------------------------------------------------------


def _address(kind: str = "jpeg", level: int = 128) -> str:
    """A grey picture as a `data:` address."""
    picture = av.VideoFrame.from_ndarray(np.full((32, 48, 3), level, np.uint8), format="rgb24")
    codec = av.CodecContext.create({"jpeg": "mjpeg", "png": "png"}[kind], "w")
    assert isinstance(codec, av.VideoCodecContext)
    codec.width, codec.height = 48, 32
    codec.pix_fmt = {"jpeg": "yuvj420p", "png": "rgb24"}[kind]
    codec.time_base = Fraction(1)
    packets = [*codec.encode(picture.reformat(format=codec.pix_fmt)), *codec.encode(None)]
    data = b"".join(bytes(packet) for packet in packets)
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


async def _show(line: Line, *addresses: str, text: str = "") -> None:
    content: list[dict[str, Any]] = [
        {"type": "input_image", "image_url": address, "detail": "low"} for address in addresses
    ]
    content += [{"type": "input_text", "text": text}] if text else []
    item = {"type": "message", "role": "user", "content": content}
    await line.send("conversation.item.create", item=item)


async def test_pictures_are_frames_of_a_session_of_the_connections_own() -> None:
    worker = FakeWorker()
    async with line_to(worker, attached=False) as line:
        for level in (50, 100):
            await _show(line, _address(level=level))
            added = await line.until("conversation.item.added")
            assert added["item"]["content"] == [], "the picture does not come back"
            await line.until("conversation.item.done")
        await _show(line, _address("png", 200), text="what is there")
        await line.until("conversation.item.done")
        await line.send("response.create")
        done = (await line.until("response.done"))["response"]
        assert done["sightline"]["frames_seen"] == 3
        assert (done["sightline"]["confidence"], done["sightline"]["answered_by"]) == (None, "")
        own = next(each for each in line.parts.sessions.all() if each.name == "realtime")
        assert worker.asked[0].session_id == own.id
        assert [frame.pixels[0] for frame in worker.frames[own.id]] == pytest.approx(
            [50, 100, 200], abs=3
        )
        await line.send("session.update", session={"model": "gpt-realtime"})
        session = (await line.until("session.updated"))["session"]
        assert (session["sightline"]["session"], session["model"]) == (own.id, "builtin")
        await line.socket.close()
        await eventually(lambda: own not in line.parts.sessions.all())


async def test_an_answer_waits_until_the_picture_is_understood() -> None:
    worker = FakeWorker()
    worker.understanding.clear()
    async with line_to(worker, attached=False) as line:
        await _show(line, _address(), text="what is there")
        await line.until("conversation.item.done")
        await line.send("response.create")
        await line.until("response.created")
        assert not worker.asked
        worker.understanding.set()
        done = (await line.until("response.done"))["response"]
        assert done["sightline"]["frames_seen"] == 1


async def test_what_is_no_picture_is_refused() -> None:
    async with line_to(attached=False) as line:
        for address in (
            "https://example.com/cat.jpg",
            "data:image/jpeg;base64,*",
            "data:image/gif;base64,R0lGODlhAQABAAAAACw=",
        ):
            await _show(line, address)
            error = (await line.next())["error"]
            assert (error["code"], error["type"]) == ("invalid_argument", "invalid_request_error")
        broken = base64.b64encode(b"\xff\xd8\xff" + bytes(64)).decode()
        await _show(line, f"data:image/jpeg;base64,{broken}")
        assert (await line.next())["error"]["code"] == "invalid_argument"
        assert len(line.parts.sessions.all()) <= 2
        await line.send("session.update", session={"sightline": {"session": "kitchen"}})
        await line.until("session.updated")
        await eventually(lambda: len(line.parts.sessions.all()) == 1)
        await _show(line, _address())
        assert (await line.next())["error"]["code"] == "input_image_not_supported"


# --- who comes ----------------------------------------------------------------------------------


async def test_callers_sign_in_as_openais_clients_do(tmp_path: Path) -> None:
    key, entry = new_key("ada", ["view", "ask"])
    lost, nobody = new_key("bob", ["publish"])
    (tmp_path / "keys").write_text(f"{entry}\n{nobody}\n")
    async with served_realtime(auth="keys", auth_keys=tmp_path / "keys") as (parts, client):
        await parts.push_session(seen=True, name="kitchen")
        for header, status in (("", 401), ("Bearer wrong", 401), (f"Bearer {lost}", 403)):
            with pytest.raises(aiohttp.WSServerHandshakeError) as refusal:
                await client.ws_connect(
                    "/v1/realtime?session=kitchen", headers={"Authorization": header}
                )
            assert refusal.value.status == status
        ways: list[dict[str, Any]] = [
            {"headers": {"Authorization": f"Bearer {key}"}},
            {"protocols": ["realtime", f"openai-insecure-api-key.{key}"]},
        ]
        for way in ways:
            async with client.ws_connect("/v1/realtime?session=kitchen", **way) as socket:
                line = Line(socket, parts)
                await line.until("session.created")
                assert (await line.ask("what is there"))["status"] == "completed"
                watch = {"id": "w1", "condition": "a phone is there"}
                await line.send("sightline.watch.create", watch=watch)
                failed = await line.until("sightline.watch.failed")
                assert failed["error"]["code"] == "not_permitted"


async def test_an_unknown_session_is_refused_at_the_door() -> None:
    async with served_realtime() as (_, client):
        with pytest.raises(aiohttp.WSServerHandshakeError) as refusal:
            await client.ws_connect("/v1/realtime?session=none")
        assert refusal.value.status == 404
        assert (await client.get("/v1/realtime")).status == 400


async def test_lines_end_with_the_server() -> None:
    async with served_realtime() as (parts, client), client.ws_connect("/v1/realtime") as socket:
        line = Line(socket, parts)
        await line.until("session.created")
        assert client.server is not None
        closing = asyncio.create_task(client.server.close())
        message = await socket.receive(timeout=PATIENCE_S)
        assert message.type is WSMsgType.CLOSE
        assert message.extra == "the server is stopping"
        await closing


async def test_a_client_secret_lets_a_browser_in_for_a_while(tmp_path: Path) -> None:
    key, entry = new_key("ada", ["admin"], ["kitchen"])
    (tmp_path / "keys").write_text(f"{entry}\n")
    path = "/v1/realtime/client_secrets"
    async with served_realtime(auth="keys", auth_keys=tmp_path / "keys") as (parts, client):
        await parts.push_session(seen=True, name="kitchen")
        await parts.push_session(seen=True, name="cellar", key="secret-key-2")
        assert (await client.post(path, json={})).status == 401
        signed = {"Authorization": f"Bearer {key}"}
        for body in ({"expires_after": {"seconds": 1}}, {"session": {"type": "x"}}, []):
            assert (await client.post(path, json=body, headers=signed)).status == 400
        about = {"type": "realtime", "instructions": "be kind", "sightline": {"session": "kitchen"}}
        reply = await client.post(path, json={"session": about}, headers=signed)
        made = await reply.json()
        assert made["value"].startswith("ek_")
        assert made["session"]["instructions"] == "be kind"
        bring = ["realtime", f"openai-insecure-api-key.{made['value']}"]
        async with client.ws_connect("/v1/realtime", protocols=bring) as socket:
            line = Line(socket, parts)
            session = (await line.until("session.created"))["session"]
            assert session["instructions"] == "be kind"
            assert session["sightline"]["name"] == "kitchen"
            assert (await line.ask("what is there"))["status"] == "completed"
            await line.send("session.update", session={"sightline": {"session": "cellar"}})
            assert (await line.next())["error"]["code"] == "session_not_found"
        # It opens nothing else, and nobody can make one up.
        for door in ("/api/sessions", path):
            bearer = {"Authorization": f"Bearer {made['value']}"}
            assert (await client.request("POST", door, json={}, headers=bearer)).status == 401
        for wrong in (made["value"][:-2] + "xx", "ek_", "ek_" + "x" * 9000):
            with pytest.raises((aiohttp.WSServerHandshakeError, aiohttp.ClientError)) as refusal:
                await client.ws_connect(
                    "/v1/realtime", headers={"Authorization": f"Bearer {wrong}"}
                )
            assert getattr(refusal.value, "status", 400) in (400, 401)


def test_a_client_secret_goes_with_the_key_that_made_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever made one before the key was taken out went on with it for hours."""
    file = tmp_path / "keys"
    key, line = new_key("ada", ["view"])
    file.write_text(line + "\n")
    monkeypatch.setattr("services.common.fresh_file.LOOK_S", 0.0)
    keys, made = Keys(file), ClientSecrets("s" * 32)
    value = made.make(asyncio.run(keys.caller_of(key)), {}, 600).value
    found, _ = made.read(value)
    assert found.is_current()
    file.write_text("# nobody\n")
    assert not found.is_current()
    with pytest.raises(UnauthenticatedError, match="gone"):
        made.read(value)


def test_a_client_secret_is_known_by_gateways_that_share_theirs() -> None:
    caller = Caller(name="ada", permissions=frozenset({Permission.ADMIN}), tenant="acme")
    secret = ClientSecrets("s" * 32).make(caller, {"instructions": "be kind"}, 10)
    found, settings = ClientSecrets("s" * 32).read(secret.value)
    assert (found.name, found.tenant, settings) == ("ada", "acme", {"instructions": "be kind"})
    assert found.permissions == {Permission.VIEW, Permission.ASK, Permission.WATCH}
    assert found.is_current()
    with pytest.raises(UnauthenticatedError):
        ClientSecrets("t" * 32).read(secret.value)
    late = ClientSecrets("s" * 32).make(caller, {}, -5)
    with pytest.raises(UnauthenticatedError) as refusal:
        ClientSecrets("s" * 32).read(late.value)
    assert refusal.value.reason == "TOKEN_EXPIRED"
