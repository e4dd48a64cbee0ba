#!lua flags=allow-oom
-- One field of a small hash: limits, the reason of a stop, what a part of the system shows. A full server must
-- still be told to stop.
-- ARGV: name of the hash, field, value ('' forgets the field)
if ARGV[3] == '' then
  redis.call('HDEL', p .. ARGV[1], ARGV[2])
else
  redis.call('HSET', p .. ARGV[1], ARGV[2], ARGV[3])
end
return 1
