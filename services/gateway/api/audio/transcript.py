"""Transcripts of recordings in the forms that OpenAI's clients ask for: data, no I/O."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

FORMATS = ("json", "text", "srt", "verbose_json", "vtt")
CONTENT_TYPES = {"text": "text/plain", "srt": "text/plain", "vtt": "text/vtt"}


@dataclass(frozen=True, slots=True)
class Spoken:
    """Words without a pause, and when they are said, in seconds of the recording."""

    text: str
    start_s: float
    end_s: float


@dataclass(slots=True)
class Transcript:
    """What is said in a recording of `length_s`, as far as it was heard."""

    length_s: float = 0.0
    language: str = ""
    segments: list[Spoken] = field(default_factory=list)

    @property
    def text(self) -> str:
        return " ".join(segment.text for segment in self.segments)

    def usage(self) -> dict[str, Any]:
        return {"type": "duration", "seconds": round(self.length_s)}

    def body(self, form: str) -> dict[str, Any]:
        """The reply's JSON, of the form "json" or "verbose_json"."""
        reply: dict[str, Any] = {"text": self.text, "usage": self.usage()}
        if form == "verbose_json":
            reply |= {
                "task": "transcribe",
                "language": self.language,
                "duration": round(self.length_s, 3),
                "segments": [_segment(*each) for each in enumerate(self.segments)],
            }
        return reply

    def written(self, form: str) -> str:
        """The reply's text, of the form "text", "srt" or "vtt"."""
        if form == "text":
            return f"{self.text}\n"
        return subtitles(self.segments, form)


def subtitles(segments: Sequence[Spoken], form: str) -> str:
    """SubRip ("srt") or WebVTT ("vtt")."""
    point, head = (",", "") if form == "srt" else (".", "WEBVTT\n\n")
    blocks = []
    for number, each in enumerate(segments, 1):
        times = f"{_time(each.start_s, point)} --> {_time(each.end_s, point)}"
        label = f"{number}\n" if form == "srt" else ""
        # An arrow would be read as a line of times.
        blocks.append(f"{label}{times}\n{each.text.replace('-->', '->')}\n")
    return head + "\n".join(blocks)


def _segment(number: int, spoken: Spoken) -> dict[str, Any]:
    return {
        "id": number,
        "start": round(spoken.start_s, 3),
        "end": round(spoken.end_s, 3),
        "text": spoken.text,
    }


def _time(at_s: float, point: str) -> str:
    ms = round(max(0.0, at_s) * 1000)
    minutes, ms = divmod(ms, 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{ms // 1000:02}{point}{ms % 1000:03}"
