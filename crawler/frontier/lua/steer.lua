#!lua flags=allow-oom
-- What the policy adds to a host's best promise.
-- ARGV: for each host: host, index
for i = 1, #ARGV, 2 do
  if call('EXISTS', p .. 'h:' .. ARGV[i]) == 1 then
    call('HSET', p .. 'h:' .. ARGV[i], 'index', ARGV[i + 1])
    if call('ZSCORE', p .. 'ready', ARGV[i]) then
      call('ZADD', p .. 'ready', rank(ARGV[i], ARGV[i + 1]), ARGV[i])
    end
  end
end
return 1
