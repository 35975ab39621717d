"""Conversations in Redis: one hash per conversation, changed only by atomic scripts.

Fields of the hash `sightline:dialogue:<conversation>`:

    session, created_ns   what `open` was told
    first, next           the kept rounds are numbered first … next-1
    r:<number>            turn, a zero byte, the round as a serialised `sightline.v1.Round`
    t:<turn>              the number of that turn's round, which makes appending idempotent
    gone_ns               when a conversation of this name was deleted before; rounds that were
                          asked until then stay away

One key means that a conversation expires, is evicted and is deleted as a whole. Others hold no
word of it: the set `sightline:conversations-of:<session>` names those that began on a session, and
`sightline:conversation-gone:<hash of its name>`, and `session-gone` for all of a session, say for
an hour when one was deleted, because rounds of it may still be on their way.
"""

import asyncio
import contextlib
import hashlib
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import redis.exceptions as redis_errors
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from services.common.config import ConfigError
from services.dialogue.config import DialogueConfig
from services.dialogue.metrics import REDIS_ERRORS, REDIS_SECONDS, ROUNDS_APPENDED, ROUNDS_TRIMMED
from sightline.errors import NotFoundError, ResourceExhaustedError, SightlineError, UnavailableError
from sightline.reasons import Reason

KEY = "sightline:dialogue:"
OF_SESSION = "sightline:conversations-of:"
GONE = "sightline:conversation-gone:"
SESSION_GONE = "sightline:session-gone:"
GONE_S = 3600  # for how long rounds of a deleted conversation may be on their way

# KEYS: the conversation. In every script the first write is one that Redis refuses when it is out
# of memory: after a first write it lets the rest of a script pass, so a refusal changes nothing.
_OPEN = """
local key, of_session = KEYS[1], KEYS[4]
if redis.call('EXISTS', key) == 0 then
  redis.call('HSET', key, 'session', ARGV[1], 'created_ns', ARGV[2], 'first', 0, 'next', 0)
  local gone = redis.call('GET', KEYS[2]) or redis.call('GET', KEYS[3])
  if gone then redis.call('HSET', key, 'gone_ns', gone) end
  if ARGV[1] ~= '' then
    redis.call('SADD', of_session, ARGV[4])
    redis.call('PEXPIRE', of_session, ARGV[3])
  end
end
redis.call('PEXPIRE', key, ARGV[3])
local found = redis.call('HMGET', key, 'session', 'created_ns', 'first', 'next')
return {found[1], found[2], found[4] - found[3]}
"""
_APPEND = """
local key, turn, most = KEYS[1], ARGV[1], tonumber(ARGV[3])
local ends = redis.call('HMGET', key, 'first', 'next', 'gone_ns', 'session')
if not ends[1] then return false end
local first, next = tonumber(ends[1]), tonumber(ends[2])
if ends[3] and tonumber(ARGV[5]) > 0 and tonumber(ARGV[5]) <= tonumber(ends[3]) then
  if first == next then
    redis.call('DEL', key)
    redis.call('SREM', KEYS[2] .. ends[4], ARGV[6])
  end
  return {next - first, 1, 0}
end
if redis.call('HEXISTS', key, 't:' .. turn) == 1 then
  redis.call('PEXPIRE', key, ARGV[4])
  return {next - first, 1, 0}
end
redis.call('HSET', key, 'r:' .. next, turn .. '\\0' .. ARGV[2], 't:' .. turn, next)
next = next + 1
local trimmed = 0
while next - first > most do
  local oldest = redis.call('HGET', key, 'r:' .. first)
  local cut = string.find(oldest, '\\0', 1, true)
  redis.call('HDEL', key, 'r:' .. first, 't:' .. string.sub(oldest, 1, cut - 1))
  first = first + 1
  trimmed = trimmed + 1
end
redis.call('HSET', key, 'first', first, 'next', next)
redis.call('PEXPIRE', key, ARGV[4])
if ends[4] ~= '' then redis.call('PEXPIRE', KEYS[2] .. ends[4], ARGV[4]) end
return {next - first, 0, trimmed}
"""
# KEYS[2]: what the name of a session's set begins with.
_DELETE = """
local session = redis.call('HGET', KEYS[1], 'session')
redis.call('SET', KEYS[3], ARGV[2], 'PX', ARGV[3])
if session and session ~= '' then redis.call('SREM', KEYS[2] .. session, ARGV[1]) end
return redis.call('DEL', KEYS[1])
"""
# ARGV: where to begin, how many, and what the beginning counts from: "first", the oldest round that
# is kept; "end", backwards from the newest; "number", the number of a round.
_READ = """
local key, count = KEYS[1], tonumber(ARGV[2])
local ends = redis.call('HMGET', key, 'first', 'next', 'session', 'created_ns')
if not ends[1] then return false end
local first, next = tonumber(ends[1]), tonumber(ends[2])
local from = tonumber(ARGV[1])
if ARGV[3] == 'first' then from = first + from end
if ARGV[3] == 'end' then from = next - from end
from = math.max(first, from)
local names = {}
for number = from, math.min(from + count, next) - 1 do
  names[#names + 1] = 'r:' .. number
end
local rounds = {}
if #names > 0 then rounds = redis.call('HMGET', key, unpack(names)) end
return {first, next, from, rounds, ends[3], ends[4], redis.call('PTTL', key)}
"""


