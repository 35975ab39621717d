"""Rules and their events in Redis, changed only by atomic scripts.

sightline:rules:of:<session>       rules of a session: id to record
sightline:rules:told:<session>     what each has told: "<fence> <number> <event> " and its state
sightline:rules:wrong:<session>    why a rule is not checked, by its id
sightline:rules:checks:<session>   the last check of each, noted every few seconds
sightline:rules:gone:<session>     that it was deleted, while what is on its way may still come
sightline:rules:names:<tenant>     "<session> <id>" of a tenant's rules by their names
sightline:rules:tenants            tenants that have rules or webhooks
sightline:rules:version            grows with every rule that comes, changes or goes
sightline:rules:last               id of the newest event of all tenants
sightline:rules:events:<tenant>    stream of the events
sightline:rules:lost:<tenant>      likewise of those that made room before all took them
sightline:rules:acks:<tenant>      who acknowledged an event, by its id
sightline:rules:pictures:<tenant>  stream of their pictures, under the ids of the events
sightline:rules:clips:<tenant>     likewise of seconds before and after
sightline:rules:hooks              webhooks: id to record
sightline:rules:hook:<id>          how far one has come: after, delivered, dead, failures, error,
                                   who delivers now: owner, until, and of each tenant the last
                                   event that is lost and was looked at: gone:<tenant>
sightline:rules:entities           rules that the MQTT broker was told of: id to kind of entity
sightline:rules:dead:<id>          stream of the events that one was not brought
"""

PREFIX = "sightline:rules:"
KEPT_MS = 24 * 3600 * 1000  # rules that no gateway looks after any more
GONE_MS = 600 * 1000  # that nothing new is kept of a session that was deleted
MOST_LOST = 10_000  # events of a tenant, until receivers have noted that they were not brought them

