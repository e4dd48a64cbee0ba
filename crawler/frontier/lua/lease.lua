#!lua flags=allow-oom
-- The best URLs of the best hosts that may be asked now, one a host, for a limited time. With probability
-- `exploration` a uniformly random ready host and a uniformly random URL of it; the propensity of what was
-- chosen is part of the lease. A host without valid robots rules is leased its robots.txt first.
-- ARGV: n, ttl ms, exploration, budget of fetches a host, limit of the page stream, random seed, cooldown ms and
--       margin ms after a restart of the server
-- Returns the leases as JSON.
local now = now_ms()
local n, ttl, exploration = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local budget, limit = tonumber(ARGV[4]), tonumber(ARGV[5])
math.randomseed(tonumber(ARGV[6]))

-- The server was restarted and may have lost its last second of the log: once for each of its runs, every host
-- waits its delay and the margin before it is asked again, and no token given out in that second comes again.
local TOKENS_A_SECOND = 1000000
local run_id = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)')
local known_run = redis.call('HGET', p .. 'meta', 'run_id')
if known_run ~= run_id then redis.call('HSET', p .. 'meta', 'run_id', run_id) end
if known_run and known_run ~= run_id then
  redis.call('INCRBY', p .. 'token', TOKENS_A_SECOND)
  for _, waiting in ipairs({'cooling', 'ready'}) do
    for _, host in ipairs(redis.call('ZRANGE', p .. waiting, 0, -1)) do
      local next = tonumber(redis.call('HGET', p .. 'h:' .. host, 'next'))
      release(host, math.max(now + cooldown(host, ARGV[7]) + ARGV[8], next))
    end
  end
end
if redis.call('XLEN', p .. 'pages') >= limit then return {} end

local WAKE = 1000
for _, host in ipairs(redis.call('ZRANGEBYSCORE', p .. 'cooling', '-inf', now, 'LIMIT', 0, WAKE)) do
  local known = redis.call('HMGET', p .. 'h:' .. host, 'fetched', 'index')
  redis.call('ZREM', p .. 'cooling', host)
  if tonumber(known[1] or 0) >= budget then
    redis.call('SADD', p .. 'spent', host)
  else
    redis.call('ZADD', p .. 'ready', rank(host, known[2]), host)
  end
end

local function best(key)
  return redis.call('ZREVRANGE', key, 0, 0)[1]
end

local function choose_url(host, hosts, explored, is_best_host)
  local queue = p .. 'q:' .. host
  local first, urls = best(queue), redis.call('ZCARD', queue)
  local member = explored and redis.call('ZRANDMEMBER', queue) or first
  local propensity = exploration / (hosts * urls)
  if is_best_host and member == first then propensity = propensity + 1 - exploration end
  local promise = redis.call('ZSCORE', queue, member)
  redis.call('ZREM', queue, member)
  count('queued', -1)
  return member, promise, propensity
end

local leases = {}
while #leases < n do
  local hosts = redis.call('ZCARD', p .. 'ready')
  if hosts == 0 then break end
  local explored = math.random() < exploration
  local first = best(p .. 'ready')
  local host = explored and redis.call('ZRANDMEMBER', p .. 'ready') or first
  redis.call('ZREM', p .. 'ready', host)
  if redis.call('ZCARD', p .. 'q:' .. host) > 0 then
    local known = redis.call('HMGET', p .. 'h:' .. host, 'robots_until', 'next')
    local lease = {host = host, kind = 'page', robots_until = tonumber(known[1] or 0)}
    if lease.robots_until <= now then
      lease.kind, lease.promise, lease.propensity = 'robots', '0', 1
      lease.member = string.match(best(p .. 'q:' .. host), '^[^/]*') .. '/robots.txt'
    else
      lease.member, lease.promise, lease.propensity = choose_url(host, hosts, explored, host == first)
      lease.explored = explored
    end
    lease.attempt = 1 + (redis.call('HGET', p .. 'attempts', host .. ' ' .. lease.member) or 0)
    lease.token = redis.call('INCR', p .. 'token')
    redis.call('ZADD', p .. 'deadlines', now + ttl, lease.token)
    redis.call('HSET', p .. 'leases', lease.token, cjson.encode(lease))
    redis.call('HSET', p .. 'h:' .. host, 'inflight', lease.token)
    leases[#leases + 1] = cjson.encode(lease)
  end
end
return leases
