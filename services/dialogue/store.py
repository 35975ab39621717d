"""Conversations in Redis: one hash per conversation, changed only by atomic scripts.

Fields of the hash `sightline:dialogue:<conversation>`:

    session, created_ns   what `open` was told
    first, next           the kept rounds are numbered first … next-1, in the order of asking
    r:<number>            turn, a zero byte, the round as a serialised `sightline.v1.Round`
    t:<turn>              the number of that turn's round, which makes appending idempotent, and its
                          rank: a round takes the place of one of a lower rank
    v:<turn>              what somebody thinks of that turn's answer: fields of a serialised round,
                          which are merged into it where they follow it
    gone_ns               when a conversation of this name was deleted before; rounds that were
                          asked until then stay away

One key means that a conversation expires, is evicted and is deleted as a whole. Others hold no
word of it: the sorted set `sightline:conversations-rated` names those with ratings; the set
`sightline:conversations-of:<session>` names those that began on a session, and
`sightline:conversation-gone:<hash of its name>`, and `session-gone` for all of a session, say for
an hour when one was deleted, because rounds of it may still be on their way.
"""

import contextlib
import hashlib
import itertools
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import redis.exceptions as redis_errors

from services.common.redis_servers import RedisServers, translate
from services.dialogue.config import DialogueConfig
from services.dialogue.metrics import REDIS_ERRORS, REDIS_SECONDS, ROUNDS_APPENDED, ROUNDS_TRIMMED
from sightline.errors import NotFoundError
from sightline.reasons import Reason

T = TypeVar("T")

KEY = "sightline:dialogue:"
OF_SESSION = "sightline:conversations-of:"
RATED = "sightline:conversations-rated"
GONE = "sightline:conversation-gone:"
SESSION_GONE = "sightline:session-gone:"
GONE_S = 3600  # for how long rounds of a deleted conversation may be on their way

# KEYS: the conversation. In every script the first write is one that Redis refuses when it is out
# of memory: after a first write it lets the rest of a script pass, so a refusal changes nothing.
# Those that take something away begin with that, which a full one does, too.
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
local key, turn, most, rank = KEYS[1], ARGV[1], tonumber(ARGV[3]), ARGV[5]
local ends = redis.call('HMGET', key, 'first', 'next', 'gone_ns', 'session')
if not ends[1] then return false end
local first, next = tonumber(ends[1]), tonumber(ends[2])
if ends[3] and tonumber(ARGV[6]) > 0 and tonumber(ARGV[6]) <= tonumber(ends[3]) then
  if first == next then
    redis.call('DEL', key)
    redis.call('SREM', KEYS[2] .. ends[4], ARGV[7])
  end
  return {next - first, 1, 0}
end
local content = turn .. '\\0' .. ARGV[2]
local there = redis.call('HGET', key, 't:' .. turn)
if there then
  local number, before = string.match(there, '^(%d+) ?(%d*)$')
  local better = before < rank
  if better then
    redis.call('HSET', key, 'r:' .. number, content, 't:' .. turn, number .. ' ' .. rank)
  end
  redis.call('PEXPIRE', key, ARGV[4])
  return {next - first, better and 2 or 1, 0}
