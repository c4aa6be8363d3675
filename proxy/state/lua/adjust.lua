-- What a hold holds, and has spent in all. ARGV: id, held, spent (packed), `until`, scopes (packed), and what to keep of a
-- hold that isn't known (a Hold, packed). Says the levels of its scopes.
local id, held, spent = ARGV[1], cmsgpack.unpack(ARGV[2]), cmsgpack.unpack(ARGV[3])
local scopes = cmsgpack.unpack(ARGV[5])
local hold, closed = load(id)
if hold then
  scopes = scopes_of(cmsgpack.unpack(hold.asked)[4])
elseif closed or #scopes == 0 then
  return levels(read_all(scopes))
else
  hold = made(ARGV[6], scopes)
end
if #held ~= #scopes or #spent ~= #scopes then return redis.error_reply('LENGTH ' .. #scopes .. ' parts') end
hold.till = ARGV[4]
hold.ticket = ''
local counters = settle(hold, scopes, held, spent)
save(id, hold)
return levels(counters)
