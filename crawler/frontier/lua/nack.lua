#!lua flags=allow-oom
-- Not fetched this time. The URL returns to its queue behind its equals, or is a dead letter after too many
-- attempts; the host rests at least as long as it asked for. A host that refused without saying until
-- when waits twice as long each time.
-- If no connection was made that is no attempt of the URL and no fetch, but a failure of the host: the first of several
-- on end is counted as a failed connection, and after too many it is given up, with all that it has queued.
-- ARGV, by name: token; told, elapsed, took; reason; latency (ms); size (bytes fetched); asked (ms of rest, 0:
--       not said); back_off (1: it refused); sent (1: a request was); final (1: there is no such host)
-- Returns 0 if the lease was lost.
local OF_A_REACHED_HOST = 3  -- times as many failures: it may be back after hours
local arg = named()
local lease = take(arg.token)
if not lease then return 0 end
local host, h, attempts = lease.host, p .. 'h:' .. lease.host, rules('attempts')
if lease.kind == 'robots' then call('SADD', p .. 'norobots', host) end
call('HINCRBY', h, 'failed', 1)
call('HSET', h, 'failure', arg.reason)
if arg.sent == '1' then
  count_request(lease, arg.size)
  back_off(host, arg)
  fail(lease, arg.reason, attempts, math.floor(lease.promise / 2))
else
  local failures = call('HINCRBY', h, 'unreached', 1)
  call('HSETNX', h, 'strikes', 0)  -- by which an ack knows that there is something to forget
  if failures == 1 then count('failed_connections') end
  count('failed:' .. arg.reason)
  if call('HEXISTS', h, 'fetched') == 1 then attempts = OF_A_REACHED_HOST * attempts end
  requeue(lease, lease.promise)
  if arg.final == '1' or failures >= attempts then
    call('HDEL', h, 'unreached')
    call('HSET', h, 'given_up', arg.reason, 'strikes', 0)
    end_queue(host, arg.reason, true)
  else
    back_off(host, arg)
  end
end
place(host, now_ms() + rest(host, arg.latency))
return 1
