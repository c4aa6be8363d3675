-- Keeps a value. ARGV: key, value, how long (ms), tags (packed). Some that are over lose their names on the way.
local key, ttl_ms, tags = ARGV[1], tonumber(ARGV[3]), cmsgpack.unpack(ARGV[4])
for _, over in ipairs(call('ZRANGEBYSCORE', base .. ':x', '-inf', string.format('%.0f', now_ms), 'LIMIT', 0, 16)) do
  drop(over)
end
drop_tags(key)
if ttl_ms <= 0 then
  drop(key)
  return 0
end
local over_ms = string.format('%.0f', now_ms + ttl_ms)
call('HSET', base .. ':b:' .. key, 'v', ARGV[2], 't', ARGV[4])
call('PEXPIREAT', base .. ':b:' .. key, over_ms)
call('ZADD', base .. ':k', 0, key)
call('ZADD', base .. ':x', over_ms, key)
for _, tag in ipairs(tags) do
  local tagged = base .. ':t:' .. tag
  call('ZREMRANGEBYSCORE', tagged, '-inf', string.format('%.0f', now_ms))
  call('ZADD', tagged, over_ms, key)
  if call('PTTL', tagged) < ttl_ms then call('PEXPIREAT', tagged, over_ms) end
end
return 1
