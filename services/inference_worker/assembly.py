"""Builds an engine from a configuration: device, dtype, model, pool."""

import contextlib
import ctypes
import importlib.util
import logging
import os

import torch

from services.common.config import ConfigError
from services.inference_worker import metrics
from services.inference_worker.config import WorkerConfig
from services.inference_worker.engine.admission import Admission, EngineLimits
from services.inference_worker.engine.core import EngineCore
from services.inference_worker.engine.scheduler import StepLimits
from services.inference_worker.engine.thread import Engine
from services.inference_worker.kv.tensors import KVTensors
from services.inference_worker.kv.trunk import SessionPages
from services.inference_worker.memory import RESERVE_BYTES, Headroom, Room, free_bytes, kv_too_large
from services.inference_worker.model.errors import ModelError
from services.inference_worker.model.family import StreamingModel, most_segments
from services.inference_worker.model.loading import Loading
from services.inference_worker.model.packed import pack
from services.inference_worker.model.quantise import quantise
from services.inference_worker.model.registry import load_model
from services.inference_worker.model.sizes import gigabytes
from services.inference_worker.runner.runner import Runner

log = logging.getLogger(__name__)

_MOMENTS_S = (1.0, 60.0, 3600.0)  # a segment that tells the time grows with its digits


def build_engine(config: WorkerConfig, progress: Loading | None = None) -> Engine:
    """Load the model and lay out the KV pool; the engine is not started yet. `progress` is told how
    far it is.

    Raises ConfigError for settings this machine cannot meet, ModelError for a bad model.
    """
    device = find_device(config.device, f"WORKER_DEVICE={config.device!r}")
    dtype = _dtype(config.dtype, device)
    torch.set_num_threads(config.threads or max(1, (os.cpu_count() or 1) - 1))
    progress = progress or Loading()
    progress.admit = Room(config, dtype, device, free_bytes(device)).admit
    try:
        model = load_model(config.model, dtype, device, config.frame_pixels, progress)
        quantise(model, config.quantization)
        pack(model)
        return assemble(model, config, dtype, device)
    except (MemoryError, RuntimeError) as error:
        if not _is_shortage(error):
            raise
        raise ModelError(
            f"memory ran out while {config.model} was loaded; {gigabytes(free_bytes(device))} are "
            "free now: a smaller model, WORKER_QUANTIZATION=int8 or less WORKER_KV_MEMORY_BYTES"
        ) from error


