"""The model's turn on the Gemini wire: from what a Realtime conversation tells to its messages."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from services.gateway.api.gemini.fields import arguments_of
from services.gateway.api.gemini.server_messages import (
    Call,
    Extension,
    GenerationComplete,
    InputTranscription,
    Interrupted,
    OutputTranscription,
    Said,
    ServerMessage,
    Spoken,
    ToolCall,
    ToolCallCancellation,
    TurnComplete,
)
from services.gateway.api.gemini.setup import Setup
from services.gateway.api.realtime import server_events as told
from services.gateway.api.realtime.settings import PCM_RATE

BYTES_PER_S = 2 * PCM_RATE


class TurnFailedError(Exception):
    """No answer comes; `error` is as the Realtime wire has it."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(error.get("message", ""))
        self.error = error


@dataclass(frozen=True, slots=True)
class Cut:
    """A spoken item that was cut off, and how much of it was heard."""

    item_id: str
    heard_ms: int


class Turn:
    """The turn under way. Its methods give the messages to send, and do none of it.

    A turn of speech lasts as long as its client takes to play it, so that somebody may still speak
    into it; `left_s` says how long that is.
    """

    def __init__(self, setup: Setup, clock: Callable[[], float] = time.monotonic) -> None:
        self._setup = setup
        self._clock = clock
        self._response = ""  # under way
        self._begun = False  # something of it was said
        self._calls: list[Call] = []  # of the response under way
        self._awaited: dict[str, str] = {}  # names of calls that nothing has come of, by id
        self._item = ""  # that is spoken
        self._spoken_s = 0.0  # of that item
        self._played_at_s = 0.0  # when all that was spoken will have been played
        self._closing: TurnComplete | None = None  # once it is played
        self.cut: Cut | None = None

    @property
    def idle(self) -> bool:
        """Whether the model has nothing to say, and waits for nothing."""
        return not (self._response or self._awaited or self._closing)

    @property
    def left_s(self) -> float | None:
        """Until `played` is due; None: it is not."""
        return None if self._closing is None else max(0.0, self._played_at_s - self._clock())

    def tell(self, event: told.ServerEvent) -> list[ServerMessage]:
        """What of an event the client is told. Raises TurnFailedError."""
        match event:
            case told.ResponseCreated():
                ended = self._ended()
                self._response, self._begun = str(event.response["id"]), False
                self._calls = []
                return ended
            case told.OutputItemAdded():
                return self._added(event)
            case told.TextDelta():
                self._begun = True
                shown = [OutputTranscription(text=event.delta)] if self._shows_words else []
                return [Said(text=event.delta), *shown]
            case told.TranscriptDelta():
                self._begun = True
                return [OutputTranscription(text=event.delta)] if self._setup.shows_output else []
            case told.AudioDelta():
                return self._sound(event)
            case told.ArgumentsDone():
                call = Call(id=event.call_id, name=event.name, args=arguments_of(event.arguments))
                self._calls.append(call)
                return []
            case told.ResponseDone():
                return self._done(event.response)
            case told.SpeechStarted():
                return self.interrupted() if self._can_be_interrupted else []
            case told.TranscriptionCompleted() if self._setup.shows_input and event.transcript:
                return [InputTranscription(text=event.transcript)]
            case told.WatchFired() if self._setup.extended:
                return [Extension(kind="watchEvent", fields=_watch_event(event))]
            case told.WatchFailed() if self._setup.extended:
                fields = {"watchId": event.watch_id, "error": dict(event.error)}
                return [Extension(kind="watchFailed", fields=fields)]
            case told.VideoSaid() if self._setup.extended:
                return [Extension(kind="said", fields=_video_said(event))]
        return []

    def played(self) -> list[ServerMessage]:
        """The client has played all of it."""
        return self._ended()

    def interrupted(self) -> list[ServerMessage]:
        """Somebody speaks, or says something: what is not played is not to be, and calls come to
        nothing. What is still being said is ended by its `ResponseDone`."""
        messages: list[ServerMessage] = []
        if self._awaited:
            messages.append(ToolCallCancellation(ids=tuple(self._awaited)))
            self._awaited.clear()
            if not self._response:
                messages.append(TurnComplete())
        if self._closing is not None:
            closing, self._closing = self._closing, None
            messages += [*self._cut_off(), closing]
        return messages

    def came(self, call_id: str) -> str | None:
        """Something has come of a call, by its id or its function's name: its id; None: nobody
        waits for it."""
        if call_id not in self._awaited:
            named = [each for each, name in self._awaited.items() if name == call_id]
            if not named:
                return None
            call_id = named[0]
        del self._awaited[call_id]
        return call_id

    @property
    def waits(self) -> bool:
        """Whether something has to come of calls."""
        return bool(self._awaited)

    # --- inside -------------------------------------------------------------------------------

    @property
    def _shows_words(self) -> bool:
        """Whether words stand for speech that cannot be had."""
        return self._setup.shows_output and self._setup.settings.modality == "audio"

    @property
    def _can_be_interrupted(self) -> bool:
        detection = self._setup.settings.turn_detection
        return detection is not None and detection.interrupt_response

    def _added(self, event: told.OutputItemAdded) -> list[ServerMessage]:
        """A message that follows another of the same answer is said anew."""
        if event.item.type != "message":
            return []
        anew, self._begun = self._begun, False
        messages = self._cut_off() if anew else []
        self.cut = None
        self._item, self._spoken_s = event.item.id, 0.0
        return messages

    def _sound(self, event: told.AudioDelta) -> list[ServerMessage]:
        self._begun = True
        size_bytes = len(event.delta) * 3 // 4 - event.delta[-2:].count("=")
        seconds = size_bytes / BYTES_PER_S
        self._spoken_s += seconds
        self._played_at_s = max(self._played_at_s, self._clock()) + seconds
        return [Spoken(pcm=event.delta)]

    def _done(self, response: Any) -> list[ServerMessage]:
        self._response = ""
        match response["status"]:
            case "cancelled":
                return [*self._cut_off(), TurnComplete()]
            case "failed":
                raise TurnFailedError(response["status_details"]["error"])
        spoken = response["output_modalities"] == ["audio"]
        messages: list[ServerMessage] = []
        if self._begun and self._setup.shows_output and (spoken or self._shows_words):
            messages.append(OutputTranscription(finished=True))
        if self._calls:
            self._awaited = {each.id: each.name for each in self._calls}
            return [*messages, ToolCall(calls=tuple(self._calls))]
        usage = response["usage"]
        tokens = (usage["input_tokens"], usage["output_tokens"]) if usage else None
        answer = _in_camel_case(response.get("sightline")) if self._setup.extended else None
        self._closing = TurnComplete(tokens=tokens, answer=answer)
        return [*messages, GenerationComplete()]

    def _cut_off(self) -> list[ServerMessage]:
        """The client is to be silent. What it had not played is not part of the conversation."""
        left_s = max(0.0, self._played_at_s - self._clock())
        if self._item and self._spoken_s:
            heard_s = max(0.0, self._spoken_s - left_s)
            self.cut = Cut(self._item, round(1000 * heard_s))
        self._item, self._spoken_s = "", 0.0
        self._played_at_s = 0.0
        return [Interrupted()]

    def _ended(self) -> list[ServerMessage]:
        closing, self._closing = self._closing, None
        return [] if closing is None else [closing]


def _in_camel_case(told: Any) -> Any:
    """What a response tells, with names as this wire has them."""
    if isinstance(told, list):
        return [_in_camel_case(each) for each in told]
    if not isinstance(told, dict):
        return told
    named = {}
    for name, value in told.items():
        first, *rest = name.split("_")
        named[first + "".join(map(str.capitalize, rest))] = _in_camel_case(value)
    return named


def _watch_event(event: told.WatchFired) -> dict[str, Any]:
    return {
        "watchId": event.watch_id,
        "condition": event.condition,
        "active": event.active,
        "score": event.score,
        "capturedAt": event.captured_at,
    }


def _video_said(event: told.VideoSaid) -> dict[str, Any]:
    return {"text": event.text, "startedAt": event.started_at, "endedAt": event.ended_at}
