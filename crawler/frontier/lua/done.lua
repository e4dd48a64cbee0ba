#!lua flags=allow-oom
-- Fetched and processed by whoever asked for it: no page goes to the walker, and the request behind it is forgotten.
-- The host rests as after nack.lua.
-- ARGV: token, rest ms, rest asked for in ms (0: not said), backoff base ms (0: none), bytes fetched
-- Returns 0 if the lease was lost.
local lease = take(ARGV[1])
if not lease then return 0 end
local host, url = lease.host, url_of(lease.host, lease.member)
call('HDEL', p .. 'h:' .. host, 'inflight')
call('HDEL', p .. 'attempts', url)
call('HDEL', p .. 'requests', url)
count_request(host, ARGV[5])
count('done')
if not back_off(host, tonumber(ARGV[3]), tonumber(ARGV[4])) then call('HDEL', p .. 'h:' .. host, 'strikes') end
place(host, now_ms() + rest(host, ARGV[2]))
return 1
