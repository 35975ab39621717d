"""Settings of how long sessions last, and of how much there may be."""

from dataclasses import dataclass

from services.common.config import setting


@dataclass(frozen=True, kw_only=True)
class SessionSettings:
    """How long sessions, their workers and viewers are waited for, and limits of them."""

    grace_s: float = setting(
        60.0, "Seconds a session outlives its publisher.", minimum=0, maximum=86400
    )
    unpublished_s: float = setting(
        600.0, "Seconds a new session waits for its first publisher.", minimum=1, maximum=86400
    )
    ended_s: float = setting(
        600.0, "Seconds a session without viewers outlives its source.", minimum=1, maximum=86400
    )
    url_away_s: float = setting(
        0.0,
        "Seconds that a live URL which broke off is tried again before its session ends; 0: for "
        "ever.",
        minimum=0,
        maximum=30 * 86400,
    )
    worker_grace_s: float = setting(
        30.0, "Seconds a worker keeps a session whose frame stream broke.", minimum=0, maximum=3600
    )
    worker_patience_s: float = setting(
        1.0,
        "Seconds that a worker may say nothing at most until its sessions go to another that is "
        "ready; sooner where it acknowledges no frames and does not reply either.",
        minimum=0.2,
        maximum=60,
    )
    moving_s: float = setting(
        30.0,
        "Longest time a question may wait for a worker: while its session goes to another, or none "
        "is there.",
        minimum=0,
        maximum=3600,
    )
    resume_s: float = setting(
        60.0, "Seconds a viewer outlives its connection.", minimum=0, maximum=3600
    )
    max_sessions: int = setting(64, "Sessions at once.", minimum=1)
    tenant_sessions: int | None = setting(
        None, "Sessions of one tenant at once; empty: as many as there may be.", minimum=1
    )
    tenant_questions: int | None = setting(
        None, "Questions that one tenant may ask in a minute; empty: any number.", minimum=1
    )
    tenant_watches: int | None = setting(
        None, "Standing questions of one tenant at once; empty: any number.", minimum=1
    )
    tenant_bytes: int | None = setting(
        None,
        "Bytes a second that the programs of one tenant may push; more is read more slowly. "
        "Empty: any number.",
        minimum=65536,
    )
    max_viewers: int = setting(256, "Viewers of one session at once.", minimum=1)
    recording_s: float = setting(
        0.0,
        "Seconds of every session's video and sound that are kept, to be looked at again; 0: none.",
        minimum=0.0,
    )
    recording_bytes: int = setting(
        64 * 1024 * 1024,
        "Memory that the recording of one session may take.",
        minimum=1024 * 1024,
    )
    max_questions: int = setting(8, "Answers in flight per viewer.", minimum=1)
    max_asks: int = setting(4096, "One-shot questions in flight, over all sessions.", minimum=1)
    session_answers: int = setting(
        64,
        "Answers of one session that its worker makes at once; further questions wait, and viewers "
        "take turns.",
        minimum=1,
    )
    max_wait_s: float = setting(
        600.0, "Longest time a question may wait for its turn.", minimum=1, maximum=86400
    )
    max_watches: int = setting(8, "Standing questions per viewer.", minimum=1)
    session_watches: int = setting(
        64, "Standing questions on one session, over all viewers.", minimum=1
    )
