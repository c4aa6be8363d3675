-- Takes from all rates, or from none. ARGV: rates (packed). Says of each: allowed, remaining, reset_ns, retry_ns.
local function level(rate, units)
  local burst = rate[5] or rate[2]
  local left = rate[2] > 0 and math.max(0, math.floor(burst - units + 1e-9)) or 0
  return {1, text(left), text(math.ceil(units / flow(rate) * 1000)), '0'}
end

local before, after, said, all = {}, {}, {}, true
for i, rate in ipairs(rates) do
  local key, burst, cost = rate[1], rate[5] or rate[2], rate[4]
  if not before[key] then
    before[key] = outstanding(rate)
    after[key] = before[key]
  end
  local over = after[key] + cost - burst
  if over <= 1e-9 then
    after[key] = after[key] + cost
    said[i] = level(rate, after[key])
  else
    all = false
    said[i] = level(rate, after[key])
    said[i][1] = 0
    if cost <= burst then said[i][4] = text(math.ceil(over / flow(rate) * 1000)) end
  end
end
for i, rate in ipairs(rates) do
  if all then
    keep(rate, after[rate[1]])
  elseif said[i][1] == 1 then
    said[i] = level(rate, before[rate[1]])
  end
end
return said
