#!lua flags=allow-oom
-- Fields of a small hash: what a crawl was begun with, limits, the reason of a stop, what a part of the system shows.
-- A full server must still be told to stop: it refuses HSET by itself.
-- ARGV: name of the hash, 1 if what is there stays; then for each field: field, value
-- Returns how many were not there.
local set, new = ARGV[2] == '1' and 'HSETNX' or 'HSET', 0
for i = 3, #ARGV, 2 do new = new + call(set, p .. ARGV[1], ARGV[i], ARGV[i + 1]) end
return new
