"""The Gemini Live wire's codec: what clients of Google's send is read, or refused in words."""

import base64
import json
from collections.abc import Callable
from typing import Any, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.gateway.api.gemini import server_messages as server
from services.gateway.api.gemini.client_messages import (
    ClientContent,
    RealtimeInput,
    ToolResponse,
    parsed,
)
from services.gateway.api.gemini.closing import MAX_REASON_BYTES, reason_of
from services.gateway.api.gemini.resumption import MAX_CHARACTERS, Handles
from services.gateway.api.gemini.schema import json_schema_of
from services.gateway.api.gemini.setup import Setup, standing_in
from services.gateway.api.gemini.turn import Turn, TurnFailedError
from services.gateway.api.realtime import server_events as told
from services.gateway.api.realtime.fields import WireError
from services.gateway.api.realtime.items import Item, Part
from services.gateway.auth.caller import ANYBODY
from tests.odd_json import odd_objects

T = TypeVar("T")
# As google-genai 3.6.1 sends it: camelCase outside, snake_case inside some objects.
GOOGLES = {
    "setup": {
        "model": "models/gemini-live",
        "generationConfig": {
            "responseModalities": ["AUDIO"],
            "temperature": 0.5,
            "topK": 9.0,
            "maxOutputTokens": 7,
            "speechConfig": {"voiceConfig": {"prebuiltVoiceConfig": {"voiceName": "Kore"}}},
            "mediaResolution": "MEDIA_RESOLUTION_LOW",
        },
        "systemInstruction": {"role": "user", "parts": [{"text": "Be brief."}]},
        "tools": [{"functionDeclarations": [{"name": "lamp"}]}, {"googleSearch": {}}],
        "sessionResumption": {"handle": "h", "transparent": True},
        "contextWindowCompression": {"slidingWindow": {"targetTokens": "1000"}},
        "realtimeInputConfig": {
            "automatic_activity_detection": {"silence_duration_ms": 200},
            "activity_handling": "NO_INTERRUPTION",
        },
        "proactivity": {"proactive_audio": True, "proactive_video": True},
        "inputAudioTranscription": {"languageCodes": ["de-DE"]},
        "outputAudioTranscription": {},
        "somethingNew": {"a": 1},
    }
}


def _of(**message: Any) -> Any:
    return parsed(json.dumps(message))


def test_the_setup_of_googles_own_client_is_read() -> None:
    setup = parsed(json.dumps(GOOGLES))
    assert isinstance(setup, Setup)
    assert (setup.model, setup.handle, setup.transparent) == ("gemini-live", "h", True)
    assert (setup.shows_input, setup.shows_output, setup.proactive) == (True, True, True)
    assert not setup.extended
    said = setup.settings
    assert (said.modality, said.voice, said.instructions) == ("audio", "Kore", "Be brief.")
    assert (said.max_tokens, said.language) == (7, "de")
    assert said.sampling.said == (("temperature", 0.5), ("top_k", 9))
    assert said.turn_detection is not None
    assert said.turn_detection.silence_ms == 200
    assert not said.turn_detection.interrupt_response
    assert [each.name for each in said.functions] == ["lamp"]


def test_a_setup_of_nothing_is_one_of_the_usual() -> None:
    setup = _of(setup={})
    assert (setup.settings.modality, setup.handle, setup.watches) == ("audio", None, ())
    assert setup.about("kitchen").settings.stream == "kitchen"
    assert _of(setup={"sessionResumption": {}}).handle == ""


@pytest.mark.parametrize(
    ("text", "kept", "conditions"),
    [
        ("Tell me when a cat is there.", "", ["a cat is there"]),
        ("Be kind. Let me know if it rains!", "Be kind.", ["it rains"]),
        ("please alert me as soon as\nsmoke rises", "please alert me as soon as\nsmoke rises", []),
        ("Please warn me whenever A; tell me once B", "", ["A", "B"]),
        ("Tell me what you see.", "Tell me what you see.", []),
        ("Tell me when", "Tell me when", []),
        ("", "", []),
    ],
)
def test_standing_wishes_are_watches(text: str, kept: str, conditions: list[str]) -> None:
    found, watches = standing_in(text)
    assert found == kept
    assert [watch.condition for watch in watches] == conditions


