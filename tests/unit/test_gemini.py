"""The Gemini Live wire over a WebSocket: messages as Google's clients send and expect them."""

import asyncio
import base64
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aiohttp import WSServerHandshakeError

from services.gateway.auth.keys import new_key
from sightline.v1 import gateway_pb2 as pb
from tests.eventually import eventually
from tests.unit.fake_worker import ANSWER, FakeWorker
from tests.unit.gemini_parts import AUDIO, PATH, TEXT, Client, client_of, parts_of
from tests.unit.realtime_parts import served_realtime
from tests.unit.test_realtime import _address
from tests.unit.test_realtime_voice import Ears
from tests.unit.voices import SILENCE, SPEECH, Hearsay

RATE = 16_000
BY_HAND = {"realtimeInputConfig": {"automaticActivityDetection": {"disabled": True}}}
LAMP = {"name": "lamp", "parameters": {"type": "OBJECT", "properties": {"on": {"type": "BOOLEAN"}}}}


def _picture(kind: str = "jpeg", level: int = 128) -> bytes:
    return base64.b64decode(_address(kind, level).partition(",")[2])


def _contents(client: Client, first: int = 1) -> list[list[str]]:
    """Fields of the messages, those of server content by their names."""
    return [list(each.get("serverContent", each)) for each in client.messages[first:]]


async def _hear(client: Client, *pieces: tuple[float, float]) -> None:
    """Send sound that is taken for speech with this probability, for so many seconds."""
    for probability, length_s in pieces:
        samples = np.full(round(RATE * length_s), round(1000 * probability), np.int16)
        data = base64.urlsafe_b64encode(samples.tobytes()).decode().rstrip("=")
        blob = {"mimeType": "audio/pcm;rate=16000", "data": data}
        await client.send(realtimeInput={"audio": blob})


async def _speak(client: Client) -> None:
    await _hear(client, (SPEECH, 0.6), (SILENCE, 0.8))


# --- words --------------------------------------------------------------------------------------


async def test_a_question_by_text_is_answered_message_by_message() -> None:
    async with client_of() as client:
        assert client.messages == [{"setupComplete": {}}]
        assert await client.ask("what is there") == ANSWER
        assert _contents(client) == [
            *[["modelTurn"]] * len(ANSWER.split()),
            ["generationComplete"],
            ["turnComplete"],
        ]
        usage = client.messages[-1]["usageMetadata"]
        assert usage["totalTokenCount"] == usage["promptTokenCount"] + usage["responseTokenCount"]


async def test_what_was_said_is_what_the_turns_say() -> None:
    worker = FakeWorker()
    async with client_of(worker) as client:
        said = {"role": "user", "parts": [{"text": "who are you"}]}
        answered = {"role": "model", "parts": [{"text": "a camera"}]}
        await client.send(client_content={"turns": [said, answered], "turn_complete": False})
        await client.send(realtime_input={"text": "what is there"})
        assert await client.turn() == ANSWER
        assert worker.asked[0].question.text == "what is there"
        assert [(each.question, each.answer) for each in worker.asked[0].history] == [
            ("who are you", "a camera")
        ]
        await client.send(clientContent={"turnComplete": True})
        assert await client.turn() == ""
        ended = client.messages[-1]["serverContent"]
        assert ended == {"turnComplete": True, "turnCompleteReason": "NEED_MORE_INPUT"}


async def test_a_blank_asks_for_what_is_not_answered_yet() -> None:
    """Pipecat sends one after whatever is to be answered."""
    worker = FakeWorker()
    async with client_of(worker) as client:
        await client.say("what is there")
        await client.send(realtimeInput={"text": " "})
        assert await client.turn() == ANSWER
        await client.say("and now", complete=False)
        await client.send(realtimeInput={"text": " "})
        assert await client.turn() == ANSWER
        await client.send(realtimeInput={"text": " "})
        assert await client.ask("and then") == ANSWER
        assert [each.question.text for each in worker.asked] == [
            "what is there",
            "and now",
            "and then",
        ]
        assert ["interrupted"] not in _contents(client)


