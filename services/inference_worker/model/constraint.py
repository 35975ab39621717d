"""Constraints: which tokens may come next, so that an answer has the form that was asked for.

llguidance keeps a parser of the answer so far, and says of every token of a vocabulary whether one
could follow. It is imported where somebody asks for a form; without it answers are free.
"""

import importlib.util
import json
import logging
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from services.inference_worker.model.form import CALL, CALL_END, Form, Tool
from sightline.errors import InvalidArgumentError
from sightline.reasons import Reason

log = logging.getLogger(__name__)

# The device thread waits for what may come next: of Qwen's 151,936 tokens that took 0.05 ms in the
# middle for ordinary schemas, and with these bounds 20 ms at worst for hostile ones, which end so.
MAX_GRAMMAR, MAX_STEP, MAX_STEP_ITEMS = 200_000, 50_000, 20_000
MOST_CALLS = 8  # of one answer: a weak model would go on and on
# Of blanks a model could write without end.
_WRITING = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
NO_TOOLS = "this model calls no functions"

Bits = NDArray[np.int32]


class Constraint(Protocol):
    """Constraint of one answer. The device thread calls it, once it is made.

    `whole`: whatever comes of it, if it ends, is what was asked for. `failure`: why it can go on no
    longer, after which it allows the end alone; "": it can.
    """

    whole: bool
    failure: str

    def allowed(self) -> Bits:
        """One bit for each token that may be next, the first in the lowest of the first word."""
        ...

    def take(self, token: int) -> None:
        """The next token is this."""
        ...

    @property
    def complete(self) -> bool:
        """Whether nothing can follow."""
        ...


class Grammars:
    """Grammars over one tokenizer. Any thread may call it.

    read: the tokenizer as tokenizer.json has it. size: rows of scores. ends: tokens that end an
    answer. words: of the tokenizer, that were added; `knows_calls`: calls are written with them.
    """

    def __init__(
        self, read: Callable[[], str], *, size: int, ends: Collection[int], words: Collection[str]
    ) -> None:
        self._read = read
        self._size = size
        self._ends = sorted(ends)
        self.knows_calls = {CALL, CALL_END} <= set(words)
        self._tokenizer: Any = None
        self._lock = threading.Lock()

    def __deepcopy__(self, memo: dict[int, Any]) -> "Grammars":
        return self  # a copy of its model has the same tokenizer, and a lock cannot be copied

    def constraint(self, form: Form) -> Constraint | None:
        """What holds an answer to a form; None where nothing can, and it may be asked for in words
        only. Takes a second the first time. Raises InvalidArgumentError for tools that cannot be
        called."""
        if importlib.util.find_spec("llguidance") is None:
            if form.must_call:
                raise InvalidArgumentError(
                    "this worker has no llguidance, without which no call can be required",
                    reason=Reason.TOOLS_UNSUPPORTED,
                )
            return None
        error = ""
        for lenient in (False, True):
            made = _Parser(self._words(), _grammar(form, self.knows_calls, lenient), self._ends)
            if not made.failure:
                made.whole = not lenient
                return made
            error = error or made.failure
        if form.tools:
            raise InvalidArgumentError(f"tools: {error}")
        log.info("a schema cannot be enforced", extra={"error": error})
        return None

    def _words(self) -> Any:
        from llguidance import LLTokenizer

        with self._lock:
            if self._tokenizer is None:
                self._tokenizer = LLTokenizer(
                    self._read(), n_vocab=self._size, eos_token=self._ends
                )
            return self._tokenizer


class _Parser:
    """A `Constraint` by llguidance."""

    def __init__(self, words: Any, grammar: str, ends: Sequence[int]) -> None:
        from llguidance import LLMatcher, LLParserLimits

        limits = LLParserLimits(
            max_grammar_size=MAX_GRAMMAR,
            step_lexer_fuel=MAX_STEP,
            step_max_items=MAX_STEP_ITEMS,
            verbose_errors=False,
        )
        self._matcher = LLMatcher(words, grammar, log_level=0, limits=limits)
        self._size = -(-words.vocab_size // 32)
        self._ends = ends
        self.whole = True
        self.failure = self._error()

    def allowed(self) -> Bits:
        bits = np.zeros(self._size, np.int32)
        if not self.failure:
            self._matcher.unsafe_compute_mask_ptr(bits.ctypes.data, bits.nbytes)
            self.failure = self._error()
        if self.failure:
            bits[:] = 0
            for token in self._ends:
                bits[token // 32] |= np.array(1 << token % 32, np.uint32).view(np.int32)
        return bits

    def take(self, token: int) -> None:
        if not self.failure:
            self._matcher.consume_token(token)
            self.failure = self._error()

    @property
    def complete(self) -> bool:
        return bool(self.failure) or bool(self._matcher.is_stopped())

    def _error(self) -> str:
        if not self._matcher.is_error():
            return ""
        said = str(self._matcher.get_error()).partition("\n")[0]
        return said.rpartition("JSON schema: ")[2][:200] or "it cannot be followed"


def _grammar(form: Form, knows_calls: bool, lenient: bool) -> str:
    """The grammar of a form, in llguidance's Lark."""
    rules = []
    answer = ""
    if form.schema is not None:
        answer = "answer"
        rules.append(f"answer: {_json(form.schema, lenient)}")
    elif not form.must_call:
        answer = "said"
        rules.append(r"said: /(.|\n)+/")
    if not form.tools:
        return "\n".join([f"start: {answer}", *rules])
    more = "" if form.single else rf' ("\n" call){{0,{MOST_CALLS - 1}}}'
    rules.append(f"calls: call{more}")
    begin, end = (CALL, CALL_END) if knows_calls else (json.dumps(CALL), json.dumps(CALL_END))
    rules.append(rf'call: {begin} "\n" one "\n" {end}')
    tools = form.callable
    rules.append("one: " + " | ".join(f"tool{number}" for number in range(len(tools))))
    rules += [_rule(number, tool, lenient) for number, tool in enumerate(tools)]
    if form.must_call:
        start = "calls"
    elif form.schema is not None:
        start = "answer | calls"
    else:
        start = "said? calls?"
    return "\n".join([f"start: {start}", *rules])


def _rule(number: int, tool: Tool, lenient: bool) -> str:
    """One tool's call. Its schema is a document of its own, so that references in it are right."""
    head = json.dumps(f'{{"name": {json.dumps(tool.name)}, "arguments": ')
    return (
        f'tool{number}: {head} arguments{number} "}}"\n'
        f"arguments{number}: {_json(tool.schema, lenient)}"
    )


def _json(schema: Mapping[str, Any], lenient: bool) -> str:
    guidance = {**_WRITING, "lenient": lenient, "coerce_one_of": lenient}
    return "%json " + json.dumps({**schema, "x-guidance": guidance})
