"""Teller of a session's events: each with the picture of its moment, and the clip around it."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable

from services.common.tasks import cancel_and_wait, spawn
from services.gateway import metrics
from services.gateway.config import GatewayConfig
from services.gateway.rules.event_store import EventStore
from services.gateway.rules.judgement import NS, Reading
from services.gateway.rules.kinds import COMMENTARY, PRODUCT, SCORED
from services.gateway.rules.post import Post
from services.gateway.sessions.session import Session
from sightline.errors import NotFoundError, ResourceExhaustedError, UnavailableError
from sightline.v1 import rules_pb2

log = logging.getLogger(__name__)

PICTURE_WIDTH, MAX_PICTURE_BYTES = 640, 256 * 1024
MAX_CLIP_BYTES = 3 * 1024 * 1024
SEEN = SCORED | {COMMENTARY}  # kinds that tell of what the model saw


class Teller:
    """Tells what the rules of one session found, until `aclose`. Belongs to the event loop."""

    def __init__(
        self,
        session: Session,
        config: GatewayConfig,
        events: EventStore,
        told: Callable[[], None],
        gone: Callable[[str], None],
    ) -> None:
        """told: is called whenever there is a new event. gone: with a rule that was deleted."""
        self._session = session
        self._config = config
        self._events = events
        self._told = told
        self._gone = gone
        self._clips: set[asyncio.Task[None]] = set()

    async def aclose(self) -> None:
        await cancel_and_wait(*self._clips)

    async def tell(self, post: Post, reading: Reading, *, text: str = "", reason: str = "") -> bool:
        """Tell an event; whether it was told here. Where that is not possible now, the next reading
        is one again."""
        rule, before, session = post.rule, post.judgement.state, self._session
        state = rules_pb2.RuleState(
            active=reading.active,
            value=reading.value,
            probability=reading.probability,
            text=text,
            time_ns=self._moment_ns(post.kind, reading, reason),
            capture_ns=reading.at_ns,
            events=before.events + 1,
        )
        is_seen = post.kind in SEEN and not reason  # else it is about now
        jpeg = await self._picture(reading.at_ns if is_seen else None)
        event = rules_pb2.RuleEvent(
            rule=rule.rule,
            rule_name=rule.name,
            session=session.id,
            session_name=session.name,
            kind=post.kind,
            severity=rule.severity or rules_pb2.SEVERITY_INFO,
            labels=rule.labels,
            active=state.active,
            value=state.value,
            probability=state.probability,
            score=reading.score,
            text=text,
            time_ns=state.time_ns,
            capture_ns=state.capture_ns,
            number=state.events,
            reason=reason,
            picture=bool(jpeg),
            clip=session.recording is not None and self._config.event_clips > 0,
        )
        if post.kind == PRODUCT and state.value:
            found = [each for each in rule.product.products if each.sku == state.value]
            event.product.CopyFrom(found[0])
        fence = session.feed.placement.fence
        try:
            told = await self._events.tell(post.record, state, event, jpeg, fence)
        except UnavailableError:
            if not post.late:
                metrics.RULE_EVENTS_LATE.inc()
                log.warning("event not told yet", extra={"session": session.id, "rule": rule.rule})
            post.late = True
            return False
        post.late = False
        if told.state is None:
            self._gone(rule.rule)
            return False
        post.judgement.settle(told.state)
        if not told.event:  # another gateway has told it
            return False
        metrics.RULE_EVENTS.labels(post.kind).inc()
        fields = {"session": session.id, "rule": rule.rule, "event": told.event}
        log.info("rule event", extra=fields)
        self._told()
        if event.clip:
            task = spawn(
                self._keep_clip(post.record.tenant, told.event, state.time_ns / NS),
                name=f"{session.id}:clip",
            )
            self._clips.add(task)
            task.add_done_callback(self._clips.discard)
        return True

    def _moment_ns(self, kind: str, reading: Reading, reason: str) -> int:
        """The moment when it was seen, by this machine's clock."""
        age_s = None
        if kind in SCORED and not reason:
            age_s = self._session.frame_age_s(reading.at_ns)
        return time.time_ns() - round((age_s or 0.0) * NS)

    async def _picture(self, capture_ns: int | None) -> bytes:
        """Picture of a capture time; None: of now."""
        if not self._config.event_pictures:
            return b""
        if capture_ns is None:
            jpeg = await self._session.preview(PICTURE_WIDTH)
        else:
            jpeg = await self._session.picture_of(capture_ns, PICTURE_WIDTH)
        return jpeg if jpeg is not None and len(jpeg) <= MAX_PICTURE_BYTES else b""

    async def _keep_clip(self, tenant: str, event: str, at_s: float) -> None:
        """Keep the seconds around a moment, once those after it have passed."""
        around_s = self._config.event_clip_s
        await asyncio.sleep(max(0.0, at_s + around_s - time.time()))
        recording = self._session.recording
        if recording is None:
            return
        with contextlib.suppress(NotFoundError, ResourceExhaustedError, UnavailableError):
            clip = await recording.clip(at_s - around_s, at_s + around_s, MAX_CLIP_BYTES)
            if len(clip.data) <= MAX_CLIP_BYTES:
                await self._events.add_clip(tenant, event, clip.data)