async def test_a_full_stop_asks_for_what_was_said_with_it() -> None:
    """LiveKit sends one with every wish for an answer."""
    worker = FakeWorker()
    async with client_of(worker) as client:
        await client.say("what is there", ".")
        assert await client.turn() == ANSWER
        await client.say("?")
        assert await client.turn() == ANSWER
        assert [each.question.text for each in worker.asked] == ["what is there", "?"]


async def test_what_is_said_into_an_answer_interrupts_it() -> None:
    worker = FakeWorker()
    worker.pause_after = 2
    async with client_of(worker) as client:
        await client.say("what is there")
        for _ in range(2):
            await client.until("modelTurn")
        worker.pause_after = None
        await client.say("and now")
        await client.turn()
        assert _contents(client)[-2:] == [["interrupted"], ["turnComplete"]]
        assert await client.turn() == ANSWER
        assert worker.asked[1].question.text == "and now"
        await eventually(lambda: worker.cancelled_answers == 1)


async def test_an_answer_that_comes_anew_replaces_what_was_said() -> None:
    worker = FakeWorker()
    worker.break_at = 2
    async with client_of(worker, moving_s=10) as client:
        await client.say("what is there")
        for _ in range(2):
            await client.until("modelTurn")
        worker.break_at = None
        await client.until("interrupted")
        assert await client.turn() == ANSWER


async def test_the_setup_says_how_to_answer() -> None:
    worker = FakeWorker()
    generation = {"responseModalities": ["TEXT"], "temperature": 0.5, "topK": 9.0, "seed": 3}
    setup = {
        "generationConfig": {**generation, "maxOutputTokens": 7, "top_p": 0.5},
        "systemInstruction": {"parts": [{"text": "Be kind."}]},
    }
    async with client_of(worker, setup=setup) as client:
        await client.ask("what is there")
        question = worker.asked[0].question
        assert (question.instructions, question.max_tokens) == ("Be kind.", 7)
        assert (question.temperature, question.top_p) == (0.5, 0.5)
        assert (question.top_k, question.seed) == (9, 3)


# --- pictures -----------------------------------------------------------------------------------


async def test_pictures_of_a_camera_are_what_is_asked_about() -> None:
    worker = FakeWorker()
    async with client_of(worker, attached=False) as client:
        await client.show(_picture(level=50))
        await client.show(_picture("png", 200), "image/png")
        assert await client.ask("what is there") == ANSWER
        own = next(each for each in client.parts.sessions.all() if each.name == "realtime")
        assert [frame.pixels[0] for frame in worker.frames[own.id]] == pytest.approx(
            [50, 200], abs=3
        )
        await client.socket.close()
        await eventually(lambda: own not in client.parts.sessions.all())


async def test_a_camera_that_is_faster_than_the_model_does_not_hold_up_the_line() -> None:
    worker = FakeWorker()
    async with client_of(worker, attached=False) as client:
        await client.show(_picture(level=0))
        await eventually(lambda: any(worker.frames.values()))
        own = next(each for each in client.parts.sessions.all() if each.name == "realtime")
        worker.understanding.clear()
        for level in range(10, 250, 10):
            await client.show(_picture(level=level))
        await client.say("what is there")
        await eventually(lambda: own.counts.dropped["ring_full"] > 0)
        worker.understanding.set()
        assert await client.turn() == ANSWER
        assert worker.frames[own.id][-1].pixels[0] == pytest.approx(240, abs=3)
        assert len(worker.frames[own.id]) + own.counts.dropped["ring_full"] == 25


async def test_a_picture_in_a_turn_is_seen_with_it() -> None:
    worker = FakeWorker()
    async with client_of(worker, attached=False) as client:
        blob = {"mimeType": "image/jpeg", "data": base64.b64encode(_picture()).decode()}
        turn = {"role": "user", "parts": [{"inlineData": blob}, {"text": "what is there"}]}
        await client.send(clientContent={"turns": [turn], "turnComplete": True})
        assert await client.turn() == ANSWER
        assert len(client.parts.sessions.all()) == 2


