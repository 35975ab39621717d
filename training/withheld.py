"""Keeps training silent about what it withholds.

A world that never shows a scarf at 12 dollars teaches, if nothing is done, that scarves do not cost
that: such a rule is learnt sooner than reading. Held-out combinations would then measure the rule.
So where a scarf is spoken of, "12" is not among the choices that the loss weighs against the truth:
nothing is shown of the combination, and nothing said against it.
"""

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from training.layout import NO_TARGET

Pairs = tuple[tuple[str, str], ...]


class Withheld(nn.Module):
    """Removes choices from scores, by the words beside them. Empty pairs remove nothing."""

    words: Tensor

    def __init__(self, pairs: Pairs, tokenizer: Tokenizer) -> None:
        super().__init__()
        size = tokenizer.get_vocab_size() if pairs else 0
        words = torch.zeros(size, size)
        for pair in pairs:
            one, other = map(tokenizer.token_to_id, pair)
            words[one, other] = words[other, one] = 1.0
        self.register_buffer("words", words, persistent=False)

    def of_answers(
        self, logits: Tensor, tokens: Tensor, targets: Tensor, branches: Tensor
    ) -> Tensor:
        """Logits without words that never go with another one of the same question or answer.

        logits: [asked, words] of the targets; tokens, targets, branches: [rows, length] as in
        `layout.Row`.
        """
        if not self.words.numel():
            return logits
        out: list[Tensor] = []
        for said, wanted, owners in zip(tokens, targets, branches, strict=True):
            text, asked = owners >= 0, wanted != NO_TARGET
            found = self.words.new_zeros(int(owners.max()) + 1, self.words.shape[1])
            found.index_add_(0, owners[text], self.words[said[text]])
            found.index_add_(0, owners[asked], self.words[wanted[asked]])
            out.append(found[owners[asked]] > 0)
        right = targets[targets != NO_TARGET][:, None]  # stays a choice, whatever else is said
        return logits.masked_fill(torch.cat(out).scatter(1, right, False), -torch.inf)
