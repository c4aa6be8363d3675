-- Forgets values. ARGV: keys (packed). Says how many there were.
local count = 0
for _, key in ipairs(cmsgpack.unpack(ARGV[1])) do count = count + drop(key) end
return count
