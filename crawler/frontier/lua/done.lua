#!lua flags=allow-oom
-- Fetched, an errand or a spider's request: no page goes to the walker, and the request behind it is forgotten. The host
-- rests as after nack.lua.
-- ARGV, by name: token; told, elapsed, took; latency (ms); size (bytes fetched); asked (ms of rest, 0: not said);
--       back_off (1: it refused)
-- Returns 0 if the lease was lost.
local arg = named()
local lease = take(arg.token)
if not lease then return 0 end
local host, url = lease.host, url_of(lease.host, lease.member)
call('HDEL', p .. 'attempts', url)
call('HDEL', p .. 'requests', url)
count_request(lease, arg.size)
count(lease.kind == 'errand' and 'robots' or 'done')
if not back_off(host, arg) then call('HDEL', p .. 'h:' .. host, 'strikes') end
place(host, now_ms() + rest(host, arg.latency))
return 1
