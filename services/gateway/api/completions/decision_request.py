"""Decisions as OpenAI's clients ask for them, and their answers: data, no I/O."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from services.gateway.api.completions.chat_request import (
    SCHEME,
    Said,
    object_of,
    text_of,
)
from services.gateway.api.completions.errors import ParameterError
from services.gateway.viewers.decisions import MAX_QUESTIONS
from sightline.v1 import gateway_pb2


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedDecision:
    """One question. `values` are its choices, or its levels' labels; `either`: they are true and
    false, so that it is a predicate to the model."""

    kind: str
    name: str | None
    question: gateway_pb2.DecideQuestion
    values: Sequence[str | bool] = ()

    @property
    def either(self) -> bool:
        return set(self.values) == {True, False}

    def answer(self, decision: gateway_pb2.Decision) -> dict[str, Any]:
        """The answer in OpenAI's form."""
        answer: dict[str, Any] = {"type": self.kind, "name": self.name}
        if self.kind == "predicate":
            return {**answer, "probability": decision.probability}
        shares = list(decision.probabilities)
        if self.either:
            holds = decision.probability
            shares = [holds if value else 1 - holds for value in self.values]
        best = max(range(len(shares)), key=shares.__getitem__)
        answer["confidence"] = shares[best]
        if self.kind == "choice":
            answer["choice"] = self.values[best]
            answer["probabilities"] = [
                {"value": value, "probability": share}
                for value, share in zip(self.values, shares, strict=True)
            ]
        else:
            answer["score"] = decision.score
            answer["probabilities"] = [
                {"label": label, "value": number, "probability": share}
                for number, (label, share) in enumerate(zip(self.values, shares, strict=True))
            ]
        return answer


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionRequest:
    """What is to be decided, of which session or pictures."""

    model: str
    questions: Sequence[AskedDecision]
    session: str = ""
    pictures: Sequence[str] = ()

    @property
    def request(self) -> gateway_pb2.DecideRequest:
        return gateway_pb2.DecideRequest(questions=[each.question for each in self.questions])


def decision_request_of(text: bytes) -> DecisionRequest:
    """Read a request. Raises InvalidArgumentError, naming the field that is wrong."""
    body = object_of(text)
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise ParameterError("model", "is missing")
    said = Said()
    context = _context_of(body.get("input"), said)
    session = said.session or (model.removeprefix(SCHEME) if model.startswith(SCHEME) else "")
    questions = body.get("questions")
    if not isinstance(questions, list) or not 0 < len(questions) <= MAX_QUESTIONS:
        raise ParameterError("questions", f"is a list of 1 to {MAX_QUESTIONS}")
    return DecisionRequest(
        model=model,
        session=session,
        pictures=said.pictures,
        questions=[
            _question_of(each, f"questions[{number}]", context)
            for number, each in enumerate(questions)
        ],
    )


def _context_of(given: Any, said: Said) -> str:
    """Words of the input; the session and the pictures in it go into `said`."""
    if isinstance(given, str):
        if given.startswith(SCHEME):
            said.session = given.removeprefix(SCHEME)
            return ""
        return given
    if not isinstance(given, list):
        raise ParameterError("input", f"is text, {SCHEME}<session> or a list of messages")
    words = []
    for number, message in enumerate(given):
        where = f"input[{number}]"
        if not isinstance(message, dict) or message.get("role") not in (
            "user",
            "system",
            "developer",
            "assistant",
        ):
            raise ParameterError(where, "is no message")
        words.append(_context_of_message(message.get("content"), where, said))
    return "\n".join(word for word in words if word)


def _context_of_message(content: Any, where: str, said: Said) -> str:
    if isinstance(content, str) and content.startswith(SCHEME):
        return _context_of(content, said)
    return text_of(content, where, said)


def _question_of(given: Any, where: str, context: str) -> AskedDecision:
    kind = given.get("type") if isinstance(given, dict) else None
    if kind not in ("predicate", "choice", "score"):
        raise ParameterError(f"{where}.type", "is none of predicate, choice and score")
    name = given.get("name")
    if name is not None and not isinstance(name, str):
        raise ParameterError(f"{where}.name", "is text")
    part = Said()
    words = text_of(given.get("instructions"), f"{where}.instructions", part)
    if part.pictures or part.session:
        raise ParameterError(f"{where}.instructions", "are words here: what is seen is the input's")
    question = gateway_pb2.DecideQuestion(name=name or "")
    question.statement = f"{context}\n{words}".strip()
    values, texts = _options_of(given, kind, where)
    asked = AskedDecision(kind=kind, name=name, question=question, values=values)
    if not asked.either:
        (question.choices if kind == "choice" else question.levels).extend(texts)
    return asked


def _options_of(given: dict[str, Any], kind: str, where: str) -> tuple[list[str | bool], list[str]]:
    """Values of the options as they come back, and what the model reads for each."""
    if kind == "predicate":
        return [], []
    field, key = ("choices", "value") if kind == "choice" else ("levels", "label")
    options = given.get(field)
    if not isinstance(options, list) or not all(isinstance(each, dict) for each in options):
        raise ParameterError(f"{where}.{field}", "is a list of objects")
    values: list[str | bool] = []
    texts = []
    for each in options:
        value = each.get(key)
        if not isinstance(value, str | bool) or value == "":
            raise ParameterError(f"{where}.{field}", f"each has a {key}")
        values.append(value)
        described = each.get("description")
        texts.append(described if isinstance(described, str) and described else str(value))
    return values, texts
