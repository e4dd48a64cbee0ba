#!lua flags=allow-oom
-- The way to disk: what waits is read, and forgotten only once it was written down. Nobody else takes from the list.
-- ARGV: how many were written down since last time, the first of them, how many to read
-- Returns them, 'host promise member'.
-- Said again because the answer was lost, it must not forget others: the list begins with another entry then.
if call('LINDEX', p .. 'spool', 0) == ARGV[2] then call('LTRIM', p .. 'spool', ARGV[1], -1) end
return call('LRANGE', p .. 'spool', 0, ARGV[3] - 1)
