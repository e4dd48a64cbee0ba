#!lua flags=allow-oom
-- What the policy adds to a host's best promise.
-- ARGV: for each host: host, index
for i = 1, #ARGV, 2 do
  if redis.call('EXISTS', p .. 'h:' .. ARGV[i]) == 1 then
    redis.call('HSET', p .. 'h:' .. ARGV[i], 'index', ARGV[i + 1])
    redis.call('ZADD', p .. 'ready', 'XX', rank(ARGV[i], ARGV[i + 1]), ARGV[i])
  end
end
return 1
