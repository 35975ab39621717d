"""Settings of a Realtime session and of one response: what of them acts here, read from JSON that
clients of OpenAI send.

Everything a client sends is accepted and sent back, as its library expects; names of models and
voices that are not ours stand for our own.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, Self

from services.gateway.api.realtime.fields import (
    Json,
    WireError,
    fields_of,
    flag_of,
    list_of,
    text_of,
    whole_of,
)
from services.gateway.api.realtime.functions import Function, choice_of, functions_of
from services.gateway.api.realtime.items import MAX_PARTS, Item
from services.gateway.api.realtime.sampling import USUAL, Sampling

PCM_RATE = 24_000
MAX_METADATA = 16
MAX_SETTINGS_CHARACTERS = 64 * 1024
Modality = Literal["text", "audio"]

# Fields of the beta, which had no folders, and where they are now.
_BETA = {
    "modalities": ("output_modalities",),
    "voice": ("audio", "output", "voice"),
    "input_audio_format": ("audio", "input", "format"),
    "output_audio_format": ("audio", "output", "format"),
    "input_audio_transcription": ("audio", "input", "transcription"),
    "input_audio_noise_reduction": ("audio", "input", "noise_reduction"),
    "turn_detection": ("audio", "input", "turn_detection"),
    "max_response_output_tokens": ("max_output_tokens",),
}
_WHOLE = ("turn_detection", "format", "tool_choice")  # one of several kinds: replaced as it is
_BETA_FORMATS = {"pcm16": "audio/pcm", "g711_ulaw": "audio/pcmu", "g711_alaw": "audio/pcma"}


@dataclass(frozen=True, slots=True, kw_only=True)
class AudioFormat:
    """Format of audio on the wire: `audio/pcm` is signed 16-bit little endian mono, the others are
    G.711 of 8 kHz."""

    type: str = "audio/pcm"

    @property
    def rate(self) -> int:
        return PCM_RATE if self.type == "audio/pcm" else 8000

    @classmethod
    def of(cls, value: Any, where: str) -> Self:
        """null is the default, as LiveKit and Pipecat leave it."""
        if value is None:
            return cls()
        kind: Any = value.get("type") if isinstance(value, dict) else value
        kind = _BETA_FORMATS.get(kind, kind) if isinstance(kind, str) else ""
        if kind not in _BETA_FORMATS.values():
            known = ", ".join(_BETA_FORMATS.values())
            raise WireError(f"{where} is one of {known}", param=where)
        rate = value.get("rate") if isinstance(value, dict) else None
        if kind == "audio/pcm" and rate not in (None, PCM_RATE):
            raise WireError(f"audio/pcm has a rate of {PCM_RATE}", param=f"{where}.rate")
        return cls(type=kind)

    def as_json(self) -> dict[str, Any]:
        return {"type": self.type} | ({"rate": PCM_RATE} if self.type == "audio/pcm" else {})


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnDetection:
    """Turn detection by the server. `semantic_vad` is mapped to silence: the more eager, the
    shorter."""

    silence_ms: int = 500
    create_response: bool = True
    interrupt_response: bool = True

    @classmethod
    def of(cls, value: Any, where: str) -> Self | None:
        """null: the client commits what it sends."""
        if value is None or value is False:
            return None
        if not isinstance(value, dict):
            raise WireError(f"{where} is an object or null", param=where)
        kind = text_of(value, "type", f"{where}.") or "server_vad"
        if kind == "server_vad":
            silence_ms = whole_of(value, "silence_duration_ms", f"{where}.", default=500)
        elif kind == "semantic_vad":
            eagerness = text_of(value, "eagerness", f"{where}.")
            silence_ms = {"low": 1000, "high": 300}.get(eagerness, 500)
        else:
            raise WireError("turn detection is server_vad or semantic_vad", param=f"{where}.type")
        return cls(
            silence_ms=silence_ms,
            create_response=flag_of(value, "create_response", f"{where}.", default=True),
            interrupt_response=flag_of(value, "interrupt_response", f"{where}.", default=True),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Settings of a session. `said`: everything its client has said, to be sent back."""

    said: Json = field(default_factory=lambda: MappingProxyType({}))
    modality: Modality = "audio"
    instructions: str = ""
    voice: str = ""
    output_format: AudioFormat = AudioFormat()
    input_format: AudioFormat = AudioFormat()
    turn_detection: TurnDetection | None = TurnDetection()  # null is none
    language: str = ""  # of what is said, of two letters; "": the server's choice
    max_tokens: int = 0  # of an answer; 0: the model's default
    functions: tuple[Function, ...] = ()
    choice: str = "auto"  # among them
    parallel: bool = True  # several in one answer
    sampling: Sampling = USUAL
    stream: str = ""  # id or name of the live session that it is about; "": none

    @classmethod
    def of(cls, said: Json) -> Self:
        """Raises WireError."""
        if len(repr(said)) > MAX_SETTINGS_CHARACTERS:
            raise WireError("these settings are too long", param="session")
        kind = text_of(said, "type", "session.") or "realtime"
        if kind != "realtime":
            raise WireError("sessions of type `realtime` are served", param="session.type")
        audio = fields_of(said, "audio", "session.")
        heard = fields_of(audio, "input", "session.audio.")
        spoken = fields_of(audio, "output", "session.audio.")
        return cls(
            said=said,
            modality=_modality(said, "session.") or "audio",
            instructions=text_of(said, "instructions", "session."),
            voice=_voice(spoken, "session.audio.output."),
            output_format=AudioFormat.of(spoken.get("format"), "session.audio.output.format"),
            input_format=AudioFormat.of(heard.get("format"), "session.audio.input.format"),
            turn_detection=TurnDetection.of(
                heard.get("turn_detection", {}), "session.audio.input.turn_detection"
            ),
            language=_language(heard),
            max_tokens=_max_tokens(said, "session."),
            functions=functions_of(said, "session.") or (),
            choice=choice_of(said, "session.") or "auto",
            sampling=Sampling.of(said, "session."),
            parallel=flag_of(said, "parallel_tool_calls", "session.", default=True),
            stream=text_of(fields_of(said, "sightline", "session."), "session", "sightline."),
        )

    def updated(self, wishes: Json) -> Self:
        """What is left out stays; null is nothing. Raises WireError."""
        return type(self).of(_merged(self.said, _ga(wishes)))


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseWish:
    """Wish for one response. None: as the session's settings say."""

    modality: Modality | None = None
    instructions: str = ""
    voice: str | None = None
    output_format: AudioFormat | None = None
    max_tokens: int | None = None
    sampling: Sampling = USUAL
    functions: tuple[Function, ...] | None = None
    choice: str | None = None
    metadata: Mapping[str, str] | None = None
    aside: bool = False  # it leaves no trace in the conversation
    input: tuple[Item, ...] | None = None  # instead of what the conversation holds

    @classmethod
    def of(cls, fields: Json) -> Self:
        """Raises WireError."""
        where = "response."
        fields = _ga(fields)
        spoken = fields_of(fields_of(fields, "audio", where), "output", f"{where}audio.")
        given = list_of(fields, "input", where)
        if len(given) > MAX_PARTS:
            raise WireError(f"at most {MAX_PARTS} items", param="response.input")
        items = []
        for index, item in enumerate(given):
            if not isinstance(item, dict):
                raise WireError("an item is an object", param=f"{where}input[{index}]")
            items.append(Item.of(item, f"{where}input[{index}]."))
        format_where = f"{where}audio.output.format"
        return cls(
            modality=_modality(fields, where),
            instructions=text_of(fields, "instructions", where),
            voice=_voice(spoken, f"{where}audio.output.") or None,
            output_format=AudioFormat.of(spoken["format"], format_where)
            if spoken.get("format") is not None
            else None,
            max_tokens=_max_tokens(fields, where) if "max_output_tokens" in fields else None,
            sampling=Sampling.of(fields, where),
            functions=functions_of(fields, where),
            choice=choice_of(fields, where),
            metadata=_metadata(fields, where),
            aside=_aside(fields, where),
            input=tuple(items) if fields.get("input") is not None else None,
        )


