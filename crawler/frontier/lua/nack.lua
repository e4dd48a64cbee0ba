#!lua flags=allow-oom
-- Not fetched this time. The URL returns to its queue behind its equals, or is a dead letter after too many
-- attempts; the host rests at least as long as it asked for. A host that refused without saying until
-- when waits twice as long each time.
-- ARGV: token, reason, rest ms, rest asked for in ms (0: not said), backoff base ms (0: none), most attempts,
--       1 if a request was sent, bytes fetched
-- Returns 0 if the lease was lost.
local lease = take(ARGV[1])
if not lease then return 0 end
local host = lease.host
call('HDEL', p .. 'h:' .. host, 'inflight')
if lease.kind == 'robots' then call('SADD', p .. 'norobots', host) end
if ARGV[7] == '1' then count_request(host, ARGV[8]) end
back_off(host, tonumber(ARGV[4]), tonumber(ARGV[5]))
fail(lease, ARGV[2], ARGV[6], math.floor(lease.promise / 2))
place(host, now_ms() + rest(host, ARGV[3]))
return 1
