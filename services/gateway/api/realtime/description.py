"""Description of a Realtime session for its client: what it has said, and what holds of it here."""

from typing import Any

from services.gateway.api.realtime.attachment import Attachment
from services.gateway.api.realtime.settings import Settings


def session_json(
    settings: Settings,
    attachment: Attachment | None,
    *,
    session_id: str,
    model: str,
    voice: str,
    speaks: bool,
    hears: bool,
) -> dict[str, Any]:
    """The `session` of `session.created` and `session.updated`. model: what the client calls it.
    speaks, hears: whether this suite can."""
    said = dict(settings.said)
    audio = said.get("audio") or {}
    about: dict[str, Any] = {"session": None, "name": None}
    if attachment is not None:
        session = attachment.session
        model = session.message().model
        about = {"session": session.id, "name": session.name}
    return {
        "tools": [],
        "tool_choice": "auto",
        **said,
        "type": "realtime",
        "object": "realtime.session",
        "id": session_id,
        "model": model,
        "output_modalities": ["audio" if speaks and settings.modality == "audio" else "text"],
        "instructions": settings.instructions,
        "max_output_tokens": settings.max_tokens or "inf",
        "audio": {
            "input": {
                "transcription": None,
                "noise_reduction": None,
                **(audio.get("input") or {}),
                "format": settings.input_format.as_json(),
                "turn_detection": _turn_detection(settings) if hears else None,
            },
            "output": {
                "speed": 1.0,
                **(audio.get("output") or {}),
                "format": settings.output_format.as_json(),
                "voice": voice,
            },
        },
        "sightline": about,
    }


def _turn_detection(settings: Settings) -> dict[str, Any] | None:
    """What the client has asked for, with what stands for it here where it is mapped."""
    found = settings.turn_detection
    if found is None:
        return None
    heard = ((settings.said.get("audio") or {}).get("input") or {}).get("turn_detection") or {}
    kind = heard.get("type", "server_vad")
    silence = {"silence_duration_ms": found.silence_ms} if kind == "server_vad" else {}
    return {
        "type": "server_vad",
        **heard,
        **silence,
        "create_response": found.create_response,
        "interrupt_response": found.interrupt_response,
    }
