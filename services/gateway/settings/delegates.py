"""Settings of other models that are asked the hard questions."""

from dataclasses import dataclass

from services.common.config import ConfigError, setting


@dataclass(frozen=True, kw_only=True)
class DelegateSettings:
    """Which model is asked, of which questions, and for how long."""

    delegate: str | None = setting(
        None,
        "Model or pool that is asked the hard questions of sessions which name none; a server that "
        "speaks OpenAI's chat completions joins as a worker, WORKER_MODEL=openai:URL#MODEL.",
    )
    delegate_mode: str = setting(
        "never",
        "Which questions it is asked, where a session does not say itself: never; unsure, those "
        "that the session's own model is not sure of; always.",
        choices=("never", "unsure", "always"),
    )
    delegate_confidence: float = setting(
        0.6,
        "Confidence of an answer, 0 to 1, below which its model counts as unsure.",
        minimum=0,
        maximum=1,
    )
    delegate_frames: int = setting(
        4, "Newest pictures that a delegate is shown, a second apart.", minimum=1, maximum=16
    )
    delegate_timeout_s: float = setting(
        20.0,
        "Seconds that a delegate may say nothing until the session's own model answers.",
        minimum=0.1,
        maximum=600,
    )
    delegate_answers: int = setting(
        4, "Answers of delegates at once; further questions stay with their session's.", minimum=1
    )

    def check_delegate(self) -> None:
        """Raise ConfigError for a delegate that is none, or lacks."""
        if "://" in (self.delegate or "").removeprefix("openai:"):  # it may hold a password
            raise ConfigError(
                "GATEWAY_DELEGATE is the name of a model or a pool of workers: run a worker with "
                "WORKER_MODEL=openai:URL#MODEL and WORKER_POOL, and name its pool"
            )
        if self.delegate is None and self.delegate_mode != "never":
            raise ConfigError("GATEWAY_DELEGATE_MODE needs GATEWAY_DELEGATE")
