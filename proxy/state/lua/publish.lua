-- Tells all who follow a topic. ARGV: topic, message. Says its position. A message goes when 10,000 newer ones of its topic
-- stand and an hour has passed; two are looked at with each that comes.
local key = KEYS[1] .. ':f:' .. ARGV[1]
local position = redis.call('XADD', key, '*', 'm', ARGV[2])
local count = redis.call('XLEN', key)
if count > 10000 then
  local before_ms = redis.call('TIME')[1] * 1000 - 3600000
  for _, entry in ipairs(redis.call('XRANGE', key, '-', '+', 'COUNT', math.min(2, count - 10000))) do
    if tonumber(string.match(entry[1], '^(%d+)')) < before_ms then redis.call('XDEL', key, entry[1]) end
  end
end
return position
