#!lua flags=no-writes,allow-oom
-- ARGV: how many at most
-- Returns hosts that need what is on disk, each followed by the number of the last batch it was given.
local found = {}
for _, host in ipairs(call('SRANDMEMBER', p .. 'thirst', ARGV[1])) do
  found[#found + 1] = host
  found[#found + 1] = call('HGET', p .. 'h:' .. host, 'refill') or 0
end
return found
