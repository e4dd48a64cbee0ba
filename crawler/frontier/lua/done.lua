#!lua flags=allow-oom
-- Fetched and processed by whoever asked for it: no page goes to the walker, and the request behind it is forgotten.
-- The host rests as after nack.lua.
-- ARGV: token, cooldown ms, rest asked for in ms (0: not said), backoff base ms (0: none), bytes fetched
-- Returns 0 if the lease was lost.
local LONGEST_BACKOFF = 24 * 3600 * 1000
local lease = take(ARGV[1])
if not lease then return 0 end
local host, url = p .. 'h:' .. lease.host, lease.host .. ' ' .. lease.member
local now = now_ms()
redis.call('HDEL', host, 'inflight')
redis.call('HDEL', p .. 'attempts', url)
redis.call('HDEL', p .. 'requests', url)
redis.call('HINCRBY', host, 'fetched', 1)
count('fetched')
count('done')
count('bytes', ARGV[5])
local at, base = now + cooldown(lease.host, ARGV[2]), tonumber(ARGV[4])
if tonumber(ARGV[3]) > 0 then
  at = math.max(at, now + ARGV[3])
elseif base > 0 then
  local strikes = redis.call('HINCRBY', host, 'strikes', 1)
  at = math.max(at, now + math.min(base * 2 ^ (strikes - 1), LONGEST_BACKOFF))
else
  redis.call('HDEL', host, 'strikes')
end
release(lease.host, at)
return 1
