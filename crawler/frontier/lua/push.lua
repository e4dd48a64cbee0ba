#!lua
-- Discovered links. A new one is queued; one still queued takes the new promise; any other changes nothing.
-- Not allowed over the memory limit (noeviction refuses it), so that a full server only drains.
-- ARGV: default host index, then for each link: host, member, promise, seen shard, low 32 bits of fingerprint
-- Returns for each link 1 if it was new, else 0.
local now = now_ms()
local index = ARGV[1]
local fresh, touched = {}, {}
local new = 0
for i = 2, #ARGV, 5 do
  local host, member, promise = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local queue = p .. 'q:' .. host
  touched[host] = true
  if redis.call('SADD', p .. 'seen:' .. ARGV[i + 3], ARGV[i + 4]) == 1 then
    if redis.call('ZADD', queue, promise, member) == 1 and redis.call('ZCARD', queue) == 1 then
      local known = redis.call('HMGET', p .. 'h:' .. host, 'next', 'inflight')
      if not known[1] then
        redis.call('HSET', p .. 'h:' .. host, 'next', now, 'index', index)
        count('hosts')
      end
      if not known[2] then redis.call('ZADD', p .. 'cooling', known[1] or now, host) end
    end
    new = new + 1
    fresh[#fresh + 1] = 1
  else
    redis.call('ZADD', queue, 'XX', promise, member)
    fresh[#fresh + 1] = 0
  end
end
for host in pairs(touched) do
  if redis.call('ZSCORE', p .. 'ready', host) then
    redis.call('ZADD', p .. 'ready', rank(host, redis.call('HGET', p .. 'h:' .. host, 'index')), host)
  end
end
if new > 0 then
  count('discovered', new)
  count('queued', new)
end
return fresh
