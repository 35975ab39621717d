"""Sampling of a Realtime answer: OpenAI's `temperature`, and what else a question here may say of
it, by the names that it has in chat completions."""

from dataclasses import dataclass
from typing import Any, Self

from services.gateway.api.realtime.fields import Json, WireError, list_of, number_of, whole_of

_NUMBERS = (
    "temperature",
    "top_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
)
_WHOLE = ("top_k", "seed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """What was said of it, by the names of a question's fields."""

    said: tuple[tuple[str, Any], ...] = ()
    stop: tuple[str, ...] = ()

    @classmethod
    def of(cls, fields: Json, where: str) -> Self:
        """Raises WireError."""
        named = {
            **{name: number_of(fields, name, where) for name in _NUMBERS},
            **{
                name: whole_of(fields, name, where)
                for name in _WHOLE
                if fields.get(name) is not None
            },
        }
        stop = fields.get("stop")
        stop = [stop] if isinstance(stop, str) else list_of(fields, "stop", where)
        if not all(isinstance(each, str) for each in stop):
            raise WireError(f"{where}stop is a string or a list of them", param=f"{where}stop")
        said = tuple((name, value) for name, value in named.items() if value is not None)
        return cls(said=said, stop=tuple(stop))


USUAL = Sampling()
