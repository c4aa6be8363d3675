-- Takes or renews a duty. ARGV: duty, owner, how long (ms). Says 1, or 0 while somebody else has it.
local key = KEYS[1] .. ':d:' .. ARGV[1]
local holder = redis.call('GET', key)
if holder and holder ~= ARGV[2] then return 0 end
if tonumber(ARGV[3]) > 0 then redis.call('SET', key, ARGV[2], 'PX', ARGV[3]) else redis.call('DEL', key) end
return 1
