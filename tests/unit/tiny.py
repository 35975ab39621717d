"""A tiny random model of the built-in family, and an engine on it that a test steps by hand."""

from collections.abc import Callable

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers

from services.inference_worker.engine.admission import EngineLimits
from services.inference_worker.engine.core import EngineCore
from services.inference_worker.engine.jobs import FinishReason, FrameJob, Generation, Seen
from services.inference_worker.engine.scheduler import StepLimits
from services.inference_worker.engine.thread import Engine
from services.inference_worker.kv.trunk import SessionPages
from services.inference_worker.model.attention import DenseAttention
from services.inference_worker.model.builtin import (
    ASSISTANT,
    BEGIN,
    END,
    USER,
    WATCH,
    BuiltinConfig,
    BuiltinModel,
)
from services.inference_worker.model.decoder import DecoderConfig
from services.inference_worker.model.family import StreamingModel
from services.inference_worker.model.sampling import GREEDY, Sampling
from services.inference_worker.runner.batch import Run, RunOutput
from services.inference_worker.runner.runner import Runner

_WORDS = "<unk> yes no you watch live video and answer about it what is red blue circle"
WORDS = _WORDS.split()


def tiny_model(
    window: int = 4, horizon: int = 4096, seed: int = 0, *, history_before: bool = True
) -> BuiltinModel:
    """64×64 frames, 2×2 tokens, two layers, float32."""
    specials = [BEGIN, USER, WATCH, ASSISTANT, END]
    vocabulary = {word: n for n, word in enumerate([*WORDS, *specials])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(specials)
    torch.manual_seed(seed)
    decoder = DecoderConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_layers=2,
        num_heads=2,
        num_kv_heads=1,
        head_dim=16,
        mlp_size=48,
        qk_norm=True,
    )
    config = BuiltinConfig(
        decoder=decoder,
        frame_size=64,
        grid=2,
        stem_channels=8,
        window_segments=window,
        position_horizon=horizon,
        history_before_cursor=history_before,
        max_answer_tokens=8,
    )
    model = BuiltinModel(config, tokenizer, name="tiny")
    for parameter in model.decoder.parameters():  # larger than trained, so that errors show
        if parameter.ndim > 1 and parameter is not model.decoder.omega:
            parameter.data.mul_(2)
    return model.prepare(torch.float32, torch.device("cpu"))


def attention_config(
    heads: int, kv_heads: int, head_dim: int, num_layers: int = 1
) -> DecoderConfig:
    """Of a decoder of which only the attention is looked at."""
    return DecoderConfig(
        vocab_size=8,
        hidden_size=8,
        num_layers=num_layers,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        mlp_size=8,
    )


class RecordingRunner(Runner):
    """Keeps the logits of every sampled run, in the order of sampling."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        self.logits: list[torch.Tensor] = []

    def _sample(self, logits: torch.Tensor, runs: list[Run]) -> list[RunOutput]:
        self.logits.extend(logits.clone())
        return super()._sample(logits, runs)


class Recorder:
    """A branch sink that remembers."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.score: float | None = None
        self.seen: Seen | None = None
        self.reason: FinishReason | None = None
        self.error: Exception | None = None

    @property
    def ended(self) -> bool:
        return self.reason is not None or self.error is not None or self.score is not None

    def started(self, seen: Seen) -> None:
        self.seen = seen

    def token(self, token: int) -> None:
        self.tokens.append(token)

    def scored(self, score: float) -> None:
        self.score = score

    def finished(self, reason: FinishReason) -> None:
        self.reason = reason

    def failed(self, error: Exception) -> None:
        self.error = error


