"""Tensors: the pool, one forward over a ragged step, sampling.

A step is a list of `Run`s: consecutive new tokens of one trunk or branch, with the pages they may
see. Linear layers run on all tokens flat, without padding. Attention works per session: the pages
that any of a session's runs may see are gathered once, whoever and however many ask, and a mask
says which query sees which slot. So twenty questions about one video read its window once.
"""

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from services.inference_worker.kv_cache import NULL_PAGE, Segment
from services.inference_worker.kv_store import KVStore
from services.inference_worker.model.attention import batched_attention
from services.inference_worker.model.decoder import Deep
from services.inference_worker.model.family import Encoded, StreamingModel
from services.inference_worker.model.layout import VISION, FrameLayout
from services.inference_worker.scheduler import GREEDY, Sampling

_UNSEEN = np.int32(2**30)


@dataclass(slots=True, eq=False)
class Picture:
    """One tubelet: its frames' pixels and, once a step has run, what the encoder made of them.

    Segments may share one. `encoded`: tokens [vision_tokens, hidden], and deep ones likewise.
    """

    layout: FrameLayout
    pixels: list[bytes]
    encoded: Encoded | None = None


@dataclass(slots=True, eq=False)
class Run:
    """Consecutive new tokens: words, and `VISION` in the places of `picture`'s tokens.

    `group`: the session; runs of one group share one gather. `seen`: whole segments visible to
    every token. `own_pages`, `own_start`: the run's own sequence, of which its tokens are numbers
    `own_start` … ; each sees that sequence up to itself, or all of it when `causal` is False.
    `want_output`: sample after the last token; `said`: what the repetition penalty looks at.
    """

    group: int
    seen: list[Segment]
    own_pages: list[int]
    own_start: int
    slots: list[int]
    positions: list[tuple[int, int, int]]
    tokens: list[int]
    picture: Picture | None = None
    causal: bool = True
    want_output: bool = False
    sampling: Sampling = GREEDY
    said: list[int] = field(default_factory=list)
    generator: torch.Generator | None = None


@dataclass(frozen=True, slots=True)
class RunOutput:
    """The next token, and the probability of yes against no."""

    token: int
    score: float
    finite: bool


@dataclass(slots=True)
class _Bucket:
    """Sessions whose attention runs as one padded batch."""

    pages: Tensor  # [groups, pages] int64
    queries: Tensor  # [groups * queries] int64, rows of the flat step; padding points at row 0
    shape: tuple[int, int]
    mask: Tensor  # [groups, queries, slots], additive, model dtype
    valid: Tensor | None  # rows of the padded batch that are real; None: all of them
    rows: Tensor  # flat rows they belong to


