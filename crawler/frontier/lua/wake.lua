#!lua flags=allow-oom
-- Budgets may have grown: hosts that had spent theirs are looked at again.
for _, host in ipairs(redis.call('SMEMBERS', p .. 'spent')) do
  redis.call('SREM', p .. 'spent', host)
  release(host, tonumber(redis.call('HGET', p .. 'h:' .. host, 'next')))
end
return 1