end
-- Before those that were asked later: what waited for Redis at two places comes in any order.
local asked, at, fields = string.sub(rank, 2), next, {}
while at > first do
  local later = redis.call('HGET', key, 'r:' .. at - 1)
  local whose = string.sub(later, 1, string.find(later, '\\0', 1, true) - 1)
  local its = string.match(redis.call('HGET', key, 't:' .. whose), '^%d+ ?(%d*)$')
  if string.sub(its, 2) <= asked then break end
  for _, field in ipairs({'r:' .. at, later, 't:' .. whose, at .. ' ' .. its}) do
    fields[#fields + 1] = field
  end
  at = at - 1
end
redis.call('HSET', key, 'r:' .. at, content, 't:' .. turn, at .. ' ' .. rank, unpack(fields))
next = next + 1
local trimmed = 0
while next - first > most do
  local oldest = redis.call('HGET', key, 'r:' .. first)
  local cut = string.find(oldest, '\\0', 1, true)
  redis.call('HDEL', key, 'r:' .. first, 't:' .. string.sub(oldest, 1, cut - 1),
    'v:' .. string.sub(oldest, 1, cut - 1))
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
local deleted = redis.call('DEL', KEYS[1]) -- first: then one that is full takes the rest
redis.call('SET', KEYS[3], ARGV[2], 'PX', ARGV[3])
if session and session ~= '' then redis.call('SREM', KEYS[2] .. session, ARGV[1]) end
redis.call('ZREM', KEYS[4], ARGV[1])
return deleted
"""
# KEYS: what says that a session is gone.
_SILENCE = """
redis.call('DEL', KEYS[1])
return redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
"""
# Names of conversations that have expired go a few at a time, so that they do not pile up.
_RATE = """
for _, name in ipairs(redis.call('ZRANDMEMBER', KEYS[2], 4)) do
  if redis.call('EXISTS', ARGV[5] .. name) == 0 then redis.call('ZREM', KEYS[2], name) end
end
if redis.call('HEXISTS', KEYS[1], 't:' .. ARGV[1]) == 0 then return false end
if ARGV[2] == '' then
  redis.call('HDEL', KEYS[1], 'v:' .. ARGV[1])
else
  redis.call('ZADD', KEYS[2], 0, ARGV[4])
  redis.call('PEXPIRE', KEYS[2], ARGV[3])
  redis.call('HSET', KEYS[1], 'v:' .. ARGV[1], ARGV[2])
end
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1
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
local ratings = {}
for place, content in ipairs(rounds) do
  local cut = content and string.find(content, '\\0', 1, true)
  ratings[place] = cut and redis.call('HGET', key, 'v:' .. string.sub(content, 1, cut - 1)) or false
end
return {first, next, from, rounds, ends[3], ends[4], redis.call('PTTL', key), ratings}
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
    the configured timeout, and ResourceExhaustedError while it is out of memory.
    """

    def __init__(self, config: DialogueConfig) -> None:
        self._servers = RedisServers(config)
        self._replicas = config.redis_replicas
        self._replicas_ms = int(1000 * config.redis_timeout_s / 2)
        self._ttl_s = config.ttl_s
        self._max_rounds = config.max_rounds
        self._open_script = self._servers.script(_OPEN)
        self._append_script = self._servers.script(_APPEND)
        self._read_script = self._servers.script(_READ)
        self._delete_script = self._servers.script(_DELETE)
        self._silence_script = self._servers.script(_SILENCE)
        self._rate_script = self._servers.script(_RATE)

    async def open(self, conversation: str, session: str) -> Opened:
        """Create the conversation, or renew the time to live of the one that is there."""
        arguments = [session, time.time_ns(), self._ttl_s * 1000, conversation]
        keys = [_gone(conversation), _gone_session(session), OF_SESSION + session]
        found = await self._run("open", self._open_script, conversation, arguments, keys)
        return Opened(found[0].decode(), int(found[1]), int(found[2]), float(self._ttl_s))

    async def append(
        self, conversation: str, turn: str, content: bytes, *, rank: str = "", asked_ns: int = 0
    ) -> Appended:
        """Add a round and renew the time to live. A round of the same turn is replaced where its
        rank is lower, by the order of strings. A round asked before a conversation of this name was
        deleted counts as there already. NotFoundError without such a conversation."""
        ttl_ms = self._ttl_s * 1000
        arguments = [turn, content, self._max_rounds, ttl_ms, rank, asked_ns, conversation]
        found = await self._run(
            "append", self._append_script, conversation, arguments, [OF_SESSION]
        )
        if found is None:
            raise _unknown(conversation)
        rounds, before, trimmed = found
        ROUNDS_APPENDED.labels(("stored", "duplicate", "replaced")[before]).inc()
        ROUNDS_TRIMMED.inc(trimmed)
        return Appended(rounds, bool(before))

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
        keys = [OF_SESSION, _gone(conversation), RATED]
        return bool(await self._run("delete", self._delete_script, conversation, arguments, keys))

    async def delete_of(self, session: str) -> int:
        """Remove every conversation that began on a session, and keep away what is still on its
        way to others; how many there were."""
        with _translated("delete"):
            silenced, until = [_gone_session(session)], [time.time_ns(), GONE_S * 1000]
            await self._write(lambda one: self._silence_script(silenced, until, client=one))
            names = await self._servers.run(lambda client: client.smembers(OF_SESSION + session))
        deleted = [await self.delete(name.decode()) for name in names]
        with _translated("delete"):
            await self._write(lambda one: one.delete(OF_SESSION + session))
        return sum(deleted)

    async def rate(self, conversation: str, turn: str, rating: bytes) -> bool:
        """Keep what somebody thinks of a turn, b"" to take it back; whether the turn is kept."""
        arguments = [turn, rating, self._ttl_s * 1000, conversation, KEY]
        return bool(await self._run("rate", self._rate_script, conversation, arguments, [RATED]))

    async def rated_from(self, conversation: str) -> list[str]:
        """The names of two conversations with ratings, from this one on in their order; one may
        have expired."""
        with _translated("rated"):
            names = await self._servers.run(
                lambda client: client.zrangebylex(RATED, f"[{conversation}", "+", 0, 2)
            )
        return [name.decode() for name in names]

    def script(self, text: str) -> Any:
        """A script that runs on any of the Redis servers."""
        return self._servers.script(text)

    async def read(self, operation: str, work: Callable[[Any], Awaitable[T]]) -> T:
        """Result of `work` with a client of Redis."""
        with _translated(operation):
            return await self._servers.run(work)

    async def write(self, operation: str, work: Callable[[Any], Awaitable[Any]]) -> Any:
        """As `read`, once as many replicas have it as are wanted."""
        with _translated(operation):
            return await self._write(work)

    async def ping(self) -> None:
        """Ask whether Redis is there and able to write."""
        with _translated("ping"):
            await self._servers.run(lambda client: client.ping())

    async def aclose(self) -> None:
        await self._servers.aclose()

    async def _read(self, conversation: str, start: int, count: int, since: str) -> Page:
        found = await self._run("read", self._read_script, conversation, [start, count, since])
        if found is None:
            raise _unknown(conversation)
        first, end, begin, contents, session, created_ns, left_ms, ratings = found
        opened = Opened(session.decode(), int(created_ns), end - first, left_ms / 1000)
        rounds = [
            content.partition(b"\0")[2] + (rating or b"")  # protobuf merges the two
            for content, rating in itertools.zip_longest(contents, ratings)
            if content is not None
        ]
        return Page(opened, begin, end, rounds)

    async def _run(
        self,
        operation: str,
        script: Any,
        conversation: str,
        arguments: list[Any],
        keys: Sequence[str] = (),
    ) -> Any:
        async def work(client: Any) -> Any:
            return await script(keys=[KEY + conversation, *keys], args=arguments, client=client)

        with _translated(operation):
            if operation == "read":
                return await self._servers.run(work)
            return await self._write(work)

    async def _write(self, work: Callable[[Any], Awaitable[Any]]) -> Any:
        return await self._servers.run(lambda client: self._durably(client, work))

    async def _durably(self, client: Any, work: Callable[[Any], Awaitable[Any]]) -> Any:
        """Result of a write, once as many replicas have it as are wanted: a failover to one of
        them loses nothing then. Raises ResponseError where they have not, for another try."""
        if not self._replicas:
            return await work(client)
        async with client.client() as one:  # WAIT speaks of the writes of its own connection
            result = await work(one)
            if await one.wait(self._replicas, self._replicas_ms) < self._replicas:
                raise redis_errors.ResponseError("NOREPLICAS that follow")
        return result


def _gone(conversation: str) -> str:
    return f"{GONE}{hashlib.sha256(conversation.encode()).hexdigest()}"


def _gone_session(session: str) -> str:
    return f"{SESSION_GONE}{hashlib.sha256(session.encode()).hexdigest()}"


def _unknown(conversation: str) -> NotFoundError:
    return NotFoundError(f"no conversation {conversation!r}", reason=Reason.CONVERSATION_NOT_FOUND)


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
