-- Shared by every script of the frontier. KEYS[1] is the prefix of a partition, 'tinylm:{CRAWL/s}:'; all its
-- keys carry the same hash tag, so a script touches one slot of a cluster. Times are milliseconds of the
-- server's clock.
--
--   q:HOST     zset   member (path; 'http:' in front unless https) -> promise
--   h:HOST     hash   next, fetched, index, inflight, strikes, crawl_delay, robots, robots_until
--   cooling    zset   host -> when it may be asked again
--   ready      zset   host -> best promise of its queue, and the policy's index of it
--   spent      set    hosts over their budget; a host in flight or with nothing queued is in none of the three
--   deadlines  zset   token -> deadline;  leases  hash  token -> the lease
--   attempts   hash   url -> failures so far;  dead  hash  url -> reason and time
--   seen:N     set of integers, the low 32 bits of fingerprints;  pages  stream;  counts  hash
local p = KEYS[1]

local function now_ms()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end

local function count(what, n)
  redis.call('HINCRBY', p .. 'counts', what, n or 1)
end

-- A host with something queued waits in 'cooling' until `at`; one with nothing queued is nowhere.
local function release(host, at)
  redis.call('HSET', p .. 'h:' .. host, 'next', at)
  redis.call('ZREM', p .. 'ready', host)
  if redis.call('ZCARD', p .. 'q:' .. host) > 0 then
    redis.call('ZADD', p .. 'cooling', at, host)
  else
    redis.call('ZREM', p .. 'cooling', host)
  end
end

-- The lease behind a token, removed; nil if it was reaped or finished before: the fence.
local function take(token)
  if redis.call('ZREM', p .. 'deadlines', token) == 0 then return nil end
  local lease = cjson.decode(redis.call('HGET', p .. 'leases', token))
  redis.call('HDEL', p .. 'leases', token)
  return lease
end

-- What hosts are compared by: the best promise of the queue, and what the policy adds for the host.
local function rank(host, bonus)
  local first = redis.call('ZREVRANGE', p .. 'q:' .. host, 0, 0, 'WITHSCORES')
  return tonumber(first[2] or 0) + tonumber(bonus or 0)
end

local function requeue(lease, promise)
  if lease.kind == 'page' then
    redis.call('ZADD', p .. 'q:' .. lease.host, promise, lease.member)
    count('queued')
  end
end

-- The host's delay after a fetch: its Crawl-delay, or what the worker asks for, whichever is longer.
local function cooldown(host, wanted)
  local own = tonumber(redis.call('HGET', p .. 'h:' .. host, 'crawl_delay') or 0)
  return math.max(own, tonumber(wanted))
end

local function fail(lease, reason, limit, promise)
  local url = lease.host .. ' ' .. lease.member
  local attempts = redis.call('HINCRBY', p .. 'attempts', url, 1)
  count('failed:' .. reason)
  if attempts >= tonumber(limit) and lease.kind == 'page' then
    redis.call('HDEL', p .. 'attempts', url)
    redis.call('HSET', p .. 'dead', url, cjson.encode({reason = reason, at = now_ms()}))
    count('dead')
  else
    requeue(lease, promise)
  end
end