# KEYS: names of the tenant, rules of the session, tenants, version, gone. ARGV: name, session, id,
# record, most of the session, most of the tenant, tenant. Gives 0, or 1: the name is taken, 2: the
# session has as many as it may, 3: the tenant has, 4: the session is gone. Names of rules that ran
# out with their session go first.
CREATE = """
if redis.call('EXISTS', KEYS[5]) == 1 then return 4 end
local all, count = redis.call('HGETALL', KEYS[1]), 0
for at = 1, #all, 2 do
  local session, id = string.match(all[at + 1], '^(%S+) (%S+)$')
  if redis.call('HEXISTS', '@PREFIXof:' .. session, id) == 1 then count = count + 1
  else redis.call('HDEL', KEYS[1], all[at]) end
end
local mine = ARGV[2] .. ' ' .. ARGV[3]
local other = redis.call('HGET', KEYS[1], ARGV[1])
if other == mine then return 0 end
if other then return 1 end
if redis.call('HLEN', KEYS[2]) >= tonumber(ARGV[5]) then return 2 end
if count >= tonumber(ARGV[6]) then return 3 end
redis.call('HSET', KEYS[1], ARGV[1], mine)
redis.call('HSET', KEYS[2], ARGV[3], ARGV[4])
redis.call('PEXPIRE', KEYS[2], @KEPT)
redis.call('SADD', KEYS[3], ARGV[7])
redis.call('INCR', KEYS[4])
return 0
"""
# KEYS: rules, version. ARGV: id, the record as it was, the record. Whether it was still as it was.
CHANGE = """
if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
redis.call('INCR', KEYS[2])
return 1
"""
# KEYS: names, rules, told, wrong, version. ARGV: name, id. Whether there was one.
DELETE = """
local there = redis.call('HDEL', KEYS[2], ARGV[2])
redis.call('HDEL', KEYS[3], ARGV[2])
redis.call('HDEL', KEYS[4], ARGV[2])
if string.find(redis.call('HGET', KEYS[1], ARGV[1]) or '', ARGV[2], 1, true) then
  redis.call('HDEL', KEYS[1], ARGV[1])
end
if there == 1 then redis.call('INCR', KEYS[5]) end
return there
"""
# KEYS: gone. Keeps away what is still on its way of a session that is about to be deleted.
SILENCE = """
redis.call('DEL', KEYS[1]) -- first: a Redis that is full takes a script that begins so
redis.call('SET', KEYS[1], '1', 'PX', @GONE)
return 1
"""
# KEYS: gone, names, version, and all that is kept of a session's rules. ARGV: session.
ERASE = """
for at = 4, #KEYS do redis.call('DEL', KEYS[at]) end
redis.call('SET', KEYS[1], '1', 'PX', @GONE)
local all = redis.call('HGETALL', KEYS[2])
for at = 1, #all, 2 do
  if string.match(all[at + 1], '^(%S+) ') == ARGV[1] then redis.call('HDEL', KEYS[2], all[at]) end
end
redis.call('INCR', KEYS[3])
return 1
"""
# KEYS: rules, wrong. ARGV: id, why it is not checked; "": it is.
WRONG = """
if ARGV[2] == '' or redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 then
  return redis.call('HDEL', KEYS[2], ARGV[1])
end
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
return redis.call('PEXPIRE', KEYS[2], @KEPT)
"""
# KEYS: rules, checks. ARGV: the last checks. Of a session without rules there are none.
CHECKS = """
if redis.call('EXISTS', KEYS[1]) == 0 then return redis.call('DEL', KEYS[2]) end
redis.call('SET', KEYS[2], ARGV[1], 'PX', @KEPT)
return 1
"""
# Removes the oldest events: those that are too many, or older than `oldest`. Of what a receiver is
# behind a copy stays, by which it is counted as lost to it. What is beside an event goes with it.
_FORGET = """
local function before(one, other)
  local a, b = string.match(one, '^(%d+)-(%d+)$')
  local c, d = string.match(other, '^(%d+)-(%d+)$')
  a, b, c, d = tonumber(a), tonumber(b), tonumber(c), tonumber(d)
  return a < c or (a == c and b < d)
end
local function last_of_all(hooks)
  local ids, last = redis.call('HKEYS', hooks), nil
  ids[#ids + 1] = 'mqtt'
  for _, id in ipairs(ids) do
    local after = redis.call('HGET', '@PREFIXhook:' .. id, 'after')
    if after and (not last or before(after, last)) then last = after end
  end
  return last
end
local function forget(events, lost, hooks, pictures, clips, acks, most, oldest)
  oldest = string.format('(%.0f-0', math.max(1, oldest))
  local after, looked = nil, false
  while true do
    local many = redis.call('XLEN', events) - most
    local newest = oldest
    if many > 0 then newest = '+' else many = 1000 end
    local rows = redis.call('XRANGE', events, '-', newest, 'COUNT', math.min(many, 1000))
    if #rows == 0 then break end
    if not looked then after, looked = last_of_all(hooks), true end
    for _, row in ipairs(rows) do
      redis.call('XDEL', events, row[1]) -- first: that makes room in a Redis that is full
      redis.call('XDEL', pictures, row[1])
      redis.call('XDEL', clips, row[1])
      redis.call('HDEL', acks, row[1])
      if after and before(after, row[1]) then
        redis.call('XADD', lost, 'MAXLEN', @MOST_LOST, row[1], unpack(row[2]))
      end
    end
  end
  if looked then
    if after then redis.call('XTRIM', lost, 'MINID', after) else redis.call('DEL', lost) end
    redis.call('PEXPIRE', lost, @KEPT)
  end
end
"""
# KEYS: events, lost, webhooks, pictures, clips, acks. ARGV: most events, milliseconds that they are
# kept. Removes what is too old also where nothing new comes.
FORGET = """
@FORGET
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local oldest = now - tonumber(ARGV[2])
forget(KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6], tonumber(ARGV[1]), oldest)
return 1
"""
# KEYS: rules, told, events, pictures, last, lost, webhooks, clips, acks, gone. ARGV: id, fence,
# number of the event, its state, the event, picture, most events, milliseconds that they are kept,
# most pictures, milliseconds that they are kept. Gives 0: the rule or its session is gone; 1 and
# what was told: another gateway did, or this one, whose reply was lost; 2 and the id. Ids of all
# tenants grow together, also where the clock is set back.
TELL = """
@FORGET
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 or redis.call('EXISTS', KEYS[10]) == 1 then
  return {0}
end
local told = redis.call('HGET', KEYS[2], ARGV[1])
if told then
  local fence, number = string.match(told, '^(%d+) (%d+) ')
  if tonumber(fence) > tonumber(ARGV[2]) or tonumber(number) ~= tonumber(ARGV[3]) - 1 then
    return {1, told}
  end
end
local time = redis.call('TIME')
local now, number = time[1] * 1000 + math.floor(time[2] / 1000), 0
local ms, before = string.match(redis.call('GET', KEYS[5]) or '0-0', '^(%d+)-(%d+)$')
if tonumber(ms) >= now then now, number = tonumber(ms), tonumber(before) + 1 end
local event = string.format('%.0f-%d', now, number)
redis.call('SET', KEYS[5], event)
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2] .. ' ' .. ARGV[3] .. ' ' .. event .. ' ' .. ARGV[4])
redis.call('PEXPIRE', KEYS[2], @KEPT)
local function add(key, what, most, kept)
  redis.call('XADD', key, event, 'e', what)
  redis.call('XTRIM', key, 'MAXLEN', most)
  redis.call('XTRIM', key, 'MINID', string.format('%.0f', math.max(0, now - tonumber(kept))))
  redis.call('PEXPIRE', key, kept)
end
redis.call('XADD', KEYS[3], event, 'e', ARGV[5])
local oldest = now - tonumber(ARGV[8])
forget(KEYS[3], KEYS[6], KEYS[7], KEYS[4], KEYS[8], KEYS[9], tonumber(ARGV[7]), oldest)
redis.call('PEXPIRE', KEYS[3], ARGV[8] + @HOUR) -- beyond what is looked for: none goes unseen
if ARGV[6] ~= '' then add(KEYS[4], ARGV[6], ARGV[9], ARGV[10]) end
return {2, event}
"""
# KEYS: clips, events. ARGV: event, clip, most, milliseconds that they are kept. One of an event
# that was erased, or is older than another's that came first, is not kept.
CLIP = """
if #redis.call('XRANGE', KEYS[2], ARGV[1], ARGV[1]) == 0 then return 0 end
local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)
if last[1] then
  local a, b = string.match(last[1][1], '^(%d+)-(%d+)$')
  local c, d = string.match(ARGV[1], '^(%d+)-(%d+)$')
  a, b, c, d = tonumber(a), tonumber(b), tonumber(c), tonumber(d)
  if c < a or (c == a and d <= b) then return 0 end
end
redis.call('XADD', KEYS[1], ARGV[1], 'e', ARGV[2])
redis.call('XTRIM', KEYS[1], 'MAXLEN', ARGV[3])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return 1
"""
# KEYS: events, acks. ARGV: event, acknowledgement, most events, milliseconds that they are kept.
# The first acknowledgement holds. Gives it, or false where there is no such event.
ACKNOWLEDGE = """
if #redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1]) == 0 then return false end
if redis.call('HSETNX', KEYS[2], ARGV[1], ARGV[2]) == 1 and
   redis.call('HLEN', KEYS[2]) > tonumber(ARGV[3]) then
  for _, id in ipairs(redis.call('HKEYS', KEYS[2])) do
    if #redis.call('XRANGE', KEYS[1], id, id) == 0 then redis.call('HDEL', KEYS[2], id) end
  end
end
redis.call('PEXPIRE', KEYS[2], ARGV[4])
return redis.call('HGET', KEYS[2], ARGV[1])
"""
# KEYS: webhooks, tenants, last. ARGV: id, record, tenant, most of all, key of how far it has come.
# Gives whether there was room. A new one is sent what comes from now on.
HOOK = """
if redis.call('HLEN', KEYS[1]) >= tonumber(ARGV[4]) then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('SADD', KEYS[2], ARGV[3])
redis.call('HSET', ARGV[5], 'after', redis.call('GET', KEYS[3]) or '0-0')
return 1
"""
# KEYS: how far a receiver has come, webhooks, last. ARGV: id, owner, milliseconds. Whether this
# owner delivers for so long from now. What is no webhook is there for good, and brought what comes
# from its first claim on.
CLAIM = """
@ALSO_WHEN_FULL
if string.sub(ARGV[1], 1, 2) ~= 'w_' then
  redis.call('HSETNX', KEYS[1], 'after', redis.call('GET', KEYS[3]) or '0-0')
elseif redis.call('HEXISTS', KEYS[2], ARGV[1]) == 0 then
  redis.call('DEL', KEYS[1])
  return 0
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local f = redis.call('HMGET', KEYS[1], 'owner', 'until')
if f[1] and f[1] ~= ARGV[2] and tonumber(f[2] or 0) > now then return 0 end
local over = string.format('%.0f', now + tonumber(ARGV[3]))
redis.call('HSET', KEYS[1], 'owner', ARGV[2], 'until', over)
return 1
"""
# KEYS: how far a receiver has come. ARGV: owner, tries in a row that failed, the last one's error.
# Only by whoever delivers: of a webhook that was deleted nothing is noted.
NOTE = """
if redis.call('HGET', KEYS[1], 'owner') ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'failures', ARGV[2], 'error', ARGV[3])
return 1
"""
# KEYS: how far a webhook has come, its dead letters. ARGV: owner, the event that is over; 1 where
# it was delivered, "" where it is not for this one, else why it was given up; the letter, most
# letters. Only by whoever delivers.
PASS = """
@ALSO_WHEN_FULL
if redis.call('HGET', KEYS[1], 'owner') ~= ARGV[1] then return 0 end
if redis.call('HGET', KEYS[1], 'after') == ARGV[2] then return 1 end
redis.call('HSET', KEYS[1], 'after', ARGV[2])
if ARGV[3] == '' then return 1 end
redis.call('HSET', KEYS[1], 'failures', 0)
if ARGV[3] == '1' then
  redis.call('HINCRBY', KEYS[1], 'delivered', 1)
  redis.call('HDEL', KEYS[1], 'error')
else
  redis.call('HINCRBY', KEYS[1], 'dead', 1)
  redis.call('HSET', KEYS[1], 'error', ARGV[3])
  redis.call('XADD', KEYS[2], 'MAXLEN', ARGV[5], '*', 'e', ARGV[4])
end
return 1
"""
# KEYS: how far a webhook has come, its dead letters. ARGV: owner, tenant, the event that was looked
# at among those that are lost; why it was given up, "" where it is not for this one; the letter,
# most letters. Only by whoever delivers.
LOSE = """
@ALSO_WHEN_FULL
if redis.call('HGET', KEYS[1], 'owner') ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'gone:' .. ARGV[2], ARGV[3])
if ARGV[4] == '' then return 1 end
redis.call('HINCRBY', KEYS[1], 'dead', 1)
redis.call('HSET', KEYS[1], 'error', ARGV[4])
redis.call('XADD', KEYS[2], 'MAXLEN', ARGV[6], '*', 'e', ARGV[5])
return 1
"""
# KEYS: how far a webhook has come. ARGV: owner, who delivers no more.
FREE = """
if redis.call('HGET', KEYS[1], 'owner') == ARGV[1] then
  redis.call('HDEL', KEYS[1], 'owner', 'until')
end
return 1
"""
_BODIES = {
    "create": CREATE,
    "change": CHANGE,
    "delete": DELETE,
    "silence": SILENCE,
    "erase": ERASE,
    "wrong": WRONG,
    "checks": CHECKS,
    "tell": TELL,
    "forget": FORGET,
    "clip": CLIP,
    "acknowledge": ACKNOWLEDGE,
    "hook": HOOK,
    "claim": CLAIM,
    "note": NOTE,
    "pass": PASS,
    "lose": LOSE,
    "free": FREE,
}
# A full Redis refuses a script whose first write may take room. Those of deliveries take none to
# speak of, and begin with one that never does: receivers hear also then.
_ALSO_WHEN_FULL = "redis.call('HDEL', KEYS[1], '')"
_WORDS = {
    "@ALSO_WHEN_FULL": _ALSO_WHEN_FULL,
    "@FORGET": _FORGET,  # which holds others
    "@KEPT": str(KEPT_MS),
    "@GONE": str(GONE_MS),
    "@HOUR": str(3600 * 1000),
    "@MOST_LOST": str(MOST_LOST),
    "@PREFIX": PREFIX,
}


def _whole(body: str) -> str:
    for word, meant in _WORDS.items():
        body = body.replace(word, meant)
    return body


SCRIPTS = {name: _whole(body) for name, body in _BODIES.items()}
