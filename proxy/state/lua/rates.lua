-- What the scripts of rates have in common; it is put before each of them.
--
-- GCRA, kept as what is outstanding: KEYS[1]:r:KEY is 'UNITS at TIME' (µs), and drains by limit / period. That is the
-- theoretical arrival time of ITU-T I.371 divided by the emission interval, and whole units stay whole in a double.
-- A rate is [key, limit, period_ns, cost, burst or nothing].
local call, base = redis.call, KEYS[1]
local time = call('TIME')
local now = time[1] * 1e6 + time[2]
local rates = cmsgpack.unpack(ARGV[1])

local function text(number) return string.format('%.0f', number) end

-- Units a µs; a limit of 0 allows nothing but what its burst says.
local function flow(rate) return math.max(rate[2], 1) * 1000 / rate[3] end

local function key_of(rate) return base .. ':r:' .. rate[1] end

local function outstanding(rate)
  local kept = call('GET', key_of(rate))
  if not kept then return 0 end
  local units, at = string.match(kept, '^(%S+) (%S+)$')
  return math.max(0, units - math.max(0, now - at) * flow(rate))
end

local function keep(rate, units)
  if units <= 0 then return call('DEL', key_of(rate)) end
  local kept = string.format('%.17g ', units) .. text(now)
  return call('SET', key_of(rate), kept, 'PX', text(math.ceil(units / flow(rate) / 1000) + 1))
end
