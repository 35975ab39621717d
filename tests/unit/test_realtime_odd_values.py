"""Odd values on the Realtime wire: whatever a client sends is an event, or refused in words."""

import json
from collections.abc import Callable
from typing import Any, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.gateway.api.realtime import client_events as client
from services.gateway.api.realtime.attachment import Attachment
from services.gateway.api.realtime.client_secrets import wanted
from services.gateway.api.realtime.description import session_json
from services.gateway.api.realtime.fields import WireError
from services.gateway.api.realtime.settings import Settings
from tests.odd_json import odd_objects

T = TypeVar("T")
KINDS = [
    "session.update",
    "conversation.item.create",
    "conversation.item.retrieve",
    "conversation.item.delete",
    "conversation.item.truncate",
    "response.create",
    "response.cancel",
    "input_audio_buffer.append",
    "input_audio_buffer.commit",
    "sightline.watch.create",
    "sightline.watch.delete",
]
WORDS = [
    *("type", "event_id", "item", "item_id", "session", "response", "audio", "input", "output"),
    *("format", "voice", "turn_detection", "transcription", "language", "content", "role", "text"),
    *("tools", "tool_choice", "metadata", "conversation", "modalities", "output_modalities"),
    *("max_output_tokens", "watch", "id", "condition", "interval_s", "sightline", "image_url"),
    *("instructions", "expires_after", "seconds", "anchor", "input_audio_format", "detail"),
    *("message", "user", "assistant", "input_text", "input_image", "audio/pcmu", "server_vad"),
]
OBJECTS = odd_objects(WORDS)


def _shown(said: Settings) -> str:
    nowhere: Attachment | None = None
    shown = session_json(
        said, nowhere, session_id="s", model="m", voice="v", speaks=True, hears=True
    )
    return json.dumps(shown)


def _taken(call: Callable[[], T]) -> T | None:
    """What comes of it; None where it is refused in words."""
    try:
        return call()
    except WireError as error:
        return None if error.message else pytest.fail("a refusal says why")


@settings(max_examples=50)
@given(st.sampled_from(KINDS), OBJECTS)
def test_what_is_no_event_is_refused(kind: str, fields: dict[str, Any]) -> None:
    event = _taken(lambda: client.parsed(json.dumps({**fields, "type": kind})))
    if isinstance(event, client.ItemCreate):
        json.dumps(event.item.kept().as_json())


@settings(max_examples=50)
@given(OBJECTS, OBJECTS)
def test_settings_are_taken_and_sent_back_or_refused(
    first: dict[str, Any], second: dict[str, Any]
) -> None:
    before = Settings()
    for wishes in (first, second):
        before = _taken(lambda: before.updated(wishes)) or before  # noqa: B023 - called at once
        assert _shown(before)


@settings(max_examples=50)
@given(OBJECTS)
def test_client_secrets_are_asked_for_or_refused(body: dict[str, Any]) -> None:
    asked = _taken(lambda: wanted(body))
    assert asked is None or 10 <= asked[1] <= 7200


@settings(max_examples=50)
@given(st.text(max_size=60))
def test_what_is_no_json_is_refused(text: str) -> None:
    assert _taken(lambda: client.parsed(text)) is None
