"""Family of models: what the engine asks of one."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from services.inference_worker.model.card import Card
from services.inference_worker.model.form import Form
from services.inference_worker.model.layout import FrameLayout, SegmentTokens
from services.inference_worker.model.sampling import Sampling

if TYPE_CHECKING:  # who serves imports this, and knows no torch
    from torch import Tensor

    from services.inference_worker.model.decoder import Decoder
    from services.inference_worker.model.doubt import Doubt


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamSpec:
    """Form in which a model wants live video, in frames, pixels and tokens.

    `layout` is for frames whose sender has no wish of its own. `size_factor`: sides of other
    sizes are multiples of it, and have `min_pixels` to `max_pixels` together; 0: there is no other
    size. `tubelet`: frames encoded together. `causal_segments`: tokens inside a segment see only
    earlier ones; otherwise a segment's tokens all see each other (causal by frame).
    `position_horizon`: the largest cursor the model was trained for; keys are rebased before it.
    `branch_positions`: how far a question and its answer may reach beyond it; 0: as far as they do.
    `time_by_position`: nothing else tells it how far apart frames are.
    `history_rounds`: how many earlier rounds of a conversation the model was trained to read.
    `history_before_cursor`: these rounds take the positions before the trunk's cursor, so that the
    question stands at the cursor, as near to the newest frame as one without a conversation.
    """

    name: str
    layout: FrameLayout
    size_factor: int = 0
    min_pixels: int = 0
    max_pixels: int = 0
    tubelet: int
    causal_segments: bool
    window_segments: int
    position_horizon: int
    branch_positions: int = 0
    preferred_fps: float
    time_by_position: bool = False
    history_rounds: int
    history_before_cursor: bool = False
    max_answer_tokens: int
    reads_instructions: bool = False


@dataclass(frozen=True, slots=True)
class Round:
    """One earlier question and its answer."""

    question: str
    answer: str


@dataclass(frozen=True, slots=True)
class Prompt:
    """A branch's tokens up to where the model starts to answer. `before`: how many of them take
    positions before the trunk's cursor. `rounds`: the earlier rounds that they hold."""

    tokens: list[int]
    before: int = 0
    rounds: int = 0


@dataclass(slots=True, eq=False)
class Encoded:
    """Encoded tubelets. `tokens` [tubelets, vision_tokens, hidden]; `deep`: of the same shape, each
    added to the hidden states of these tokens after one of the decoder's first layers.
    `strangeness` [tubelets]: see `Look`; None where the model cannot tell."""

    tokens: "Tensor"
    deep: "tuple[Tensor, ...]" = ()
    strangeness: "Tensor | None" = None


class ServedModel(Protocol):
    """A model as those who serve it know it, without a tensor: a family of the engine's, or one
    that another server runs, whose prompts and answers are words where a family's are tokens.

    `card`: what it can be asked. `sampling`: of questions that say nothing of it. `knows_calls`:
    whether it calls functions of its own accord.
    """

    spec: StreamSpec
    card: Card
    sampling: Sampling

    @property
    def knows_calls(self) -> bool: ...

    def layout(self, width: int, height: int) -> FrameLayout:
        """Layout for frames of this size. Raises InvalidArgumentError for a size it cannot take."""
        ...

    def costliest(self, max_pixels: int) -> FrameLayout:
        """The layout with the most tokens that a budget of pixels a frame allows; 0: the default
        layout's. Raises InvalidArgumentError for a budget it cannot meet."""
        ...

    def question_tokens(
        self, history: list[Round], question: str, form: Form | None = None
    ) -> list[int]:
        """A branch's tokens up to where the model starts to answer."""
        ...

    def hold(self, form: Form) -> Any:
        """What holds an answer to a form, for its `Generation`: a `Constraint`, or whatever else
        the model's brain knows; None where nothing does, so that it is told in words alone. Not for
        the event loop. Raises InvalidArgumentError for tools that it cannot call."""
        ...

    def watch_tokens(self, condition: str) -> list[int]:
        """Tokens after which the model says yes or no to `condition`."""
        ...

    def unknown_words(self, text: str) -> list[str]:
        """The words of a text that the model has never learned."""
        ...

    def text(self, tokens: list[int]) -> str:
        """Answer tokens as text; special tokens are left out."""
        ...


class StreamingModel(ServedModel, Protocol):
    """A family: vision tower, decoder, and the rules for prompts and positions.

    `vision_token`: what stands for a picture's tokens where only words can, if anything does.
    `doubt`: of names, where it knows how sure it must be.
    """

    decoder: "Decoder"
    stop_tokens: frozenset[int]
    yes_token: int
    no_token: int
    vision_token: int | None
    doubt: "Doubt | None"

    def encode(self, frames: "Tensor") -> Encoded:
        """Frames [tubelets, tubelet, height, width, 3] uint8, all of one layout."""
        ...

    def segment(self, layout: FrameLayout, cursor: int, seconds: float) -> SegmentTokens:
        """The segment of a tubelet that starts at `cursor` and was captured `seconds` after the
        session's first frame."""
        ...

    def sink_tokens(self) -> list[int]:
        """The system prompt every session begins with; it is never evicted."""
        ...


def prompt_of(
    model: ServedModel, rounds: list[Round], question: str, form: Form | None = None
) -> Prompt:
    """The question after these rounds of its conversation."""
    tokens = model.question_tokens(rounds, question, form)
    before = 0
    if rounds and model.spec.history_before_cursor:
        before = len(tokens) - len(model.question_tokens([], question, form))
    return Prompt(tokens, before, len(rounds))


def prompt_within(
    room: int, model: ServedModel, rounds: list[Round], question: str, form: Form | None = None
) -> Prompt:
    """The question with as many of the last rounds as fit into `room` tokens. The question itself
    is never cut."""
    prompt = prompt_of(model, rounds, question, form)
    while rounds and len(prompt.tokens) > room:
        rounds = rounds[1:]
        prompt = prompt_of(model, rounds, question, form)
    return prompt


def most_segments(model: StreamingModel, layout: FrameLayout) -> int:
    """The longest window of such frames that stays within the positions the model was trained
    for."""
    room = model.spec.position_horizon - len(model.sink_tokens())
    return room // layout.segment_advance
