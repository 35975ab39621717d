"""The Realtime wire's codec: events read and built, settings, items, and speech in its formats."""

import base64
import json
from typing import Any

import numpy as np
import pytest

from services.gateway.api.realtime import client_events as client
from services.gateway.api.realtime.audio import SpeechEncoder
from services.gateway.api.realtime.fields import WireError
from services.gateway.api.realtime.history import MAX_ITEMS, ROOT, History
from services.gateway.api.realtime.items import Item
from services.gateway.api.realtime.server_events import ItemAdded, TextDelta
from services.gateway.api.realtime.settings import AudioFormat, ResponseWish, Settings
from sightline.v1 import gateway_pb2 as pb

# What these clients send by themselves: LiveKit's captured with livekit-plugins-openai 1.8.9.
LIVEKIT = {
    "type": "realtime",
    "model": "gpt-realtime",
    "output_modalities": ["audio"],
    "audio": {
        "input": {
            "format": {"type": "audio/pcm", "rate": 24000},
            "noise_reduction": None,
            "transcription": {"model": "gpt-4o-mini-transcribe"},
            "turn_detection": {
                "type": "semantic_vad",
                "eagerness": "medium",
                "create_response": True,
                "interrupt_response": True,
            },
        },
        "output": {"format": {"type": "audio/pcm", "rate": 24000}, "speed": 1.0, "voice": "marin"},
    },
    "max_output_tokens": "inf",
    "tool_choice": "auto",
    "tracing": None,
    "instructions": "be brief",
}


def _event(**fields: Any) -> client.ClientEvent:
    return client.parsed(json.dumps(fields))


def _said(role: str, text: str, item_id: str) -> Item:
    kind = "output_text" if role == "assistant" else "input_text"
    content = [{"type": kind, "text": text}]
    return Item.of({"id": item_id, "type": "message", "role": role, "content": content})


@pytest.mark.parametrize(
    ("text", "param"),
    [
        ("", None),
        ("[]", None),
        ("{", None),
        ('{"type": NaN}', None),
        ("[" * 100_000, None),
        ('{"type": "session.update", "session": {"instructions": "\\ud800"}}', None),
        (
            '{"type": "response.create", "response": {"temperature": 1%s}}' % ("0" * 400),
            "response.temperature",
        ),
        ("{}", "type"),
        ('{"type": 1}', "type"),
        ('{"type": "response.nonsense"}', "type"),
        ('{"type": "session.update"}', "session"),
        ('{"type": "session.update", "session": []}', "session"),
        ('{"type": "conversation.item.create"}', "item"),
        ('{"type": "conversation.item.create", "item": {"type": "picture"}}', "item.type"),
        ('{"type": "conversation.item.create", "item": {"type": "message"}}', "item.role"),
        ('{"type": "conversation.item.delete"}', "item_id"),
        ('{"type": "conversation.item.truncate", "item_id": "a", "audio_end_ms": -1}', None),
        ('{"type": "input_audio_buffer.append", "audio": "*"}', "audio"),
        ('{"type": "response.create", "response": {"metadata": {"a": 1}}}', "response.metadata"),
        ('{"type": "response.create", "response": {"input": [1]}}', "response.input[0]"),
        ('{"type": "sightline.watch.create", "watch": {"id": "w"}}', "watch.condition"),
    ],
)
def test_what_is_no_event_is_refused_by_the_name_of_its_field(text: str, param: str | None) -> None:
    with pytest.raises(WireError) as refusal:
        client.parsed(text)
    assert refusal.value.message
    if param is not None:
        assert refusal.value.param == param


def test_events_are_read_with_what_they_hold() -> None:
    event = _event(
        type="conversation.item.create",
        event_id="e1",
        previous_item_id="before",
        item={"id": "i1", "type": "message", "role": "user", "content": [{"type": "text"}]},
    )
    assert isinstance(event, client.ItemCreate)
    assert (event.event_id, event.after, event.item.content[0].type) == (
        "e1",
        "before",
        "input_text",
    )
    appended = _event(type="input_audio_buffer.append", audio=base64.b64encode(b"ab").decode())
    assert isinstance(appended, client.AudioAppend)
    assert appended.audio == b"ab"
    watch = _event(
        type="sightline.watch.create", watch={"id": "w", "condition": "a cat", "interval_s": 0}
    )
    assert isinstance(watch, client.WatchCreate)
    assert (watch.watch_id, watch.condition, watch.interval_s) == ("w", "a cat", 0.0)


