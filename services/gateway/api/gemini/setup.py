"""The first message of a Gemini Live client: what it wants of the session."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from services.gateway.api.gemini.fields import named, object_in, objects_in
from services.gateway.api.gemini.schema import functions_of
from services.gateway.api.realtime.client_events import WatchCreate
from services.gateway.api.realtime.fields import (
    Json,
    WireError,
    flag_of,
    list_of,
    number_of,
    text_of,
    whole_of,
)
from services.gateway.api.realtime.sampling import Sampling
from services.gateway.api.realtime.settings import (
    MAX_SETTINGS_CHARACTERS,
    Modality,
    Settings,
    TurnDetection,
)

STREAM = "sightline://"  # a model of this name is the live session
MAX_WATCHES = 16
MAX_CHARACTERS = 2 * MAX_SETTINGS_CHARACTERS  # with a handle, which is as long as what was said
_SAMPLING = {
    "temperature": "temperature",
    "topP": "top_p",
    "presencePenalty": "presence_penalty",
    "frequencyPenalty": "frequency_penalty",
}
_ENDS = " \t\r\n.!?;"
_SENTENCE = re.compile(r"[^.!?;\n]+[.!?;]*")
_STANDING = re.compile(
    r"\W*(?:please\s+)?(?:(?:tell|alert|warn|notify)\s+me|let\s+me\s+know|speak\s+up|say\s+so)"
    r"\s+(?:when|whenever|if|once|as\s+soon\s+as)\s+",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What a session begins with. `handle`: of the session that it goes on with; None: resumption
    is not wanted, "": it is, of a new one. `extended`: the client knows messages of ours."""

    settings: Settings
    model: str = ""
    handle: str | None = None
    transparent: bool = False  # it is told which of its messages are kept
    shows_input: bool = False  # the words that were heard
    shows_output: bool = False  # the words that are spoken
    proactive: bool = False  # it speaks by itself of what watches see
    watches: tuple[WatchCreate, ...] = ()
    extended: bool = False

    @classmethod
    def of(cls, fields: Json) -> Self:
        """Raises WireError."""
        where = "setup."
        if len(repr(fields)) > MAX_CHARACTERS:
            raise WireError("this setup is too long", param="setup")
        fields = named(fields)
        generation = object_in(fields, "generationConfig", where)
        realtime = object_in(fields, "realtimeInputConfig", where)
        proactive = flag_of(
            object_in(fields, "proactivity", where),
            "proactiveVideo",
            f"{where}proactivity.",
            default=False,
        )
        ours = object_in(fields, "sightline", where)
        model, stream = _model(fields, ours)
        instructions = _instructions(fields)
        standing: tuple[WatchCreate, ...] = ()
        if proactive:
            instructions, standing = standing_in(instructions)
        resumption = object_in(fields, "sessionResumption", where)
        handle = text_of(resumption, "handle", f"{where}sessionResumption.")
        settings = Settings(
            modality=_modality(generation),
            instructions=instructions,
            voice=_voice(generation),
            turn_detection=_turn_detection(realtime),
            language=_language(fields),
            max_tokens=whole_of(generation, "maxOutputTokens", f"{where}generationConfig."),
            functions=functions_of(fields, where),
            sampling=_sampling(generation),
            stream=stream,
        )
        return cls(
            settings=settings,
            model=model,
            handle=handle if _has(fields, "sessionResumption") else None,
            transparent=flag_of(
                resumption, "transparent", f"{where}sessionResumption.", default=False
            ),
            shows_input=_has(fields, "inputAudioTranscription"),
            shows_output=_has(fields, "outputAudioTranscription"),
            proactive=proactive,
            watches=(*_watches(ours), *standing),
            extended=_has(fields, "sightline"),
        )

    def about(self, stream: str) -> Self:
        """The same about the session of this name, unless it names one itself; "": of none."""
        if not stream or self.settings.stream:
            return self
        return replace(self, settings=replace(self.settings, stream=stream))


def words_of(content: Any, where: str) -> str:
    """The words of a Content, or of a string in its place; thoughts are none."""
    if isinstance(content, str):
        return content
    parts = objects_in(object_in({"content": content}, "content", where), "parts", where)
    words = [
        text_of(part, "text", f"{where}parts.") for part in parts if part.get("thought") is not True
    ]
    return "\n".join(each for each in words if each)


def standing_in(instructions: str) -> tuple[str, tuple[WatchCreate, ...]]:
    """Instructions without their standing wishes, and those as watches: "Tell me when a cat is
    there." is one of the condition "a cat is there"."""
    kept: list[str] = []
    watches: list[WatchCreate] = []
    for sentence in _SENTENCE.findall(instructions):
        found = _STANDING.match(sentence)
        condition = sentence[found.end() :].strip(_ENDS) if found else ""
        if condition and len(watches) < MAX_WATCHES:
            watches.append(WatchCreate(watch_id=f"standing-{len(watches)}", condition=condition))
        else:
            kept.append(sentence)
    return "".join(kept).strip() if watches else instructions, tuple(watches)


