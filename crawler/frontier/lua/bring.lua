#!lua
-- Pages that nobody fetched: they go into the stream as they are, and their URLs need not be asked for any more. No host is
-- met by them, and none has to rest. Brought twice they are in the stream twice: the walker takes the first.
-- Not allowed over the memory limit, as links are not.
-- ARGV: name of the pages' bytes, and they themselves ('': they were put there); then for each page: host, member, seen
--       shard, low 32 bits of its keyed fingerprint, its part of the bytes as 'first length'
-- Returns how many were not discovered before; nothing if the bytes are not there: then nothing has changed.
local bytes_at, new, unqueued = p .. 'b:' .. ARGV[1], 0, 0
if ARGV[2] ~= '' then
  call('SET', bytes_at, ARGV[2])
elseif call('PERSIST', bytes_at) == 0 and call('EXISTS', bytes_at) == 0 then
  return {}
end
for i = 3, #ARGV, 5 do
  local host, member = ARGV[i], ARGV[i + 1]
  local h = p .. 'h:' .. host
  if call('SADD', p .. 'seen:' .. ARGV[i + 2], ARGV[i + 3]) == 1 then
    new = new + 1
  elseif call('ZREM', p .. 'q:' .. host, member) == 1 then
    unqueued = unqueued + 1
  else
    local deferred = call('HMGET', h, 'tail', 'cold')
    -- It may wait in a list or on disk, where it cannot be found: whoever leases it looks here.
    if tonumber(deferred[1] or 0) + tonumber(deferred[2] or 0) > 0 then
      call('SADD', p .. 'brought', url_of(host, member))
    end
  end
  call('XADD', p .. 'pages', '*', 'at', ARGV[1] .. ' ' .. ARGV[i + 4])
end
count('discovered', new)
count('queued', -unqueued)
count('brought', (#ARGV - 2) / 5)
return new
