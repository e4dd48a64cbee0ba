#!lua flags=allow-oom
-- Not fetched this time. The URL returns to its queue behind its equals, or is a dead letter after too many
-- attempts; the host rests at least as long as it asked for. A host that refused without saying until
-- when waits twice as long each time.
-- ARGV: token, reason, cooldown ms, rest asked for in ms (0: not said), backoff base ms (0: none), most attempts,
--       1 if a request was sent, bytes fetched
-- Returns 0 if the lease was lost.
local LONGEST_BACKOFF = 24 * 3600 * 1000
local lease = take(ARGV[1])
if not lease then return 0 end
local host = p .. 'h:' .. lease.host
local now = now_ms()
redis.call('HDEL', host, 'inflight')
local at = now + cooldown(lease.host, ARGV[3])
if ARGV[7] == '1' then
  redis.call('HINCRBY', host, 'fetched', 1)
  count('fetched')
  count('bytes', ARGV[8])
end
local base = tonumber(ARGV[5])
if tonumber(ARGV[4]) > 0 then
  at = math.max(at, now + ARGV[4])
elseif base > 0 then
  local strikes = redis.call('HINCRBY', host, 'strikes', 1)
  at = math.max(at, now + math.min(base * 2 ^ (strikes - 1), LONGEST_BACKOFF))
end
fail(lease, ARGV[2], ARGV[6], tonumber(lease.promise) / 2)
release(lease.host, at)
return 1