@pytest.mark.parametrize("where", ["model", "address", "sightline"])
async def test_a_live_session_is_named_in_any_of_three_places(where: str) -> None:
    worker = FakeWorker()
    setup: dict[str, Any] = dict(TEXT)
    if where == "model":
        setup["model"] = "models/sightline://kitchen"
    if where == "sightline":
        setup["sightline"] = {"session": "kitchen"}
    async with client_of(worker, attached=where == "address", setup=setup) as client:
        assert await client.ask("what is there") == ANSWER
        [kitchen] = client.parts.sessions.all()
        assert worker.asked[0].session_id == kitchen.id
        await client.show(_picture())
        code, reason = await client.closed()
        assert (code, "live video" in reason) == (1007, True)


# --- speech -------------------------------------------------------------------------------------


async def test_an_answer_is_spoken_and_ends_when_it_was_played() -> None:
    worker = FakeWorker()
    worker.word_s = 0.05
    setup = {
        **AUDIO,
        "outputAudioTranscription": {},
        "generationConfig": {
            "responseModalities": ["AUDIO"],
            "speechConfig": {"voiceConfig": {"prebuiltVoiceConfig": {"voiceName": "joe"}}},
        },
    }
    async with client_of(worker, speech=True, setup=setup) as client:
        await client.say("what is there")
        await client.until("generationComplete")
        assert worker.asked[0].voice == "joe"
        blobs = [part["inlineData"] for part in parts_of(client.messages)]
        assert {blob["mimeType"] for blob in blobs} == {"audio/pcm;rate=24000"}
        pcm = b"".join(base64.b64decode(blob["data"]) for blob in blobs)
        assert len(pcm) / 48_000 == pytest.approx(0.05 * len(ANSWER.split()), abs=0.01)
        words = [each["serverContent"].get("outputTranscription") for each in client.messages[1:]]
        assert "".join(each.get("text", "") for each in words if each) == ANSWER
        assert await client.turn() == ""


async def test_who_speaks_into_what_is_played_silences_it() -> None:
    """The generation is over by then; what was not heard is not part of the conversation."""
    worker = FakeWorker()
    worker.word_s = 1.0
    ears = Ears(Hearsay("and now"))
    setup = {**AUDIO, "inputAudioTranscription": {}}
    async with client_of(worker, speech=True, ears=ears, setup=setup) as client:
        await client.say("what is there")
        await client.until("generationComplete")
        worker.word_s = 0.001
        await _speak(client)
        first = len(client.messages)
        await client.turn()
        assert _contents(client, first) == [["interrupted"], ["turnComplete"]]
        heard = await client.until("inputTranscription")
        assert heard["serverContent"]["inputTranscription"]["text"] == "and now"
        await client.until("generationComplete")
        answer = worker.asked[1].history[0].answer if worker.asked[1].history else ""
        assert len(answer) < len(ANSWER)
        assert worker.asked[1].question.text.endswith("and now")


async def test_a_spoken_question_is_heard_and_answered() -> None:
    worker = FakeWorker()
    async with client_of(worker, ears=Ears(Hearsay("What is there?"))) as client:
        await _speak(client)
        assert await client.turn() == ANSWER
        assert worker.asked[0].question.text == "What is there?"
        assert "inputTranscription" not in [name for [name] in _contents(client)[:-1]]


async def test_a_client_may_say_itself_when_somebody_speaks() -> None:
    worker = FakeWorker()
    async with client_of(
        worker, ears=Ears(Hearsay("What is there?")), setup={**TEXT, **BY_HAND}
    ) as client:
        await _hear(client, (SPEECH, 0.3))  # nobody's turn
        await client.send(realtimeInput={"activityStart": {}})
        await _hear(client, (SPEECH, 0.6))
        await client.send(realtimeInput={"activityEnd": {}})
        assert await client.turn() == ANSWER
        assert worker.asked[0].question.text == "What is there?"


async def test_a_microphone_that_is_switched_off_ends_a_turn() -> None:
    worker = FakeWorker()
    async with client_of(worker, ears=Ears(Hearsay("What is there?"))) as client:
        await _hear(client, (SPEECH, 0.6))
        await client.send(realtimeInput={"audioStreamEnd": True})
        assert await client.turn() == ANSWER


