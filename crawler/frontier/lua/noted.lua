#!lua flags=no-writes,allow-oom
-- ARGV: name of a small hash, fields
-- Returns their values, false for those that are not there; without fields all that are, name and value in turn.
if #ARGV == 1 then return call('HGETALL', p .. ARGV[1]) end
return call('HMGET', p .. ARGV[1], unpack(ARGV, 2))
