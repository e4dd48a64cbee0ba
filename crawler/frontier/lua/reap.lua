#!lua flags=allow-oom
-- Leases past their deadline: their workers are gone. The URLs return to their queues, the hosts cool.
-- ARGV: how many at most
-- Returns how many there were.
local now, attempts, rest = now_ms(), rules('attempts'), resting()
local expired = call('ZRANGEBYSCORE', p .. 'deadlines', '-inf', now, 'LIMIT', 0, ARGV[1])
for _, token in ipairs(expired) do
  local lease = take(token)
  local h = p .. 'h:' .. lease.host
  call('HDEL', h, 'inflight')
  fail(lease, 'lease_expired', attempts, lease.promise)
  place(lease.host, now + rest(0, call('HGET', h, 'crawl_delay')))
end
return #expired
