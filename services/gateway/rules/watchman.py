"""The watchman of one session: looks at it for its rules, and tells what changed."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from services.common.redaction import redacted
from services.common.tasks import cancel_and_wait, spawn
from services.gateway import metrics
from services.gateway.config import GatewayConfig
from services.gateway.rules.check_notes import CheckNotes
from services.gateway.rules.event_store import EventStore
from services.gateway.rules.judgement import NS, Reading
from services.gateway.rules.kinds import (
    COMMENTARY,
    HEALTH,
    WHAT_HAPPENS,
    health_reading,
    reading_of,
    threshold_of,
)
from services.gateway.rules.post import Post
from services.gateway.rules.rule_store import Kept, RuleStore
from services.gateway.rules.teller import Teller
from services.gateway.sessions.session import Session
from services.gateway.viewers.asks import Asks
from services.gateway.viewers.decisions import Decisions
from sightline.errors import InvalidArgumentError, SightlineError, UnavailableError
from sightline.v1 import gateway_pb2

log = logging.getLogger(__name__)

MOST_STATEMENTS = 512  # of one call
STILL_S = 0.25  # until a rule that is due looks again whether a new frame has come
FAILED_S = 1.0  # until a rule is checked again after that failed
WRONG_S = 30.0  # … because of the rule itself
MAX_TEXT_CHARACTERS = 4000
HOURS_ENDED, PAUSED = "schedule", "paused"


class Lookout(Protocol):
    """What a watchman needs of the gateway."""

    @property
    def decisions(self) -> Decisions: ...
    @property
    def asks(self) -> Asks: ...


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
        self._lookout = lookout
        self._rules = rules
        self._teller = Teller(session, config, events, told, self._forget)
        self._notes = CheckNotes(session.id, rules)
        self._posts: dict[str, Post] = {}
        self._changed = (asyncio.Event(), asyncio.Event())
        self._tasks: list[asyncio.Task[None]] = []

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
        await cancel_and_wait(*self._tasks, *commentaries)
        await self._teller.aclose()

    def set(self, kept: Sequence[Kept]) -> None:
        """Watch for these rules from here on; those that were there go on, by what they ask now."""
        wanted = {each.rule.rule: each for each in kept}
        for gone in self._posts.keys() - wanted.keys():
            self._drop(gone)
        for rule, each in wanted.items():
            if (post := self._posts.get(rule)) is None:
                self._posts[rule] = Post(each)
            else:
                post.change(each)
        for changed in self._changed:
            changed.set()

    def kinds(self) -> list[str]:
        return [post.kind for post in self._posts.values()]

    def _forget(self, rule: str) -> None:
        """Forget a rule that was deleted while it was told of; its commentary ends by itself."""
        self._posts.pop(rule, None)

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

    async def _look(self, due: list[Post]) -> None:
        processed = self._session.counts.processed
        scored = []
        for post in due:
            post.due_s = time.monotonic() + post.interval_s
            if post.rule.paused:
                await self._off_duty(post, PAUSED)
            elif not post.hours.hold(time.time()):
                await self._off_duty(post, HOURS_ENDED)
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

    async def _score(self, posts: list[Post]) -> None:
        """Check rules together: those with many statements by a hint first."""
        for post in posts:
            post.asked = post.hints.asked(post.judgement) or post.statements
        changed = await self._score_asked(posts)
        for post in changed:
            post.asked = post.statements
        await self._score_asked(changed)

    async def _score_asked(self, posts: list[Post]) -> list[Post]:
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
                if post.rule.paused:  # meanwhile
                    continue
                await self._right(post)
                if unfamiliar:  # nobody can tell: all stays as it was told last
                    metrics.RULE_CHECKS_UNFAMILIAR.inc()
                    self._notes.note(post.rule.rule, None, unfamiliar=True)
                    post.judgement.lapse()
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
                if reading is None:
                    post.judgement.lapse()
                else:
                    await self._judge(post, reading)
        return changed

    async def _probabilities(self, posts: list[Post]) -> tuple[dict[str, float], int, bool]:
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

    async def _judge_health(self, post: Post) -> None:
        condition = self._session.condition
        if condition is not None:  # of an unknown one nothing is told
            metrics.RULE_CHECKS.labels(HEALTH).inc()
            reading = health_reading(post.rule, str(condition), time.time_ns())
            self._notes.note(post.rule.rule, reading)
            await self._judge(post, reading)

    async def _off_duty(self, post: Post, reason: str) -> None:
        """A rule is not checked now: what was active is no more."""
        reading = post.judgement.rest()
        if reading is not None:
            await self._teller.tell(post, reading, reason=reason)

    async def _comment(self, post: Post) -> None:
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
            if await self._teller.tell(post, reading, text=text):
                post.said.add(text)

    async def _failed(self, posts: list[Post], error: SightlineError) -> None:
        metrics.RULE_FAILURES.labels(error.code.name).inc()
        wrong = isinstance(error, InvalidArgumentError)
        for post in posts:
            post.due_s = time.monotonic() + max(post.interval_s, WRONG_S if wrong else FAILED_S)
            post.seen = 0
            message = redacted(error.message)
            if wrong and post.error != message:
                post.error = message
                await self._note_wrong(post)

    async def _right(self, post: Post) -> None:
        if post.error:
            post.error = ""
            await self._note_wrong(post)

    async def _note_wrong(self, post: Post) -> None:
        fields = {"session": self._session.id, "rule": post.rule.rule, "reason": post.error}
        log.info("rule", extra=fields)
        with contextlib.suppress(UnavailableError):
            await self._rules.note_wrong(self._session.id, post.rule.rule, post.error)

    async def _judge(self, post: Post, reading: Reading) -> None:
        if post.judgement.weigh(reading):
            await self._teller.tell(post, reading)
        else:
            post.late = False


def _sliced(posts: list[Post]) -> list[list[Post]]:
    """The rules in groups of about as many statements as one call takes."""
    slices: list[list[Post]] = []
    count = MOST_STATEMENTS
    for post in posts:
        if count + len(post.asked) > MOST_STATEMENTS:
            slices.append([])
            count = 0
        slices[-1].append(post)
        count += len(post.asked)
    return slices
