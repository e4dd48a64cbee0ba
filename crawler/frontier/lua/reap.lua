#!lua flags=allow-oom
-- Leases past their deadline: their workers are gone. The URLs return to their queues, the hosts cool.
-- ARGV: cooldown ms, most attempts, how many at most
-- Returns how many there were.
local now = now_ms()
local expired = redis.call('ZRANGEBYSCORE', p .. 'deadlines', '-inf', now, 'LIMIT', 0, ARGV[3])
for _, token in ipairs(expired) do
  local lease = take(token)
  redis.call('HDEL', p .. 'h:' .. lease.host, 'inflight')
  fail(lease, 'lease_expired', ARGV[2], lease.promise)
  release(lease.host, now + cooldown(lease.host, ARGV[1]))
end
return #expired
