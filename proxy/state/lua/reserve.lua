-- All parts or none, in turn. ARGV: the Hold (packed), its `until`, the ticket of this call, the channel by which it is
-- woken, its age ('0': it hasn't waited yet), and how long its ticket lives unless it asks again (ms; '0': it won't wait).
-- Says {'granted', levels}, {'refused', part, why, retry_ns, levels}, or {'wait', age}.
local hold = cmsgpack.unpack(ARGV[1])
local ticket, channel, age, last = ARGV[3], ARGV[4], tonumber(ARGV[5]), ARGV[6] == '0'
local id, parts = hold[1], hold[4]
local scopes = scopes_of(parts)
local counters = read_all(scopes)
local waited = age > 0
if not waited then age = math.huge end

local function refused(part, why, retry_ns)
  if waited then leave(ticket, scopes) end
  return {'refused', part - 1, why, text(retry_ns), levels(counters)}
end

-- How long until an amount fits beside what is spent, if nothing more is.
local function fits_in_ns(counter, amount, limit)
  local scope = counter.scope
  if scope[4] == 0 then return amount <= limit and math.max(0, scope[3] - now * 1000) or 0 end
  local slices, excess, width = {}, counter.spent + amount - limit, width_of(scope)
  local fields = call('HGETALL', counter.key)
  for i = 1, #fields, 2 do
    local number = tonumber(string.match(fields[i], '^b(%d+)$'))
    if number then slices[#slices + 1] = {number, tonumber(fields[i + 1])} end
  end
  table.sort(slices, function(a, b) return a[1] < b[1] end)
  for _, slice in ipairs(slices) do
    excess = excess - slice[2]
    if excess <= 0 then return math.max(1, math.ceil(((slice[1] + 61) * width - now) * 1000)) end
  end
  return 0
end

local stands, closed = load(id)
if closed then return refused(1, 'held', 0) end
if stands then
  if waited then leave(ticket, scopes) end
  if stands.ticket ~= '' and stands.ticket ~= ticket then  -- two callers know of it: neither may take it back
    stands.ticket = ''
    save(id, stands)
  end
  return {'granted', levels(counters)}
end

-- What each hard counter must have room for; parts of the same counter together, by the lower limit.
local needs, of = {}, {}
for i, part in ipairs(parts) do
  local scope, counter = part[1], counters[i]
  if scope[5] then
    local need = of[counter]
    if need then
      need.ask, need.limit = need.ask + part[2], math.min(need.limit, scope[2])
    else
      need = {counter = counter, ask = part[2], limit = scope[2], part = i}
      of[counter], needs[#needs + 1] = need, need
    end
  end
end

local blocked = nil
for _, need in ipairs(needs) do
  local counter, scope = need.counter, need.counter.scope
  local limit = math.min(need.limit, EXACT)
  if waited and scope[3] > 0 and scope[3] <= now * 1000 then return refused(1, 'held', 1) end  -- ask anew: it is over
  if counter.spent + need.ask > limit then
    return refused(need.part, 'spent', fits_in_ns(counter, parts[need.part][2], need.limit))
  end
  local _, older = first(':w:', scope)
  local room = limit - counter.spent - counter.held - need.ask
  local _, passing, wants = first(':p:', scope)
  if passing and passing < age then room = room - (cmsgpack.unpack(wants).asks[scope[1]] or 0) end
  need.blocked = room < 0 or (older ~= nil and older < age)
  if need.blocked and not blocked then blocked = need.part end
end

if not blocked then
  local kept = {asked = ARGV[1], till = ARGV[2], ticket = ticket, held = {}, spent = {}}
  for i, part in ipairs(parts) do
    local before = counters[i].held
    kept.held[i], kept.spent[i] = part[2], 0
    change(counters[i], part[2], 0)
    if before == 0 then keep(counters[i]) end
  end
  save(id, kept)
  if waited then leave(ticket, scopes) end
  return {'granted', levels(counters)}
end
if last then return refused(blocked, 'held', 0) end

if not waited then age = call('INCR', base .. ':n') end
local asks = {}
for _, need in ipairs(needs) do asks[need.counter.scope[1]] = need.ask end
call('SET', base .. ':t:' .. ticket, cmsgpack.pack({channel = channel, asks = asks}), 'PX', ARGV[6])
for _, need in ipairs(needs) do
  local scope = need.counter.scope
  local mine, other = need.blocked and ':w:' or ':p:', need.blocked and ':p:' or ':w:'
  call('ZADD', base .. mine .. scope[1], age, ticket)
  call('PEXPIRE', base .. mine .. scope[1], QUEUE_MS)
  if waited and call('ZREM', base .. other .. scope[1], ticket) == 1 and not need.blocked then wake(scope) end
end
return {'wait', age}
