#!lua flags=allow-oom
-- What a crawl was begun with; the first to open it decides.
-- ARGV: name, value
-- Returns the value in force.
redis.call('HSETNX', p .. 'meta', ARGV[1], ARGV[2])
return redis.call('HGET', p .. 'meta', ARGV[1])
