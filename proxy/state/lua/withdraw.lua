-- Nobody wants, or nobody heard, the answer of a reservation. ARGV: the Hold (packed), and the ticket of the call. A hold
-- that this call got is undone as if it had never been asked for, unless somebody else knows of it by now.
local asked = cmsgpack.unpack(ARGV[1])
local id, scopes = asked[1], scopes_of(asked[4])
leave(ARGV[2], scopes)
local hold = load(id)
if hold and hold.ticket == ARGV[2] then
  settle(hold, scopes, nil, {})
  call('DEL', base .. ':h:' .. id)
  call('ZREM', base .. ':open', id)
end
return 1
