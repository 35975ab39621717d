"""Translation between the contract's messages and the SDK's own types."""

import re
from typing import Any, Literal, TypeVar

import grpc
from google.protobuf.message import Message

from sightline.errors import InvalidArgumentError, SightlineError, error_from_status
from sightline.types import (
    AnswerResult,
    Decision,
    Event,
    FinishReason,
    ModelCard,
    ModelInfo,
    Moment,
    PoolInfo,
    RatedRound,
    Recollection,
    Round,
    ServerInfo,
    SessionInfo,
    SessionState,
    SessionStats,
    SourceCondition,
    SourceHealth,
    Voice,
    WatchStatus,
)
from sightline.v1 import dialogue_pb2
from sightline.v1 import gateway_pb2 as pb

__all__ = [
    "answer_result",
    "error_of",
    "event",
    "is_of_transport",
    "memory_kind",
    "message_of",
    "moment_of",
    "round_of",
    "server_info",
    "session_info",
    "source_health",
    "watch_status",
]

M = TypeVar("M", bound=Message)

_TRANSPORT = re.compile(
    r"ipv[46]:|failed to connect|recvmsg|goaway|socket|stream removed|broken pipe"
    r"|connection (reset|refused|dropped)|keepalive|handshak|name resolution|dns",
    re.IGNORECASE,
)
_STATES = {
    pb.SESSION_STATE_WAITING: SessionState.WAITING,
    pb.SESSION_STATE_LIVE: SessionState.LIVE,
    pb.SESSION_STATE_STALLED: SessionState.STALLED,
    pb.SESSION_STATE_ENDED: SessionState.ENDED,
}
_CONDITIONS = {
    pb.SOURCE_CONDITION_FINE: SourceCondition.FINE,
    pb.SOURCE_CONDITION_DEAD: SourceCondition.DEAD,
    pb.SOURCE_CONDITION_DARK: SourceCondition.DARK,
    pb.SOURCE_CONDITION_COVERED: SourceCondition.COVERED,
    pb.SOURCE_CONDITION_FROZEN: SourceCondition.FROZEN,
    pb.SOURCE_CONDITION_REPEATING: SourceCondition.REPEATING,
}
_MEMORY: dict[int, Literal["off", "lines", "pictures"]] = {
    pb.MEMORY_KIND_OFF: "off",
    pb.MEMORY_KIND_LINES: "lines",
    pb.MEMORY_KIND_PICTURES: "pictures",
}
_DELEGATE: dict[pb.DelegateMode, Literal["never", "unsure", "always"]] = {
    pb.DELEGATE_MODE_NEVER: "never",
    pb.DELEGATE_MODE_UNSURE: "unsure",
    pb.DELEGATE_MODE_ALWAYS: "always",
}
_REASONS = {
    pb.FINISH_REASON_LENGTH: FinishReason.LENGTH,
    pb.FINISH_REASON_CANCELLED: FinishReason.CANCELLED,
}
_MODEL_FIELDS = (
    "name",
    "ready",
    "workers",
    "max_sessions",
    "free_sessions",
    "frame_width",
    "frame_height",
    "tubelet",
    "window",
    "max_window",
    "preferred_fps",
    "dtype",
    "device",
)
_STATS_FIELDS = (
    "fps_in",
    "fps_processed",
    "frames_received",
    "frames_sampled",
    "frames_processed",
    "frame_latency_p50_ms",
    "frame_latency_p95_ms",
    "kv_hit_ratio",
    "last_capture_ns",
    "clock_source",
    "source_width",
    "source_height",
    "fps_allowed",
    "strangeness",
    "frames_unfamiliar",
)


def session_info(message: pb.Session) -> SessionInfo:
    stats = {name: getattr(message.stats, name) for name in _STATS_FIELDS}
    return SessionInfo(
        id=message.id,
        name=message.name,
        state=_STATES.get(message.state, SessionState.WAITING),
        source_kind=message.source_kind,
        source=message.source,
        model=message.model,
        window=message.window,
        fps=message.fps,
        frame_width=message.frame_width,
        frame_height=message.frame_height,
        worker=message.worker,
        created_ns=message.created_ns,
        lossless=message.delivery == pb.DELIVERY_LOSSLESS,
        stats=SessionStats(
            dropped=dict(message.stats.dropped), degraded=tuple(message.stats.degraded), **stats
        ),
        grace_s=message.grace_s,
        labels=dict(message.labels),
        moving=message.moving,
        source_health=source_health(message.source_health),
        sound=message.sound,
        memory=_MEMORY.get(message.memory, "off"),
        listens=message.listens,
        delegate=_DELEGATE.get(message.delegate, "never"),
        delegate_to=message.delegate_to,
    )


def source_health(message: pb.SourceHealth) -> SourceHealth:
    condition = _CONDITIONS.get(message.condition, SourceCondition.UNKNOWN)
    return SourceHealth(condition, message.since_ns)


def server_info(message: pb.GetServerInfoResponse) -> ServerInfo:
    return ServerInfo(
        version=message.version,
        contract_version=message.contract_version,
        models=tuple(map(_model_info, message.models)),
        limits={
            field.name: getattr(message.limits, field.name)
            for field in message.limits.DESCRIPTOR.fields
        },
        speech=message.speech,
        voices=tuple(Voice(each.id, each.language, each.engine) for each in message.voices),
        default_voice=message.default_voice,
        conversations=message.conversations,
        rtmp_url=message.rtmp_url,
        whip_url=message.whip_url,
        sign_in=message.sign_in,
    )


