"""One response: from what a viewer is told of an answer to what the wire says of it."""

import base64
from dataclasses import replace
from typing import Any

from services.gateway.api.realtime.audio import SpeechEncoder
from services.gateway.api.realtime.history import History
from services.gateway.api.realtime.items import Item, Part, new_id
from services.gateway.api.realtime.server_events import (
    ArgumentsDelta,
    ArgumentsDone,
    AudioDelta,
    AudioDone,
    ContentPartAdded,
    ContentPartDone,
    ItemAdded,
    ItemDone,
    OutputItemAdded,
    OutputItemDone,
    ResponseCreated,
    ResponseDone,
    ServerEvent,
    TextDelta,
    TextDone,
    TranscriptDelta,
    TranscriptDone,
    error_json,
)
from services.gateway.api.realtime.settings import Modality, ResponseWish, Settings
from sightline.v1 import gateway_pb2

_SECOND_NS = 1_000_000_000


class Response:
    """A response under way. Its methods give the events to send, and do none of it.

    Words may come anew, when a worker is lost in the middle of an answer: what was said until then
    stays as an incomplete item, and the answer is another item after it.
    """

    def __init__(
        self,
        wish: ResponseWish,
        settings: Settings,
        history: History,
        *,
        can_speak: bool,
        response_id: str = "",
    ) -> None:
        self.id = response_id or new_id("resp")
        self.wish = wish
        self.spoken = can_speak and (wish.modality or settings.modality) == "audio"
        self.voice = settings.voice if wish.voice is None else wish.voice
        self.functions = settings.functions if wish.functions is None else wish.functions
        self.max_tokens = settings.max_tokens if wish.max_tokens is None else wish.max_tokens
        self._format = wish.output_format or settings.output_format
        self._history = history
        self._output: list[Item] = []
        self._before: str | None = None  # item that stands before the present one
        self._text = ""
        self._speech: SpeechEncoder | None = None
        self._audio_ms: dict[str, int] = {}

    @property
    def modality(self) -> Modality:
        return "audio" if self.spoken else "text"

    def audio_ms(self) -> dict[str, int]:
        """How long the speech of its items is."""
        return dict(self._audio_ms)

    def created(self) -> list[ServerEvent]:
        return [ResponseCreated(response=self._as_json("in_progress"))]

    def begun(self) -> list[ServerEvent]:
        """The answer begins, or begins anew. It may come to be calls alone, without a message,
        where there is something to call."""
        events = self._closed("incomplete") if self._is_open else []
        return events if self.functions else events + self._opened()

    def _opened(self) -> list[ServerEvent]:
        events: list[ServerEvent] = []
        item = Item(id=new_id("item"), role="assistant", status="in_progress")
        self._output.append(item)
        self._text = ""
        self._speech = SpeechEncoder(self._format) if self.spoken else None
        events.append(OutputItemAdded(response_id=self.id, output_index=self._index, item=item))
        if not self.wish.aside:
            self._before = self._history.add(item)
            events.append(ItemAdded(previous_item_id=self._before, item=item))
        events.append(ContentPartAdded(**self._place, part=self._part("")))
        return events

    def said(self, text: str) -> list[ServerEvent]:
        """More words."""
        if not text:
            return []
        events = [] if self._is_open else self._opened()
        self._text += text
        delta = TranscriptDelta if self.spoken else TextDelta
        return [*events, delta(**self._place, delta=text)]

    def heard(self, chunk: gateway_pb2.AudioChunk) -> list[ServerEvent]:
        """More speech."""
        if self._speech is None:
            return []
        return self._sound(self._speech.encode(chunk))

    def done(self, done: gateway_pb2.AnswerDone) -> list[ServerEvent]:
        """The answer has ended."""
        if done.finish_reason == gateway_pb2.FINISH_REASON_CANCELLED:
            return self.cut_short("client_cancelled")
        if done.finish_reason == gateway_pb2.FINISH_REASON_ERROR:
            message = "the model could not finish its answer"
            return self.failed(error_json(message, code="answer_failed", kind="server_error"))
        whole = done.finish_reason != gateway_pb2.FINISH_REASON_LENGTH
        status = "completed" if whole else "incomplete"
        events = [] if self._is_open or done.tool_calls else self._opened()
        if self._is_open:
            events += self._closed(status, flush=True)
        for call in done.tool_calls:
            events += self._called(call)
        response = self._as_json(status) | {"usage": _usage(done)}
        if not whole:
            response["status_details"] = {"type": status, "reason": "max_output_tokens"}
        tells = done.answered_by or done.HasField("confidence")
        if done.frames_seen or done.memory or tells:
            response["sightline"] = _seen(done)
        return [*events, ResponseDone(response=response)]

    def cut_short(self, reason: str) -> list[ServerEvent]:
        """No more of it is wanted: `client_cancelled`, or `turn_detected`."""
        events = self._closed("incomplete") if self._is_open else []
        details = {"type": "cancelled", "reason": reason}
        response = self._as_json("cancelled") | {"status_details": details}
        return [*events, ResponseDone(response=response)]

    def failed(self, error: dict[str, Any]) -> list[ServerEvent]:
        """No answer comes, or no more of it."""
        events = self._closed("incomplete") if self._is_open else []
        details = {"type": "failed", "error": error}
        return [
            *events,
            ResponseDone(response=self._as_json("failed") | {"status_details": details}),
        ]

    def _called(self, call: gateway_pb2.ToolCall) -> list[ServerEvent]:
        """A call, from its beginning to its end: models write them in one go."""
        item = Item(
            id=new_id("item"),
            type="function_call",
            status="in_progress",
            call_id=call.id,
            name=call.name,
        )
        self._output.append(item)
        place = {**self._place, "call_id": call.id}
        events: list[ServerEvent] = [
            OutputItemAdded(response_id=self.id, output_index=self._index, item=item)
        ]
        if not self.wish.aside:
            self._before = self._history.add(item)
            events.append(ItemAdded(previous_item_id=self._before, item=item))
        events.append(ArgumentsDelta(**place, delta=call.arguments))
        events.append(ArgumentsDone(**place, name=call.name, arguments=call.arguments))
        item = replace(item, status="completed", arguments=call.arguments)
        self._output[-1] = item
        events.append(OutputItemDone(response_id=self.id, output_index=self._index, item=item))
        if not self.wish.aside:
            self._history.change(item)
            events.append(ItemDone(previous_item_id=self._before, item=item))
        return events

    # --- the present item ---------------------------------------------------------------------

    @property
    def _is_open(self) -> bool:
        return bool(self._output) and self._output[-1].status == "in_progress"

    @property
    def _index(self) -> int:
        return len(self._output) - 1

    @property
    def _place(self) -> dict[str, Any]:
        return {
            "response_id": self.id,
            "item_id": self._output[-1].id,
            "output_index": self._index,
        }

    def _part(self, text: str) -> dict[str, str]:
        """The part as `content_part` events have it."""
        words = {"transcript": text} if self.spoken else {"text": text}
        return {"type": self.modality, **words}

    def _sound(self, audio: bytes) -> list[ServerEvent]:
        if not audio or not self._is_open:
            return []
        return [AudioDelta(**self._place, delta=base64.b64encode(audio).decode())]

    def _closed(self, status: str, *, flush: bool = False) -> list[ServerEvent]:
        """The end of the present item. flush: with the last of its speech."""
        events: list[ServerEvent] = []
        if self._speech is not None:
            if flush:
                events += self._sound(self._speech.flush())
            self._audio_ms[self._output[-1].id] = self._speech.heard_ms
            events.append(AudioDone(**self._place))
            events.append(TranscriptDone(**self._place, transcript=self._text))
            part = Part(type="output_audio", transcript=self._text)
        else:
            events.append(TextDone(**self._place, text=self._text))
            part = Part(type="output_text", text=self._text)
        item = replace(self._output[-1], status=status, content=(part,))
        self._output[-1] = item
        events.append(ContentPartDone(**self._place, part=self._part(self._text)))
        events.append(OutputItemDone(response_id=self.id, output_index=self._index, item=item))
        if not self.wish.aside:
            self._history.change(item)
            events.append(ItemDone(previous_item_id=self._before, item=item))
        return events

    def _as_json(self, status: str) -> dict[str, Any]:
        spoken = {"format": self._format.as_json(), "voice": self.voice}
        return {
            "object": "realtime.response",
            "id": self.id,
            "status": status,
            "status_details": None,
            "output": [item.as_json() for item in self._output],
            "output_modalities": [self.modality],
            "max_output_tokens": self.max_tokens or "inf",
            "audio": {"output": spoken},
            "usage": None,
            "metadata": self.wish.metadata,
        }


