"""Moments of sessions in Redis: what is remembered of a video beyond its model's window.

Of each session two keys, changed only by atomic scripts:

    sightline:memory:<session>           a stream, one entry per moment: s, its start; m, the
                                         serialised `sightline.v1.Moment`; w, 1 where its pictures
                                         are kept. Its id begins with the millisecond in which the
                                         moment ended
    sightline:memory-pictures:<session>  a hash: of an entry's id the pictures and the embedding of
                                         its moment, which most readers leave out; and what the
                                         present hour of video has taken: hour, bytes

`sightline:memory-gone:<hash of its name>` says for an hour that a session was deleted, because
moments of it may still be on their way. Hours are those of the video, so that a file that is read
faster than life gets as much room as a camera.
"""

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from services.dialogue.config import DialogueConfig
from services.dialogue.metrics import MOMENT_BYTES, MOMENTS
from services.dialogue.store import GONE_S, RedisStore

KEY = "sightline:memory:"
PICTURES = "sightline:memory-pictures:"
GONE = "sightline:memory-gone:"
HOUR_MS = 3_600_000
MOST_EXPIRED = 256  # that one new moment takes away

# The first write is one that Redis refuses when it is out of memory. A quarter of an hour's bytes
# is for lines alone.
_KEEP = """
local stream, hash, gone = KEYS[1], KEYS[2], KEYS[3]
local ms, start, hour = tonumber(ARGV[1]), ARGV[2], ARGV[3]
local moment, pictures = ARGV[4], ARGV[5]
local most, retention = tonumber(ARGV[6]), tonumber(ARGV[7])
if redis.call('EXISTS', gone) == 1 then return {'gone', 0} end
local last, number = redis.call('XREVRANGE', stream, '+', '-', 'COUNT', 1)[1], 0
if last then
  if last[2][2] == start then return {'duplicate', 0} end
  local last_ms, last_number = string.match(last[1], '^(%d+)-(%d+)$')
  if ms <= tonumber(last_ms) then
    ms, number = tonumber(last_ms), tonumber(last_number) + 1
  end
end
local taken = redis.call('HMGET', hash, 'hour', 'bytes')
local used = taken[1] == hour and tonumber(taken[2]) or 0
local size = #moment
if used + size > most then return {'over', 0} end
local outcome = 'stored'
if used + size + #pictures > most * 3 / 4 then
  outcome, pictures = 'pictures_over', ''
end
local id = string.format('%.0f-%.0f', ms, number)
local whole = outcome == 'stored' and '1' or '0'
redis.call('XADD', stream, id, 's', start, 'm', moment, 'w', whole)
size = size + #pictures
redis.call('HSET', hash, 'hour', hour, 'bytes', used + size)
if pictures ~= '' then redis.call('HSET', hash, id, pictures) end
if ms > retention then
  local oldest = string.format('%.0f', ms - retention)
  local expired = redis.call('XRANGE', stream, '-', '(' .. oldest .. '-0', 'COUNT', ARGV[8])
  for _, entry in ipairs(expired) do
    redis.call('HDEL', hash, entry[1])
    redis.call('XDEL', stream, entry[1])
  end
end
redis.call('PEXPIRE', stream, retention)
redis.call('PEXPIRE', hash, retention)
return {outcome, size}
"""
_FORGET = """
local forgotten = redis.call('DEL', KEYS[1], KEYS[2]) -- first: then one that is full takes the rest
redis.call('SET', KEYS[3], ARGV[1], 'PX', ARGV[2])
return forgotten
"""


@dataclass(frozen=True, slots=True)
class Entry:
    """One moment as it is kept: its id, the serialised message, whether its pictures are kept, and
    these where they were asked for."""

    id: str
    moment: bytes
    whole: bool
    pictures: bytes = b""


class MomentStore:
    """Reads and writes the moments of sessions, which are opaque bytes here. Raises as
    `RedisStore`, whose Redis it is."""

    def __init__(self, config: DialogueConfig, store: RedisStore) -> None:
        self._store = store
        self._most_bytes = config.memory_bytes_per_hour
        self._retention_ms = config.memory_s * 1000
        self._keep_script = store.script(_KEEP)
        self._forget_script = store.script(_FORGET)

    async def keep(
        self, session: str, moment: bytes, pictures: bytes, *, start_ns: int, end_ns: int
    ) -> tuple[str, int]:
        """Keep a moment. What became of it (stored, pictures_over, over, duplicate, gone), and the
        bytes that it took."""
        end_ms = end_ns // 1_000_000
        arguments: Sequence[Any] = (
            *(end_ms, start_ns, end_ms // HOUR_MS, moment, pictures),
            *(self._most_bytes, self._retention_ms, MOST_EXPIRED),
        )
        outcome, size = await self._store.write(
            "keep", lambda client: self._keep_script(_keys(session), arguments, client=client)
        )
        MOMENTS.labels(outcome.decode()).inc()
        MOMENT_BYTES.inc(size)
        return outcome.decode(), int(size)

    async def between(
        self, session: str, oldest: str, newest: str, count: int, *, pictures: bool = False
    ) -> list[Entry]:
        """Moments between two ids of Redis' streams, the newest first."""

        async def read(client: Any) -> list[Entry]:
            found = await client.xrevrange(KEY + session, newest, oldest, count)
            ids = [name.decode() for name, _ in found]
            kept: list[bytes | None] = [None] * len(ids)
            if pictures and ids:
                kept = await client.hmget(PICTURES + session, ids)
            return [
                Entry(name, fields[b"m"], fields[b"w"] == b"1", seen or b"")
                for name, (_, fields), seen in zip(ids, found, kept, strict=True)
            ]

        return await self._store.read("list", read)

    async def forget(self, session: str) -> None:
        """Remove all moments of a session, and keep those away that are still on their way."""
        arguments = (time.time_ns(), GONE_S * 1000)
        await self._store.write(
            "forget", lambda client: self._forget_script(_keys(session), arguments, client=client)
        )


def _keys(session: str) -> list[str]:
    digest = hashlib.sha256(session.encode()).hexdigest()
    return [KEY + session, PICTURES + session, GONE + digest]
