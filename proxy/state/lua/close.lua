-- Ends a hold. ARGV: id, spent (packed), scopes (packed). Says 1, or 0 if it was closed before.
local id, spent, scopes = ARGV[1], cmsgpack.unpack(ARGV[2]), cmsgpack.unpack(ARGV[3])
local hold, closed = load(id)
if closed then return 0 end
if hold then
  scopes = scopes_of(cmsgpack.unpack(hold.asked)[4])
elseif #scopes == 0 then  -- nobody can say what it was; but it can't be made any more
  forget(id)
  return 0
else
  hold = made('', scopes)
end
if #spent ~= 0 and #spent ~= #scopes then return redis.error_reply('LENGTH ' .. #scopes .. ' parts') end
settle(hold, scopes, nil, spent)
forget(id)
return 1