def _ga(fields: Json) -> Json:
    """Fields where GA has them."""
    found: dict[str, Any] = {name: value for name, value in fields.items() if name not in _BETA}
    for name in fields:
        if name in _BETA:
            *folders, last = _BETA[name]
            place = found
            for folder in folders:
                inner = place.get(folder)
                place[folder] = place = dict(inner) if isinstance(inner, dict) else {}
            place.setdefault(last, fields[name])
    return found


def _merged(before: Json, wishes: Json) -> Json:
    merged = dict(before)
    for name, value in wishes.items():
        known = merged.get(name)
        if isinstance(known, dict) and isinstance(value, dict) and name not in _WHOLE:
            merged[name] = _merged(known, value)
        else:
            merged[name] = value
    return merged


def _modality(fields: Json, where: str) -> Modality | None:
    wanted = list_of(fields, "output_modalities", where)
    if not wanted:
        return None
    if not all(each in ("text", "audio") for each in wanted):
        raise WireError(
            'output_modalities is ["text"] or ["audio"]', param=f"{where}output_modalities"
        )
    return "audio" if "audio" in wanted else "text"


def _voice(spoken: Json, where: str) -> str:
    """Also an object with the id of a voice of one's own."""
    voice = spoken.get("voice")
    if isinstance(voice, dict):
        return text_of(voice, "id", f"{where}voice.")
    return text_of(spoken, "voice", where)


def _language(heard: Json) -> str:
    """Also of a region: "en-GB"."""
    where = "session.audio.input.transcription."
    transcription = fields_of(heard, "transcription", "session.audio.input.")
    language = text_of(transcription, "language", where)[:2].lower()
    if language and not (language.isascii() and language.isalpha() and len(language) == 2):
        raise WireError("a language has two letters", param=where + "language")
    return language


def _max_tokens(fields: Json, where: str) -> int:
    """0 for "inf"."""
    if fields.get("max_output_tokens") == "inf":
        return 0
    return whole_of(fields, "max_output_tokens", where)


def _metadata(fields: Json, where: str) -> Mapping[str, str] | None:
    if fields.get("metadata") is None:
        return None
    metadata = fields_of(fields, "metadata", where)
    if len(metadata) > MAX_METADATA or not all(isinstance(each, str) for each in metadata.values()):
        raise WireError(f"metadata are at most {MAX_METADATA} strings", param=f"{where}metadata")
    return metadata


def _aside(fields: Json, where: str) -> bool:
    return (text_of(fields, "conversation", where) or "auto") == "none"
