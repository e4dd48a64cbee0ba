#!lua flags=allow-oom
-- The best URLs of the best hosts that may be asked now, one a host, for a limited time. With probability
-- `exploration` a uniformly random ready host and a uniformly random URL of its queue; the propensity of what was
-- chosen is part of the lease. A host without valid robots rules is leased its robots.txt first.
-- ARGV: n, ttl ms, random seed; and, once it was told one, the last time this script told the worker, how many ms ago
--       that was by the worker's own clock, how many it had waited for it, and how many ms the time told since then is
--       ahead of it for certain
-- Returns the time of the crawl, and the leases as JSON: none while it may have jumped ahead.
local n, ttl = tonumber(ARGV[1]), tonumber(ARGV[2])
math.randomseed(tonumber(ARGV[3]))

-- The server was restarted and may have lost its last second of the log: once for each of its runs, every host
-- waits its delay and the margin before it is asked again, and no token given out in that second comes again.
local MARGIN_MS = 2000  -- the log is synced each second, and a sync may take another
local TOKENS_A_SECOND = 1000000  -- more than a server can give out
local run_id = string.match(call('INFO', 'server'), 'run_id:(%x+)')
if ARGV[4] then
  local ahead, doubtful = tonumber(ARGV[7]), check_clock(ARGV[4], ARGV[5], ARGV[6])
  if doubtful then
    clock = nil
    now_ms()
    if ahead < JUMP_AHEAD_MS then return {time_told()} end
    put_clock(-ahead)
  end
end
local meta = call('HMGET', p .. 'meta', 'run_id', 'restarted', 'exploration', 'delay', 'hot_per_host', 'backlog',
  'partitions', 'pages_per_host', 'pages_per_found_host', 'pages_per_referring_domain', 'pages_per_domain',
  'domain_concurrency', 'delay_of', 'pages_of')
local exploration, delay, hot = tonumber(meta[3]), 1000 * meta[4], tonumber(meta[5])
local most, found, each, most_of_domain = tonumber(meta[8]), tonumber(meta[9]), tonumber(meta[10]), tonumber(meta[11])
most = math.min(most, most_of_domain)
local at_once, own_delay, own_pages = tonumber(meta[12]), own(meta[13]), own(meta[14])
local limit = math.max(1, math.floor(meta[6] / meta[7]))
local now, restarted = now_ms(), tonumber(meta[2] or 0)
if meta[1] ~= run_id then
  call('HSET', p .. 'meta', 'run_id', run_id)
  if meta[1] then
    restarted = now + MARGIN_MS
    call('INCRBY', p .. 'token', TOKENS_A_SECOND)
    all_rest(restarted)
  end
end
if now < restarted + delay or call('XLEN', p .. 'pages') >= limit then return {time_told()} end

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

-- Of a host, read once: most are leased in the call that wakes them. A field that is not there costs most to read.
local FACTS, FETCHED, INDEX, CHOSEN, NEXT, SHARED, ROBOTS, TOP = {
  'fetched', 'index', 'chosen', 'next', 'shared', 'robots_until', 'top'}, 1, 2, 3, 4, 5, 6, 7
local read = {}
local function facts(host)
  read[host] = read[host] or call('HMGET', p .. 'h:' .. host, unpack(FACTS))
  return read[host]
end

local function domain_of(host)
  return call('HGET', p .. 'h:' .. host, 'domain') or host
end

-- STAR: of what nobody chose, so many fetches and more for each other domain that refers to it.
local function is_spent(fetched, host, chosen, cap)
  if fetched < math.min(found, cap) then return false end
  return fetched >= cap or not chosen and fetched >= found + each * call('SCARD', p .. 'refs:' .. domain_of(host))
end

local function spend(host)
  call('SADD', p .. 'spent', host)
  call('SADD', p .. 'o:' .. domain_of(host), host)
end

