"""The watchman of one session: looks at it for its rules, and tells what changed."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from services.common.tasks import cancel_and_wait, spawn
from services.gateway import metrics
from services.gateway.config import GatewayConfig
from services.gateway.rules.check_notes import CheckNotes
from services.gateway.rules.checks import interval_s
from services.gateway.rules.event_store import EventStore
from services.gateway.rules.hints import Hints
from services.gateway.rules.judgement import NS, Judgement, Reading
from services.gateway.rules.kinds import (
    COMMENTARY,
    HEALTH,
    PRODUCT,
    SCORED,
    WHAT_HAPPENS,
    Said,
    asked_of,
    health_reading,
    kind_of,
    reading_of,
    threshold_of,
)
from services.gateway.rules.rule_store import Kept, RuleStore
from services.gateway.rules.schedule import Hours
from services.gateway.sessions.session import Session
from services.gateway.viewers.asks import Asks
from services.gateway.viewers.decisions import Decisions
from sightline.errors import InvalidArgumentError, NotFoundError, SightlineError, UnavailableError
from sightline.v1 import gateway_pb2, rules_pb2

log = logging.getLogger(__name__)

MOST_STATEMENTS = 512  # of one call
STILL_S = 0.25  # until a rule that is due looks again whether a new frame has come
FAILED_S = 1.0  # until a rule is checked again after that failed
WRONG_S = 30.0  # … because of the rule itself
PICTURE_WIDTH, MAX_PICTURE_BYTES = 640, 256 * 1024
MAX_CLIP_BYTES = 3 * 1024 * 1024
MAX_TEXT_CHARACTERS = 4000
HOURS_ENDED = "schedule"


class Lookout(Protocol):
    """What a watchman needs of the gateway."""

    @property
    def decisions(self) -> Decisions: ...
    @property
    def asks(self) -> Asks: ...


class _Post:
    """One rule under watch."""

    def __init__(self, kept: Kept) -> None:
        rule = kept.rule
        self.record, self.rule, self.kind = kept.record, rule, kind_of(rule)
        self.interval_s = interval_s(rule)
        self.hours = Hours.of(rule.schedule)
        state = rules_pb2.RuleState()
        state.CopyFrom(rule.state)
        state.error, self.error = "", rule.state.error
        state.ClearField("check")
        self.judgement = Judgement(state, debounce_s=rule.debounce_s, cooldown_s=rule.cooldown_s)
        self.statements = self.asked = asked_of(rule)
        self.hints = Hints(rule)
        self.said = Said(state.text)
        self.due_s = 0.0  # monotonic
        self.seen = 0  # frames that were understood when it was checked last
        self.late = False  # an event that could not be told waits
        self.task: asyncio.Task[None] | None = None  # of a commentary under way


class Watchman:
    """Looks after the rules of one session of this gateway's, until `aclose`. One event loop; what
    is due is looked at together."""

    def __init__(
        self,
        session: Session,
        config: GatewayConfig,
        lookout: Lookout,
        rules: RuleStore,
        events: EventStore,
        told: Callable[[], None],
    ) -> None:
        """told: is called whenever there is a new event."""
        self._session = session
        self._config = config
        self._lookout = lookout
        self._rules = rules
        self._events = events
        self._told = told
        self._notes = CheckNotes(session.id, rules)
        self._posts: dict[str, _Post] = {}
        self._changed = (asyncio.Event(), asyncio.Event())
        self._tasks: list[asyncio.Task[None]] = []
        self._clips: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Two watches: the source's health is looked at also while the model is away."""
        name = self._session.id
        self._tasks = [
            spawn(self._watch(self._changed[0], health=False), name=f"{name}:rules"),
            spawn(self._watch(self._changed[1], health=True), name=f"{name}:rules:health"),
        ]

    async def aclose(self) -> None:
        """Look no more. An event that is being told is told by whoever goes on, if not here."""
        commentaries = [post.task for post in self._posts.values()]
        await cancel_and_wait(*self._tasks, *commentaries, *self._clips)

    def set(self, kept: Sequence[Kept]) -> None:
        """Watch for these rules from here on; those that were there go on as they are."""
        wanted = {each.rule.rule: each for each in kept}
        for gone in self._posts.keys() - wanted.keys():
            self._drop(gone)
        for rule, each in wanted.items():
            if rule not in self._posts:
                self._posts[rule] = _Post(each)
        for changed in self._changed:
            changed.set()

    def kinds(self) -> list[str]:
        return [post.kind for post in self._posts.values()]

    def _drop(self, rule: str) -> None:
        post = self._posts.pop(rule, None)
        if post is not None and post.task is not None:
            post.task.cancel()

    # --- looking ----------------------------------------------------------------------------

    async def _watch(self, changed: asyncio.Event, *, health: bool) -> None:
        while True:
            now_s = time.monotonic()
            posts = [each for each in self._posts.values() if (each.kind == HEALTH) == health]
            try:
                await self._look([post for post in posts if post.due_s <= now_s])
            except Exception:  # a defect of one look must not end the watch
                log.exception("rules not checked", extra={"session": self._session.id})
                await asyncio.sleep(FAILED_S)
            next_s = min((post.due_s for post in posts), default=None)
            wait_s = None if next_s is None else max(0.01, next_s - time.monotonic())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await changed.wait()
            changed.clear()

    async def _look(self, due: list[_Post]) -> None:
        processed = self._session.counts.processed
        scored = []
        for post in due:
            post.due_s = time.monotonic() + post.interval_s
            if not post.hours.hold(time.time()):
                await self._off_duty(post)
            elif post.kind == HEALTH:
                await self._judge_health(post)
            elif post.seen == processed and not post.late:
                post.due_s = time.monotonic() + min(STILL_S, post.interval_s)
            elif post.kind == COMMENTARY:
                if post.task is None or post.task.done():
                    post.seen = processed
                    post.task = spawn(self._comment(post), name=f"{self._session.id}:comment")
            else:
                post.seen = processed
                scored.append(post)
        if scored:
            with metrics.RULE_LOOKS.time():
                await self._score(scored)
        await self._notes.write(self._posts.keys())

    async def _score(self, posts: list[_Post]) -> None:
        """Check rules together: those with many statements by a hint first."""
        for post in posts:
            post.asked = post.hints.asked(post.judgement) or post.statements
        changed = await self._score_asked(posts)
        for post in changed:
            post.asked = post.statements
        await self._score_asked(changed)

    async def _score_asked(self, posts: list[_Post]) -> list[_Post]:
        """Check rules by what each of them asks now; where one of several is refused, each by
        itself. Those whose hint says that something has changed, which were not judged."""
        changed = []
        for some in _sliced(posts):
            try:
                probabilities, at_ns, unfamiliar = await self._probabilities(some)
            except InvalidArgumentError as error:
                if len(some) > 1:
                    for post in some:
                        changed += await self._score_asked([post])
                else:
                    await self._failed(some, error)
                continue
            except SightlineError as error:
                await self._failed(some, error)
                continue
            for post in some:
                await self._right(post)
                if unfamiliar:  # nobody can tell: all stays as it was told last
                    metrics.RULE_CHECKS_UNFAMILIAR.inc()
                    self._notes.note(post.rule.rule, None, unfamiliar=True)
                    continue
                if post.asked == post.statements:
                    metrics.RULE_CHECKS.labels(post.kind).inc()
                    post.hints.note(probabilities)
                    reading = reading_of(post.rule, probabilities, at_ns)
                else:
                    reading = post.hints.unchanged(post.judgement, probabilities, at_ns)
                    if reading is None:
                        changed.append(post)
                        continue
                    metrics.RULE_CHECKS_SAVED.inc()
                self._notes.note(post.rule.rule, reading)
                if reading is not None:
                    await self._judge(post, reading)
        return changed

    async def _probabilities(self, posts: list[_Post]) -> tuple[dict[str, float], int, bool]:
        """Probabilities of what rules ask, the capture time of the newest frame, and whether the
        model does not know such pictures."""
        statements = list(dict.fromkeys(text for post in posts for text in post.asked))
        found: dict[str, float] = {}
        at_ns, unfamiliar = 0, False
        for first in range(0, len(statements), MOST_STATEMENTS):
            few = statements[first : first + MOST_STATEMENTS]
            scored = await self._lookout.decisions.score(few, self._session, "")
            found |= zip(few, scored.probabilities, strict=True)
            at_ns = max(at_ns, scored.last_capture_ns)
            unfamiliar |= scored.cannot_tell
        return found, at_ns, unfamiliar

    async def _judge_health(self, post: _Post) -> None:
        condition = self._session.condition
        if condition is not None:  # of an unknown one nothing is told
            metrics.RULE_CHECKS.labels(HEALTH).inc()
            reading = health_reading(post.rule, str(condition), time.time_ns())
            self._notes.note(post.rule.rule, reading)
            await self._judge(post, reading)

    async def _off_duty(self, post: _Post) -> None:
        """Its hours have ended: what was active is no more."""
        state = post.judgement.state
        if state.active or state.value:
            reading = Reading(at_ns=state.capture_ns, active=False, probability=state.probability)
            await self._tell(post, reading, reason=HOURS_ENDED)

    async def _comment(self, post: _Post) -> None:
        """Ask what happens, and tell it where that is new."""
        rule = post.rule.commentary
        request = gateway_pb2.AskRequest(
            session=self._session.id,
            question=gateway_pb2.Question(
                text=rule.question or WHAT_HAPPENS, instructions=rule.instructions
            ),
        )
        done = gateway_pb2.AnswerDone()
        stream = self._lookout.asks.stream
        asking = stream(request, self._session, "", keep=False, recall=False, own=True)
        try:
            async with contextlib.aclosing(asking) as events:
                async for event in events:
                    if event.WhichOneof("event") == "done":
                        done.CopyFrom(event.done)
        except SightlineError as error:
            await self._failed([post], error)
            return
        metrics.RULE_CHECKS.labels(COMMENTARY).inc()
        await self._right(post)
        self._notes.note(post.rule.rule, None, unfamiliar=done.unfamiliar_picture)
        if done.unfamiliar_picture:
            metrics.RULE_CHECKS_UNFAMILIAR.inc()
            return
        text = done.text.strip()[:MAX_TEXT_CHARACTERS]
        state = post.judgement.state
        passed_ns = done.last_capture_ns - state.capture_ns
        resting = state.events and 0 <= passed_ns < post.rule.cooldown_s * NS
        if not resting and post.said.is_new(text, threshold_of(post.rule)):
            reading = Reading(at_ns=done.last_capture_ns, active=False, probability=1.0)
            if await self._tell(post, reading, text=text):
                post.said.add(text)

    async def _failed(self, posts: list[_Post], error: SightlineError) -> None:
        metrics.RULE_FAILURES.labels(error.code.name).inc()
        wrong = isinstance(error, InvalidArgumentError)
        for post in posts:
            post.due_s = time.monotonic() + max(post.interval_s, WRONG_S if wrong else FAILED_S)
            post.seen = 0
            if wrong and post.error != error.message:
                post.error = error.message
                await self._note_wrong(post)

    async def _right(self, post: _Post) -> None:
        if post.error:
            post.error = ""
            await self._note_wrong(post)

    async def _note_wrong(self, post: _Post) -> None:
        fields = {"session": self._session.id, "rule": post.rule.rule, "reason": post.error}
        log.info("rule", extra=fields)
        with contextlib.suppress(UnavailableError):
            await self._rules.note_wrong(self._session.id, post.rule.rule, post.error)

    # --- telling ----------------------------------------------------------------------------

    async def _judge(self, post: _Post, reading: Reading) -> None:
        if post.judgement.weigh(reading):
            await self._tell(post, reading)
        else:
            post.late = False

    async def _tell(
        self, post: _Post, reading: Reading, *, text: str = "", reason: str = ""
    ) -> bool:
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
        jpeg = await self._picture()
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
            self._posts.pop(rule.rule, None)  # it was deleted; a commentary ends by itself
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
        """When it was seen, by this machine's clock."""
        age_s = None
        if kind in SCORED and not reason:
            age_s = self._session.frame_age_s(reading.at_ns)
        return time.time_ns() - round((age_s or 0.0) * NS)

    async def _picture(self) -> bytes:
        if not self._config.event_pictures:
            return b""
        jpeg = await self._session.preview(PICTURE_WIDTH)
        return jpeg if jpeg is not None and len(jpeg) <= MAX_PICTURE_BYTES else b""

    async def _keep_clip(self, tenant: str, event: str, at_s: float) -> None:
        """Keep the seconds around a moment, once those after it have passed."""
        around_s = self._config.event_clip_s
        await asyncio.sleep(max(0.0, at_s + around_s - time.time()))
        recording = self._session.recording
        if recording is None:
            return
        with contextlib.suppress(NotFoundError, UnavailableError):
            clip = await recording.clip(at_s - around_s, at_s + around_s)
            if len(clip.data) <= MAX_CLIP_BYTES:
                await self._events.add_clip(tenant, event, clip.data)


def _sliced(posts: list[_Post]) -> list[list[_Post]]:
    """The rules in groups of about as many statements as one call takes."""
    slices: list[list[_Post]] = []
    count = MOST_STATEMENTS
    for post in posts:
        if count + len(post.asked) > MOST_STATEMENTS:
            slices.append([])
            count = 0
        slices[-1].append(post)
        count += len(post.asked)
    return slices
