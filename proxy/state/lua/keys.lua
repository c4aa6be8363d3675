-- Keys that begin so, in order. ARGV: the beginning, how many at most. Names of values that are over go on the way.
local prefix, limit, found = ARGV[1], tonumber(ARGV[2]), {}
local from = '[' .. prefix
while #found < limit do
  local names = call('ZRANGEBYLEX', base .. ':k', from, '+', 'LIMIT', 0, 256)
  for _, name in ipairs(names) do
    if string.sub(name, 1, #prefix) ~= prefix or #found == limit then return found end
    if call('EXISTS', base .. ':b:' .. name) == 1 then found[#found + 1] = name else drop(name) end
    from = '(' .. name
  end
  if #names == 0 then break end
end
return found
