#!lua flags=allow-oom
-- No request was sent: the URL is not wanted (robots, depth, ...) or goes back untouched (a worker stops).
-- The host may be asked again at once. Without its robots.txt nothing of a host may be fetched: when that is not
-- wanted, all that it has queued is not.
-- ARGV: token, reason ('' returns the URL to its queue as it was)
-- Returns 0 if the lease was lost.
local lease = take(ARGV[1])
if not lease then return 0 end
local host = p .. 'h:' .. lease.host
redis.call('HDEL', host, 'inflight')
if ARGV[2] == '' then
  requeue(lease, lease.promise)
elseif lease.kind == 'robots' then
  local queue = p .. 'q:' .. lease.host
  local queued = redis.call('ZCARD', queue)
  redis.call('DEL', queue)
  count('queued', -queued)
  count('skipped:' .. ARGV[2], queued)
else
  redis.call('HDEL', p .. 'attempts', lease.host .. ' ' .. lease.member)
  count('skipped:' .. ARGV[2])
end
release(lease.host, tonumber(redis.call('HGET', host, 'next')))
return 1
