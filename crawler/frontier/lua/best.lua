#!lua flags=no-writes,allow-oom
-- ARGV: how many at most; then hosts, or none
-- Returns for each host the URLs of its queue that promise most, best first; without hosts, the best ready hosts.
if #ARGV == 1 then return call('ZREVRANGE', p .. 'ready', 0, ARGV[1] - 1) end
local found = {}
for i = 2, #ARGV do found[i - 1] = call('ZREVRANGE', p .. 'q:' .. ARGV[i], 0, ARGV[1] - 1) end
return found