class Bench:
    """An engine without its thread: work is posted and `run` turns it until nothing is left."""

    def __init__(
        self,
        model: StreamingModel,
        *,
        num_pages: int = 512,
        page_size: int = 4,
        max_sessions: int = 8,
        branch_tokens: int = 128,
        waiting_branches: int = 32,
        burst: int = 1,
        prefill: int = 64,
        frame_queue: int = 64,
        dtype: torch.dtype = torch.float32,
        device: torch.device | None = None,
        kv_dtype: str = "auto",
        attention: str = "auto",
        reuse_below: float = 0.0,
        park_after_s: float = 0.0,
        clock: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self.model = model
        self.runner = RecordingRunner(
            model,
            num_pages=num_pages,
            page_size=page_size,
            dtype=dtype,
            device=device or torch.device("cpu"),
            kv_dtype=kv_dtype,
            attention=attention,
        )
        self.cache = SessionPages(num_pages, page_size)
        self.core = EngineCore(
            model,
            self.runner,
            self.cache,
            StepLimits(
                tokens=256,
                question_tokens=prefill,
                question_sessions=2,
                burst_segments=burst,
                batch_wait_s=0.0,
            ),
            EngineLimits(
                max_sessions=max_sessions,
                frame_queue=frame_queue,
                branch_tokens=branch_tokens,
                waiting_branches=waiting_branches,
                max_window_segments=64,
                reuse_below=reuse_below,
                park_after_s=park_after_s,
            ),
            clock=clock,
        )
        self.engine = Engine(self.core)
        self.results: list[object] = []

    def open(self, session: str, window: int = 0, max_pixels: int = 0) -> None:
        future = self.engine.open_session(session, window, max_pixels)
        self.run()
        future.result(timeout=0)

    def push(self, session: str, picture: np.ndarray, number: int = 0) -> None:
        """A frame of any size the model takes, captured at `number` nanoseconds."""
        layout = self.model.layout(picture.shape[1], picture.shape[0])
        frame = FrameJob(picture.tobytes(), layout, number, number, 0.0, self.results.append)
        self.engine.submit_frame(session, frame)

    def ask(
        self,
        session: str,
        tokens: list[int],
        max_tokens: int = 1,
        sampling: Sampling = GREEDY,
        *,
        before: int = 0,
        score_only: bool = False,
        needs_frame: bool = False,
    ) -> Recorder:
        recorder = Recorder()
        job = Generation(
            list(tokens),
            max_tokens,
            recorder,
            score_only=score_only,
            sampling=sampling,
            before=before,
            needs_frame=needs_frame,
        )
        self.engine.submit_branch(session, job)
        return recorder

    def turn(self) -> None:
        """One turn of the device loop, never waiting."""
        if self.busy:
            self.engine.turn()

    @property
    def busy(self) -> bool:
        sessions = self.core.sessions.values()
        return bool(self.engine._inbox) or any(
            session.frames or session.running or session.waiting for session in sessions
        )

    def run(self) -> None:
        while self.busy:
            self.turn()


def random_picture(rng: np.random.Generator, size: int = 64) -> np.ndarray:
    """A picture with structure, so that different pictures give clearly different tokens."""
    coarse = rng.integers(0, 256, (4, 4, 3))
    return np.kron(coarse, np.ones((size // 4, size // 4, 1))).astype(np.uint8)


def reference_logits(
    model: BuiltinModel, pictures: list[np.ndarray], window: int | list[int], tokens: list[int]
) -> torch.Tensor:
    """The oracle: one dense forward over sink, every frame ever seen, and the branch, with a mask
    in which i sees j iff j was resident when i was computed. Logits [len(tokens), vocabulary].

    window: one for all, or how many frames there are when each of them and then the branch is
    computed."""
    sink = model.sink_tokens()
    per = model.spec.layout.segment_tokens
    count = len(pictures)
    embedding = model.decoder.embedding
    parts = [embedding(torch.tensor(sink))]
    if pictures:
        stacked = torch.from_numpy(np.stack(pictures)).unsqueeze(1)
        parts.append(model.encode(stacked).tokens.flatten(0, 1))
    parts.append(embedding(torch.tensor(tokens)))
    hidden = torch.cat(parts).unsqueeze(0)
    start = len(sink)
    positions = [(n, n, n) for n in range(start)]
    for n in range(count):
        cursor = start + n * model.spec.layout.segment_advance
        positions += model.segment(model.spec.layout, cursor, 0.0).positions
    after = start + count * model.spec.layout.segment_advance
    positions += [(after + n,) * 3 for n in range(len(tokens))]
    # Which step each token belongs to: sink 0, frame f is f + 1, branch count + 1.
    steps = torch.tensor(
        [0] * start + [n + 1 for n in range(count) for _ in range(per)] + [count + 1] * len(tokens)
    )
    order = torch.arange(len(steps))
    query, key = steps[:, None], steps[None, :]
    windows = [window] * (count + 1) if isinstance(window, int) else window
    newest = [*range(1, count + 1), count]
    gone = [frame - size for frame, size in zip(newest, windows, strict=True)]
    # What was evicted once does not come back. [steps], the sink's first.
    gone_by = torch.tensor([0, *np.maximum.accumulate(gone)])[query]
    resident = (key == 0) | ((key > gone_by) & (key <= query))
    text = (key == 0) | (key == count + 1)
    causal = order[None, :] <= order[:, None]
    mask = resident & torch.where(text, causal, key <= query)
    attend = DenseAttention(mask[None, None])
    with torch.inference_mode():
        out = model.decoder(hidden, torch.tensor([positions]), attend)
        return model.decoder.logits(out[0, -len(tokens) :])
