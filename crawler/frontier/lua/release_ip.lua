#!lua flags=allow-oom
-- The connection to an address is over: see hold_ip.lua.
-- ARGV: holder
return call('ZREM', p .. 'held', ARGV[1])
