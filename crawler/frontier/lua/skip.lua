#!lua flags=allow-oom
-- No request was sent: the URL is not wanted (robots, depth, ...) or goes back untouched (a worker stops).
-- The host may be asked again at once, or when the worker says. Without its robots.txt nothing of a host may be
-- fetched: when that is not wanted, all that it has queued of that origin is not.
-- ARGV, by name: token; told, elapsed, took; reason ('' returns the URL to its queue as it was); wait (ms the
--       host is left alone); latency (ms; only of a request that was sent and whose answer the worker lost);
--       of a page that is out of scope, or was what robots.txt was to be asked for: sought (its member), shard and low (of
--       its fingerprint: it may come back when the scope is another); forget (it cannot be queued again)
-- Returns 0 if the lease was lost.
local arg = named()
local lease = take(arg.token)
if not lease then return 0 end
local host, h = lease.host, p .. 'h:' .. lease.host
if arg.reason == '' or arg.sought then
  if lease.robots_for then queue_errand(host, lease.member, lease.robots_for) end
  if not arg.sought then
    requeue(lease, lease.promise)
  else
    local queued = call('ZREM', p .. 'q:' .. host, arg.sought)
    call('SREM', p .. 'seen:' .. arg.shard, arg.low)
    count('queued', -queued)
    count('skipped:' .. arg.reason, lease.kind == 'page' and 1 or queued)
    -- A host is leased of its queue: what waits in lists comes into it.
    if call('EXISTS', p .. 'q:' .. host) == 0 and tonumber(call('HGET', h, 'tail') or 0) > 0 then
      pull(host, rules('hot_per_host'))
    end
  end
elseif lease.kind == 'robots' then
  -- Errands that came since this lease was given stay: who asks for them is told the same by the next one.
  end_queue(host, arg.reason, false, lease.origin)
  if call('EXISTS', h) == 0 then return 1 end
else
  call('HDEL', p .. 'attempts', url_of(host, lease.member))
  count('skipped:' .. arg.reason)
  if lease.kind == 'page' and arg.reason ~= 'taken_down' and not arg.forget then
    bury(host, lease.member, arg.reason, 'refused')
  end
end
local wait = math.max(arg.wait, arg.latency and rest(host, arg.latency) or 0)
place(host, math.max(tonumber(call('HGET', h, 'next') or 0), now_ms() + wait))
return 1
