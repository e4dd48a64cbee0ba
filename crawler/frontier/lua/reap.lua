#!lua flags=allow-oom
-- Leases past their deadline: their workers are gone. The URLs return to their queues, the hosts cool. And of queues that
-- are ended some more URLs are.
-- ARGV: how many at most; and, of a worker that leases, what it says of its clock (see lease.lua)
-- Returns how many there were; none while the clock may have jumped ahead.
if ARGV[2] and check_clock(ARGV[2], ARGV[3], ARGV[4]) then return 0 end
local now, attempts = now_ms(), rules('attempts')
local expired = call('ZRANGEBYSCORE', p .. 'deadlines', '-inf', now, 'LIMIT', 0, ARGV[1])
for _, token in ipairs(expired) do
  local lease = take(token)
  fail(lease, 'lease_expired', attempts, lease.promise)
  place(lease.host, now + rest(lease.host, 0))
end
end_some()
return #expired
