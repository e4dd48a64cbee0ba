#!lua flags=allow-oom
-- Leases past their deadline: their workers are gone. The URLs return to their queues, the hosts cool.
-- ARGV: rest ms, most attempts, how many at most
-- Returns how many there were.
local now = now_ms()
local expired = call('ZRANGEBYSCORE', p .. 'deadlines', '-inf', now, 'LIMIT', 0, ARGV[3])
for _, token in ipairs(expired) do
  local lease = take(token)
  call('HDEL', p .. 'h:' .. lease.host, 'inflight')
  fail(lease, 'lease_expired', ARGV[2], lease.promise)
  place(lease.host, now + rest(lease.host, ARGV[1]))
end
return #expired
