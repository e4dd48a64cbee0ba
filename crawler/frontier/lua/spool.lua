#!lua flags=allow-oom
-- The way to disk: what waits is read, and forgotten only once it was written down. Nobody else takes from the list.
-- ARGV: how many were written down since last time, how many to read
-- Returns them, 'host promise member'.
call('LTRIM', p .. 'spool', ARGV[1], -1)
return call('LRANGE', p .. 'spool', 0, ARGV[2] - 1)
