#!lua flags=allow-oom
-- No request was sent: the URL is not wanted (robots, depth, ...) or goes back untouched (a worker stops).
-- The host may be asked again at once, or when the worker says. Without its robots.txt nothing of a host may be
-- fetched: when that is not wanted, all that it has queued is not.
-- ARGV: token, reason ('' returns the URL to its queue as it was), ms for which the host is left alone
-- Returns 0 if the lease was lost.
local lease = take(ARGV[1])
if not lease then return 0 end
local host, h = lease.host, p .. 'h:' .. lease.host
call('HDEL', h, 'inflight')
if ARGV[2] == '' then
  requeue(lease, lease.promise)
elseif lease.kind == 'robots' then
  count('skipped:' .. ARGV[2], #take_queue(host))
else
  call('HDEL', p .. 'attempts', url_of(host, lease.member))
  count('skipped:' .. ARGV[2])
end
place(host, math.max(tonumber(call('HGET', h, 'next')), now_ms() + ARGV[3]))
return 1