def test_watches_are_taken_from_instructions_for_proactive_video_alone() -> None:
    said = {"systemInstruction": "Tell me when a cat is there."}
    assert _of(setup=said).watches == ()
    assert len(_of(setup={**said, "proactivity": {"proactiveVideo": True}}).watches) == 1


@pytest.mark.parametrize("name", ["video", "media", "mediaChunks", "media_chunks"])
def test_blobs_come_in_any_of_their_fields_and_either_alphabet(name: str) -> None:
    sound = bytes(range(250, 256)) * 3
    data = base64.urlsafe_b64encode(sound).decode().rstrip("=")
    assert "_" in data or "-" in data
    blobs = [
        {"mime_type": "audio/pcm;rate=24000", "data": data},
        {"mimeType": "image/PNG", "data": base64.b64encode(sound).decode()},
    ]
    given = _of(realtime_input={name: blobs})
    assert isinstance(given, RealtimeInput)
    assert [(each.pcm, each.rate) for each in given.audio] == [(sound, 24_000)]
    assert given.pictures == (sound,)


def test_turns_are_items() -> None:
    content = _of(
        clientContent={
            "turns": [
                {"role": "model", "parts": [{"thought": True, "text": "hm"}, {"text": "light"}]},
                {"role": "model", "parts": [{"functionCall": {"id": "c", "name": "lamp"}}]},
                {"parts": [{"functionResponse": {"id": "c", "response": {"lit": "ja"}}}]},
                {"parts": [{"inlineData": {"mimeType": "image/png", "data": "AAAA"}}]},
            ],
            "turnComplete": True,
        }
    )
    assert isinstance(content, ClientContent)
    assert content.complete
    said, call, output, shown = content.items
    assert (said.role, said.words) == ("assistant", "light")
    assert (call.type, call.call_id, call.name) == ("function_call", "c", "lamp")
    assert (output.call_id, output.output) == ("c", '{"lit": "ja"}')
    assert shown.pictures == ("data:image/png;base64,AAAA",)


def test_what_came_of_a_call_may_be_told_by_its_name() -> None:
    response = _of(toolResponse={"functionResponses": {"name": "lamp", "response": {"a": 1}}})
    assert isinstance(response, ToolResponse)
    assert [each.call_id for each in response.outputs] == ["lamp"]


def test_schemas_become_json_schemas() -> None:
    schema = {
        "type": "OBJECT",
        "properties": {
            "type": {"type": "STRING", "nullable": True, "enum": ["a"]},
            "list": {"type": "ARRAY", "items": {"type": "INTEGER"}, "max_items": "3"},
            "either": {"any_of": [{"type": "NUMBER"}, {"type": "BOOLEAN"}]},
        },
        "required": ["list"],
        "propertyOrdering": ["list"],
    }
    assert json_schema_of(schema) == {
        "type": "object",
        "required": ["list"],
        "properties": {
            "type": {"type": ["string", "null"], "enum": ["a"]},
            "list": {"type": "array", "items": {"type": "integer"}, "maxItems": 3},
            "either": {"anyOf": [{"type": "number"}, {"type": "boolean"}]},
        },
    }


@pytest.mark.parametrize(
    "message",
    [
        {"setup": []},
        {"setup": {"generationConfig": {"responseModalities": ["IMAGE"]}}},
        {"setup": {"generationConfig": {"topK": -1}}},
        {"setup": {"generationConfig": {"stopSequences": [1]}}},
        {"setup": {"systemInstruction": "x" * 200_000}},
        {"setup": {"sightline": {"watches": [{"id": "w"}]}}},
        {"setup": {"tools": [{"functionDeclarations": [{}]}]}},
        {"realtimeInput": {"audio": {"mimeType": "audio/opus", "data": "AAAA"}}},
        {"realtimeInput": {"audio": {"mimeType": "audio/pcm;rate=fast", "data": "AAAA"}}},
        {"realtimeInput": {"audio": {"mimeType": "audio/pcm", "data": "*"}}},
        {"realtimeInput": {"audio": {"data": "AAAA"}}},
        {"clientContent": {"turns": [{"role": "nobody"}]}},
        {"clientContent": {"turns": ["hello"]}},
        {"clientContent": {"turns": [{"parts": [{"fileData": {"fileUri": "gs://a"}}]}]}},
        {"toolResponse": {"functionResponses": [1]}},
    ],
)
def test_what_is_no_message_is_refused_in_words(message: dict[str, Any]) -> None:
    with pytest.raises(WireError) as refusal:
        parsed(json.dumps(message))
    assert refusal.value.message


