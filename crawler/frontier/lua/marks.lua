#!lua flags=allow-oom
-- What is known of seeds (crawler.scope), kept as URLs seen are: added, or looked for.
-- ARGV: 1 to add; then for each: seen shard, low 32 bits of its keyed fingerprint
-- Returns for each 1 if it was added, or is there.
local command, found = ARGV[1] == '1' and 'SADD' or 'SISMEMBER', {}
for i = 2, #ARGV, 2 do found[#found + 1] = call(command, p .. 'seen:' .. ARGV[i], ARGV[i + 1]) end
return found
