#!lua
-- The request behind a URL that is about to be queued, unless the URL was queued before. In one step, so that of two
-- processes that find the same link neither removes or leaves behind what the other keeps.
-- ARGV: host and member, request, seen shard, low 32 bits of fingerprint
-- Returns 0 if the URL was seen before.
if call('SISMEMBER', p .. 'seen:' .. ARGV[3], ARGV[4]) == 1 then return 0 end
call('HSETNX', p .. 'requests', ARGV[1], ARGV[2])
return 1
