"""Leases: which gateway owns a session, and what others need to know of it."""

import time
from dataclasses import dataclass

from services.gateway.sessions.session import Session
from services.gateway.sessions.session_spec import MEMORY_OFF, NEVER, SessionSpec
from sightline.v1 import gateway_pb2, peer_pb2

SECOND_NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Lease:
    """A session's place in Redis: its `owner`, reached by other gateways at `address`, until
    `left_s` from the moment it was read have passed. `fence` grows with every new owner."""

    session: str
    owner: str
    address: str
    fence: int
    left_s: float
    record: peer_pb2.SessionRecord


def record_of(session: Session) -> peer_pb2.SessionRecord:
    """Record of a session, as its owner notes it."""
    spec = session.spec
    return peer_pb2.SessionRecord(
        session=session.message(),
        source=spec.source,
        key_digest=spec.key_digest,
        tenant=spec.tenant,
        name=spec.name,
        fps=spec.fps,
        window=spec.window,
        max_pixels=spec.max_pixels,
        loop=spec.loop,
        worker=session.feed.placement.worker.address,
        published=session.published,
        model=spec.model,
        priority=spec.priority,
        memory=spec.memory,
        listen=spec.listen,
        delegate=spec.delegate,
        delegate_to=spec.delegate_to,
        said=() if session.transcript is None else session.transcript.lately(time.time_ns()),
        newest_age_ns=round(session.staleness_s(time.monotonic()) * SECOND_NS),
    )


def spec_of(record: peer_pb2.SessionRecord) -> SessionSpec:
    """The specification of a session that another gateway made. Its key is not in it."""
    session = record.session
    return SessionSpec(
        name=record.name,
        source=record.source,
        key="",
        key_digest=record.key_digest,
        fps=record.fps,
        window=record.window,
        max_pixels=record.max_pixels,
        lossless=session.delivery == gateway_pb2.DELIVERY_LOSSLESS,
        loop=record.loop,
        grace_s=session.grace_s,
        labels=dict(session.labels),
        tenant=record.tenant,
        model=record.model or session.model,
        priority=record.priority,
        memory=record.memory or MEMORY_OFF,
        listen=record.listen,
        delegate=record.delegate or NEVER,
        delegate_to=record.delegate_to,
    )
