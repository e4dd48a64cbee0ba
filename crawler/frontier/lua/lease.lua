#!lua flags=allow-oom
-- The best URLs of the best hosts that may be asked now, one a host, for a limited time. With probability
-- `exploration` a uniformly random ready host and a uniformly random URL of its queue; the propensity of what was
-- chosen is part of the lease. A host without valid robots rules is leased its robots.txt first.
-- ARGV: n, ttl ms, random seed
-- Returns the leases as JSON.
local n, ttl = tonumber(ARGV[1]), tonumber(ARGV[2])
math.randomseed(tonumber(ARGV[3]))
local meta = call('HMGET', p .. 'meta', 'run_id', 'restarted', 'exploration', 'delay', 'hot_per_host', 'backlog',
  'partitions', 'pages_per_host', 'pages_per_found_host', 'pages_per_referring_domain')
local exploration, delay, hot = tonumber(meta[3]), 1000 * meta[4], tonumber(meta[5])
local most, found, each = tonumber(meta[8]), tonumber(meta[9]), tonumber(meta[10])
local limit = math.max(1, math.floor(meta[6] / meta[7]))
local now = now_ms()

-- The server was restarted and may have lost its last second of the log: once for each of its runs, every host
-- waits its delay and the margin before it is asked again, and no token given out in that second comes again.
local MARGIN_MS = 2000  -- the log is synced each second, and a sync may take another
local TOKENS_A_SECOND = 1000000  -- more than a server can give out
local run_id = string.match(call('INFO', 'server'), 'run_id:(%x+)')
local restarted = tonumber(meta[2] or 0)
if meta[1] ~= run_id then
  call('HSET', p .. 'meta', 'run_id', run_id)
  if meta[1] then
    restarted = now + MARGIN_MS
    call('HSET', p .. 'meta', 'restarted', restarted)
    call('INCRBY', p .. 'token', TOKENS_A_SECOND)
    call('ZUNIONSTORE', p .. 'ready', 1, p .. 'ready', 'WEIGHTS', 0)
    call('ZUNIONSTORE', p .. 'cooling', 2, p .. 'cooling', p .. 'ready', 'AGGREGATE', 'MAX')
    call('DEL', p .. 'ready')
  end
end
if now < restarted + delay or call('XLEN', p .. 'pages') >= limit then return {} end

local function budget_of(host, chosen)
  if chosen then return most end
  return math.min(most, found + each * call('SCARD', p .. 'refs:' .. host))
end

local DUE = 100  -- pages that return to their queues in one call; the others wait for the next
for _, url in ipairs(call('ZRANGEBYSCORE', p .. 'due', '-inf', now, 'LIMIT', 0, DUE)) do
  local host, member = string.match(url, '^(%S+) (.*)$')
  call('ZREM', p .. 'due', url)
  if call('HEXISTS', p .. 'h:' .. host, 'gone') == 1 then
    call('HDEL', p .. 'revisit', url)
  else
    call('ZADD', p .. 'q:' .. host, cjson.decode(call('HGET', p .. 'revisit', url)).promise, member)
    count('queued')
    wake(host)
  end
end

-- Of a host, read once: most are leased in the call that wakes them.
local FACTS = {'fetched', 'index', 'chosen', 'crawl_delay', 'robots_until', 'tail', 'cold', 'next'}
local read = {}
local function facts(host)
  read[host] = read[host] or call('HMGET', p .. 'h:' .. host, unpack(FACTS))
  return read[host]
end