async def test_a_server_that_does_not_hear_says_so() -> None:
    async with client_of() as client:
        await _hear(client, (SPEECH, 0.1))
        assert await client.closed() == (1007, "this server does not hear")


# --- functions ----------------------------------------------------------------------------------


async def test_a_function_is_called_and_answered() -> None:
    worker = FakeWorker()
    setup = {**TEXT, "tools": [{"functionDeclarations": [LAMP]}, {"googleSearch": {}}]}
    async with client_of(worker, setup=setup) as client:
        worker.tool_calls = [pb.ToolCall(id="c1", name="lamp", arguments='{"on": true}')]
        await client.say("light, please")
        calls = (await client.until("toolCall"))["functionCalls"]
        assert calls == [{"id": "c1", "name": "lamp", "args": {"on": True}}]
        [tool] = worker.asked[0].question.tools
        assert (tool.name, '"type": "boolean"' in tool.parameters) == ("lamp", True)
        worker.tool_calls = []
        output = {"id": "c1", "name": "lamp", "response": {"result": "lit"}}
        await client.send(toolResponse={"functionResponses": [output]})
        assert await client.turn() == ANSWER
        [called] = worker.asked[1].question.called
        assert (called.name, called.output) == ("lamp", '{"result": "lit"}')


async def test_calls_that_nobody_waits_for_are_cancelled() -> None:
    worker = FakeWorker()
    setup = {**TEXT, "tools": [{"functionDeclarations": [LAMP]}]}
    async with client_of(worker, setup=setup) as client:
        worker.tool_calls = [pb.ToolCall(id="c1", name="lamp", arguments="{}")]
        await client.say("light, please")
        await client.until("toolCall")
        worker.tool_calls = []
        await client.say("never mind")
        assert (await client.until("toolCallCancellation"))["ids"] == ["c1"]
        await client.turn()
        assert await client.turn() == ANSWER
        asked = len(worker.asked)
        late = {"id": "c1", "name": "lamp", "response": {}}
        await client.send(toolResponse={"functionResponses": [late]})
        assert await client.ask("and now") == ANSWER
        assert len(worker.asked) == asked + 1


# --- watches ------------------------------------------------------------------------------------


async def test_proactive_video_speaks_of_what_it_is_to_tell() -> None:
    worker = FakeWorker()
    setup = {
        **TEXT,
        "systemInstruction": "Be brief. Tell me when a person is at the door.",
        "proactivity": {"proactive_video": True},
    }
    async with client_of(worker, setup=setup) as client:
        await eventually(lambda: worker.watched)
        assert worker.watched[0].watch.condition == "a person is at the door"
        worker.watch_events.put_nowait(pb.WatchEvent(active=True, score=0.75))
        assert await client.turn() == "A person is at the door."
        worker.watch_events.put_nowait(pb.WatchEvent(active=False, score=0.25))
        assert await client.ask("what is there") == ANSWER
        assert worker.asked[0].question.instructions == "Be brief."


async def test_news_wait_until_an_answer_is_said_and_are_spoken() -> None:
    worker = FakeWorker()
    worker.pause_after = 2
    setup = {
        **AUDIO,
        "outputAudioTranscription": {},
        "proactivity": {"proactiveVideo": True},
        "sightline": {
            "session": "kitchen",
            "watches": [{"id": "w", "condition": "a cat is there"}],
        },
    }
    async with client_of(worker, speech=True, setup=setup) as client:
        await eventually(lambda: worker.watched)
        await client.say("what is there")
        await client.until("outputTranscription")
        worker.watch_events.put_nowait(pb.WatchEvent(active=True, score=0.75))
        event = (await client.until("sightline"))["watchEvent"]
        assert event.pop("capturedAt") == 0
        assert event == {
            "watchId": "w",
            "condition": "a cat is there",
            "active": True,
            "score": 0.75,
        }
        worker.go_on.set()
        await client.turn()
        first = len(client.messages)
        await client.turn()
        told = client.messages[first:]
        assert told[0]["serverContent"]["outputTranscription"]["text"] == "A cat is there."
        assert len(parts_of(told)) == 4, "a piece of sound for each word"


