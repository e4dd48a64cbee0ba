#!lua flags=no-writes,allow-oom
-- ARGV: host
-- Returns its robots.txt, false if it has none.
return call('GET', p .. 'r:' .. ARGV[1])
