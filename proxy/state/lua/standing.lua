-- Some of the holds that stand. ARGV: the beginning of their owners' names, how long they are over their time (µs, or ''),
-- and the cursor, '0' at first. Says the next cursor ('0': that was all), and of each: id, the Hold, until, held, spent.
-- On the way, those that hold nothing and were left behind an hour ago are closed.
local function left_behind(hold, till)
  if till + HOUR_MS * 1000 >= now then return false end
  for _, held in ipairs(hold.held) do
    if held > 0 then return false end
  end
  return true
end

local owner, overdue = ARGV[1], tonumber(ARGV[2])
local scanned = call('ZSCAN', base .. ':open', ARGV[3], 'COUNT', 256)
local found = {}
for i = 1, #scanned[2], 2 do
  local id, till = scanned[2][i], tonumber(scanned[2][i + 1])
  if not overdue or till + overdue < now then
    local hold = load(id)
    if hold and left_behind(hold, till) then
      settle(hold, scopes_of(cmsgpack.unpack(hold.asked)[4]), nil, {})
      forget(id)
    elseif hold and string.sub(cmsgpack.unpack(hold.asked)[2], 1, #owner) == owner then
      local held, spent = {}, {}
      for n = 1, #hold.held do held[n], spent[n] = text(hold.held[n]), text(hold.spent[n]) end
      found[#found + 1] = {id, hold.asked, hold.till, held, spent}
    end
  end
end
return {scanned[1], found}