def _model_info(message: pb.Model) -> ModelInfo:
    card = message.card
    return ModelInfo(
        loading=message.loading.text,
        card=ModelCard(
            summary=card.summary,
            can=tuple(card.can),
            cannot=tuple(card.cannot),
            questions=tuple(card.questions),
            conditions=tuple(card.conditions),
            licence=card.licence,
        ),
        pools=tuple(
            PoolInfo(each.name, each.workers, each.max_sessions, each.free_sessions)
            for each in message.pools
        ),
        **{name: getattr(message, name) for name in _MODEL_FIELDS},
    )


_RATINGS: dict[int, Literal["", "up", "down"]] = {
    dialogue_pb2.RATING_UP: "up",
    dialogue_pb2.RATING_DOWN: "down",
}


def round_of(message: dialogue_pb2.Round) -> Round:
    return Round(
        turn=message.turn,
        question=message.question,
        answer=message.answer,
        asked_ns=message.asked_ns,
        capture_ns=message.capture_ns,
        interrupted=message.interrupted,
        rating=_RATINGS.get(message.rating, ""),
        better=message.better,
    )


def rated_round(message: dialogue_pb2.RatedRound) -> RatedRound:
    return RatedRound(
        conversation=message.conversation,
        session=message.session,
        round=round_of(message.round),
    )


def decision_of(
    question: pb.DecideQuestion, message: pb.Decision, unfamiliar: bool = False
) -> Decision:
    options = question.choices or question.levels
    return Decision(
        statement=question.statement,
        probability=message.probability,
        value=message.value,
        score=message.score,
        unfamiliar_picture=unfamiliar,
        probabilities=dict(zip(options, message.probabilities, strict=False)),
    )


def answer_result(message: pb.AnswerDone, conversation: str, restarted: bool) -> AnswerResult:
    return AnswerResult(
        text=message.text,
        finish_reason=_REASONS.get(message.finish_reason, FinishReason.STOP),
        conversation=conversation,
        prompt_tokens=message.prompt_tokens,
        answer_tokens=message.answer_tokens,
        first_token_ms=message.first_token_ms,
        total_ms=message.total_ms,
        first_capture_ns=message.first_capture_ns,
        last_capture_ns=message.last_capture_ns,
        frames_seen=message.frames_seen,
        newest_frame_age_ms=message.newest_frame_age_ms,
        history_rounds=message.history_rounds,
        degraded=tuple(message.degraded),
        unsure=message.unsure,
        unfamiliar_picture=message.unfamiliar_picture,
        strangeness=message.strangeness,
        confidence=message.confidence if message.HasField("confidence") else None,
        answered_by=message.answered_by,
        restarted=restarted or bool(message.resumed),
        kept=message.kept if message.HasField("kept") else None,
        memory=tuple(
            Recollection(
                moment=each.moment,
                start_ns=each.start_ns,
                end_ns=each.end_ns,
                line=each.line,
                heard=each.heard,
                picture=each.picture,
            )
            for each in message.memory
        ),
    )


def moment_of(message: dialogue_pb2.Moment) -> Moment:
    return Moment(
        id=message.id,
        start_ns=message.start_ns,
        end_ns=message.end_ns,
        line=message.line,
        heard=message.heard,
        pictures=tuple(message.pictures),
        num_pictures=message.num_pictures,
    )


def message_of(kind: type[M], **fields: Any) -> M:
    """A message with these fields. Raises InvalidArgumentError, with the name of one that holds
    what it cannot."""
    try:
        return kind(**fields)
    except (TypeError, ValueError):
        for name, value in fields.items():
            try:
                kind(**{name: value})
            except (TypeError, ValueError) as error:
                raise InvalidArgumentError(f"{name} cannot be {value!r:.60}: {error}") from None
        raise


def memory_kind(name: str) -> pb.MemoryKind:
    """The kind of memory of this name; "": the server's choice. Raises InvalidArgumentError."""
    match name:
        case "":
            return pb.MEMORY_KIND_UNSPECIFIED
        case "off":
            return pb.MEMORY_KIND_OFF
        case "lines":
            return pb.MEMORY_KIND_LINES
        case "pictures":
            return pb.MEMORY_KIND_PICTURES
    raise InvalidArgumentError("memory is off, lines or pictures")


def delegate_mode(name: str) -> pb.DelegateMode:
    """Which questions are delegated, by name; "": the server's choice, or as it was. Raises
    InvalidArgumentError."""
    if not name:
        return pb.DELEGATE_MODE_UNSPECIFIED
    for mode, its in _DELEGATE.items():
        if name == its:
            return mode
    raise InvalidArgumentError("delegate is never, unsure or always")


def event(message: pb.WatchEvent) -> Event:
    return Event(
        watch=message.watch,
        condition=message.condition,
        active=message.active,
        score=message.score,
        capture_ns=message.capture_ns,
        degraded=tuple(message.degraded),
    )


def watch_status(message: pb.WatchStatus) -> WatchStatus:
    return WatchStatus(
        active=message.active,
        score=message.score,
        capture_ns=message.capture_ns,
        unknown_words=tuple(message.unknown_words),
        undecided=message.undecided,
        unfamiliar_picture=message.unfamiliar_picture,
    )


def error_of(message: pb.ErrorEvent) -> SightlineError:
    """The typed error that an event tells of."""
    code = getattr(grpc.StatusCode, message.code, grpc.StatusCode.UNKNOWN)
    text = message.message
    if code is grpc.StatusCode.UNAVAILABLE and is_of_transport(text):
        text = "the model is restarting, about 20 s: try again then"
    after_s = message.retry_after_s if message.HasField("retry_after_s") else None
    return error_from_status(code, text, reason=message.reason, retry_after_s=after_s)


def is_of_transport(text: str) -> bool:
    """Whether grpc itself says this of a connection, which helps nobody who reads it."""
    return _TRANSPORT.search(text) is not None
