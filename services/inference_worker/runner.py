"""Tensors: the pool, one forward over a ragged step, sampling.

Linear layers run on all tokens of a step flat, without padding; attention by session, see
`paged_attention`.
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from services.inference_worker.kv_store import KVStore
from services.inference_worker.model.decoder import Deep
from services.inference_worker.model.family import Encoded, StreamingModel
from services.inference_worker.model.layout import VISION, FrameLayout
from services.inference_worker.paged_attention import PagedAttention
from services.inference_worker.scheduler import Sampling
from services.inference_worker.step import Picture, Run, RunOutput, rounded


class Runner:
    """Owns the model and the KV tensors, kept as `kv_dtype` says (see `KVStore`). Only the device
    thread calls it."""

    def __init__(
        self,
        model: StreamingModel,
        *,
        num_pages: int,
        page_size: int,
        dtype: torch.dtype,
        device: torch.device,
        kv_dtype: str = "auto",
    ) -> None:
        self.model = model
        self.page_size = page_size
        self.dtype = dtype
        self.device = device
        self.store = KVStore(
            model.decoder.config,
            kv_dtype,
            num_pages=num_pages,
            page_size=page_size,
            dtype=dtype,
            device=device,
        )

    @torch.inference_mode()
    def execute(self, runs: list[Run]) -> list[RunOutput | None]:
        """Run one step. Returns an output for each run that wants one, in order."""
        order = sorted(range(len(runs)), key=lambda n: runs[n].group)
        ordered = [runs[n] for n in order]
        hidden, deep = self._embed(ordered)
        # Padding rows write to the null page, which every mask hides.
        padding = rounded(len(hidden)) - len(hidden)
        hidden = functional.pad(hidden, (0, 0, 0, padding))
        places = [p for run in ordered for p in run.positions] + [(0, 0, 0)] * padding
        positions = torch.tensor(places, device=self.device)
        targets = [s for run in ordered for s in run.slots] + [0] * padding
        slots = torch.tensor(targets, device=self.device)
        self.store.clear(_begun(ordered, self.page_size))
        attend = PagedAttention(self.store, slots, ordered)
        hidden = self.model.decoder(hidden, positions, attend, deep)
        outputs: list[RunOutput | None] = [None] * len(runs)
        ends = np.cumsum([len(run.slots) for run in ordered])
        wanting = [n for n, run in enumerate(ordered) if run.want_output]
        if wanting:
            last = [int(ends[n]) - 1 for n in wanting]
            last += [0] * (rounded(len(last)) - len(last))
            rows = torch.tensor(last, device=self.device)
            logits = self.model.decoder.logits(hidden.index_select(0, rows)).float()
            sampled = self._sample(logits[: len(wanting)], [ordered[n] for n in wanting])
            for n, output in zip(wanting, sampled, strict=True):
                outputs[order[n]] = output
        return outputs

    def _embed(self, runs: list[Run]) -> tuple[Tensor, Deep | None]:
        """Embeddings [tokens, hidden] of all new tokens, flat, in the order of `runs`, and what the
        decoder adds to those of pictures on its way."""
        words = [token for run in runs for token in run.tokens]
        pictures = [run.picture for run in runs if run.picture is not None]
        if not pictures:
            return self.model.decoder.embedding(torch.tensor(words, device=self.device)), None
        self._encode([picture for picture in pictures if picture.encoded is None])
        encoded = [picture.encoded for picture in pictures if picture.encoded is not None]
        seen = torch.cat([each.tokens for each in encoded]).to(self.dtype)
        ids = np.array(words)
        places = torch.as_tensor(np.flatnonzero(ids == VISION), device=self.device)
        if len(places) == len(words):
            hidden = seen
        else:
            ids[ids == VISION] = 0
            hidden = self.model.decoder.embedding(torch.as_tensor(ids, device=self.device))
            hidden.index_copy_(0, places, seen)
        layers = zip(*(each.deep for each in encoded), strict=True)
        added = [torch.cat(layer).to(self.dtype) for layer in layers]
        return hidden, Deep(places, added) if added else None

    def _encode(self, pictures: list[Picture]) -> None:
        """Run the encoder once for all pictures of one size."""
        sizes: dict[FrameLayout, list[Picture]] = {}
        for picture in dict.fromkeys(pictures):
            sizes.setdefault(picture.layout, []).append(picture)
        for layout, members in sizes.items():
            tubelet = self.model.spec.tubelet
            count = rounded(len(members))
            raw = bytearray(b"".join(frame for each in members for frame in each.pixels))
            raw += bytes(layout.frame_bytes * tubelet * (count - len(members)))
            pixels = torch.frombuffer(raw, dtype=torch.uint8).to(self.device)
            pixels = pixels.view(count, tubelet, layout.height, layout.width, 3)
            encoded = self.model.encode(pixels)
            for n, picture in enumerate(members):
                # Copies: a picture that is kept for reuse must not keep its neighbours.
                deep = tuple(layer[n].clone() for layer in encoded.deep)
                picture.encoded = Encoded(encoded.tokens[n].clone(), deep)

    def _sample(self, logits: Tensor, runs: list[Run]) -> list[RunOutput]:
        """One synchronisation for the whole step, but for runs that roll dice."""
        answers = torch.stack((logits[:, self.model.yes_token], logits[:, self.model.no_token]), -1)
        scores = torch.softmax(answers, dim=-1)[:, 0]
        finite = torch.isfinite(logits).all(dim=-1)
        for n, run in enumerate(runs):
            if run.sampling.repetition_penalty != 1.0:
                _penalise(logits[n], run.said, run.sampling.repetition_penalty)
        choice = logits.argmax(dim=-1)
        for n, run in enumerate(runs):
            if run.sampling.temperature > 0 and run.generator is not None:
                weights = _weights(logits[n].cpu(), run.sampling)
                if torch.isfinite(weights).all():
                    choice[n] = torch.multinomial(weights, 1, generator=run.generator)[0]
        rows = torch.stack((choice.double(), scores.double(), finite.double()), dim=-1).tolist()
        return [RunOutput(int(token), score, bool(good)) for token, score, good in rows]

    @torch.inference_mode()
    def shift(self, pages: list[int], delta: int) -> None:
        """Rebase: rotate the keys of these pages by `delta` positions, in place."""
        self.store.shift(pages, self.model.decoder.omega, delta)

    @torch.inference_mode()
    def save(self, pages: list[int]) -> Tensor:
        """A copy of these pages in host memory; see `KVStore.save`."""
        return self.store.save(pages)

    @torch.inference_mode()
    def restore(self, pages: list[int], saved: Tensor) -> None:
        """Write what `save` gave into these pages."""
        self.store.restore(pages, saved)


def _begun(runs: list[Run], page_size: int) -> list[int]:
    """Pages that these runs begin and do not fill."""
    begun = []
    for run in runs:
        index, rest = divmod(run.own_start + len(run.slots), page_size)
        if 0 < rest <= len(run.slots):
            begun.append(run.own_pages[index])
    return begun


def _penalise(logits: Tensor, said: list[int], penalty: float) -> None:
    """Make the tokens in `said` less likely, in place."""
    tokens = torch.tensor(sorted(set(said)), device=logits.device)
    scores = logits.index_select(0, tokens)
    logits.index_copy_(0, tokens, torch.where(scores < 0, scores * penalty, scores / penalty))


def _weights(logits: Tensor, sampling: Sampling) -> Tensor:
    """Probabilities to draw from; those outside the nucleus are zero."""
    weights = torch.softmax(logits / sampling.temperature, dim=-1)
    if sampling.top_p < 1.0:
        ordered, tokens = weights.sort(descending=True)
        before = ordered.cumsum(-1) - ordered  # the likeliest always stays
        weights[tokens[before >= sampling.top_p]] = 0.0
    return weights
