"""The relayed model, as those who serve it know it: its prompts and answers are words, not tokens.

A prompt is a list of chat messages where a family's is one of tokens, and a piece of an answer,
which most servers send token by token, stands for a token.
"""

from typing import Any

from services.inference_worker.model.card import NOTE, Card
from services.inference_worker.model.family import Round, StreamSpec
from services.inference_worker.model.form import AUTO, REQUIRED, Form
from services.inference_worker.model.layout import FrameLayout, largest_frame_pixels
from services.inference_worker.model.sampling import GREEDY
from sightline.errors import InvalidArgumentError

CELL = 16  # pixels of a side that frames' sides are multiples of: even, as JPEG wants them
LEAST_PIXELS = 28 * CELL * CELL
MOST_ANSWER_TOKENS = 2048
MOST_ROUNDS = 100
FPS = 1.0

_YES_OR_NO = "Answer with one word, yes or no. Is this true of the video now: "


class RelayModel:
    """A `ServedModel` that another server runs. frames: of the default window; pixels: of a frame
    whose session names no number."""

    def __init__(self, name: str, frames: int, pixels: int) -> None:
        self._most_pixels = largest_frame_pixels(pixels)
        side = max(1, int(pixels**0.5) // CELL) * CELL
        self.card = _card(name, frames)
        self.sampling = GREEDY
        self.spec = StreamSpec(
            name=name,
            layout=_layout(side, side),
            size_factor=CELL,
            min_pixels=min(LEAST_PIXELS, side * side),
            max_pixels=self._most_pixels,
            tubelet=1,
            causal_segments=True,
            window_segments=frames,
            position_horizon=2**31,
            preferred_fps=FPS,
            history_rounds=MOST_ROUNDS,
            max_answer_tokens=MOST_ANSWER_TOKENS,
            reads_instructions=True,
        )

    def layout(self, width: int, height: int) -> FrameLayout:
        if width % CELL or height % CELL or not 0 < width * height <= self._most_pixels:
            raise InvalidArgumentError(
                f"frames of {width}×{height}: sides must be multiples of {CELL} pixels, with at "
                f"most {self._most_pixels} pixels together"
            )
        return _layout(width, height)

    def costliest(self, max_pixels: int) -> FrameLayout:
        if not max_pixels:
            return self.spec.layout
        if max_pixels < CELL * CELL:
            raise InvalidArgumentError(f"max_pixels must be at least {CELL * CELL}")
        return _layout(CELL, min(max_pixels, self._most_pixels) // CELL)

    def question_tokens(
        self, history: list[Round], question: str, form: Form | None = None
    ) -> list[Any]:
        """Messages of earlier rounds, the question, to which the pictures come, and what was called
        for it."""
        messages: list[Any] = []
        for earlier in history:
            messages.append({"role": "user", "content": earlier.question})
            messages.append({"role": "assistant", "content": earlier.answer})
        if form is None:
            return [*messages, {"role": "user", "content": question}]
        told = Form(schema=form.schema).words()  # of its tools the server tells it
        messages.append({"role": "user", "content": f"{told}\n\n{question}" if told else question})
        for call in form.called:
            function = {"name": call.name, "arguments": call.arguments or "{}"}
            made = {"id": call.id or call.name, "type": "function", "function": function}
            messages.append({"role": "assistant", "content": None, "tool_calls": [made]})
            messages.append({"role": "tool", "tool_call_id": made["id"], "content": call.output})
        return messages

    @property
    def knows_calls(self) -> bool:
        return True  # its server says so where it does not

    def hold(self, form: Form) -> dict[str, Any]:
        """Fields of the request, by which the server holds its model as well as it can."""
        fields: dict[str, Any] = {}
        if form.schema == {"type": "object"}:
            fields["response_format"] = {"type": "json_object"}
        elif form.schema is not None:
            described = {"name": "answer", "schema": form.schema}
            fields["response_format"] = {"type": "json_schema", "json_schema": described}
        if form.tools:
            fields["tools"] = [tool.as_json() for tool in form.tools]
            certain = {"type": "function", "function": {"name": form.choice}}
            fields["tool_choice"] = form.choice if form.choice in (AUTO, REQUIRED) else certain
            if form.single:
                fields["parallel_tool_calls"] = False
        return fields

    def watch_tokens(self, condition: str) -> list[Any]:
        return [{"role": "user", "content": f"{_YES_OR_NO}{condition}"}]

    def unknown_words(self, text: str) -> list[str]:
        return []  # what it has no word for it spells

    def text(self, tokens: list[Any]) -> str:
        """Halves of a character, as servers that write \\u escapes may cut one between two pieces,
        are put together; one that stays alone is none."""
        return "".join(tokens).encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _layout(width: int, height: int) -> FrameLayout:
    """What a picture costs its server nobody tells: its cells stand for its tokens."""
    cells = max(1, width * height // CELL**2)
    return FrameLayout(
        width=width,
        height=height,
        vision_tokens=cells,
        segment_tokens=cells,
        segment_advance=1,
    )


def _card(name: str, frames: int) -> Card:
    return Card(
        summary=(
            f"{name} runs on a model server of its own and is shown the newest frames with every "
            "question. It answers in its own words, and may be wrong in any of them."
        ),
        can=(
            "people, animals, things and places, and what is going on",
            "what changed within the frames that it is shown",
            "follow-up questions",
        ),
        cannot=(
            f"anything older than the frames it is shown, by default {frames} of them",
            "sound",
            "what is too small in the frames that it is shown",
        ),
        questions=("What do you see?", "What is happening?", "How many people are there?"),
        conditions=("a person is there", "somebody is waving", "there is text in the picture"),
        notes=(NOTE,),
    )
