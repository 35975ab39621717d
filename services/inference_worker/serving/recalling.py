"""Recalling: how a question about the past is put to a model, with what is remembered of it.

A model that reads words gets the remembered pictures after its window, then what is known of them,
then the question. One that reads none, and knows only its own kind of question, is shown the first
picture alone, as if it were the present, and asked what would have been asked then; or it is not
asked at all, where the lines of memory say enough. All of that is the branch's.

An answer about the present that the model was not sure of goes on in the same ways, after what it
has said.
"""

import re
from dataclasses import dataclass

from services.common.ages import NS, ago, clock
from services.inference_worker.engine.jobs import PastPicture
from services.inference_worker.model.family import ServedModel
from services.inference_worker.serving.doubt import says_doubt
from sightline.errors import InvalidArgumentError
from sightline.v1 import inference_pb2

MOST_MOMENTS = 4
_REMEMBERED = re.compile(r"(?:^|\.? )From memory[,:] ")
NOTHING = (
    "Of what the following question is about, nothing is remembered from before what you see of "
    "the video now. If you do not see it, say that you do not remember it, and name no time."
)


@dataclass(frozen=True, slots=True)
class Recalled:
    """What a question is asked with. `recited`: the whole answer, where the model is not asked;
    `prefix`: words before its own; `instead`: what is said where it does not know then either."""

    text: str
    pictures: tuple[PastPicture, ...] = ()
    alone: bool = False
    prefix: str = ""
    recited: str = ""
    instead: str = ""

    def whole(self, words: str) -> str:
        """What is said where those are all of the model's words."""
        if not words.strip() or says_doubt(words):
            return self.instead
        return self.prefix + words


def recalled(recall: inference_pb2.Recall, text: str, model: ServedModel, room: int) -> Recalled:
    """How `text` is asked with what is remembered. room: tokens that pictures may take; those that
    do not fit are left out. Raises InvalidArgumentError for what no gateway sends."""
    if len(recall.moments) > MOST_MOMENTS:
        raise InvalidArgumentError(f"at most {MOST_MOMENTS} moments are recalled")
    lead = _lead(recall.said)
    if model.spec.reads_instructions:
        pictures = _fitting([_picture(each, model) for each in recall.moments], room)
        prefix = f"{lead}From memory: " if lead else ""
        return Recalled(f"{_told(recall, len(pictures))}\n\n{text}", pictures, prefix=prefix)
    first = recall.moments[0] if recall.moments else None
    if recall.question and first is not None and first.pixels:
        pictures = _fitting([_picture(first, model)], room)
        if pictures:
            prefix = f"{lead}From memory, {_when(first, recall.now_ns)}: "
            instead = lead + recall.answer if lead else ""
            return Recalled(recall.question, pictures, alone=True, prefix=prefix, instead=instead)
    return Recalled(text, recited=lead + recall.answer)


def of_now(answer: str) -> str:
    """Part of an answer that is not from memory; "" where all of it is."""
    return _REMEMBERED.split(answer, maxsplit=1)[0]


def _lead(said: str) -> str:
    """What stands between words of the present and those from memory; "" where there are none."""
    if not said:
        return ""
    return " " if said.rstrip().endswith((".", "!", "?")) else ". "


def _picture(moment: inference_pb2.RecalledMoment, model: ServedModel) -> PastPicture | None:
    if not moment.pixels:
        return None
    layout = model.layout(moment.width, moment.height)
    if len(moment.pixels) != layout.frame_bytes:
        raise InvalidArgumentError("a recalled picture has another size than it says")
    return PastPicture(moment.pixels, layout, moment.start_ns)


def _fitting(pictures: list[PastPicture | None], room: int) -> tuple[PastPicture, ...]:
    kept: list[PastPicture] = []
    for picture in pictures:
        if picture is not None and picture.layout.segment_tokens <= room:
            room -= picture.layout.segment_tokens
            kept.append(picture)
    return tuple(kept)


def _told(recall: inference_pb2.Recall, num_pictures: int) -> str:
    """What is known of the moments, for a model that reads it before the question."""
    if not recall.moments:
        return NOTHING
    lines = ["This is remembered of the video before what you see of it now:"]
    for moment in recall.moments:
        heard = f' Somebody said: "{moment.heard}"' if moment.heard else ""
        lines.append(f"- {_when(moment, recall.now_ns)}: {moment.line}{heard}")
    if num_pictures:
        which = "picture is" if num_pictures == 1 else f"{num_pictures} pictures are"
        lines.append(f"The last {which} of these moments, in their order, and not of now.")
    lines.append("Answer from that, and say when it was.")
    return "\n".join(lines)


def _when(moment: inference_pb2.RecalledMoment, now_ns: int) -> str:
    age_s = max(0.0, (now_ns - moment.start_ns) / NS)
    return f"{ago(age_s)} ({moment.clock or clock(moment.start_ns)})"