def test_the_whole_default_settings_of_livekit_are_taken() -> None:
    settings = Settings().updated(LIVEKIT)
    assert settings.modality == "audio"
    assert (settings.voice, settings.instructions, settings.max_tokens) == ("marin", "be brief", 0)
    assert settings.turn_detection is not None
    assert settings.turn_detection.interrupt_response
    assert settings.said["tracing"] is None


def test_settings_are_updated_by_what_is_said_alone() -> None:
    settings = Settings().updated(LIVEKIT).updated({"output_modalities": ["text"]})
    assert (settings.modality, settings.instructions) == ("text", "be brief")
    off = settings.updated({"audio": {"input": {"turn_detection": None}}})
    assert off.turn_detection is None
    assert off.voice == "marin"
    about = off.updated({"sightline": {"session": "kitchen"}})
    assert (about.stream, about.voice) == ("kitchen", "marin")


def test_names_of_the_beta_are_understood() -> None:
    settings = Settings().updated(
        {
            "modalities": ["text", "audio"],
            "voice": "alloy",
            "output_audio_format": "g711_ulaw",
            "turn_detection": {"type": "server_vad", "silence_duration_ms": 200},
            "max_response_output_tokens": 12,
        }
    )
    assert (settings.modality, settings.voice, settings.max_tokens) == ("audio", "alloy", 12)
    assert settings.output_format == AudioFormat(type="audio/pcmu")
    assert settings.turn_detection is not None
    assert settings.turn_detection.silence_ms == 200


@pytest.mark.parametrize(
    "wishes",
    [
        {"type": "transcription"},
        {"output_modalities": ["smell"]},
        {"audio": {"output": {"format": {"type": "audio/mp3"}}}},
        {"audio": {"output": {"format": {"type": "audio/pcm", "rate": 8000}}}},
        {"audio": {"input": {"turn_detection": {"type": "guess"}}}},
        {"max_output_tokens": -1},
        {"tools": "all"},
        {"instructions": ["be brief"]},
        {"instructions": "x" * 100_000},
    ],
)
def test_absurd_settings_are_refused(wishes: dict[str, Any]) -> None:
    with pytest.raises(WireError):
        Settings().updated(wishes)


def test_a_wish_for_a_response_leaves_the_rest_to_the_settings() -> None:
    assert ResponseWish.of({}) == ResponseWish()
    wish = ResponseWish.of(
        {
            "conversation": "none",
            "metadata": {"topic": "cats"},
            "tool_choice": "required",
            "input": [{"type": "message", "role": "user", "content": []}],
        }
    )
    assert wish.aside
    assert (wish.choice, wish.functions) == ("required", None)
    assert wish.metadata == {"topic": "cats"}
    assert wish.input is not None
    assert len(wish.input) == 1


def test_server_events_are_the_wires() -> None:
    item = _said("assistant", "a cat", "i1")
    assert ItemAdded(previous_item_id=None, item=item).as_json("e1") == {
        "type": "conversation.item.added",
        "event_id": "e1",
        "previous_item_id": None,
        "item": {
            "id": "i1",
            "object": "realtime.item",
            "type": "message",
            "status": "completed",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "a cat"}],
        },
    }
    delta = TextDelta(response_id="r", item_id="i1", output_index=0, delta="a")
    assert delta.as_json("e2")["type"] == "response.output_text.delta"
    assert delta.as_json("e2")["content_index"] == 0


# --- the conversation's items -------------------------------------------------------------------


def test_items_stand_where_they_are_put() -> None:
    history = History()
    assert history.add(_said("user", "one", "a")) is None
    assert history.add(_said("user", "three", "c")) == "a"
    assert history.add(_said("user", "two", "b"), "a") == "a"
    assert history.add(_said("system", "zero", "z"), ROOT) is None
    assert [item.id for item in history] == ["z", "a", "b", "c"]
    history.delete("a")
    assert history.get("b").words == "two"