-- More than are leased, so that the best are chosen among many; all at once would make a call after a pause long.
local WOKEN = 64 + 4 * n
local woken, ready = call('ZRANGEBYSCORE', p .. 'cooling', '-inf', now, 'LIMIT', 0, WOKEN), {}
if #woken > 0 then call('ZREM', p .. 'cooling', unpack(woken)) end
for _, host in ipairs(woken) do
  local known = facts(host)
  local fetched, own_delay = tonumber(known[1] or 0), tonumber(known[4] or 0)
  if now < restarted + own_delay then
    call('ZADD', p .. 'cooling', restarted + own_delay, host)
  elseif fetched >= math.min(found, most) and fetched >= budget_of(host, known[3]) then
    call('SADD', p .. 'spent', host)
  else
    ready[#ready + 1] = rank(host, known[2])
    ready[#ready + 1] = host
  end
end
if #ready > 0 then call('ZADD', p .. 'ready', unpack(ready)) end

-- The host that is next, out of `ready`; whether it was explored, and was the best. Those that are not explored are
-- taken together, up to the next that is, `wanted` at the most.
local next_ones, at = {}, 1
local explore = exploration > 0 and math.random() < exploration
local function choose_host(wanted)
  if next_ones[at] then
    at = at + 2
    return next_ones[at - 2], false, true
  end
  if explore then
    explore = math.random() < exploration
    local host = call('ZRANDMEMBER', p .. 'ready')
    local best = call('ZREVRANGE', p .. 'ready', 0, 0)[1] == host
    call('ZREM', p .. 'ready', host)
    return host, true, best
  end
  local run = 0
  repeat
    run = run + 1
    explore = exploration > 0 and math.random() < exploration
  until explore or run == wanted
  next_ones, at = call('ZPOPMAX', p .. 'ready', run), 3
  return next_ones[1], false, true
end

local taken = 0
local function choose_url(queue, urls, hosts, explored, best_host)
  local member, promise, propensity = nil, nil, exploration / (hosts * urls)
  if explored then
    local best = call('ZREVRANGE', queue, 0, 0)[1]
    member = call('ZRANDMEMBER', queue)
    promise = call('ZSCORE', queue, member)
    call('ZREM', queue, member)
    if best_host and member == best then propensity = propensity + 1 - exploration end
  else
    local best = call('ZPOPMAX', queue)
    member, promise = best[1], best[2]
    propensity = propensity + 1 - exploration
  end
  taken = taken + 1
  return member, promise, propensity
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
  if not any_gone and not revisiting then return lease end
  local url = url_of(lease.host, lease.member)
  if any_gone and call('SISMEMBER', p .. 'gone', url) == 1 then
    count('skipped:taken_down')
    return nil
  end
  local before = revisiting and call('HGET', p .. 'revisit', url)
  if before then
    before = cjson.decode(before)
    lease.fetch_no, lease.etag, lease.last_modified = before.fetch_no + 1, before.etag, before.last_modified
  end
  return lease
end

local leases, named = {}, {}
local hosts = call('ZCARD', p .. 'ready')
while #leases < n and hosts > 0 do
  local host, explored, best = choose_host(math.min(n - #leases, hosts))
  local known = facts(host)
  local queue, lease = p .. 'q:' .. host, nil
  local urls = call('ZCARD', queue)
  if urls > 0 then
    lease = {host = host, kind = 'page', robots_until = known[5] or '0'}
    if tonumber(lease.robots_until) <= now then
      lease.kind, lease.promise, lease.propensity = 'robots', 0, 1
      lease.member = string.match(call('ZREVRANGE', queue, 0, 0)[1], '^[^/]*') .. '/robots.txt'
    else
      lease.member, lease.promise, lease.propensity = choose_url(queue, urls, hosts, explored, best)
      fill(host, urls - 1, known[6], known[7])
      lease = recall(lease)
    end
  end
  hosts = hosts - 1
  if lease then
    leases[#leases + 1] = lease
    named[#named + 1] = url_of(lease.host, lease.member)
  else
    place(host, tonumber(known[8]))
  end
end
if #leases == 0 then
  count('queued', -taken)
  return leases
end

local attempts, deadline = call('HMGET', p .. 'attempts', unpack(named)), whole(now + ttl)
local token, deadlines, by_token = call('INCRBY', p .. 'token', #leases) - #leases, {}, {}
for i, lease in ipairs(leases) do
  lease.token = whole(token + i)
  lease.attempt = 1 + (attempts[i] or 0)
  leases[i] = cjson.encode(lease)
  call('HSET', p .. 'h:' .. lease.host, 'inflight', lease.token)
  deadlines[2 * i - 1], deadlines[2 * i] = deadline, lease.token
  by_token[2 * i - 1], by_token[2 * i] = lease.token, leases[i]
end
call('ZADD', p .. 'deadlines', unpack(deadlines))
call('HSET', p .. 'leases', unpack(by_token))
count('queued', -taken)
return leases