def test_messages_of_other_kinds_are_passed_over() -> None:
    assert _of(contextUpdate={}) is None


# --- the model's turn ---------------------------------------------------------------------------


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def _turn(**fields: Any) -> tuple[Turn, Clock]:
    clock = Clock()
    setup = _of(setup={"generationConfig": {"responseModalities": ["AUDIO"]}, **fields})
    return Turn(setup, clock), clock


def _begin(turn: Turn, item: str = "i1", response: str = "r1") -> None:
    turn.tell(told.ResponseCreated(response={"id": response}))
    added = Item(id=item, role="assistant", status="in_progress")
    turn.tell(told.OutputItemAdded(response_id=response, output_index=0, item=added))


def _sound(turn: Turn, seconds: float) -> None:
    pcm = base64.b64encode(bytes(round(48_000 * seconds))).decode()
    turn.tell(told.AudioDelta(response_id="r1", item_id="i1", output_index=0, delta=pcm))


def _done(turn: Turn, status: str = "completed") -> list[server.ServerMessage]:
    response = {
        "id": "r1",
        "status": status,
        "status_details": {"error": {"message": "no"}},
        "output_modalities": ["audio"],
        "usage": {"input_tokens": 3, "output_tokens": 2},
    }
    return turn.tell(told.ResponseDone(response=response))


def test_a_turn_lasts_as_long_as_it_is_played() -> None:
    turn, clock = _turn()
    _begin(turn)
    _sound(turn, 2.0)
    _sound(turn, 1.0)
    clock.now_s += 1
    assert _done(turn) == [server.GenerationComplete()]
    assert turn.left_s == pytest.approx(2.0)
    assert not turn.idle
    clock.now_s += 2
    assert turn.left_s == 0
    assert turn.played() == [server.TurnComplete(tokens=(3, 2))]
    assert turn.idle
    assert turn.cut is None


def test_who_speaks_into_it_ends_it_and_what_was_heard_is_known() -> None:
    turn, clock = _turn()
    _begin(turn)
    _sound(turn, 3.0)
    _done(turn)
    clock.now_s += 1
    speaks = told.SpeechStarted(audio_start_ms=0, item_id="i2")
    assert turn.tell(speaks) == [server.Interrupted(), server.TurnComplete(tokens=(3, 2))]
    assert turn.cut is not None
    assert (turn.cut.item_id, turn.cut.heard_ms) == ("i1", 1000)
    assert turn.tell(speaks) == []
    assert turn.idle


def test_who_may_not_interrupt_does_not() -> None:
    turn, _ = _turn(realtimeInputConfig={"activityHandling": "NO_INTERRUPTION"})
    _begin(turn)
    _sound(turn, 3.0)
    _done(turn)
    assert turn.tell(told.SpeechStarted(audio_start_ms=0, item_id="i2")) == []


def test_a_turn_that_was_cut_off_while_it_was_made() -> None:
    turn, clock = _turn()
    _begin(turn)
    _sound(turn, 3.0)
    clock.now_s += 0.5
    assert _done(turn, "cancelled") == [server.Interrupted(), server.TurnComplete()]
    assert turn.cut is not None
    assert turn.cut.heard_ms == 500


def test_the_next_answer_completes_the_turn_that_still_plays() -> None:
    turn, _ = _turn()
    _begin(turn)
    _sound(turn, 3.0)
    _done(turn)
    told_then = turn.tell(told.ResponseCreated(response={"id": "r2"}))
    assert told_then == [server.TurnComplete(tokens=(3, 2))]