def _usage(done: gateway_pb2.AnswerDone) -> dict[str, Any]:
    """Tokens of words alone: the video was understood before, for all who ask about it."""
    return {
        "total_tokens": done.prompt_tokens + done.answer_tokens,
        "input_tokens": done.prompt_tokens,
        "output_tokens": done.answer_tokens,
        "input_token_details": {
            "text_tokens": done.prompt_tokens,
            "audio_tokens": 0,
            "image_tokens": 0,
            "cached_tokens": 0,
        },
        "output_token_details": {"text_tokens": done.answer_tokens, "audio_tokens": 0},
    }


def _seen(done: gateway_pb2.AnswerDone) -> dict[str, Any]:
    """The video that the answer is about."""
    return {
        "frames_seen": done.frames_seen,
        "first_captured_at": done.first_capture_ns / _SECOND_NS,
        "last_captured_at": done.last_capture_ns / _SECOND_NS,
        "newest_frame_age_ms": round(done.newest_frame_age_ms, 1),
        "degraded": list(done.degraded),
        "unfamiliar_picture": done.unfamiliar_picture,
        "strangeness": done.strangeness,
        "unsure": done.unsure,
        "memory": [
            {
                "moment": each.moment,
                "started_at": each.start_ns / _SECOND_NS,
                "ended_at": each.end_ns / _SECOND_NS,
                "line": each.line,
                "heard": each.heard,
                "picture": each.picture,
            }
            for each in done.memory
        ],
        "answered_by": done.answered_by,
        "confidence": done.confidence if done.HasField("confidence") else None,
    }
