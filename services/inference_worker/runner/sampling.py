"""The next token, chosen from the scores of all."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from services.inference_worker.device.upload import upload
from services.inference_worker.model.sampling import Sampling

_TIES = 64  # tokens as likely as the last of the likeliest, which stay with it


def penalise(scores: Tensor, sampling: Sampling, said: list[int], answered: list[int]) -> None:
    """Make tokens less likely, in place. scores [vocabulary]; said: all of the prompt and of the
    answer; answered: of the answer."""
    if sampling.repetition_penalty != 1.0:
        (tokens,) = upload([np.unique(np.array(said, dtype=np.int64))], scores.device)
        known, penalty = scores.index_select(0, tokens), sampling.repetition_penalty
        scores.index_copy_(0, tokens, torch.where(known < 0, known * penalty, known / penalty))
    if answered and (sampling.frequency_penalty or sampling.presence_penalty):
        found, counts = np.unique(np.array(answered, dtype=np.int64), return_counts=True)
        less = sampling.frequency_penalty * counts + sampling.presence_penalty
        tokens, taken_off = upload([found, less.astype(np.float32)], scores.device)
        scores.index_add_(0, tokens, taken_off, alpha=-1)


def keep_allowed(scores: Tensor, allowed: NDArray[np.int32]) -> None:
    """Take every other token out, in place. scores [vocabulary]; allowed: bits, see
    `Constraint`."""
    (words,) = upload([allowed], scores.device)
    bits = words[:, None] >> torch.arange(32, dtype=torch.int32, device=scores.device) & 1
    scores.masked_fill_(bits.flatten()[: len(scores)] == 0, float("-inf"))


def weights(scores: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """Tokens to draw among, likeliest first, and their weights; those that are out have none."""
    scores = scores / sampling.temperature
    size = len(scores)
    if 0 < sampling.top_k < size:
        likeliest, tokens = scores.topk(min(sampling.top_k + _TIES, size))
        out = likeliest < likeliest[sampling.top_k - 1]
        likeliest = likeliest.masked_fill(out, float("-inf"))
    else:
        likeliest, tokens = scores.sort(descending=True)
    found = torch.softmax(likeliest, dim=-1)
    if sampling.top_p < 1.0:
        before = found.cumsum(-1) - found
        out = before >= sampling.top_p
        out[0] = False  # the likeliest always stays
        found = found.masked_fill(out, 0.0)
    return tokens, found


def draw(scores: Tensor, sampling: Sampling, generator: torch.Generator) -> Tensor:
    """One draw: the first of exponential clocks to ring, as in torch.multinomial, which would ask
    the device whether the weights are numbers. Where they are not, the step says so anyway."""
    tokens, found = weights(scores, sampling)
    return tokens[(found / torch.empty_like(found).exponential_(generator=generator)).argmax()]
