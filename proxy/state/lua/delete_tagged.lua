-- Forgets all values with a tag. ARGV: the tag. Says how many there were.
local count = 0
local tagged, now = base .. ':t:' .. ARGV[1], string.format('(%.0f', now_ms)
for _, key in ipairs(call('ZRANGEBYSCORE', tagged, now, '+inf')) do count = count + drop(key) end
call('DEL', tagged)
return count
