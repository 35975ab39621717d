"""The worker's configuration: WORKER_* variables."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from services.common.config import ServiceConfig, setting

RELAY = "openai:"  # what WORKER_MODEL begins with where another server runs the model


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerConfig(ServiceConfig):
    """Configuration of one inference worker: one device, one model."""

    prefix: ClassVar[str] = "WORKER_"

    model: str = setting(
        "builtin",
        "`builtin`, which knows a live shop, a local folder "
        "in Hugging Face layout, a model of the hub, or `openai:http://host:11434/v1#name`: one "
        "that an OpenAI-compatible server runs.",
    )
    pool: str = setting(
        "",
        "Name of the workers that are run alike with this one, by which sessions may ask for them; "
        "empty: none.",
    )
    frame_pixels: int = setting(
        200_704,
        "Pixels of a frame whose session names no number, where the model takes several sizes.",
        minimum=784,
        maximum=4_194_304,
    )
    device: str = setting("auto", "`auto`, `cpu`, `cuda`, or `cuda:N`. auto: a GPU where one is.")
    dtype: str = setting(
        "auto",
        "Weights, activations and KV. auto: bfloat16 where the device computes in it, else float32."
        " float16: half the memory on GPUs without bfloat16 (Volta, Turing), if the model stays "
        "below 65504; one that does not answers with errors.",
        choices=("auto", "bfloat16", "float16", "float32"),
    )
    quantization: str = setting(
        "none",
        "`int8`: the decoder's matrices in 8 bits with a scale per row; halves their memory.",
        choices=("none", "int8"),
    )
    threads: int = setting(
        0,
        "CPU threads of the model; 0: all cores but one, which is left to everything else.",
        minimum=0,
        maximum=256,
    )
    kv_dtype: str = setting(
        "auto",
        "What keys and values are kept in. auto: the model's own, exact. `int8`: 8 bits "
        "with a scale per token and head, so that nearly twice as many sessions fit. Steps take "
        "longer on CPUs.",
        choices=("auto", "int8"),
    )
    attention: str = setting(
        "auto",
        "`block`: a kernel of ours walks the pages of keys and values; needs a GPU and Triton. "
        "`gather`: oneDNN's kernel on x86 CPUs, or torch's, in place where a session's pages lie "
        "in a row, and over a copy where they do not. auto: block where the device is CUDA and "
        "Triton is installed, which comes with torch's CUDA builds.",
        choices=("auto", "gather", "block"),
    )
    kv_memory_bytes: int | None = setting(
        None, "Bytes of the KV pool; empty: free memory × kv_fraction.", minimum=1
    )
    kv_fraction: float = setting(
        0.25,
        "Share of the device's free memory that the KV pool takes.",
        minimum=0.01,
        maximum=0.95,
    )
    page_size: int = setting(
        0,
        "Tokens of one KV page; 0: 16, or with `gather` on a CPU 16 to 32, which fill the model's "
        "segments best.",
        minimum=0,
        maximum=1024,
    )
    max_sessions: int = setting(
        64, "Sessions at a time, parked ones included, if the pool holds the others.", minimum=1
    )
    park_after_s: float = setting(
        60.0,
        "A session without a frame or a question for so long is parked: its KV pages move to host "
        "memory and come back with its next frame or question. Where the pool is full, idle "
        "sessions are parked sooner. 0: never.",
        minimum=0,
        maximum=31_536_000,
    )
    max_window: int = setting(120, "Longest window a session may ask for, in segments.", minimum=1)
    frame_queue: int = setting(
        4, "Frames one session may have in flight: the credit given.", minimum=1, maximum=256
    )
    branch_tokens: int = setting(
        4096,
        "Tokens of the longest question with its answer, and what the answers of one session that "
        "are under way share; they take it as they grow.",
        minimum=64,
    )
    waiting_questions: int = setting(
        2048, "Questions one session may have waiting beyond those under way.", minimum=1
    )
    waiting_tokens: int = setting(
        1_048_576,
        "Tokens of waiting questions and their history, over all sessions; one question of each "
        "session may always wait.",
        minimum=1,
    )
    question_tokens: int = setting(
        512, "Longest question, history not counted, in tokens.", minimum=8
    )
    batch_wait_ms: float = setting(
        5.0, "How long a frame may wait for other sessions' frames.", minimum=0, maximum=1000
    )
    step_tokens: int = setting(1024, "New tokens one step may hold.", minimum=16)
    step_question_tokens: int = setting(
        0,
        "Tokens of questions and answers one step may hold while video flows, so that frames "
        "never wait long (a lone question: twice that; after frames kept questions waiting: three "
        "times, and as long as these frames took); 0: 16 on CPUs, 512 on GPUs.",
        minimum=0,
    )
    burst_segments: int = setting(
        4, "Segments of one session one step may hold (files read faster than live).", minimum=1
    )
    reuse_below: float = setting(
        0.0,
        "A picture is not encoded, and the last one's visual tokens are used again, where no block "
        "of 16×16 pixels differs from that by so much: mean absolute difference, in levels of "
        "0…255. 0: every picture is encoded, which is exact.",
        minimum=0,
        maximum=255,
    )
    max_failed_steps: int = setting(
        5,
        "So many steps in a row of which nothing succeeds end the process (exit code 3), so that "
        "it is started again. A device that is lost ends it at once.",
        minimum=1,
    )
    max_answers: int = setting(
        4096, "Questions in flight, over all sessions.", minimum=1, maximum=65536
    )
    watches_per_session: int = setting(64, "Standing questions on one session.", minimum=1)
    grace_s: float = setting(
        30.0,
        "How long a session outlives its frame stream, if the gateway names no time.",
        minimum=0,
    )
    first_frame_s: float = setting(
        10.0,
        "How long a question waits for a session's first frame where one can come, and for the "
        "window that is replayed to a worker that forgot it.",
        minimum=0,
        maximum=120,
    )
    dialogue: str | None = setting(
        None, "Address of the dialogue service; empty: no history, nothing is kept.", address=True
    )
    tts: str | None = setting(None, "Address of the TTS service; empty: no speech.", address=True)
    history_rounds: int = setting(
        10, "Rounds of a conversation given to the model.", minimum=0, maximum=100
    )

    unfamiliar: str = setting(
        "withhold",
        "What becomes of answers and events about pictures that are unlike those of the model's "
        "training, where it can tell. `withhold`: the answer says so and nothing else, watches are "
        "silent. `tell`: they come as ever, marked `unfamiliar_picture`.",
        choices=("withhold", "tell"),
    )
    note_wait_s: float = setting(
        8.0,
        "Seconds that a line of a session's memory may wait for lines of others, with which it is "
        "written at a fraction of its cost. Of built-in models; 0: it is written at once.",
        minimum=0,
        maximum=20,
    )
    unsure_below: float = setting(
        0.3,
        "Mean probability (geometric) of an answer's tokens below which the model is not sure of "
        "it: `unsure` says so, and what the session remembers of it is told, too.",
        minimum=0,
        maximum=1,
    )
    guard_answers: int = setting(
        3,
        "After so many unhealthy answers in a row (they repeat themselves, are empty, never end, "
        "or their scores are no numbers or hardly more than a guess) a session's questions go to "
        "the fallback model; as many healthy probes bring them back. 0: answers are not examined.",
        minimum=0,
        maximum=1000,
    )
    guard_healthy_s: float = setting(
        60.0,
        "How long a model that degenerated must be healthy before it answers again.",
        minimum=0.1,
        maximum=86400,
    )
    guard_confidence: float = setting(
        0.05,
        "Least mean probability (geometric) that a healthy answer's tokens have.",
        minimum=0,
        maximum=1,
    )
    fallback_model: str | None = setting(
        None,
        "Model that answers for a session whose own degenerates, shown the same window; it runs in "
        "a process beside the worker. Empty: none, unhealthy answers are marked only.",
    )
    fallback_device: str = setting(
        "cpu", "Device of the fallback model; another than WORKER_DEVICE shares no fault with it."
    )

    relay_frames: int = setting(
        4,
        "Newest frames that a relayed model (`openai:…`) is shown with every question, where its "
        "session names no window.",
        minimum=1,
        maximum=120,
    )
    relay_concurrency: int = setting(
        4,
        "Requests at a time to the server of a relayed model; all but one may be checks of watches "
        "and statements.",
        minimum=1,
        maximum=1024,
    )
    relay_timeout_s: float = setting(
        120.0,
        "How long the server of a relayed model may be silent amid a request.",
        minimum=1,
        maximum=3600,
    )
    relay_key: str | None = setting(
        None, "Key for the server of a relayed model; empty: it wants none.", secret=True
    )
    relay_key_file: Path | None = setting(
        None, "File that holds this key, in place of WORKER_RELAY_KEY."
    )

    @property
    def withholds(self) -> bool:
        """Whether nothing is said about unfamiliar pictures but that they are."""
        return self.unfamiliar == "withhold"
