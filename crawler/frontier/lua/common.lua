-- Shared by every script of the frontier. KEYS[1] is the prefix of a partition, 'tinylm:{CRAWL/s}:'; all its
-- keys carry the same hash tag, so a script touches one slot of a cluster. Times are milliseconds of the
-- server's clock, promises ten-thousandths (a small integer costs a listpack 3 bytes, its decimals 8).
--
--   q:HOST     zset   member (path; 'http:' in front unless https) -> promise: the best of what is queued
--   t:HOST:B   list   'promise member' of what is queued beyond that, by tenths of promise
--   spool      list   'host promise member': the same, on its way to disk
--   h:HOST     hash   next, fetched, index, inflight (the token of its lease; '' if it has none), strikes, blocked,
--                     paused, gone, chosen, crawl_delay, robots_until; tail and cold (queued in lists, on disk), top
--                     (tenth of the best of them), refill (last batch that came back from disk)
--   r:HOST     string robots.txt, if there is one;  refs:HOST  set of referring domains, as numbers
--   cooling    zset   host -> when it may be asked again;  blocked  zset  host -> until when it was told off
--   ready      zset   host -> best promise of its queue, and the policy's index of it
--   spent, paused, thirst, norobots  sets of hosts: over their budget, told to wait, with nothing left but what is
--                     on disk, without a robots.txt that answers. A host in flight or with nothing queued is in
--                     none of cooling, ready, spent
--   deadlines  zset   token -> deadline;  leases  hash  token -> the lease
--   attempts   hash   url -> failures so far;  dead  hash  url -> reason and time;  gone  set of urls taken down
--   requests   hash   url -> the request of a spider that has no walker
--   due        zset   url -> when to fetch it again;  revisit  hash  url -> what is known of its last fetch
--   pages      stream; of an entry: 'at', the name of the bytes it is in, its first one and how many; or 'page', itself;
--              or 'seeds'
--   b:NAME     string, the bytes of the pages of one ack; it expires until one of them is in the stream
--   aside, aside_bytes  hashes  entry of the stream -> why it could not be read or judged; what it holds
--   meta       hash   version, partitions and the crawl's rules, under their names in FrontierConfig, in its units; of
--                     partition 0 also limits, stopped, paused; run_id and restarted (of the server, see lease.lua)
--   seen:N     set of integers, the low 32 bits of fingerprints, signed;  counts, status, tombstones  hashes
local p = KEYS[1]
local call = redis.call

local function now_ms()
  local t = call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end

-- A whole number as text: Redis would print it as a fraction of 17 digits, which takes much longer.
local function whole(n)
  return string.format('%d', n)
end

-- Arguments that are given by name: name and value in turn.
local function named()
  local arg = {}
  for i = 1, #ARGV, 2 do arg[ARGV[i]] = ARGV[i + 1] end
  return arg
end

-- Rules of the crawl, which all its workers go by. They are stored, so that no two can disagree.
local function rules(...)
  local found = call('HMGET', p .. 'meta', ...)
  for i = 1, #found do found[i] = tonumber(found[i]) end
  return unpack(found)
end

local function count(what, n)
  if n ~= 0 then call('HINCRBY', p .. 'counts', what, n or 1) end
end

local function url_of(host, member)
  return host .. ' ' .. member
end

local function tenth(promise)
  return math.max(0, math.min(9, math.floor(promise / 1000)))
end

-- What hosts are compared by: the best promise of the queue, and what the policy adds for the host; in millionths.
local function rank(host, index)
  local first = call('ZREVRANGE', p .. 'q:' .. host, 0, 0, 'WITHSCORES')
  return whole(math.floor((first[2] or 0) * 100 + (index or 0) * 1000000 + 0.5))
end

-- From the lists into the queue, best tenth first, until it holds `hot`.
local function pull(host, hot)
  local h, queue = p .. 'h:' .. host, p .. 'q:' .. host
  local room, moved, top = hot - call('ZCARD', queue), 0, -1
  for band = 9, 0, -1 do
    local list = p .. 't:' .. host .. ':' .. band
    if moved < room then
      for _, entry in ipairs(call('LPOP', list, room - moved) or {}) do
        local promise, member = string.match(entry, '^(%S+) (.*)$')
        call('ZADD', queue, promise, member)
        moved = moved + 1
      end
    end
    if top < 0 and call('EXISTS', list) == 1 then top = band end
  end
  call('HINCRBY', h, 'tail', -moved)
  call('HSET', h, 'top', top)
end

