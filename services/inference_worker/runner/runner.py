"""Runner of steps: the pool's tensors, one forward over a ragged step, sampling.

Linear layers run on all tokens of a step flat, without padding; attention by session, see
`paged_attention`, or on GPUs `block_steps`.
"""

import importlib.util
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from services.inference_worker.device.graphs import Graphs, cuda_recorder
from services.inference_worker.kv.tensors import KVTensors
from services.inference_worker.model.decoder import Deep
from services.inference_worker.model.family import StreamingModel
from services.inference_worker.model.layout import VISION
from services.inference_worker.runner.batch import Run, RunOutput, Tubelet, rounded
from services.inference_worker.runner.cpu.paged_attention import PagedAttention
from services.inference_worker.runner.sampling import draw, keep_allowed, penalise
from services.inference_worker.runner.vision import Vision

if TYPE_CHECKING:  # it needs triton
    from services.inference_worker.runner.cuda.block_steps import BlockSteps

log = logging.getLogger(__name__)


class Runner:
    """Owner of the model and the KV tensors, kept as `kv_dtype` says (see `KVTensors`). Only the
    device thread calls it.

    attention: "gather", or "block", which reads the pages where they lie and needs triton; "auto":
    block where the device is CUDA and triton works. step_tokens: of most steps (see `BlockSteps`).
    """

    def __init__(
        self,
        model: StreamingModel,
        *,
        num_pages: int,
        page_size: int,
        dtype: torch.dtype,
        device: torch.device,
        kv_dtype: str = "auto",
        attention: str = "auto",
        step_tokens: int = 1024,
    ) -> None:
        self.model = model
        self.page_size = page_size
        self.dtype = dtype
        self.device = device
        self.store = KVTensors(
            model.decoder.config,
            kv_dtype,
            num_pages=num_pages,
            page_size=page_size,
            dtype=dtype,
            device=device,
        )
        self.vision = Vision(model, device)
        self.blocks = self._block_steps(attention, step_tokens)

    @property
    def attention(self) -> str:
        return "gather" if self.blocks is None else "block"

    def _block_steps(self, attention: str, step_tokens: int) -> "BlockSteps | None":
        cuda = self.device.type == "cuda"
        if attention == "gather" or (attention == "auto" and not cuda):
            return None
        if attention == "auto" and importlib.util.find_spec("triton") is None:
            log.warning("no triton: attention gathers keys and values, which takes longer")
            return None
        from services.inference_worker.runner.cuda.block_steps import BlockSteps

        blocks = BlockSteps(
            self.model,
            self.store,
            self.vision,
            dtype=self.dtype,
            graphs=Graphs(cuda_recorder(self.device)) if cuda else None,
            most_tokens=step_tokens,
        )
        try:
            if cuda:
                self._use_device()
                blocks.probe()
        except Exception:  # no C compiler, an old driver, another kind of GPU: Triton has many
            if attention == "block":
                raise
            log.warning("Triton does not work here: attention gathers", exc_info=True)
            return None
        return blocks

    @torch.inference_mode()
    def execute(self, runs: list[Run], ahead: Sequence[Tubelet] = ()) -> list[RunOutput | None]:
        """Run one step. Returns an output for each run that wants one, in order, when the device
        is done.

        ahead: tubelets that no run needs yet, to be encoded while the decoder runs. Only where
        `overlaps` is true.
        """
        self._use_device()
        order = sorted(range(len(runs)), key=lambda n: runs[n].group)
        ordered = [runs[n] for n in order]
        ends = np.cumsum([len(run.slots) for run in ordered])
        wanting = [n for n, run in enumerate(ordered) if run.want_output]
        last = [int(ends[n]) - 1 for n in wanting]
        if self.blocks is not None:
            hidden: Tensor = self.blocks.forward(ordered, last, ahead)
        else:
            hidden = self._forward(ordered, last)
        outputs: list[RunOutput | None] = [None] * len(runs)
        if wanting:
            logits = self.model.decoder.logits(hidden).float()
            sampled = self._sample(logits[: len(wanting)], [ordered[n] for n in wanting])
            for n, output in zip(wanting, sampled, strict=True):
                outputs[order[n]] = output
        elif self.device.type == "cuda":
            torch.cuda.current_stream(self.device).synchronize()  # else it is only queued
        self.vision.look(run.tubelet for run in runs if run.tubelet is not None)
        return outputs

    def _use_device(self) -> None:
        """Triton launches on the thread's current device, wherever the tensors are."""
        if self.device.type == "cuda" and self.device.index is not None:
            torch.cuda.set_device(self.device)

    def is_lost(self) -> bool:
        """Whether the device answers nothing any more. CUDA's says so with every call after an
        illegal access, and nothing but a new process helps."""
        if self.device.type != "cuda":
            return False
        try:
            torch.cuda.synchronize(self.device)
        except RuntimeError:
            return True
        return False

    @property
    def overlaps(self) -> bool:
        """Whether pictures can be encoded while a decoder runs."""
        return self.blocks is not None and self.vision.stream is not None

    @torch.inference_mode()
    def embedding(self, tubelet: Tubelet) -> bytes:
        """Mean of a tubelet's visual tokens, of length 1: float16, little endian. b"" for one that
        was not encoded yet."""
        if tubelet.encoded is None:
            return b""
        mean = self.vision.await_([tubelet])[0].tokens.float().mean(dim=0)
        unit = functional.normalize(mean, dim=0).to(torch.float16)
        return unit.cpu().numpy().astype("<f2").tobytes()

    def _forward(self, ordered: list[Run], last: list[int]) -> Tensor:
        """Hidden states [rounded, hidden] of the rows `last` of runs in the order of groups."""
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
        normed: Tensor = self.model.decoder(hidden, positions, attend, deep)
        last = last + [0] * (rounded(len(last)) - len(last))
        return normed.index_select(0, torch.tensor(last, device=self.device))

    def _embed(self, runs: list[Run]) -> tuple[Tensor, Deep | None]:
        """Embeddings [tokens, hidden] of all new tokens, flat, in the order of `runs`, and what the
        decoder adds to those of pictures on its way."""
        words = [token for run in runs for token in run.tokens]
        tubelets = [run.tubelet for run in runs if run.tubelet is not None]
        if not tubelets:
            return self.model.decoder.embedding(torch.tensor(words, device=self.device)), None
        self.vision.encode(tubelets)
        encoded = self.vision.await_(tubelets)
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

    def _sample(self, logits: Tensor, runs: list[Run]) -> list[RunOutput]:
        """One synchronisation for the whole step, dice included."""
        answers = torch.stack((logits[:, self.model.yes_token], logits[:, self.model.no_token]), -1)
        scores = torch.softmax(answers, dim=-1)[:, 0]
        finite = torch.isfinite(logits).all(dim=-1)
        for n, run in enumerate(runs):
            penalise(logits[n], run.sampling, run.said, run.answered)
            if run.allowed is not None:
                keep_allowed(logits[n], run.allowed)
        choice = logits.argmax(dim=-1)
        for n, run in enumerate(runs):
            if run.sampling.drawn and run.generator is not None:
                choice[n] = draw(logits[n], run.sampling, run.generator)
        chosen = logits.gather(-1, choice[:, None])[:, 0] - logits.logsumexp(dim=-1)
        if self.model.doubt is not None:
            unsure = self.model.doubt(choice, chosen)
            for n, run in enumerate(runs):
                if run.allowed is None and not run.sampling.drawn:
                    choice[n] = unsure[n]
        columns = (choice, scores, finite, chosen)
        rows = torch.stack([column.double() for column in columns], dim=-1).tolist()
        return [
            RunOutput(int(token), score, bool(good), chance) for token, score, good, chance in rows
        ]

    @torch.inference_mode()
    def shift(self, pages: list[int], into: list[int], delta: int) -> None:
        """Rebase: move what is in these pages by `delta` positions, into others or in place."""
        self.store.shift(pages, into, self.model.decoder.omega, delta)

    @torch.inference_mode()
    def clear(self, pages: list[int]) -> None:
        """Zeros in these pages; see `KVTensors.clear`."""
        self.store.clear(pages)

    @torch.inference_mode()
    def save(self, pages: list[int]) -> Tensor:
        """A copy of these pages in host memory; see `KVTensors.save`."""
        return self.store.save(pages)

    @torch.inference_mode()
    def trimmed(self, saved: Tensor, count: int, gone: range) -> Tensor:
        """A saved copy without some pages; see `KVTensors.trimmed`."""
        return self.store.trimmed(saved, count, gone)

    def release_cached(self) -> None:
        """Give back device memory that nothing is in."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

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