def test_calls_are_told_together_and_awaited() -> None:
    turn, _ = _turn()
    _begin(turn)
    for call in ("c1", "c2"):
        turn.tell(
            told.ArgumentsDone(
                response_id="r1",
                item_id=call,
                output_index=1,
                call_id=call,
                name="lamp",
                arguments='{"on": true}' if call == "c1" else "nonsense",
            )
        )
    [message] = _done(turn)
    assert isinstance(message, server.ToolCall)
    assert [(each.id, each.args) for each in message.calls] == [("c1", {"on": True}), ("c2", {})]
    assert turn.came("c2") == "c2"
    assert turn.waits
    assert turn.came("lamp") == "c1", "by the name, where there is no id"
    assert turn.came("c1") is None
    assert not turn.waits


def test_what_failed_is_raised() -> None:
    turn, _ = _turn()
    _begin(turn)
    with pytest.raises(TurnFailedError) as failure:
        _done(turn, "failed")
    assert failure.value.error == {"message": "no"}
    assert turn.idle


# --- handles and reasons ------------------------------------------------------------------------


def test_handles_hold_the_newest_words() -> None:
    handles = Handles("shared")
    items = [
        Item(id=str(number), role=role, content=(Part(type="input_text", text=f"{number}" * 500),))
        for number in range(100)
        for role in ("user", "assistant")
    ]
    handle = handles.make(ANYBODY, "kitchen", items)
    resumed = Handles("shared").read(handle, ANYBODY)
    assert resumed.stream == "kitchen"
    assert sum(len(item.words) for item in resumed.items) <= MAX_CHARACTERS
    assert resumed.items[-1].words == items[-1].words
    for other in (Handles("another"), Handles(None)):
        with pytest.raises(WireError):
            other.read(handle, ANYBODY)


@pytest.mark.parametrize("sentence", ["", "short", "ä" * 100, "a" * 200])
def test_reasons_fit_in_a_close_frame(sentence: str) -> None:
    reason = reason_of(sentence)
    assert len(reason) <= MAX_REASON_BYTES
    assert reason.decode()[:60] == sentence[:60]


# --- odd values ---------------------------------------------------------------------------------

WORDS = [
    *("setup", "model", "generationConfig", "generation_config", "responseModalities", "tools"),
    *("systemInstruction", "parts", "text", "functionDeclarations", "parameters", "properties"),
    *("type", "items", "sessionResumption", "handle", "realtimeInputConfig", "proactivity"),
    *("automaticActivityDetection", "proactiveVideo", "sightline", "watches", "condition", "id"),
    *("realtimeInput", "audio", "video", "mediaChunks", "mimeType", "data", "activityStart"),
    *("clientContent", "turns", "role", "turnComplete", "inlineData", "functionCall", "args"),
    *("toolResponse", "functionResponses", "name", "response", "audio/pcm;rate=16000", "user"),
    *("image/jpeg", "TEXT", "AUDIO", "OBJECT", "speechConfig", "voiceConfig", "topK", "thought"),
    *("inputAudioTranscription", "languageCodes", "anyOf", "maxItems", "Tell me when it rains."),
]
OBJECTS = odd_objects(WORDS)
KINDS = ["setup", "clientContent", "realtimeInput", "toolResponse"]


def _taken(call: Callable[[], T]) -> T | None:
    """What comes of it; None where it is refused in words."""
    try:
        return call()
    except WireError as error:
        return None if error.message else pytest.fail("a refusal says why")


@settings(max_examples=40)
@given(st.sampled_from(KINDS), OBJECTS)
def test_whatever_comes_is_a_message_or_refused(kind: str, fields: dict[str, Any]) -> None:
    message = _taken(lambda: parsed(json.dumps({kind: fields})))
    if isinstance(message, ClientContent):
        json.dumps([item.kept().as_json() for item in message.items])
    if isinstance(message, Setup):
        json.dumps([function.parameters for function in message.settings.functions])


@settings(max_examples=25)
@given(OBJECTS)
def test_any_schema_becomes_one(fields: dict[str, Any]) -> None:
    assert isinstance(json.loads(json.dumps(json_schema_of(fields))), dict)


@settings(max_examples=25)
@given(st.text(max_size=200))
def test_any_text_is_a_message_or_refused(text: str) -> None:
    _taken(lambda: parsed(text))
    standing_in(text)