-- A host that is not in flight goes where it belongs: until `at`, or until what it was told is over.
local function place(host, at)
  local h = p .. 'h:' .. host
  local said = call('HMGET', h, 'blocked', 'paused', 'cold')
  at = math.max(at, tonumber(said[1] or 0))
  call('HSET', h, 'next', at)
  call('ZREM', p .. 'ready', host)
  if said[2] then
    call('ZREM', p .. 'cooling', host)
    call('SADD', p .. 'paused', host)
  elseif call('EXISTS', p .. 'q:' .. host) == 1 then
    call('ZADD', p .. 'cooling', at, host)
  else
    call('ZREM', p .. 'cooling', host)
    if tonumber(said[3] or 0) > 0 then call('SADD', p .. 'thirst', host) end
  end
end

-- A host in whose queue something was put.
local function wake(host)
  local known = call('HMGET', p .. 'h:' .. host, 'inflight', 'index', 'next')
  if (known[1] or '') ~= '' then return end
  if call('ZSCORE', p .. 'ready', host) then
    call('ZADD', p .. 'ready', rank(host, known[2]), host)
  elseif not call('ZSCORE', p .. 'cooling', host) and call('SISMEMBER', p .. 'spent', host) == 0 then
    place(host, tonumber(known[3]))
  end
end

-- The lease behind a token, removed; nil if it was reaped or finished before: the fence.
local function take(token)
  if call('ZREM', p .. 'deadlines', token) == 0 then return nil end
  local lease = cjson.decode(call('HGET', p .. 'leases', token))
  call('HDEL', p .. 'leases', token)
  return lease
end

local function requeue(lease, promise)
  if lease.kind == 'page' then
    call('ZADD', p .. 'q:' .. lease.host, promise, lease.member)
    count('queued')
  end
end

-- The rest after a request, in ms: the crawl's delay, some times the latency, or the Crawl-delay, whichever is longest.
-- The rules are read once for many.
local function resting(delay, factor, longest)
  return function(latency, crawl_delay)
    local rest = math.max(1000 * delay, math.min(factor * latency, 1000 * longest))
    return math.floor(math.max(rest, tonumber(crawl_delay or 0)))
  end
end

local function rest(host, latency)
  local rest_after = resting(rules('delay', 'latency_factor', 'longest_delay'))
  return rest_after(latency, call('HGET', p .. 'h:' .. host, 'crawl_delay'))
end

local function count_request(host, bytes)
  call('HINCRBY', p .. 'h:' .. host, 'fetched', 1)
  count('fetched')
  count('bytes', bytes)
end

local function block(host, till)
  call('HSET', p .. 'h:' .. host, 'blocked', till)
  call('ZADD', p .. 'blocked', till, host)
end

-- A host that refused: until when it said (`asked` ms), or without saying twice as long each time. Returns whether it
-- did.
local LONGEST_BACKOFF = 24 * 3600 * 1000
local function back_off(host, arg)
  local asked, base = tonumber(arg.asked), arg.back_off == '1' and 1000 * rules('backoff') or 0
  if asked > 0 then
    block(host, now_ms() + asked)
  elseif base > 0 then
    local strikes = call('HINCRBY', p .. 'h:' .. host, 'strikes', 1)
    block(host, now_ms() + math.floor(math.min(base * 2 ^ (strikes - 1), LONGEST_BACKOFF)))
  end
  return asked > 0 or base > 0
end

-- All that a host has queued, taken from it; what is on disk comes back and is treated then as the host is.
local function take_queue(host)
  local h, members = p .. 'h:' .. host, call('ZRANGE', p .. 'q:' .. host, 0, -1)
  call('DEL', p .. 'q:' .. host)
  for band = 0, 9 do
    local list = p .. 't:' .. host .. ':' .. band
    for _, entry in ipairs(call('LRANGE', list, 0, -1)) do
      members[#members + 1] = string.match(entry, '^%S+ (.*)$')
    end
    call('DEL', list)
  end
  call('HDEL', h, 'tail')
  count('queued', -#members)
  return members
end

local function bury(host, member, reason)
  call('HSET', p .. 'dead', url_of(host, member), cjson.encode({reason = reason, at = now_ms()}))
  count('dead')
end

-- A URL that failed too often is a dead letter; a host whose robots.txt did, with all that it has queued.
local function fail(lease, reason, limit, promise)
  local host, url = lease.host, url_of(lease.host, lease.member)
  local attempts = call('HINCRBY', p .. 'attempts', url, 1)
  count('failed:' .. reason)
  if attempts < limit then
    requeue(lease, promise)
  elseif lease.kind == 'page' then
    call('HDEL', p .. 'attempts', url)
    bury(host, lease.member, reason)
  else
    for _, member in ipairs(take_queue(host)) do bury(host, member, reason) end
  end
end