class PagedAttention:
    """Attention of one step through block tables: writes new keys and values, then attends."""

    def __init__(self, store: KVStore, slots: Tensor, buckets: list[_Bucket]) -> None:
        self.store = store
        self.slots = slots
        self.buckets = buckets

    def __call__(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        self.store.write(layer, self.slots, keys, values)
        out = torch.zeros_like(queries)  # rows of padding must stay numbers
        for bucket in self.buckets:
            groups, width = bucket.shape
            picked = queries.index_select(0, bucket.queries).unflatten(0, (groups, width))
            attended = batched_attention(
                picked.permute(2, 0, 1, 3),
                *self.store.gather(layer, bucket.pages),
                bucket.mask,
            )
            attended = attended.permute(1, 2, 0, 3).flatten(0, 1)
            if bucket.valid is not None:
                attended = attended.index_select(0, bucket.valid)
            out.index_copy_(0, bucket.rows, attended)
        return out


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
        padding = _rounded(len(hidden)) - len(hidden)
        hidden = functional.pad(hidden, (0, 0, 0, padding))
        places = [p for run in ordered for p in run.positions] + [(0, 0, 0)] * padding
        positions = torch.tensor(places, device=self.device)
        targets = [s for run in ordered for s in run.slots] + [0] * padding
        slots = torch.tensor(targets, device=self.device)
        self.store.clear(_begun(ordered, self.page_size))
        attend = PagedAttention(self.store, slots, self._buckets(ordered))
        hidden = self.model.decoder(hidden, positions, attend, deep)
        outputs: list[RunOutput | None] = [None] * len(runs)
        ends = np.cumsum([len(run.slots) for run in ordered])
        wanting = [n for n, run in enumerate(ordered) if run.want_output]
        if wanting:
            last = [int(ends[n]) - 1 for n in wanting]
            last += [0] * (_rounded(len(last)) - len(last))
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
            count = _rounded(len(members))
            raw = bytearray(b"".join(frame for each in members for frame in each.pixels))
            raw += bytes(layout.frame_bytes * tubelet * (count - len(members)))
            pixels = torch.frombuffer(raw, dtype=torch.uint8).to(self.device)
            pixels = pixels.view(count, tubelet, layout.height, layout.width, 3)
            encoded = self.model.encode(pixels)
            for n, picture in enumerate(members):
                # Copies: a picture that is kept for reuse must not keep its neighbours.
                deep = tuple(layer[n].clone() for layer in encoded.deep)
                picture.encoded = Encoded(encoded.tokens[n].clone(), deep)

    def _buckets(self, runs: list[Run]) -> list[_Bucket]:
        """Sessions grouped by how many queries they bring, rounded, so that padding is little."""
        groups: dict[int, list[tuple[int, Run]]] = {}
        row = 0
        for run in runs:
            groups.setdefault(run.group, []).append((row, run))
            row += len(run.slots)
        sized: dict[int, list[list[tuple[int, Run]]]] = {}
        for members in groups.values():
            queries = sum(len(run.slots) for _, run in members)
            sized.setdefault(_rounded(queries), []).append(members)
        return [self._bucket(width, members) for width, members in sized.items()]

    def _bucket(self, width: int, sessions: list[list[tuple[int, Run]]]) -> _Bucket:
        tables = [_page_table([run for _, run in members]) for members in sessions]
        widths = [sum(len(run.slots) for _, run in members) for members in sessions]
        groups = _rounded(len(sessions))
        widths += [0] * (groups - len(sessions))
        count = -(-max(len(table) for table in tables) // 8) * 8
        pages = np.full((groups, count), NULL_PAGE, dtype=np.int64)
        visible = np.zeros((groups, width, count * self.page_size), dtype=bool)
        queries = np.zeros((groups, width), dtype=np.int64)
        for n, (members, table) in enumerate(zip(sessions, tables, strict=True)):
            pages[n, : len(table)] = list(table)
            column = 0
            for row, run in members:
                size = len(run.slots)
                queries[n, column : column + size] = np.arange(row, row + size)
                visible[n, column : column + size] = self._visible(run, table, count)
                column += size
        real = np.arange(width)[None, :] < np.array(widths)[:, None]
        visible[~real, 0] = True  # padding must attend to something, or it is NaN
        mask = torch.zeros(visible.shape, dtype=self.dtype, device=self.device)
        mask.masked_fill_(torch.as_tensor(~visible, device=self.device), float("-inf"))
        flat = torch.as_tensor(queries.reshape(-1), device=self.device)
        whole = bool(real.all())
        valid = None if whole else torch.as_tensor(np.flatnonzero(real), device=self.device)
        return _Bucket(
            pages=torch.as_tensor(pages, device=self.device),
            queries=flat,
            shape=(groups, width),
            mask=mask,
            valid=valid,
            rows=flat if valid is None else flat.index_select(0, valid),
        )

    def _visible(self, run: Run, table: dict[int, int], count: int) -> NDArray[np.bool_]:
        """[queries, slots]: which slots of the group's pages each token of a run sees."""
        size = self.page_size
        number = np.full((count, size), _UNSEEN, dtype=np.int32)
        offsets = np.arange(size, dtype=np.int32)
        whole = [page for each in run.seen for page in each.pages[: each.num_tokens // size]]
        number[[table[page] for page in whole]] = -1
        for segment in run.seen:
            if rest := segment.num_tokens % size:
                number[table[segment.pages[segment.num_tokens // size]], :rest] = -1
        for index, page in enumerate(run.own_pages):
            number[table[page]] = index * size + offsets
        end = run.own_start + len(run.slots)
        own = np.arange(run.own_start, end) if run.causal else np.full(len(run.slots), end - 1)
        return number.reshape(-1)[None, :] <= own[:, None]

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


def _page_table(runs: list[Run]) -> dict[int, int]:
    """Every page that any of these runs may see, numbered from 0 in order of first mention."""
    table: dict[int, int] = {}
    for run in runs:
        for segment in run.seen:
            for page in segment.pages:
                table.setdefault(page, len(table))
        for page in run.own_pages:
            table.setdefault(page, len(table))
    return table


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


def _rounded(count: int) -> int:
    """The next size that a batch is padded to: 1, 2, 3, 4, 6, 8, 12, 16, then multiples of 16.

    CPU kernels are generated for every new shape, which costs a millisecond and half a megabyte
    each time; ragged steps would meet new shapes for ever.
    """
    if count > 16:
        return -(-count // 16) * 16
    return next(size for size in (1, 2, 3, 4, 6, 8, 12, 16) if size >= count)