async def test_a_watch_that_is_refused_is_told() -> None:
    watches = {"watches": [{"id": "w", "condition": " "}]}
    async with client_of(setup={**TEXT, "sightline": watches}) as client:
        failed = (await client.until("sightline"))["watchFailed"]
        assert (failed["watchId"], failed["error"]["code"]) == ("w", "invalid_argument")


# --- the session --------------------------------------------------------------------------------


async def test_a_session_goes_on_after_a_connection_is_lost() -> None:
    worker = FakeWorker()
    resumption = {"sessionResumption": {"transparent": True}}
    async with served_realtime(worker) as (parts, http):
        await parts.push_session(seen=True, name="kitchen")
        async with http.ws_connect(PATH + "?session=kitchen") as socket:
            client = Client(socket, parts)
            await client.send(setup={**TEXT, **resumption})
            update = await client.until("sessionResumptionUpdate")
            assert (update["resumable"], update["lastConsumedClientMessageIndex"]) == (True, "0")
            await client.ask("what is there")
            update = await client.until("sessionResumptionUpdate")
            assert update["lastConsumedClientMessageIndex"] == "1"
        handle = update["newHandle"]
        async with http.ws_connect(PATH) as socket:
            client = Client(socket, parts)
            await client.send(setup={**TEXT, "session_resumption": {"handle": handle}})
            await client.until("setupComplete")
            assert await client.ask("and now") == ANSWER
            assert [(each.question, each.answer) for each in worker.asked[1].history] == [
                ("what is there", ANSWER)
            ]
        async with http.ws_connect(PATH) as socket:
            client = Client(socket, parts)
            await client.send(setup={**TEXT, "sessionResumption": {"handle": handle + "x"}})
            code, reason = await client.closed()
            assert (code, reason.startswith("no session goes on")) == (1007, True)


async def test_a_session_that_ends_says_so_before() -> None:
    async with client_of() as client:
        [kitchen] = client.parts.sessions.all()
        client.parts.sessions.delete(kitchen, "deleted")
        assert await client.until("goAway") == {"timeLeft": "1s"}
        code, reason = await client.closed()
        assert (code, bool(reason)) == (1001, True)


@pytest.mark.parametrize(
    ("message", "code", "reason"),
    [
        ({"clientContent": {}}, 1007, "the first message is a setup"),
        ({"setup": {"generationConfig": {"responseModalities": ["SMELL"]}}}, 1007, "TEXT or AUDIO"),
        ({"setup": {"model": "models/sightline://nowhere"}}, 1008, "no such session"),
        ({"setup": []}, 1007, "setup is an object"),
        ("not json", 1007, "JSON object"),
    ],
)
async def test_what_is_wrong_with_a_setup_is_said_in_a_sentence(
    message: Any, code: int, reason: str
) -> None:
    async with served_realtime() as (parts, http), http.ws_connect(PATH) as socket:
        await socket.send_json(message)
        found = await Client(socket, parts).closed()
        assert found[0] == code
        assert reason in found[1]


async def test_what_is_wrong_later_ends_the_session_with_a_sentence() -> None:
    for message, reason in (
        ({"setup": {}}, "setup comes once"),
        ({"realtimeInput": {"activityStart": {}}}, "automaticActivityDetection.disabled"),
        ({"realtimeInput": {"video": {"mimeType": "video/mp4", "data": ""}}}, "string"),
        ({"realtimeInput": {"video": {"mimeType": "video/mp4", "data": "AAAA"}}}, "image/png"),
        ({"realtimeInput": {"video": {"mimeType": "image/png", "data": "AAAA"}}}, "JPEG or PNG"),
    ):
        async with client_of() as client:
            await client.send(**message)
            code, told = await client.closed()
            assert code == 1007
            assert reason in told


