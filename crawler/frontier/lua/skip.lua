#!lua flags=allow-oom
-- No request was sent: the URL is not wanted (robots, depth, ...) or goes back untouched (a worker stops).
-- The host may be asked again at once, or when the worker says. Without its robots.txt nothing of a host may be
-- fetched: when that is not wanted, all that it has queued of that origin is not.
-- ARGV, by name: token; told and elapsed; reason ('' returns the URL to its queue as it was); wait (ms the
--       host is left alone); latency (ms; only of a request that was sent and whose answer the worker lost)
-- Returns 0 if the lease was lost.
local arg = named()
local lease = take(arg.token)
if not lease then return 0 end
local host, h = lease.host, p .. 'h:' .. lease.host
if arg.reason == '' then
  requeue(lease, lease.promise)
  if lease.robots_for then queue_errand(host, lease.member, lease.robots_for) end
elseif lease.kind == 'robots' then
  -- Errands that came since this lease was given stay: who asks for them is told the same by the next one.
  end_queue(host, arg.reason, false, lease.origin)
  if call('EXISTS', h) == 0 then return 1 end
else
  call('HDEL', p .. 'attempts', url_of(host, lease.member))
  count('skipped:' .. arg.reason)
  if lease.kind == 'page' and arg.reason ~= 'taken_down' then bury(host, lease.member, arg.reason, 'refused') end
end
local wait = math.max(arg.wait, arg.latency and rest(host, arg.latency) or 0)
place(host, math.max(tonumber(call('HGET', h, 'next') or 0), now_ms() + wait))
return 1