def _has(fields: Json, name: str) -> bool:
    return fields.get(name) is not None


def _model(fields: Json, ours: Json) -> tuple[str, str]:
    """The model's name as the client has it, and the live session that it is about."""
    model = text_of(fields, "model", "setup.").removeprefix("models/")
    stream = text_of(ours, "session", "setup.sightline.")
    if model.startswith(STREAM):
        return "", stream or model.removeprefix(STREAM)
    return model, stream


def _instructions(fields: Json) -> str:
    said = fields.get("systemInstruction")
    return "" if said is None else words_of(said, "setup.systemInstruction.")


def _modality(generation: Json) -> Modality:
    where = "setup.generationConfig."
    wanted = list_of(generation, "responseModalities", where) or ["AUDIO"]
    known = [each.upper() if isinstance(each, str) else "" for each in wanted]
    if not all(each in ("TEXT", "AUDIO") for each in known):
        raise WireError(
            f"{where}responseModalities is TEXT or AUDIO", param=f"{where}responseModalities"
        )
    return "audio" if "AUDIO" in known else "text"


def _voice(generation: Json) -> str:
    where = "setup.generationConfig.speechConfig."
    speech = object_in(generation, "speechConfig", "setup.generationConfig.")
    voice = object_in(speech, "voiceConfig", where)
    named_voice = object_in(voice, "prebuiltVoiceConfig", f"{where}voiceConfig.")
    return text_of(named_voice, "voiceName", f"{where}voiceConfig.prebuiltVoiceConfig.")


def _turn_detection(realtime: Json) -> TurnDetection | None:
    where = "setup.realtimeInputConfig."
    detection = object_in(realtime, "automaticActivityDetection", where)
    inner = f"{where}automaticActivityDetection."
    if flag_of(detection, "disabled", inner, default=False):
        return None
    sensitivity = text_of(detection, "endOfSpeechSensitivity", inner)
    usual_ms = {"END_SENSITIVITY_HIGH": 300, "END_SENSITIVITY_LOW": 1000}.get(sensitivity, 500)
    handling = text_of(realtime, "activityHandling", where)
    return TurnDetection(
        silence_ms=whole_of(detection, "silenceDurationMs", inner, default=usual_ms),
        interrupt_response=handling != "NO_INTERRUPTION",
    )


def _language(fields: Json) -> str:
    """Of what is said, where the client names exactly one."""
    where = "setup.inputAudioTranscription."
    transcription = object_in(fields, "inputAudioTranscription", "setup.")
    hints = object_in(transcription, "languageHints", where)
    codes = list_of(transcription, "languageCodes", where) or list_of(hints, "languageCodes", where)
    code = codes[0][:2].lower() if len(codes) == 1 and isinstance(codes[0], str) else ""
    return code if len(code) == 2 and code.isascii() and code.isalpha() else ""


def _sampling(generation: Json) -> Sampling:
    where = "setup.generationConfig."
    said: dict[str, Any] = {
        ours: number_of(generation, theirs, where) for theirs, ours in _SAMPLING.items()
    }
    top_k = number_of(generation, "topK", where)  # a float, at Google's
    if top_k is not None and not 0 <= top_k < 2**31:
        raise WireError(f"{where}topK is a whole number", param=f"{where}topK")
    said["top_k"] = None if top_k is None else int(top_k)
    if generation.get("seed") is not None:
        said["seed"] = whole_of(generation, "seed", where)
    stops: Sequence[Any] = list_of(generation, "stopSequences", where)
    if not all(isinstance(each, str) for each in stops):
        raise WireError(f"{where}stopSequences are strings", param=f"{where}stopSequences")
    pairs = tuple((name, value) for name, value in said.items() if value is not None)
    return Sampling(said=pairs, stop=tuple(stops))


def _watches(ours: Json) -> tuple[WatchCreate, ...]:
    where = "setup.sightline.watches."
    return tuple(
        WatchCreate(
            watch_id=text_of(each, "id", where) or f"watch-{number}",
            condition=text_of(each, "condition", where, required=True),
            interval_s=number_of(each, "intervalS", where),
            debounce_s=number_of(each, "debounceS", where) or 0.0,
            cooldown_s=number_of(each, "cooldownS", where) or 0.0,
        )
        for number, each in enumerate(objects_in(ours, "watches", "setup.sightline.", MAX_WATCHES))
    )
