"""Sign-in by a callback: a program of yours is asked whether somebody may do something.

It gets `POST` with JSON: user, password, token, ip, action (publish, view, ask, watch, admin), path
(a session's name; "" where it is about none) and protocol, as MediaMTX asks. 2xx allows; it may
answer with JSON that says `name` (for the audit log) and `tenant`. Anything else, and no answer in
time, denies.
"""

import asyncio
import base64
import binascii
import hashlib
import json
import logging
import re
import time
from collections import OrderedDict
from dataclasses import dataclass, field, replace
from typing import Any

import aiohttp

from services.common.tasks import spawn
from services.gateway.auth.authoriser import MAX_CREDENTIAL_CHARACTERS, Approach
from services.gateway.auth.caller import Caller, Permission
from sightline.errors import UnauthenticatedError, UnavailableError
from sightline.reasons import Reason

log = logging.getLogger(__name__)

KEPT_S = 10.0  # that an answer holds
TIMEOUT_S = 5.0
MOST_KEPT = 4096
MOST_AT_ONCE = 32
MAX_BYTES = 16 * 1024
RECHECK_S = 10.0  # between two questions about somebody whose stream stays open


@dataclass(frozen=True, slots=True)
class _Answer:
    """Answer of the callback: whether it is allowed, or nobody knows who asks; and who that is."""

    allowed: bool
    unknown: bool = False
    name: str = ""
    tenant: str = ""
    at_s: float = field(default_factory=time.monotonic, compare=False)


class AwayError(Exception):
    """The callback did not answer."""


class Callback:
    """The authoriser by a URL. One event loop."""

    wanted = "token"

    def __init__(self, url: str) -> None:
        self._url = url
        self._kept: OrderedDict[str, _Answer] = OrderedDict()
        self._asking = asyncio.Semaphore(MOST_AT_ONCE)
        self._rechecks: set[asyncio.Task[None]] = set()

    async def caller_of(self, credential: str, approach: Approach) -> Caller:
        """Whoever comes, with those of the wanted permissions that the callback allows. Raises
        UnauthenticatedError where it knows nobody of that credential, UnavailableError while it
        does not answer."""
        if len(credential) > MAX_CREDENTIAL_CHARACTERS:
            raise _unknown()
        try:
            asked = [self._answer(credential, approach, each) for each in approach.permissions]
            answers = await asyncio.gather(*asked)
        except AwayError:
            raise UnavailableError(
                "who decides about sign-in cannot be reached: try again in some seconds",
                reason=Reason.SIGN_IN_AWAY,
                retry_after_s=TIMEOUT_S,
            ) from None
        if all(answer.unknown for answer in answers):
            raise _unknown()
        allowed = {
            permission
            for permission, answer in zip(approach.permissions, answers, strict=True)
            if answer.allowed
        }
        said = next((answer for answer in answers if answer.allowed), answers[0])
        user = approach.user or f"token {_digest(credential)[:8]}"
        caller = Caller(
            name=said.name or user,
            permissions=frozenset(allowed),
            sessions=(_literally(approach.path),) if approach.path else ("*",),
            tenant=said.tenant,
        )
        standing = _Standing(self, credential, approach, frozenset(allowed))
        return replace(caller, is_current=standing.holds)

    async def recheck(
        self, credential: str, approach: Approach, before: frozenset[Permission]
    ) -> bool:
        """Whether all that was allowed before still is. While nobody answers, it is."""
        try:
            for permission in before:
                if not (await self._answer(credential, approach, permission)).allowed:
                    return False
        except AwayError:
            pass
        return True

    def keep(self, task: asyncio.Task[None]) -> None:
        self._rechecks.add(task)
        task.add_done_callback(self._rechecks.discard)

    async def _answer(self, credential: str, approach: Approach, permission: str) -> _Answer:
        """Answer of the callback, now or a moment ago."""
        question = {
            "user": approach.user,
            "password": credential if approach.user else "",
            "token": "" if approach.user else credential,
            "ip": approach.place,
            "action": permission,
            "path": approach.path,
            "protocol": approach.protocol,
        }
        key = _digest(json.dumps(question, sort_keys=True))
        kept = self._kept.get(key)
        if kept is not None and time.monotonic() - kept.at_s < KEPT_S:
            return kept
        async with self._asking:
            try:
                answer = await self._ask(question)
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                reason = f"{type(error).__name__}: {error}"
                log.warning("sign-in callback does not answer", extra={"reason": reason})
                raise AwayError from None
        self._kept[key] = answer
        self._kept.move_to_end(key)
        while len(self._kept) > MOST_KEPT:
            self._kept.popitem(last=False)
        return answer

    async def _ask(self, question: dict[str, str]) -> _Answer:
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        async with (
            aiohttp.ClientSession(timeout=timeout) as client,
            client.post(self._url, json=question, allow_redirects=False) as reply,
        ):
            if reply.status >= 500:
                raise OSError(f"status {reply.status}")
            if not 200 <= reply.status < 300:
                return _Answer(False, unknown=reply.status == 401)
            said = _said(await reply.content.read(MAX_BYTES))
            return _Answer(True, name=said.get("name", ""), tenant=said.get("tenant", ""))


class _Standing:
    """Whether somebody who was let in may stay. Asked about now and then, answers at once: what was
    said last."""

    def __init__(
        self,
        callback: Callback,
        credential: str,
        approach: Approach,
        allowed: frozenset[Permission],
    ) -> None:
        self._callback = callback
        self._about = (credential, approach, allowed)
        self._holds = True
        self._checked_s = time.monotonic()

    def holds(self) -> bool:
        now_s = time.monotonic()
        if self._holds and now_s - self._checked_s > RECHECK_S:
            self._checked_s = now_s
            self._callback.keep(spawn(self._recheck(), name="sign-in:recheck"))
        return self._holds

    async def _recheck(self) -> None:
        self._holds = await self._callback.recheck(*self._about)


def basic(header: str) -> tuple[str, str]:
    """User and password of HTTP's Basic scheme, ("", "") for another."""
    scheme, _, text = header.partition(" ")
    if scheme.lower() != "basic":
        return "", ""
    try:
        user, _, password = base64.b64decode(text.strip()).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError, ValueError):
        return "", ""
    return user, password


def _said(body: bytes) -> dict[str, str]:
    """Strings of a JSON object; of anything else, none."""
    try:
        content: Any = json.loads(body)
    except ValueError:
        return {}
    if not isinstance(content, dict):
        return {}
    return {name: value for name, value in content.items() if isinstance(value, str)}


def _literally(name: str) -> str:
    """A pattern that this name alone matches."""
    return re.sub(r"([*?[])", r"[\1]", name)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


def _unknown() -> UnauthenticatedError:
    return UnauthenticatedError("no such token", reason=Reason.TOKEN_INVALID)