@dataclass(frozen=True, slots=True)
class Opened:
    """A conversation as it is now; `created_ns` since the Unix epoch."""

    session: str
    created_ns: int
    rounds: int
    expires_in_s: float


@dataclass(frozen=True, slots=True)
class Appended:
    """`rounds` kept now; `duplicate` when this turn was there already."""

    rounds: int
    duplicate: bool


@dataclass(frozen=True, slots=True)
class Page:
    """Rounds of a conversation. `first`: the number of the first one here; `end`: the number that
    the conversation's next round will have."""

    opened: Opened
    first: int
    end: int
    rounds: list[bytes]


class RedisStore:
    """Reads and writes conversations. Rounds are opaque bytes here.

    Every method raises UnavailableError while Redis is away, refuses to write or takes longer than
    the configured timeout, and ResourceExhaustedError while it is out of memory. Connections are
    made when needed and again after every failure, so nothing has to be restarted.
    """

    def __init__(self, config: DialogueConfig) -> None:
        self._timeout_s = config.redis_timeout_s
        self._ttl_s = config.ttl_s
        self._max_rounds = config.max_rounds
        try:
            pool: Any = BlockingConnectionPool.from_url(
                config.redis_url,
                **_password(config),
                max_connections=config.redis_connections,
                timeout=config.redis_timeout_s,
                socket_timeout=config.redis_timeout_s,
                socket_connect_timeout=config.redis_timeout_s,
                # One more try, at once: a pooled connection breaks when Redis restarts. All
                # scripts are idempotent. A timeout is not tried again: the caller waits.
                retry=Retry(NoBackoff(), 1, (redis_errors.ConnectionError,)),
            )
        except (ValueError, TypeError) as error:  # never repeat the URL: it may hold a password
            name = f"{config.prefix}REDIS_URL"
            raise ConfigError(f"{name} is not a Redis URL such as redis://host:6379/0") from error
        self._redis: Any = Redis.from_pool(pool)
        self._open_script = self._redis.register_script(_OPEN)
        self._append_script = self._redis.register_script(_APPEND)
        self._read_script = self._redis.register_script(_READ)
        self._delete_script = self._redis.register_script(_DELETE)

    async def open(self, conversation: str, session: str) -> Opened:
        """Create the conversation, or renew the time to live of the one that is there."""
        arguments = [session, time.time_ns(), self._ttl_s * 1000, conversation]
        keys = [_gone(conversation), _gone_session(session), OF_SESSION + session]
        found = await self._run("open", self._open_script, conversation, arguments, keys)
        return Opened(found[0].decode(), int(found[1]), int(found[2]), float(self._ttl_s))

    async def append(
        self, conversation: str, turn: str, content: bytes, asked_ns: int = 0
    ) -> Appended:
        """Add a round and renew the time to live. NotFoundError without such a conversation. A
        round asked before a conversation of this name was deleted counts as there already."""
        arguments = [turn, content, self._max_rounds, self._ttl_s * 1000, asked_ns, conversation]
        found = await self._run(
            "append", self._append_script, conversation, arguments, [OF_SESSION]
        )
        if found is None:
            raise _unknown(conversation)
        rounds, duplicate, trimmed = found
        ROUNDS_APPENDED.labels("duplicate" if duplicate else "stored").inc()
        ROUNDS_TRIMMED.inc(trimmed)
        return Appended(rounds, bool(duplicate))

    async def newest(self, conversation: str, count: int) -> list[bytes]:
        """The last `count` rounds, oldest first. NotFoundError without such a conversation."""
        return (await self._read(conversation, count, count, "end")).rounds

    async def page(self, conversation: str, offset: int, count: int) -> Page:
        """`count` rounds after the `offset` oldest. NotFoundError without such a conversation."""
        return await self._read(conversation, offset, count, "first")

    async def page_from(self, conversation: str, number: int, count: int) -> Page:
        """`count` rounds from the one with this number on, or from the oldest that is kept where
        that is later. NotFoundError without such a conversation."""
        return await self._read(conversation, number, count, "number")

    async def delete(self, conversation: str) -> bool:
        """Remove the conversation, and keep rounds away that are still on their way to it; whether
        there was one."""
        arguments = [conversation, time.time_ns(), GONE_S * 1000]
        keys = [OF_SESSION, _gone(conversation)]
        return bool(await self._run("delete", self._delete_script, conversation, arguments, keys))

    async def delete_of(self, session: str) -> int:
        """Remove every conversation that began on a session, and keep away what is still on its
        way to others; how many there were."""
        with _translated("delete"):
            async with asyncio.timeout(self._timeout_s):
                await self._redis.set(_gone_session(session), time.time_ns(), px=GONE_S * 1000)
                names = await self._redis.smembers(OF_SESSION + session)
        deleted = [await self.delete(name.decode()) for name in names]
        with _translated("delete"):
            async with asyncio.timeout(self._timeout_s):
                await self._redis.delete(OF_SESSION + session)
        return sum(deleted)

    async def ping(self) -> None:
        """Ask whether Redis is there and able to write."""
        with _translated("ping"):
            async with asyncio.timeout(self._timeout_s):
                await self._redis.ping()

    async def aclose(self) -> None:
        await self._redis.aclose()

    async def _read(self, conversation: str, start: int, count: int, since: str) -> Page:
        found = await self._run("read", self._read_script, conversation, [start, count, since])
        if found is None:
            raise _unknown(conversation)
        first, end, begin, contents, session, created_ns, left_ms = found
        opened = Opened(session.decode(), int(created_ns), end - first, left_ms / 1000)
        rounds = [content.partition(b"\0")[2] for content in contents if content is not None]
        return Page(opened, begin, end, rounds)

    async def _run(
        self,
        operation: str,
        script: Any,
        conversation: str,
        arguments: list[Any],
        keys: Sequence[str] = (),
    ) -> Any:
        with _translated(operation):
            async with asyncio.timeout(self._timeout_s):
                return await script(keys=[KEY + conversation, *keys], args=arguments)


