"""Sightline's client: open a video, ask about it, be told when something happens.

    with sightline.connect("localhost:50051") as client:
        session = client.open("clip.mp4")
        for delta in session.ask("What do you see?"):
            print(delta, end="")

`sightline.aio` is the same for asyncio programs.
"""

from sightline import aio
from sightline.client import Answer, Client, Conversation, Pusher, Session, Watch, connect
from sightline.errors import (
    AlreadyExistsError,
    DeadlineExceededError,
    FailedPreconditionError,
    InternalError,
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
    ResourceExhaustedError,
    SightlineError,
    UnauthenticatedError,
    UnavailableError,
)
from sightline.reasons import Reason
from sightline.rules import Rule, RuleEvent, Webhook
from sightline.talk import Talk, TalkEvent, TalkKind
from sightline.types import (
    AnswerResult,
    AskOptions,
    Audio,
    Called,
    Decision,
    Event,
    FinishReason,
    ModelCard,
    ModelInfo,
    Moment,
    Packet,
    PoolInfo,
    PushReport,
    RatedRound,
    Recollection,
    Round,
    Said,
    ServerInfo,
    SessionInfo,
    SessionState,
    SessionStats,
    SourceCondition,
    SourceHealth,
    Timeouts,
    Voice,
    WatchStatus,
)
from sightline.version import __version__

__all__ = [
    "AlreadyExistsError",
    "Answer",
    "AnswerResult",
    "AskOptions",
    "Audio",
    "Called",
    "Client",
    "Conversation",
    "DeadlineExceededError",
    "Decision",
    "Event",
    "FailedPreconditionError",
    "FinishReason",
    "InternalError",
    "InvalidArgumentError",
    "ModelCard",
    "ModelInfo",
    "Moment",
    "NotFoundError",
    "Packet",
    "PermissionDeniedError",
    "PoolInfo",
    "PushReport",
    "Pusher",
    "RatedRound",
    "Reason",
    "Recollection",
    "ResourceExhaustedError",
    "Round",
    "Rule",
    "RuleEvent",
    "Said",
    "ServerInfo",
    "Session",
    "SessionInfo",
    "SessionState",
    "SessionStats",
    "SightlineError",
    "SourceCondition",
    "SourceHealth",
    "Talk",
    "TalkEvent",
    "TalkKind",
    "Timeouts",
    "UnauthenticatedError",
    "UnavailableError",
    "Voice",
    "Watch",
    "WatchStatus",
    "Webhook",
    "__version__",
    "aio",
    "connect",
]
