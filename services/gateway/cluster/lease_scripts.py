"""Leases in Redis: one hash for each session, changed only by atomic scripts.

sightline:gateway:session:<id>   owner, address, fence, until (ms, by Redis' clock), record;
                                 `gone` once it was deleted, for as long as its owners may return
sightline:gateway:leases         ids by when their leases run out
sightline:gateway:key:<digest>   the id of the session that a publishing key belongs to
sightline:gateway:name:<…>       the id of the session of a tenant that has a name
sightline:gateway:request:<…>    "<id> <what was asked>" of a request that may be repeated
sightline:gateway:used:<id>      there while viewers at other gateways use the session
sightline:gateway:gateways       "<owner> <address>" by when a gateway counts as dead
"""

PREFIX = "sightline:gateway:"
KEPT_MS = 24 * 3600 * 1000  # what nobody renews any more

# What every script begins with. `row` is how it tells of a lease.
_HEAD = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function row(key, id)
  local f = redis.call('HMGET', key, 'owner', 'address', 'fence', 'until', 'record', 'gone')
  if f[6] or not f[1] then return false end
  return {id, f[1], f[2], f[3], tonumber(f[4]) - now, f[5]}
end
local function grant(key, id, owner, address, fence, ttl, record)
  redis.call('HSET', key, 'owner', owner, 'address', address, 'fence', fence, 'until', now + ttl)
  if record then redis.call('HSET', key, 'record', record) end
  redis.call('PEXPIRE', key, @KEPT)
  redis.call('ZADD', KEYS[2], now + ttl, id)
end
local function claim(index, id)
  local other = redis.call('GET', index)
  if other and other ~= id and row('@PREFIXsession:' .. other, other) then return false end
  redis.call('SET', index, id, 'PX', @KEPT)
  return true
end
"""

# KEYS: session, leases, then whatever index it is to be found by. ARGV: id, owner, address, fence,
# ttl, record, and of a request that may be repeated its name, what it is to hold and for how long;
# "": it is none. Gives the number of the index that is another session's; 0: registered, -1: the
# request has made another session.
_REGISTER = """
if ARGV[7] ~= '' then
  local made = redis.call('GET', ARGV[7])
  local other = made and string.match(made, '^%x+')
  if other and other ~= ARGV[1] and row('@PREFIXsession:' .. other, other) then return -1 end
end
for number = 3, #KEYS do
  if not claim(KEYS[number], ARGV[1]) then
    for mine = 3, number - 1 do redis.call('DEL', KEYS[mine]) end
    return number
  end
end
grant(KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5]), ARGV[6])
if ARGV[7] ~= '' then redis.call('SET', ARGV[7], ARGV[8], 'PX', ARGV[9]) end
return 0
"""
# KEYS: session, leases, used, then indexes. ARGV as before. What Redis has lost is written anew. A
# lease that another has, or of a session that was deleted, is not: gives false then, else whether
# the session is used elsewhere.
_RENEW = """
local f = redis.call('HMGET', KEYS[1], 'owner', 'fence', 'gone')
if f[3] then return false end
if f[1] and (tonumber(f[2]) > tonumber(ARGV[4]) or
             (tonumber(f[2]) == tonumber(ARGV[4]) and f[1] ~= ARGV[2])) then return false end
grant(KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5]), ARGV[6])
for number = 4, #KEYS do claim(KEYS[number], ARGV[1]) end
return redis.call('EXISTS', KEYS[3])
"""
# KEYS: session, leases. ARGV: id, owner, address, ttl, and the fence of a lease that may be taken
# though it has not run out ("": none). One of an earlier process at our own address may be, too.
# Gives the lease as it is then.
_TAKE = """
local r = row(KEYS[1], ARGV[1])
if not r then redis.call('ZREM', KEYS[2], ARGV[1]) return false end
if r[2] == ARGV[2] then return r end
if r[5] > 0 and r[4] ~= ARGV[5] and r[3] ~= ARGV[3] then return r end
grant(KEYS[1], ARGV[1], ARGV[2], ARGV[3], r[4] + 1, tonumber(ARGV[4]))
return row(KEYS[1], ARGV[1])
"""
# KEYS: session, leases. ARGV: id, owner, fence. Lets others take the lease at once.
_FREE = """
local f = redis.call('HMGET', KEYS[1], 'owner', 'fence')
if f[1] ~= ARGV[2] or f[2] ~= ARGV[3] then return 0 end
redis.call('HSET', KEYS[1], 'until', now)
redis.call('ZADD', KEYS[2], now, ARGV[1])
return 1
"""
# KEYS: session, leases, then indexes. ARGV: id, owner, fence.
_DROP = """
local f = redis.call('HMGET', KEYS[1], 'owner', 'fence')
if f[1] and (f[1] ~= ARGV[2] or f[2] ~= ARGV[3]) then return 0 end
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'gone', 1)
redis.call('PEXPIRE', KEYS[1], @KEPT)
redis.call('ZREM', KEYS[2], ARGV[1])
for number = 3, #KEYS do
  if redis.call('GET', KEYS[number]) == ARGV[1] then redis.call('DEL', KEYS[number]) end
end
return 1
"""
# KEYS: a request. Gives what it holds, and whether that session is there, or was deleted.
_MADE = """
local made = redis.call('GET', KEYS[1])
if not made then return false end
local id = string.match(made, '^%x+')
local key = '@PREFIXsession:' .. id
return {made, row(key, id) and 1 or 0, redis.call('HEXISTS', key, 'gone')}
"""
_GET = "return row(KEYS[1], ARGV[1])"
_LIST = """
local rows = {}
for _, id in ipairs(redis.call('ZRANGE', KEYS[1], 0, tonumber(ARGV[1]) - 1)) do
  local r = row('@PREFIXsession:' .. id, id)
  if r then rows[#rows + 1] = r end
end
return rows
"""
# ARGV: milliseconds, owner, most. Leases of others that run out within so long.
_LATE = """
local rows = {}
local found = redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. now, now + tonumber(ARGV[1]))
for _, id in ipairs(found) do
  local r = row('@PREFIXsession:' .. id, id)
  if r and r[2] ~= ARGV[2] then rows[#rows + 1] = r end
  if #rows >= tonumber(ARGV[3]) then break end
end
return rows
"""
_EXPIRED = "return redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, ARGV[1])"
_BEAT = """
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
redis.call('ZADD', KEYS[1], now + tonumber(ARGV[2]), ARGV[1])
return 1
"""
_CLAIM = """
if not claim(KEYS[2], ARGV[1]) then return 0 end
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
return 1
"""
_BODIES = {
    "register": _REGISTER,
    "renew": _RENEW,
    "take": _TAKE,
    "free": _FREE,
    "drop": _DROP,
    "made": _MADE,
    "get": _GET,
    "list": _LIST,
    "late": _LATE,
    "expired": _EXPIRED,
    "beat": _BEAT,
    "claim": _CLAIM,
}
SCRIPTS = {
    name: (_HEAD + body).replace("@KEPT", str(KEPT_MS)).replace("@PREFIX", PREFIX)
    for name, body in _BODIES.items()
}
