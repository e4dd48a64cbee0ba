#!lua flags=allow-oom
-- The robots.txt of an origin is somewhere else: within the host, where it is asked for next; or at another one, which
-- does the errand in its own turn. The host waits for that, and asks again if it takes too long; after `attempts` times
-- all that it has queued of the origin is dead letters.
-- ARGV, by name: token; told, elapsed, took; latency (ms); size (bytes fetched); to (member, '': another host);
--       hops (redirects so far)
-- Returns 0 if the lease was lost.
local WAIT_MS = 10 * 60 * 1000  -- a host that rests 30 s has had 20 turns; who asks in vain does so for half an hour
local arg = named()
local lease = take(arg.token)
if not lease then return 0 end
local host, h, origin = lease.host, p .. 'h:' .. lease.host, lease.origin
local now = now_ms()
local at = now + rest(host, arg.latency)
count_request(lease, arg.size)
call('HDEL', h, 'strikes')
if arg.to ~= '' then
  call('HSET', h, of_origin('robots_at', origin), arg.hops .. ' ' .. arg.to)
elseif tonumber(call('HGET', h, of_origin('robots_until', origin)) or 0) <= now then  -- or the answer was faster
  call('SADD', p .. 'norobots', host)
  local url, more = url_of(host, origin .. '/robots.txt'), 1
  for _, asker in ipairs(lease.robots_for or {}) do
    -- Sent in a circle, which ends after five redirects.
    if asker[1] == host and asker[2] == origin then more = 0 end
  end
  if call('HINCRBY', p .. 'attempts', url, more) <= rules('attempts') then
    call('HSET', h, 'awaits', whole(at) .. ' ' .. origin)
    at = now + WAIT_MS
  else
    call('HDEL', p .. 'attempts', url)
    count('failed:robots_moved')
    end_queue(host, 'robots_moved', true, origin)
  end
end
place(host, at)
return 1