-- Whether a host that has rested may go on; if not, it is put where it waits.
local LONGEST_CRAWL_DELAY = 24 * 3600 * 1000  -- of those that matter here: it is asked again sooner than after that
local function may_go(host, known)
  if now < restarted + LONGEST_CRAWL_DELAY then
    local rested = restarted + math.max(call('HGET', p .. 'h:' .. host, 'crawl_delay') or 0, 1000 * (own_delay(host) or 0))
    if now < rested then
      call('ZADD', p .. 'cooling', whole(rested), host)
      return false
    end
  end
  local fetched, pages = tonumber(known[FETCHED] or 0), own_pages(host)
  if pages and fetched < pages or not pages and not is_spent(fetched, host, known[CHOSEN], most) then return true end
  spend(host)
  return false
end

-- More than are leased, so that the best are chosen among many; all at once would make a call after a pause long.
local WOKEN = 64 + 4 * n
local function make_ready(hosts)
  local ready = {}
  for _, host in ipairs(hosts) do
    local known = facts(host)
    if may_go(host, known) then
      ready[#ready + 1] = rank(host, known[INDEX])
      ready[#ready + 1] = host
    end
  end
  if #ready > 0 then call('ZADD', p .. 'ready', unpack(ready)) end
end
for _, those in ipairs({{0, now}, {'-inf', '(0'}}) do  -- that rested, and that were just met
  local woken = call('ZRANGEBYSCORE', p .. 'cooling', those[1], those[2], 'LIMIT', 0, WOKEN)
  if #woken > 0 then call('ZREM', p .. 'cooling', unpack(woken)) end
  make_ready(woken)
end

-- Of a domain of several hosts so many are asked at once, and as many within each delay: one after the other.
local function gap(host)
  local own = own_delay(host)
  return math.ceil((own and 1000 * own or delay) / at_once)
end
for _, domain in ipairs(call('ZRANGEBYSCORE', p .. 'domains', '-inf', now, 'LIMIT', 0, WOKEN)) do
  local w, d = p .. 'w:' .. domain, p .. 'd:' .. domain
  call('ZREM', p .. 'domains', domain)
  if tonumber(call('HGET', d, 'busy') or 0) < at_once then
    local host = call('ZPOPMAX', w)[1]
    make_ready({host})
    if call('EXISTS', w) == 1 then call('ZADD', p .. 'domains', whole(now + gap(host)), domain) end
  end
end

-- The domain of a host that shares it, if it is its turn; if not, the host waits for it.
local function turn(host, known)
  local domain = domain_of(host)
  local of_domain = call('HMGET', p .. 'd:' .. domain, 'busy', 'next', 'fetched', 'chosen')
  local busy, next, fetched = tonumber(of_domain[1] or 0), tonumber(of_domain[2] or 0), tonumber(of_domain[3] or 0)
  local chosen = of_domain[4] or own_pages(host)
  -- With what is in flight: it may yet be given back, so that the others wait for that.
  local full = busy >= at_once or busy > 0 and is_spent(fetched + busy, host, chosen, most_of_domain)
  if is_spent(fetched, host, chosen, most_of_domain) then
    spend(host)
  elseif full or next > now then
    call('ZADD', p .. 'w:' .. domain, rank(host, known[INDEX]), host)
    if not full then call('ZADD', p .. 'domains', 'NX', whole(next), domain) end
  else
    return domain
  end
end

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
local function fill(host, left, top)
  if left >= hot / 4 or tonumber(top or -1) < 0 then return end
  local more = call('HMGET', p .. 'h:' .. host, 'tail', 'cold')
  if tonumber(more[1] or 0) > 0 then
    pull(host, hot)
  elseif tonumber(more[2] or 0) > 0 then
    call('SADD', p .. 'thirst', host)
  end
end

local any_gone = call('EXISTS', p .. 'gone') == 1
local any_brought = call('EXISTS', p .. 'brought') == 1
local revisiting = call('EXISTS', p .. 'revisit') == 1

-- What the page is leased with besides: nil if it was taken down meanwhile.
local function recall(lease)
  if not any_gone and not any_brought and not revisiting then return lease end
  local url = url_of(lease.host, lease.member)
  if any_gone and call('SISMEMBER', p .. 'gone', url) == 1 then
    count('skipped:taken_down')
    return nil
  end
  if any_brought and call('SREM', p .. 'brought', url) == 1 then
    count('skipped:brought')
    return nil
  end
  local before = revisiting and call('HGET', p .. 'revisit', url)
  if before then
    before = cjson.decode(before)
    lease.fetch_no, lease.etag, lease.last_modified = before.fetch_no + 1, before.etag, before.last_modified
  end
  return lease
end

-- Of an origin's robots.txt, for itself and for those that were sent to it; or of where it moved to within the host. It
-- is asked for because of the page `sought`, if not of an errand.
local function lease_of_robots(host, origin, sought)
  local h, moved = p .. 'h:' .. host, of_origin('robots_at', origin)
  local lease = {host = host, kind = 'robots', origin = origin, promise = 0, propensity = 1, robots_until = '0'}
  lease.sought = sought
  local hops, member = string.match(call('HGET', h, moved) or '', '^(%d+) (.*)$')
  call('HDEL', h, moved, 'awaits')
  -- Asked again, it sends there again, and is then as if there were none.
  if member and any_gone and call('SISMEMBER', p .. 'gone', url_of(host, member)) == 1 then hops, member = nil, nil end
  lease.hops, lease.member = tonumber(hops), member or origin .. '/robots.txt'
  lease.robots_for = take_askers(host, lease.member)
  return lease
end

local SLASH = 47  -- with which a member of https at its usual port begins
-- The lease of a host: of the robots.txt of the origin whose page is next, unless its rules are valid.
local function lease_of(host, known, urls, hosts, explored, best)
  local queue = p .. 'q:' .. host
  local member, promise, propensity = choose_url(queue, urls, hosts, explored, best)
  local origin, valid = '', known[ROBOTS]
  if string.byte(member) ~= SLASH then
    origin = origin_of(member)
    valid = call('HGET', p .. 'h:' .. host, of_origin('robots_until', origin))
  end
  valid = valid or '0'
  if tonumber(valid) <= now then
    call('ZADD', queue, promise, member)
    taken = taken - 1
    return lease_of_robots(host, origin, not errand_of(member) and member or nil)
  end
  fill(host, urls - 1, known[TOP])
  local errand = tonumber(promise) == PROMISE_OF_ERRAND and errand_of(member)
  if errand then
    local askers = take_askers(host, errand)
    if not askers or any_gone and call('SISMEMBER', p .. 'gone', url_of(host, errand)) == 1 then return nil end
    return {
      host = host, kind = 'errand', member = errand, promise = promise, propensity = propensity, robots_until = valid,
      robots_for = askers,
    }
  end
  return recall({
    host = host, kind = 'page', member = member, promise = promise, propensity = propensity, robots_until = valid,
  })
end

local leases, named = {}, {}
local hosts = call('ZCARD', p .. 'ready')
local looks = WOKEN  -- hosts whose domain must wait are looked at too: so many, then the call is over
while #leases < n and hosts > 0 and looks > 0 do
  local host, explored, best = choose_host(math.min(n - #leases, hosts))
  local known = facts(host)
  local urls = call('ZCARD', p .. 'q:' .. host)
  local lease, domain
  if urls == 0 then
    place(host, tonumber(known[NEXT]))
  else
    if known[SHARED] then domain = turn(host, known) end
    if domain or not known[SHARED] then
      lease = lease_of(host, known, urls, hosts, explored, best)
      if not lease then place(host, tonumber(known[NEXT])) end
    end
  end
  hosts, looks = hosts - 1, looks - 1
  if lease then
    leases[#leases + 1] = lease
    named[#named + 1] = url_of(lease.host, lease.member)
    if not known[CHOSEN] then lease.found = true end
    if domain then
      lease.domain = domain
      call('HINCRBY', p .. 'd:' .. domain, 'busy', 1)
      call('HSET', p .. 'd:' .. domain, 'next', whole(now + gap(host)))
    end
  end
end
-- Taken out of `ready` with others, and not looked at any more.
while next_ones[at] do
  call('ZADD', p .. 'ready', next_ones[at + 1], next_ones[at])
  at = at + 2
end
if #leases == 0 then
  count('queued', -taken)
  return {time_told()}
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
return {time_told(), unpack(leases)}
