#!lua flags=allow-oom
-- One field of a small hash: limits, the reason of a stop, what a part of the system shows. A full server must
-- still be told to stop.
-- ARGV: name of the hash, field, value ('' forgets the field), 1 if a value that is there stays
-- Returns 1 unless one stayed.
if ARGV[3] == '' then
  call('HDEL', p .. ARGV[1], ARGV[2])
elseif ARGV[4] == '1' then
  return call('HSETNX', p .. ARGV[1], ARGV[2], ARGV[3])
else
  call('HSET', p .. ARGV[1], ARGV[2], ARGV[3])
end
return 1
