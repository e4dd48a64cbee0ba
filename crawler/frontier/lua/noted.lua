#!lua flags=no-writes,allow-oom
-- ARGV: name of a small hash, fields
-- Returns their values, false for those that are not there.
return call('HMGET', p .. ARGV[1], unpack(ARGV, 2))
