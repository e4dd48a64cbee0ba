#!lua flags=allow-oom
-- Not begun, because its turn is later: the URL returns to its queue as it was, and the host waits. No attempt and
-- no fetch is counted.
-- ARGV: token, ms from now
-- Returns 0 if the lease was lost.
local lease = take(ARGV[1])
if not lease then return 0 end
local host = p .. 'h:' .. lease.host
redis.call('HDEL', host, 'inflight')
requeue(lease, lease.promise)
release(lease.host, math.max(now_ms() + ARGV[2], tonumber(redis.call('HGET', host, 'next'))))
return 1
