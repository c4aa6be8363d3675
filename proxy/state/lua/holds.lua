-- What the scripts of holds have in common; it is put before each of them.
--
-- Keys, all under KEYS[1], one hash tag, so that a hold over any scopes is one atomic step in a cluster too:
--   :s:SCOPE  hash: s spent, h held; rolling windows also o (the oldest sixtieth) and bN (spent in the Nth sixtieth)
--   :h:ID     a hold that stands (cmsgpack), or '' for an hour after it was closed
--   :open     sorted set: the ids of holds that stand, by `until`
--   :w:SCOPE  sorted set: tickets that this scope keeps waiting, by age
--   :p:SCOPE  sorted set: tickets that wait for another scope only, by age
--   :t:TICKET what a waiter wants (cmsgpack); it expires unless the waiter asks again, and its ticket counts no more
--   :n        the last age given
--
-- Numbers are doubles here: exact to 2^53, which is why times are µs and sums are sent on as the text that Redis has.
local call, base = redis.call, KEYS[1]
local time = call('TIME')
local now = time[1] * 1e6 + time[2]
local EXACT, HOUR_MS, QUEUE_MS = 9007199254740992, 3600000, 60000

local function text(number) return string.format('%.0f', number) end

-- The width of a sixtieth, in µs.
local function width_of(scope) return math.max(1, math.floor(scope[4] / 60)) / 1000 end

-- Takes what has left a rolling window out of it.
local function roll(counter, oldest)
  local gone, drop, next = 0, {}, nil
  local fields = call('HGETALL', counter.key)
  for i = 1, #fields, 2 do
    local number = tonumber(string.match(fields[i], '^b(%d+)$'))
    if number and number < oldest then
      gone = gone + fields[i + 1]
      drop[#drop + 1] = fields[i]
    elseif number and (not next or number < next) then
      next = number
    end
  end
  if #drop > 0 then call('HDEL', counter.key, unpack(drop)) end
  if next then call('HSET', counter.key, 'o', text(next)) else call('HDEL', counter.key, 'o') end
  call('HINCRBY', counter.key, 's', text(-gone))
  return call('HGET', counter.key, 's')
end

-- One scope as it is now. A scope is [key, limit, ends_ns, span_ns, hard].
local function read(scope)
  local counter = {key = base .. ':s:' .. scope[1], scope = scope}
  local rolling = scope[4] > 0
  local got = rolling and call('HMGET', counter.key, 's', 'h', 'o') or call('HMGET', counter.key, 's', 'h')
  counter.spent, counter.held = got[1] or '0', tonumber(got[2] or 0)
  if rolling and got[3] then
    local oldest = math.floor(now / width_of(scope)) - 60
    if tonumber(got[3]) < oldest then counter.spent = roll(counter, oldest) end
  end
  return counter
end

-- Those of several scopes; the same key is the same counter.
local function read_all(scopes)
  local counters, known = {}, {}
  for i, scope in ipairs(scopes) do
    local counter = known[scope[1]] or read(scope)
    known[scope[1]], counters[i] = counter, counter
  end
  return counters
end

-- Until when a counter is kept: while it holds anything; else while what was spent may matter.
local function keep(counter)
  local scope = counter.scope
  if counter.held > 0 then
    call('PERSIST', counter.key)
  elseif counter.spent == '0' then
    call('DEL', counter.key)
  elseif scope[4] > 0 then
    call('PEXPIRE', counter.key, text(math.ceil(scope[4] / 1e6 + width_of(scope) / 1e3) + 1000))
  elseif scope[3] > 0 then
    call('PEXPIREAT', counter.key, text(math.max(math.ceil(scope[3] / 1e6), math.floor(now / 1e3)) + HOUR_MS))
  else
    call('PERSIST', counter.key)
  end
end

-- Sets what one hold has of one counter.
local function change(counter, held, spent)
  if held ~= 0 then
    counter.held = call('HINCRBY', counter.key, 'h', text(held))
    if counter.held < 0 then  -- the counter was lost, the hold wasn't
      counter.held = 0
      call('HSET', counter.key, 'h', '0')
    end
  end
  if spent > 0 then
    call('HINCRBY', counter.key, 's', text(spent))
    counter.spent = call('HGET', counter.key, 's')
    if counter.scope[4] > 0 then
      local number = text(math.floor(now / width_of(counter.scope)))
      call('HINCRBY', counter.key, 'b' .. number, text(spent))
      call('HSETNX', counter.key, 'o', number)
    end
  end
end

-- The oldest ticket of a queue whose waiter is alive: ticket, age, what it wants.
local function first(queue, scope)
  local key = base .. queue .. scope[1]
  while true do
    local entry = call('ZRANGE', key, 0, 0, 'WITHSCORES')
    if not entry[1] then return nil end
    local wants = call('GET', base .. ':t:' .. entry[1])
    if wants then return entry[1], tonumber(entry[2]), wants end
    call('ZREM', key, entry[1])
  end
end

-- Tells the oldest whom a scope keeps waiting to look again.
local function wake(scope)
  local ticket, _, wants = first(':w:', scope)
  if ticket then call('PUBLISH', cmsgpack.unpack(wants).channel, ticket) end
end

-- Takes a ticket out of all queues, which may let others in.
local function leave(ticket, scopes)
  call('DEL', base .. ':t:' .. ticket)
  for _, scope in ipairs(scopes) do
    call('ZREM', base .. ':w:' .. scope[1], ticket)
    call('ZREM', base .. ':p:' .. scope[1], ticket)
    wake(scope)
  end
end

-- Spent, held, and whether somebody waits, of each.
local function levels(counters)
  local said = {}
  for _, counter in ipairs(counters) do
    said[#said + 1] = counter.spent
    said[#said + 1] = text(counter.held)
    said[#said + 1] = first(':w:', counter.scope) and 1 or 0
  end
  return said
end

local function scopes_of(parts)
  local scopes = {}
  for i, part in ipairs(parts) do scopes[i] = part[1] end
  return scopes
end

-- A hold that stands: `asked` is the Hold as its caller packed it; `till` its end as text, since it is exact.
local function load(id)
  local kept = call('GET', base .. ':h:' .. id)
  if not kept or kept == '' then return nil, kept == '' end
  return cmsgpack.unpack(kept), false
end

local function save(id, hold)
  call('SET', base .. ':h:' .. id, cmsgpack.pack(hold))
  call('ZADD', base .. ':open', text(math.floor(hold.till / 1000)), id)
end

local function forget(id)
  call('SET', base .. ':h:' .. id, '', 'PX', HOUR_MS)
  call('ZREM', base .. ':open', id)
end

-- Sets what a hold holds (at most what it held) and has spent (at least what it had); its counters.
local function settle(hold, scopes, held, spent)
  local counters = read_all(scopes)
  for i, counter in ipairs(counters) do
    local less = math.min(held and held[i] or 0, hold.held[i]) - hold.held[i]
    local more = math.max(0, (spent[i] or 0) - hold.spent[i])
    change(counter, less, more)
    hold.held[i], hold.spent[i] = hold.held[i] + less, hold.spent[i] + more
  end
  for _, counter in ipairs(counters) do
    keep(counter)
    wake(counter.scope)
  end
  return counters
end

-- A hold that isn't known, holding nothing.
local function made(asked, scopes)
  local hold = {asked = asked, till = '0', ticket = '', held = {}, spent = {}}
  for i = 1, #scopes do hold.held[i], hold.spent[i] = 0, 0 end
  return hold
end
