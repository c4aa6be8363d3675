-- What the scripts of blobs have in common; it is put before each of them.
--
-- Keys, all under KEYS[1]:
--   :b:KEY  hash: v the value, t its tags (cmsgpack); expires
--   :k      sorted set: all keys, by name
--   :x      sorted set: all keys, by the time when they are over (ms)
--   :t:TAG  sorted set: keys with a tag, by the time when they are over
local call, base = redis.call, KEYS[1]
local time = call('TIME')
local now_ms = time[1] * 1e3 + math.floor(time[2] / 1e3)

local function drop_tags(key)
  local tags = call('HGET', base .. ':b:' .. key, 't')
  if tags then
    for _, tag in ipairs(cmsgpack.unpack(tags)) do call('ZREM', base .. ':t:' .. tag, key) end
  end
end

-- 1 if there was such a value.
local function drop(key)
  drop_tags(key)
  call('ZREM', base .. ':k', key)
  call('ZREM', base .. ':x', key)
  return call('DEL', base .. ':b:' .. key)
end
