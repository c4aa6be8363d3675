-- Gives a duty up; somebody else's stays. ARGV: duty, owner.
local key = KEYS[1] .. ':d:' .. ARGV[1]
if redis.call('GET', key) == ARGV[2] then redis.call('DEL', key) end
return 1