def _is_shortage(error: Exception) -> bool:
    """Whether an error is a failed allocation: torch has a class for devices only."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error)
    return any(each in text for each in ("bad_alloc", "not enough memory", "can't allocate memory"))


def assemble(
    model: StreamingModel, config: WorkerConfig, dtype: torch.dtype, device: torch.device
) -> Engine:
    """An engine for a model that is already loaded."""
    _keep_freed_memory()
    _check_attention(config.attention, device)
    most = most_segments(model, model.spec.layout)
    if model.spec.window_segments > most:
        raise ModelError(
            f"{model.spec.name}: a window of {model.spec.window_segments} segments leaves the "
            f"positions it was trained for; {most} fit at WORKER_FRAME_PIXELS={config.frame_pixels}"
        )
    page_size = config.page_size or _page_size(model, config.attention, device)
    page_bytes = KVTensors(  # one page that takes no memory tells what each will cost
        model.decoder.config,
        config.kv_dtype,
        num_pages=1,
        page_size=page_size,
        dtype=dtype,
        device=torch.device("meta"),
    ).page_bytes
    frame_queue = max(config.frame_queue, model.spec.tubelet)
    # What one step may hold of a session, and as much on its way meanwhile.
    replayed = 2 * config.burst_segments * model.spec.tubelet
    limits = EngineLimits(
        max_sessions=config.max_sessions,
        frame_queue=frame_queue,
        replay_queue=max(0, replayed - frame_queue),
        branch_tokens=config.branch_tokens,
        waiting_branches=config.waiting_questions,
        waiting_tokens=config.waiting_tokens,
        max_window_segments=min(max(config.max_window, model.spec.window_segments), most),
        max_failed_steps=config.max_failed_steps,
        reuse_below=config.reuse_below,
        park_after_s=config.park_after_s,
    )
    step = StepLimits(
        tokens=max(config.step_tokens, model.spec.layout.segment_tokens),
        question_tokens=config.step_question_tokens or (16 if device.type == "cpu" else 512),
        question_sessions=3 if device.type == "cpu" else config.max_sessions,
        burst_segments=config.burst_segments,
        batch_wait_s=config.batch_wait_ms / 1000,
    )
    cost = Admission(model, limits, step.burst_segments).shape().cost(page_size)
    free = free_bytes(device)
    if config.kv_memory_bytes is not None and config.kv_memory_bytes > free:
        raise kv_too_large(config.kv_memory_bytes, free)
    share = int(free * config.kv_fraction)
    one = min((cost + 1) * page_bytes, free - RESERVE_BYTES // 2)  # a session, where it fits at all
    pool_bytes = config.kv_memory_bytes or max(share, one)
    num_pages = min(pool_bytes // page_bytes, cost * config.max_sessions + 1)
    if num_pages <= cost:
        raise ConfigError(
            f"WORKER_KV_MEMORY_BYTES: {pool_bytes} bytes hold {num_pages} KV pages; "
            f"one session needs {cost} pages of {page_bytes} bytes"
        )
    metrics.KV_PAGES_TOTAL.set(num_pages - 1)
    metrics.KV_BYTES_PER_SESSION.set(cost * page_bytes)
    log.info(
        "KV pool laid out",
        extra={"pages": num_pages, "bytes": num_pages * page_bytes, "pages_per_session": cost},
    )
    runner = Runner(
        model,
        num_pages=num_pages,
        page_size=page_size,
        dtype=dtype,
        device=device,
        kv_dtype=config.kv_dtype,
        attention=config.attention,
        step_tokens=max(step.tokens, step.question_tokens),
    )
    cache = SessionPages(num_pages, page_size)
    core = EngineCore(model, runner, cache, step, limits, memory_shares=Headroom(device))
    engine = Engine(core)
    _tell(engine, config)
    return engine


def _page_size(model: StreamingModel, attention: str, device: torch.device) -> int:
    """Tokens of a page: those that segments fill best. What is empty at the end of a segment's last
    page is read, and masked, with every step: of 66 tokens in pages of 16 a fifth. Our own kernel
    was measured with pages of 16."""
    if device.type != "cpu" or attention == "block":
        return 16
    lengths = [len(model.segment(model.spec.layout, 0, s).tokens) for s in _MOMENTS_S]
    return min(range(16, 33), key=lambda size: sum(-(-n // size) * size for n in lengths))


def _tell(engine: Engine, config: WorkerConfig) -> None:
    """Tell metrics what they read when they are asked."""
    metrics.WORKER.info(
        {
            "model": engine.model.spec.name,
            "device": engine.device_name,
            "dtype": engine.dtype_name,
            "kv_dtype": config.kv_dtype,
            "quantization": config.quantization,
        }
    )
    metrics.QUESTIONS.labels("running").set_function(lambda: engine.snapshot().num_running)
    metrics.QUESTIONS.labels("waiting").set_function(lambda: engine.snapshot().num_waiting)
    metrics.KV_PAGES_PROMISED.set_function(lambda: engine.snapshot().pages_promised)
    metrics.REQUESTS_RUNNING.set_function(lambda: engine.snapshot().num_running)
    metrics.REQUESTS_WAITING.set_function(lambda: engine.snapshot().num_waiting)
    metrics.KV_CACHE_USAGE.set_function(lambda: engine.snapshot().promised_share)
    metrics.CAPACITY.set_function(lambda: engine.snapshot().capacity)


def _check_attention(attention: str, device: torch.device) -> None:
    if attention != "block":
        return
    setting = f"WORKER_ATTENTION={attention!r}"
    if importlib.util.find_spec("triton") is None:
        raise ConfigError(f"{setting} needs triton, which is not installed")
    if device.type != "cuda" and not os.environ.get("TRITON_INTERPRET"):
        raise ConfigError(f"{setting} needs a GPU; the device is {device}")


def _keep_freed_memory() -> None:
    """glibc hands freed memory back to the system, and the next step's tensors fault it in again,
    page by page: a third of the time of a step of ten frames on a CPU. It may keep some."""
    trim_threshold, mmap_threshold = -1, -3  # malloc.h
    with contextlib.suppress(OSError, AttributeError):  # another C library
        libc = ctypes.CDLL(None)
        libc.mallopt(mmap_threshold, 32 * 2**20)  # the most it takes
        libc.mallopt(trim_threshold, 256 * 2**20)


def find_device(name: str, setting: str) -> torch.device:
    """`auto`, or one by torch's name. Raises ConfigError, which begins with `setting`."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"{setting} is not a device") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"{setting}, but this machine offers no CUDA device")
    return device


def _dtype(name: str, device: torch.device) -> torch.dtype:
    if name != "auto":
        dtype: torch.dtype = getattr(torch, name)
        return dtype
    return fast_dtype(device)


def fast_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the device computes in it, else float32."""
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported()
    else:
        # Without these instructions bfloat16 is emulated, and slower than float32.
        fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if fast else torch.float32