@pytest.mark.parametrize(
    ("ask", "code"),
    [
        (lambda history: history.get("x"), "item_retrieve_invalid_item_id"),
        (lambda history: history.delete("x"), "item_delete_invalid_item_id"),
        (lambda history: history.truncate("x", 0, 1), "item_truncate_invalid_item_id"),
        (lambda history: history.truncate("a", 0, 1), "item_truncate_invalid_item_id"),
        (lambda history: history.truncate("b", 5, 1), "item_truncate_invalid_content_index"),
        (lambda history: history.add(_said("user", "", "a")), "item_create_duplicate_item_id"),
    ],
)
def test_what_is_not_there_has_the_code_that_clients_know(ask: Any, code: str) -> None:
    history = History()
    history.add(_said("user", "one", "a"))
    history.add(_said("assistant", "two", "b"))
    with pytest.raises(WireError) as refusal:
        ask(history)
    assert refusal.value.code == code


def test_what_was_said_since_the_last_answer_is_the_question() -> None:
    history = History()
    assert history.unanswered() == ""
    history.add(_said("user", "one", "a"))
    history.add(_said("assistant", "two", "b"))
    history.add(_said("system", "be brief", "d"))
    assert history.unanswered() == "be brief"
    history.add(_said("user", "three", "c"))
    history.add(_said("user", "four", "e"))
    assert history.unanswered() == "three\nfour"


def test_an_answer_is_cut_to_what_was_heard() -> None:
    history = History()
    history.add(_said("assistant", "one two three four", "a"))
    history.truncate("a", 0, 0.5)
    assert history.get("a").words == "one two"


def test_a_conversation_forgets_its_oldest_items() -> None:
    history = History()
    for number in range(MAX_ITEMS + 5):
        history.add(_said("user", "", str(number)))
    items = list(history)
    assert (len(items), items[0].id) == (MAX_ITEMS, "5")


# --- speech -------------------------------------------------------------------------------------


def _tone(rate: int, seconds: float = 0.5) -> bytes:
    times = np.arange(int(rate * seconds)) / rate
    return (8000 * np.sin(2 * np.pi * 440 * times)).astype(np.int16).tobytes()


def _pitch_hz(pcm: bytes, rate: int) -> float:
    samples = np.frombuffer(pcm, np.int16).astype(float)
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return float(np.argmax(spectrum) * rate / len(samples))


@pytest.mark.parametrize("rate", [16_000, 22_050, 24_000])
def test_speech_comes_in_the_rate_of_the_wire(rate: int) -> None:
    encoder = SpeechEncoder(AudioFormat())
    tone = _tone(rate)
    half = len(tone) // 4 * 2
    pcm = encoder.encode(pb.AudioChunk(sample_rate=rate, pcm=tone[:half]))
    pcm += encoder.encode(pb.AudioChunk(sample_rate=rate, pcm=tone[half:])) + encoder.flush()
    assert encoder.heard_ms == pytest.approx(500, abs=5)
    assert _pitch_hz(pcm, 24_000) == pytest.approx(440, abs=5)


def test_speech_comes_as_g711() -> None:
    encoder = SpeechEncoder(AudioFormat(type="audio/pcmu"))
    mulaw = encoder.encode(pb.AudioChunk(sample_rate=16_000, pcm=_tone(16_000))) + encoder.flush()
    assert len(mulaw) == pytest.approx(4000, abs=40)
    assert encoder.heard_ms == pytest.approx(500, abs=5)
    # G.711's law, by its formula.
    coded = ~np.frombuffer(mulaw, np.uint8)
    magnitude = (((coded & 0x0F).astype(int) << 3) + 0x84 << ((coded & 0x70) >> 4)) - 0x84
    samples = np.where(coded & 0x80, -magnitude, magnitude).astype(np.int16)
    assert _pitch_hz(samples.tobytes(), 8000) == pytest.approx(440, abs=5)


def test_speech_of_several_rates_goes_on() -> None:
    encoder = SpeechEncoder(AudioFormat())
    for rate in (16_000, 22_050):
        encoder.encode(pb.AudioChunk(sample_rate=rate, pcm=_tone(rate)))
    encoder.flush()
    assert encoder.heard_ms == pytest.approx(1000, abs=10)