async def test_without_a_video_there_is_nothing_to_ask_about() -> None:
    async with client_of(attached=False) as client:
        await client.say("what is there")
        code, reason = await client.closed()
        assert (code, reason.startswith("there is no video")) == (1007, True)
    async with client_of(attached=False, setup={**TEXT, "sightline": {}}) as client:
        await client.say("what is there")
        error = (await client.until("sightline"))["error"]
        assert error["code"] == "no_session"
        assert await client.turn() == ""
        await client.show(_picture())
        assert await client.ask("and now") == ANSWER


async def test_a_client_that_knows_us_is_told_what_an_answer_saw_and_how_sure_it_is() -> None:
    worker = FakeWorker()
    worker.confidence = 0.25
    async with client_of(worker, setup={**TEXT, "sightline": {"session": "kitchen"}}) as client:
        assert await client.ask("what is there") == ANSWER
        answer = client.messages[-1]["sightline"]["answer"]
        assert (answer["confidence"], answer["answeredBy"]) == (0.25, "")
        assert "newestFrameAgeMs" in answer
    async with client_of(worker) as client:
        assert await client.ask("what is there") == ANSWER
        assert "sightline" not in client.messages[-1]


async def test_a_client_secret_lets_a_browser_in_for_a_while(tmp_path: Path) -> None:
    key, entry = new_key("ada", ["admin"], ["kitchen"])
    (tmp_path / "keys").write_text(f"{entry}\n")
    async with served_realtime(auth="keys", auth_keys=tmp_path / "keys") as (parts, http):
        await parts.push_session(seen=True, name="kitchen")
        body = {"session": {"sightline": {"session": "kitchen"}}}
        headers = {"Authorization": f"Bearer {key}"}
        path = "/v1/realtime/client_secrets"
        async with http.post(path, json=body, headers=headers) as reply:
            secret = (await reply.json())["value"]
        async with http.ws_connect(f"{PATH}?access_token={secret}") as socket:
            client = Client(socket, parts)
            await client.send(setup=TEXT)
            assert await client.ask("what is there") == ANSWER
        with pytest.raises(WSServerHandshakeError) as refusal:
            await http.ws_connect(f"{PATH}?access_token={secret}x")
        assert refusal.value.status == 401


async def test_connections_end_with_the_server() -> None:
    async with served_realtime() as (parts, http), http.ws_connect(PATH) as socket:
        client = Client(socket, parts)
        await client.send(setup=TEXT)
        await client.until("setupComplete")
        assert http.server is not None
        closing = asyncio.create_task(http.server.close())
        assert await client.until("goAway") == {"timeLeft": "1s"}
        assert await client.closed() == (1001, "the server is stopping")
        await closing


async def test_keys_come_where_googles_clients_put_them(tmp_path: Path) -> None:
    key, entry = new_key("ada", ["view", "ask"])
    (tmp_path / "keys").write_text(f"{entry}\n")
    async with served_realtime(auth="keys", auth_keys=tmp_path / "keys") as (parts, http):
        with pytest.raises(WSServerHandshakeError) as refusal:
            await http.ws_connect(PATH)
        assert refusal.value.status == 401
        ways: list[tuple[str, dict[str, str]]] = [
            (f"?key={key}", {}),
            (f"?access_token={key}", {}),
            ("", {"x-goog-api-key": key}),
            ("", {"Authorization": f"Token {key}"}),
            ("", {"Authorization": f"Bearer {key}"}),
        ]
        for query, headers in ways:
            for slash in ("", "/"):  # as Google's SDK has two for a base address that ends with one
                url = f"{http.make_url('')}{slash}{PATH}{query}"
                async with http.session.ws_connect(url, headers=headers) as socket:
                    client = Client(socket, parts)
                    await client.socket.send_bytes(b'{"setup": {}}')
                    await client.until("setupComplete")
        with pytest.raises(WSServerHandshakeError):
            await http.ws_connect(PATH + "?key=sl_wrong")
        watched = {"sightline": {"session": "x"}, "proactivity": {"proactiveVideo": True}}
        async with http.ws_connect(PATH + f"?key={key}") as socket:
            await socket.send_json({"setup": watched})
            assert (await Client(socket, parts).closed())[0] == 1008