def _gone(conversation: str) -> str:
    return f"{GONE}{hashlib.sha256(conversation.encode()).hexdigest()}"


def _gone_session(session: str) -> str:
    return f"{SESSION_GONE}{hashlib.sha256(session.encode()).hexdigest()}"


def _unknown(conversation: str) -> NotFoundError:
    return NotFoundError(f"no conversation {conversation!r}", reason=Reason.CONVERSATION_NOT_FOUND)


def _password(config: DialogueConfig) -> dict[str, str]:
    """The password of the file, where one is named; a password in the URL goes before it."""
    path = config.redis_password_file
    if path is None:
        return {}
    try:
        password = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        name = f"{config.prefix}REDIS_PASSWORD_FILE"
        raise ConfigError(f"{name}={str(path)!r} cannot be read") from error
    return {"password": password} if password else {}


# What Redis says when it will not do something: the code, the reason for metrics, our error.
_REFUSALS: dict[str, tuple[str, type[SightlineError], str]] = {
    "OOM": ("full", ResourceExhaustedError, "Redis is out of memory"),
    "MISCONF": ("disk", UnavailableError, "Redis cannot write to its disk"),
    "READONLY": ("readonly", UnavailableError, "Redis is a read-only replica"),
    "NOREPLICAS": ("readonly", UnavailableError, "Redis has too few replicas to write"),
    "MASTERDOWN": ("away", UnavailableError, "Redis has lost its primary"),
    "CLUSTERDOWN": ("away", UnavailableError, "the Redis cluster is down"),
    "LOADING": ("loading", UnavailableError, "Redis is still loading its data"),
    "BUSY": ("busy", UnavailableError, "Redis is busy with a script"),
}
_CODE = re.compile(r"\b(" + "|".join(_REFUSALS) + r")\b")
# redis-py cuts these codes off the message and gives a class instead. An error from within a
# script keeps its code, but somewhere in a message whose form depends on Redis's version.
_CLASSES: dict[type[Exception], str] = {
    redis_errors.OutOfMemoryError: "OOM",
    redis_errors.ReadOnlyError: "READONLY",
    redis_errors.BusyLoadingError: "LOADING",
    redis_errors.MasterDownError: "MASTERDOWN",
    redis_errors.ClusterDownError: "CLUSTERDOWN",
}


@contextlib.contextmanager
def _translated(operation: str) -> Iterator[None]:
    """Time an operation and turn what Redis and its client raise into our errors."""
    started = time.perf_counter()
    try:
        yield
    except (redis_errors.RedisError, OSError, TimeoutError) as error:
        reason, translated = translate(error)
        REDIS_ERRORS.labels(operation, reason).inc()
        raise translated from error
    finally:
        REDIS_SECONDS.labels(operation).observe(time.perf_counter() - started)


def translate(error: Exception) -> tuple[str, SightlineError]:
    """(reason for metrics, error for the caller) of what Redis or its client raised."""
    code = next((code for kind, code in _CLASSES.items() if isinstance(error, kind)), None)
    if code is None and isinstance(error, redis_errors.ResponseError):
        match = _CODE.search(str(error))
        code = match[1] if match else None
    if code is not None:
        reason, refusal, message = _REFUSALS[code]
        return reason, refusal(message)
    if isinstance(error, TimeoutError | redis_errors.TimeoutError):
        return "timeout", UnavailableError("Redis does not answer in time")
    if isinstance(error, redis_errors.AuthenticationError | redis_errors.NoPermissionError):
        return "denied", UnavailableError("Redis refuses our credentials")
    if isinstance(error, redis_errors.ConnectionError | OSError):
        return "away", UnavailableError("Redis is away")
    return "error", UnavailableError("Redis answers with an error")
