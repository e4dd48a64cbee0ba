#!lua flags=allow-oom
-- The best URLs of the best hosts that may be asked now, one a host, for a limited time. With probability
-- `exploration` a uniformly random ready host and a uniformly random URL of its queue; the propensity of what was
-- chosen is part of the lease. A host without valid robots rules is leased its robots.txt first.
-- ARGV: n, ttl ms, exploration, limit of the page stream, random seed, rest ms and margin ms after a restart of the
--       server, hot, budget of a host: most, of one that was only found, more for each domain that refers to it
-- Returns the leases as JSON.
local n, ttl, exploration, limit = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local margin, hot = tonumber(ARGV[7]), tonumber(ARGV[8])
local most, found, each = tonumber(ARGV[9]), tonumber(ARGV[10]), tonumber(ARGV[11])
local now = now_ms()
math.randomseed(tonumber(ARGV[5]))

-- The server was restarted and may have lost its last second of the log: once for each of its runs, every host
-- waits its delay and the margin before it is asked again, and no token given out in that second comes again.
local TOKENS_A_SECOND = 1000000
local run_id = string.match(call('INFO', 'server'), 'run_id:(%x+)')
local meta = call('HMGET', p .. 'meta', 'run_id', 'restarted')
local restarted = tonumber(meta[2] or 0)
if meta[1] ~= run_id then
  call('HSET', p .. 'meta', 'run_id', run_id)
  if meta[1] then
    restarted = now + margin
    call('HSET', p .. 'meta', 'restarted', restarted)
    call('INCRBY', p .. 'token', TOKENS_A_SECOND)
    call('ZUNIONSTORE', p .. 'ready', 1, p .. 'ready', 'WEIGHTS', 0)
    call('ZUNIONSTORE', p .. 'cooling', 2, p .. 'cooling', p .. 'ready', 'AGGREGATE', 'MAX')
    call('DEL', p .. 'ready')
  end
end
if now < restarted + ARGV[6] or call('XLEN', p .. 'pages') >= limit then return {} end

local function budget_of(host, chosen)
  if chosen then return most end
  return math.min(most, found + each * call('SCARD', p .. 'refs:' .. host))
end

local DUE = 100
for _, url in ipairs(call('ZRANGEBYSCORE', p .. 'due', '-inf', now, 'LIMIT', 0, DUE)) do
  local host, member = string.match(url, '^(%S+) (.*)$')
  call('ZREM', p .. 'due', url)
  call('ZADD', p .. 'q:' .. host, cjson.decode(call('HGET', p .. 'revisit', url)).promise, member)
  count('queued')
  wake(host)
end

local WOKEN = 64 + 4 * n
for _, host in ipairs(call('ZRANGEBYSCORE', p .. 'cooling', '-inf', now, 'LIMIT', 0, WOKEN)) do
  local known = call('HMGET', p .. 'h:' .. host, 'fetched', 'index', 'chosen', 'crawl_delay')
  local fetched, delay = tonumber(known[1] or 0), tonumber(known[4] or 0)
  call('ZREM', p .. 'cooling', host)
  if now < restarted + delay then
    call('ZADD', p .. 'cooling', restarted + delay, host)
  elseif fetched >= math.min(found, most) and fetched >= budget_of(host, known[3]) then
    call('SADD', p .. 'spent', host)
  else
    call('ZADD', p .. 'ready', rank(host, known[2]), host)
  end
end

-- The host that is next, out of `ready`; whether it was explored, and was the best.
local function choose_host()
  if exploration == 0 or math.random() >= exploration then
    return call('ZPOPMAX', p .. 'ready')[1], false, true
  end
  local host = call('ZRANDMEMBER', p .. 'ready')
  local best = call('ZREVRANGE', p .. 'ready', 0, 0)[1] == host
  call('ZREM', p .. 'ready', host)
  return host, true, best
end

local function choose_url(host, hosts, explored, best_host)
  local queue = p .. 'q:' .. host
  local first, urls = call('ZREVRANGE', queue, 0, 0, 'WITHSCORES'), call('ZCARD', queue)
  local member, promise = first[1], first[2]
  if explored then
    member = call('ZRANDMEMBER', queue)
    promise = call('ZSCORE', queue, member)
  end
  local propensity = exploration / (hosts * urls)
  if best_host and member == first[1] then propensity = propensity + 1 - exploration end
  call('ZREM', queue, member)
  count('queued', -1)
  return member, promise, propensity, urls - 1
end

-- A queue that runs low is filled up from the lists, or asks for what is on disk.
local function fill(host, left, tail, cold)
  if left >= hot / 4 then return end
  if tonumber(tail or 0) > 0 then
    pull(host, hot)
  elseif tonumber(cold or 0) > 0 then
    call('SADD', p .. 'thirst', host)
  end
end

local any_gone = call('EXISTS', p .. 'gone') == 1
local revisiting = call('EXISTS', p .. 'revisit') == 1

-- What the page is leased with besides: nil if it was taken down meanwhile.
local function recall(lease)
  local url = url_of(lease.host, lease.member)
  if any_gone and call('SISMEMBER', p .. 'gone', url) == 1 then
    count('skipped:taken_down')
    return nil
  end
  lease.attempt = 1 + (call('HGET', p .. 'attempts', url) or 0)
  local before = revisiting and call('HGET', p .. 'revisit', url)
  if before then
    before = cjson.decode(before)
    lease.fetch_no, lease.etag, lease.last_modified = before.fetch_no + 1, before.etag, before.last_modified
  end
  return lease
end

local leases, token = {}, call('INCRBY', p .. 'token', n) - n
local hosts = call('ZCARD', p .. 'ready')
while #leases < n and hosts > 0 do
  local host, explored, best = choose_host()
  local known = call('HMGET', p .. 'h:' .. host, 'robots_until', 'tail', 'cold', 'next')
  local queue, lease = p .. 'q:' .. host, nil
  local robots_until = tonumber(known[1] or 0)
  if call('EXISTS', queue) == 1 then
    lease = {host = host, kind = 'page', robots_until = robots_until}
    if robots_until <= now then
      lease.kind, lease.promise, lease.propensity = 'robots', 0, 1
      lease.member = string.match(call('ZREVRANGE', queue, 0, 0)[1], '^[^/]*') .. '/robots.txt'
      lease.attempt = 1 + (call('HGET', p .. 'attempts', url_of(host, lease.member)) or 0)
    else
      local left
      lease.member, lease.promise, lease.propensity, left = choose_url(host, hosts, explored, best)
      lease.explored = explored
      fill(host, left, known[2], known[3])
      lease = recall(lease)
    end
  end
  hosts = hosts - 1
  if lease then
    token = token + 1
    lease.token = token
    local encoded = cjson.encode(lease)
    call('ZADD', p .. 'deadlines', now + ttl, token)
    call('HSET', p .. 'leases', token, encoded)
    call('HSET', p .. 'h:' .. host, 'inflight', token)
    leases[#leases + 1] = encoded
  else
    place(host, tonumber(known[4]))
  end
end
return leases
