#!lua flags=allow-oom
-- Not fetched this time. The URL returns to its queue behind its equals, or is a dead letter after too many
-- attempts; the host rests at least as long as it asked for. A host that refused without saying until
-- when waits twice as long each time.
-- ARGV, by name: token; reason; latency (ms); size (bytes fetched); asked (ms of rest, 0: not said); back_off (1: it
--       refused); sent (1: a request was)
-- Returns 0 if the lease was lost.
local arg = named()
local lease = take(arg.token)
if not lease then return 0 end
local host = lease.host
call('HDEL', p .. 'h:' .. host, 'inflight')
if lease.kind == 'robots' then call('SADD', p .. 'norobots', host) end
if arg.sent == '1' then count_request(host, arg.size) end
back_off(host, arg)
fail(lease, arg.reason, rules('attempts'), math.floor(lease.promise / 2))
place(host, now_ms() + rest(host, arg.latency))
return 1
