"""Sampling of an answer's next token: what a question may say of it, and a model's default.

No tensors here; `choice` applies it.
"""

from dataclasses import dataclass

COLDEST = 1e-5
"""Temperatures below it are greedy: they leave nothing to chance, and overflow what they divide."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """Choice of the next token, in the order and with the meanings of transformers.

    `repetition_penalty` divides the positive scores of tokens that the prompt or the answer holds
    already, and multiplies negative ones (Keskar et al., 2019); 1: none. `frequency_penalty` is
    taken off a token's score for every time the answer has it, `presence_penalty` once. Then, at a
    `temperature` above 0 (which takes the likeliest), the token is drawn among the `top_k`
    likeliest (0: all), and of those among the likeliest that have `top_p` of the probability
    together (Holtzman et al., 2020).
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int = 0

    @property
    def drawn(self) -> bool:
        """Whether chance has a part in it."""
        return self.temperature >= COLDEST and self.top_k != 1


GREEDY = Sampling()
