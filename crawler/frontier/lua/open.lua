#!lua flags=allow-oom
-- What a crawl was begun with; the first to open it decides.
-- ARGV: name, value
-- Returns the value in force.
call('HSETNX', p .. 'meta', ARGV[1], ARGV[2])
return call('HGET', p .. 'meta', ARGV[1])
