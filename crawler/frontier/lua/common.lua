-- Shared by every script of the frontier. KEYS[1] is the prefix of a partition, 'tinylm:{CRAWL/s}:'; all its
-- keys carry the same hash tag, so a script touches one slot of a cluster. Times are milliseconds of the crawl's
-- clock (see now_ms), promises ten-thousandths (a small integer costs a listpack 3 bytes, its decimals 8).
-- A host is a name without port, in the partition of its registrable domain.
--
--   q:HOST     zset   member (origin and path, see crawler.urls.Address) -> promise: the best of what is queued
--   t:HOST:B   list   'promise member' of what is queued beyond that, by tenths of promise
--   spool      list   'host promise member': the same, on its way to disk
--   h:HOST     hash   domain; shared (1: its domain has other hosts); next, fetched, index, inflight (the token of its
--                     lease; '' if it has none), strikes, blocked, paused, gone, chosen; unreached (failed connections
--                     since one was made), failed and failure (times so far, the last reason), given_up (why, after too many); crawl_delay, delayed_by (the origin that
--                     asked for it); tail and cold (queued in lists, on disk), top (tenth of the best of them), refill
--                     (last batch that came back from disk); ending (how many endings it has); awaits (when it has
--                     rested, and the origin whose robots.txt moved to another host, while that is asked); of its
--                     origins robots_until, robots_bytes and robots_at (redirects so far, and the member of the same
--                     host that robots.txt moved to), followed by a space and the origin unless it is ''
--   r:HOST     string robots.txt, if there is one, of the origin ''; 'r:HOST ORIGIN' of others
--   e:HOST     hash   errands: member of a robots.txt to which other hosts' was moved -> those that ask for it, as JSON
--                     lists of host, origin and redirects so far. Its member waits in q:HOST too, with '#robots' behind
--   large      zset   what follows 'r:' of those of many bytes -> how many; robots_bytes of meta is their sum
--   d:DOMAIN   hash   hosts, first (the first of them); of a domain of several: fetched, chosen, busy (leases out), next
--                     (when another of its hosts may be asked)
--   refs:DOMAIN  set  of referring domains, as numbers
--   w:DOMAIN   zset   host -> rank: hosts that would be ready if their domain were
--   o:DOMAIN   set    hosts of the domain in spent
--   domains    zset   domain -> when the next of its w: may go on
--   cooling    zset   host -> when it may be asked again or, of one that never was, when it was met, less 10^13
--   blocked    zset   host -> until when it was told off
--   ready      zset   host -> best promise of its queue, and the policy's index of it
--   spent, paused, thirst, norobots  sets of hosts: over their budget, told to wait, with nothing left but what is
--                     on disk, without a robots.txt that answers. A host in flight or with nothing queued is in
--                     none of cooling, ready, spent, w:
--   forgotten  zset   host that was given up, as no connection could ever be made -> until when it is not met again
--   deadlines  zset   token -> deadline;  leases  hash  token -> the lease
--   attempts   hash   url -> failures so far;  gone  set of urls taken down;  brought  of those whose pages were brought
--                     (bring.lua) while they waited in lists or on disk
--   dead, refused  hashes  url -> reason, time, and whether its host was chosen
--   endings    hash   number -> a host, and why what was queued of it is done with; x:NUMBER:q and x:NUMBER:B hold that
--   requests   hash   url -> the request of a spider that has no walker
--   due        zset   url -> when to fetch it again;  revisit  hash  url -> what is known of its last fetch
--   pages      stream; of an entry: 'at', the name of the bytes it is in, its first one and how many; or 'page', itself;
--              or 'seeds'
--   b:NAME     string, the bytes of the pages of one ack; it expires until one of them is in the stream
--   aside, aside_bytes  hashes  entry of the stream -> why it could not be read or judged; what it holds
--   meta       hash   version, partitions, secret and the crawl's rules, under their names in FrontierConfig, in its
--                     units; offset (of the crawl's clock) and jumps (so far); robots_bytes; of partition 0 also
--                     limits, stopped, paused; run_id and restarted (of the server, see lease.lua); walker,
--                     walker_until, walker_lock, walker_at (see claim.lua); trimmed (what the stream begins with since)
--   seen:N     set of integers, the low 32 bits of keyed fingerprints, signed, of URLs and of marks (crawler.scope)
--   counts, status, tombstones  hashes
local p = KEYS[1]
local call = redis.call

-- Of every script the last argument is the number of the walker's claim behind it, '' if no walker is: once another has
-- claimed the crawl (claim.lua), whatever the one before still says is refused before it has any effect.
local walker = table.remove(ARGV)
if walker ~= '' and tonumber(walker) < tonumber(call('HGET', p .. 'meta', 'walker') or 0) then
  error({err = 'WALKERLOST'})
end

-- The crawl's clock: the server's, less the jumps that workers noticed, and how many those were.
local clock, jumps
local function now_ms()
  if not clock then
    local t, known = call('TIME'), call('HMGET', p .. 'meta', 'offset', 'jumps')
    clock, jumps = t[1] * 1000 + math.floor(t[2] / 1000) + (known[1] or 0), known[2] or '0'
  end
  return clock
end

-- A whole number as text: Redis would print it as a fraction of 17 digits, which takes much longer.
local function whole(n)
  return string.format('%d', n)
end

-- Rules of the crawl, which all its workers go by. They are stored, so that no two can disagree.
local function rules(...)
  local found = call('HMGET', p .. 'meta', ...)
  for i = 1, #found do found[i] = tonumber(found[i]) or found[i] end
  return unpack(found)
end

-- What a host has of its own instead of a rule, nil if nothing: of the entries 'HOST=NUMBER' and '*.HOST=NUMBER', which
-- is also of all below it, the one that names it most closely. The entries are read once for many hosts.
local function own(entries)
  local given, any = {}, false
  for host, number in string.gmatch(entries or '', '"([^"=]+)=([^"]+)"') do
    given[host], any = tonumber(number), true
  end
  return function(host)
    if not any then return nil end
    local found, name = given[host], host
    while name and not found do
      found, name = given['*.' .. name], string.match(name, '%.(.*)$')
    end
    return found
  end
end

local function count(what, n)
  if n ~= 0 then call('HINCRBY', p .. 'counts', what, n or 1) end
end

local function url_of(host, member)
  return host .. ' ' .. member
end

local function origin_of(member)
  return string.match(member, '^[^/]*')
end

-- The field of an origin in a host's hash, and what follows 'r:' in the key of its rules.
local function of_origin(what, origin)
  return origin == '' and what or what .. ' ' .. origin
end

local function tenth(promise)
  return math.max(0, math.min(9, math.floor(promise / 1000)))
end

-- Every host rests its delay once from now: what was said about times may be wrong.
local function all_rest(from)
  call('HSET', p .. 'meta', 'restarted', whole(from))
  call('ZUNIONSTORE', p .. 'ready', 1, p .. 'ready', 'WEIGHTS', 0)
  call('ZUNIONSTORE', p .. 'cooling', 2, p .. 'cooling', p .. 'ready', 'AGGREGATE', 'MAX')
  call('DEL', p .. 'ready')
end

-- What a worker is told as the time: only between two jumps can times be compared. If they could be beyond, two workers
-- of which one was told before would take turns at putting the clock right, for ever.
local function time_told()
  return whole(now_ms()) .. ' ' .. jumps
end

local function put_clock(by)
  call('HINCRBYFLOAT', p .. 'meta', 'offset', whole(by))
  jumps = whole(call('HINCRBY', p .. 'meta', 'jumps', 1))
  clock = clock + by
  count('clock_jumps')
  all_rest(clock)
end

-- The server's clock jumped if it moved otherwise than a worker's monotonic clock, which is used for nothing else: then
-- the crawl's clock goes on as if it had not, so that no rest is shorter or longer than it was to be.
-- It jumped back for certain. A jump ahead may as well be a question that was long on its way, so the clock is put right
-- only when a worker says how far ahead it is since it had an answer (lease.lua); for this one script it is then what it
-- was when the question was sent. Returns whether it is ahead. `took` is how long the question and the answer were that
-- told the time: that may all have been the answer's way, so only what is beyond it is taken back, and no rest is shorter.
local JUMP_AHEAD_MS, JUMP_BACK_MS = 2000, 500
local function check_clock(told, elapsed, took)
  local at, since = string.match(told, '^(%d+) (%d+)$')
  local jump = now_ms() - at - elapsed
  if since ~= jumps then return false end
  if jump <= -JUMP_BACK_MS then put_clock(-jump) end
  jump = jump - took
  if jump < JUMP_AHEAD_MS then return false end
  clock = clock - jump
  return true
end

-- Arguments that are given by name: name and value in turn. A worker's tell what a lease told it as the time, how many ms
-- ago by its own clock, and after how many.
local function named()
  local arg = {}
  for i = 1, #ARGV, 2 do arg[ARGV[i]] = ARGV[i + 1] end
  if arg.told then check_clock(arg.told, arg.elapsed, arg.took) end
  return arg
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

-- A host that is not in flight goes where it belongs: until `at`, or until what it was told is over. Nowhere if it was
-- forgotten meanwhile.
local function place(host, at)
  local h = p .. 'h:' .. host
  local said = call('HMGET', h, 'next', 'blocked', 'paused', 'cold', 'shared', 'domain')
  if not said[1] then return end
  at = math.max(at, tonumber(said[2] or 0))
  call('HSET', h, 'next', whole(at))
  call('ZREM', p .. 'ready', host)
  if said[5] then call('ZREM', p .. 'w:' .. said[6], host) end
  if said[3] then
    call('ZREM', p .. 'cooling', host)
    call('SADD', p .. 'paused', host)
  elseif call('EXISTS', p .. 'q:' .. host) == 1 then
    call('ZADD', p .. 'cooling', whole(at), host)
  else
    call('ZREM', p .. 'cooling', host)
    if tonumber(said[4] or 0) > 0 then call('SADD', p .. 'thirst', host) end
  end
end

-- A host in whose queue something was put.
local function wake(host)
  local known = call('HMGET', p .. 'h:' .. host, 'inflight', 'index', 'next')
  if (known[1] or '') ~= '' then return end
  if call('ZSCORE', p .. 'ready', host) then
    call('ZADD', p .. 'ready', rank(host, known[2]), host)
  elseif not call('ZSCORE', p .. 'cooling', host) and call('SISMEMBER', p .. 'spent', host) == 0 then
    local w = p .. 'w:' .. (call('HGET', p .. 'h:' .. host, 'domain') or host)
    if call('ZSCORE', w, host) then
      call('ZADD', w, rank(host, known[2]), host)
    else
      place(host, tonumber(known[3]))
    end
  end
end

-- A host that was not met before, or by a version that knew no domains. From the second host of a domain on, they share
-- its budget and its turns. Returns false, and changes nothing, if the domain has as many hosts as it may.
local function meet(host, domain, most)
  local h, d = p .. 'h:' .. host, p .. 'd:' .. domain
  local of_domain = call('HMGET', d, 'hosts', 'first')
  local hosts = tonumber(of_domain[1] or 0)
  if most and hosts >= most then return false end
  if call('HSETNX', h, 'next', whole(now_ms())) == 1 then count('hosts') end
  call('HSET', h, 'domain', domain)
  call('HSET', d, 'hosts', hosts + 1)
  if hosts == 0 then
    call('HSET', d, 'first', host)
  else
    call('HSET', h, 'shared', 1)
    if of_domain[2] then
      local first = call('HMGET', p .. 'h:' .. of_domain[2], 'fetched', 'chosen')
      call('HSET', p .. 'h:' .. of_domain[2], 'shared', 1)
      call('HINCRBY', d, 'fetched', first[1] or 0)
      if first[2] then call('HSET', d, 'chosen', 1) end
      call('HDEL', d, 'first')
    end
    call('HINCRBY', d, 'fetched', call('HGET', h, 'fetched') or 0)
  end
  return true
end

-- A lease of a domain of several hosts is over: the next of them may have its turn.
local function leave(domain)
  local d, w = p .. 'd:' .. domain, p .. 'w:' .. domain
  call('HINCRBY', d, 'busy', -1)
  if call('EXISTS', w) == 1 then call('ZADD', p .. 'domains', 'NX', call('HGET', d, 'next') or 0, domain) end
end

-- The lease behind a token, removed; nil if it was reaped or finished before: the fence.
local function take(token)
  if call('ZREM', p .. 'deadlines', token) == 0 then return nil end
  local lease = cjson.decode(call('HGET', p .. 'leases', token))
  call('HDEL', p .. 'leases', token)
  call('HDEL', p .. 'h:' .. lease.host, 'inflight')
  if lease.domain then leave(lease.domain) end
  lease.origin = lease.origin or origin_of(lease.member)
  return lease
end

local function requeue(lease, promise)
  if lease.kind == 'page' then
    call('ZADD', p .. 'q:' .. lease.host, promise, lease.member)
    count('queued')
  end
end

-- The rest of a host after a request, in ms: the crawl's delay or its own, some times the latency, or the Crawl-delay,
-- whichever is longest. The rules are read once for many.
local function resting(delay, factor, longest, delay_of)
  local own_delay = own(delay_of)
  return function(host, latency, crawl_delay)
    local rest = math.max(1000 * (own_delay(host) or delay), math.min(factor * latency, 1000 * longest))
    return math.floor(math.max(rest, tonumber(crawl_delay or 0)))
  end
end

local function rest(host, latency)
  local rest_after = resting(rules('delay', 'latency_factor', 'longest_delay', 'delay_of'))
  return rest_after(host, latency, call('HGET', p .. 'h:' .. host, 'crawl_delay'))
end

-- A connection was made, and a request sent.
local function count_request(lease, bytes)
  local h = p .. 'h:' .. lease.host
  call('HINCRBY', h, 'fetched', 1)
  call('HDEL', h, 'unreached', 'given_up')
  if lease.domain then call('HINCRBY', p .. 'd:' .. lease.domain, 'fetched', 1) end
  count('fetched')
  if lease.found then count('fetched_elsewhere') end
  count('bytes', bytes)
end

local function block(host, till)
  call('HSET', p .. 'h:' .. host, 'blocked', whole(till))
  call('ZADD', p .. 'blocked', whole(till), host)
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

-- Errands: a robots.txt that moved is asked for in the turn of the host it moved to, for all that point to it.
local MOST_ERRANDS, MOST_ASKERS = 100, 100  -- of a host, and of an errand: 3 MB; who is one too many asks again later
local PROMISE_OF_ERRAND = 10000  -- as much as a page can

local function errand_of(member)
  return string.sub(member, -7) == '#robots' and string.sub(member, 1, -8)
end

local function queue_errand(host, member, askers)
  local e, known, list, own = p .. 'e:' .. host, {}, {}, false
  for _, asking in ipairs({cjson.decode(call('HGET', e, member) or '[]'), askers}) do
    for _, asker in ipairs(asking) do
      local name = url_of(asker[1], asker[2])
      if not known[name] or known[name][3] < asker[3] then known[name] = asker end
    end
  end
  for _, asker in pairs(known) do
    own = own or asker[1] == host
    list[#list + 1] = #list < MOST_ASKERS and asker or nil
  end
  if call('HEXISTS', e, member) == 0 and call('HLEN', e) >= MOST_ERRANDS then return end
  call('HSET', e, member, cjson.encode(list))
  count('queued', call('ZADD', p .. 'q:' .. host, PROMISE_OF_ERRAND, member .. '#robots'))
  -- A host that waits for an answer goes on waiting, unless the redirects go round in a circle: that has to end.
  local awaits = own and call('HGET', p .. 'h:' .. host, 'awaits')
  if awaits then
    call('HDEL', p .. 'h:' .. host, 'awaits')
    place(host, tonumber(string.match(awaits, '^%S+')))
  else
    wake(host)
  end
end

-- Those that ask for an errand, which are told by whoever leases it.
local function take_askers(host, member)
  local askers = call('HGET', p .. 'e:' .. host, member)
  if not askers then return nil end
  call('HDEL', p .. 'e:' .. host, member)
  return cjson.decode(askers)
end

-- What failed for good is `dead`, what a rule refuses `refused`: either is asked for again when somebody says so, and a
-- host that a person chose is one again then. They are kept up to a number each, 100 to 200 bytes a letter: beyond it any
-- other one is forgotten. They are counted by their reason all the same.
local MOST_DEAD = 20000
local function bury(host, member, reason, as)
  local letters, chosen = p .. as, call('HGET', p .. 'h:' .. host, 'chosen') or nil
  local letter = cjson.encode({reason = reason, at = now_ms(), chosen = chosen})
  count(as, call('HSET', letters, url_of(host, member), letter))
  if call('HLEN', letters) > MOST_DEAD / rules('partitions') then
    call('HDEL', letters, call('HRANDFIELD', letters))
    count(as, -1)
    count(as .. '_forgotten')
  end
end

-- The rules of a host's origin, as the worker packed them. They are kept a day longer than they are valid; those of many
-- bytes are counted, and when together they are more than an eighth of the server's memory the largest goes: its
-- robots.txt is asked for again when it is needed. Half of LARGE_BYTES is what most have.
local LARGE_BYTES, DAY_MS, SHARE, UNLIMITED = 1024, 24 * 3600 * 1000, 8, 2 ^ 30
local function forget_rules(name)
  local bytes = call('ZSCORE', p .. 'large', name)
  call('DEL', p .. 'r:' .. name)
  if not bytes then return end
  call('HINCRBY', p .. 'meta', 'robots_bytes', -bytes)
  call('ZREM', p .. 'large', name)
end

local function keep_rules(host, origin, packed, valid)
  local h, name = p .. 'h:' .. host, of_origin(host, origin)
  local bytes = of_origin('robots_bytes', origin)
  if call('HEXISTS', h, bytes) == 1 then
    forget_rules(name)
    call('HDEL', h, bytes)
  end
  if packed == '' then
    call('HSET', h, of_origin('robots_until', origin), whole(now_ms() + valid))
    return
  end
  call('HSET', h, of_origin('robots_until', origin), whole(now_ms() + valid), bytes, #packed)
  call('SET', p .. 'r:' .. name, packed, 'PX', whole(valid + DAY_MS))
  if #packed < LARGE_BYTES then return end
  call('ZADD', p .. 'large', #packed, name)
  local total = call('HINCRBY', p .. 'meta', 'robots_bytes', #packed)
  local memory = tonumber(string.match(call('INFO', 'memory'), 'maxmemory:(%d+)'))
  local most = (memory > 0 and memory or UNLIMITED) / SHARE / rules('partitions')
  while total > most do
    local largest = call('ZREVRANGE', p .. 'large', 0, 1)
    local other = largest[1] ~= name and largest[1] or largest[2]
    if not other then return end
    forget_rules(other)
    local other_host, other_origin = string.match(other, '^(%S+) ?(.*)$')
    call('HDEL', p .. 'h:' .. other_host, of_origin('robots_until', other_origin))
    total = tonumber(call('HGET', p .. 'meta', 'robots_bytes'))
  end
end

-- The rules of an origin are known, for every worker, and how long the host rests: as the origin wants that asks for
-- most.
local function keep_robots(host, origin, arg)
  local h = p .. 'h:' .. host
  call('HDEL', p .. 'attempts', url_of(host, origin .. '/robots.txt'))
  call('SREM', p .. 'norobots', host)
  keep_rules(host, origin, arg.rules, arg.valid)
  local delay = call('HMGET', h, 'crawl_delay', 'delayed_by')
  if tonumber(arg.crawl_delay) >= tonumber(delay[1] or 0) or delay[2] == origin then
    if tonumber(arg.crawl_delay) > 0 then
      call('HSET', h, 'crawl_delay', arg.crawl_delay, 'delayed_by', origin)
    elseif delay[1] then
      call('HDEL', h, 'crawl_delay', 'delayed_by')
    end
  end
end

-- A host that has nothing queued and was never reached is as if it had not been met, but that for a day links to it
-- cost nothing. Not one of which a person said something. Returns whether it is gone.
local FORGOTTEN_MS, MOST_FORGOTTEN = DAY_MS, 20000
local function forget(host)
  local h = p .. 'h:' .. host
  local known = call('HMGET', h, 'fetched', 'paused', 'gone', 'cold', 'domain', 'ending', 'inflight')
  if known[1] or known[2] or known[3] or tonumber(known[4] or 0) > 0 or call('EXISTS', p .. 'q:' .. host) == 1 or
    known[6] or (known[7] or '') ~= '' then
    return false
  end
  call('DEL', h, p .. 'e:' .. host)
  for _, set in ipairs({'ready', 'cooling', 'blocked'}) do call('ZREM', p .. set, host) end
  for _, set in ipairs({'spent', 'thirst', 'norobots'}) do call('SREM', p .. set, host) end
  local domain = known[5]
  if domain then
    call('ZREM', p .. 'w:' .. domain, host)
    call('SREM', p .. 'o:' .. domain, host)
    if call('HINCRBY', p .. 'd:' .. domain, 'hosts', -1) <= 0 then
      call('DEL', p .. 'd:' .. domain, p .. 'refs:' .. domain)
      call('ZREM', p .. 'domains', domain)
    end
  end
  count('hosts', -1)
  call('ZADD', p .. 'forgotten', whole(now_ms() + FORGOTTEN_MS), host)
  if call('ZCARD', p .. 'forgotten') > MOST_FORGOTTEN / rules('partitions') then call('ZPOPMIN', p .. 'forgotten') end
  return true
end

-- All that a host has queued, or only what is of an origin, is done with: dead letters, or skipped, for a reason. What is
-- on disk comes back and is treated then as the host is.
-- A queue has millions at times and a script has to be short: it is renamed, and so many of its URLs are ended here and
-- by each reap.
local ENDED_AT_ONCE = 2000
local function end_members(ending, members)
  local gone = call('HEXISTS', p .. 'h:' .. ending.host, 'gone') == 1
  local ended, skipped, taken_down = 0, 0, 0
  for _, entry in ipairs(members) do
    local promise, member = entry[1], entry[2]
    local errand = errand_of(member)
    local stays = ending.origin and origin_of(member) ~= ending.origin or
      errand and call('HEXISTS', p .. 'e:' .. ending.host, errand) == 1
    -- An errand may have come again meanwhile, and the host may have been taken down.
    if gone or not stays or call('ZADD', p .. 'q:' .. ending.host, promise, member) == 0 then
      ended = ended + 1
      if errand then
        -- whoever asked for it was told, or asks again
      elseif stays then
        taken_down = taken_down + 1
      elseif ending.dead then
        bury(ending.host, member, ending.reason, 'dead')
      else
        skipped = skipped + 1
        if not gone then bury(ending.host, member, ending.reason, 'refused') end
      end
    end
  end
  count('queued', -ended)
  count('skipped:' .. ending.reason, skipped)
  count('skipped:taken_down', taken_down)
end

local function end_some()
  local left, key = ENDED_AT_ONCE, call('HRANDFIELD', p .. 'endings')
  while left > 0 and key do
    local ending, from = cjson.decode(call('HGET', p .. 'endings', key)), p .. 'x:' .. key .. ':'
    local members = {}
    local queue = call('ZPOPMAX', from .. 'q', left)
    for i = 1, #queue, 2 do members[#members + 1] = {queue[i + 1], queue[i]} end
    for band = 9, 0, -1 do
      if #members < left then
        for _, entry in ipairs(call('LPOP', from .. band, left - #members) or {}) do
          members[#members + 1] = {string.match(entry, '^(%S+) (.*)$')}
        end
      end
    end
    end_members(ending, members)
    left = left - #members
    if left > 0 then
      call('HDEL', p .. 'endings', key)
      local h = p .. 'h:' .. ending.host
      if call('HINCRBY', h, 'ending', -1) <= 0 then call('HDEL', h, 'ending') end
      if not forget(ending.host) then wake(ending.host) end
      key = call('HRANDFIELD', p .. 'endings')
    end
  end
end

local function end_queue(host, reason, dead, origin)
  local key = call('HINCRBY', p .. 'meta', 'endings', 1)
  call('HSET', p .. 'endings', key, cjson.encode({host = host, origin = origin, reason = reason, dead = dead}))
  local h = p .. 'h:' .. host
  call('HINCRBY', h, 'ending', 1)
  local function rename(queue, as)
    if call('EXISTS', queue) == 1 then call('RENAME', queue, p .. 'x:' .. key .. ':' .. as) end
  end
  rename(p .. 'q:' .. host, 'q')
  for band = 0, 9 do rename(p .. 't:' .. host .. ':' .. band, band) end
  call('HDEL', h, 'tail')
  if tonumber(call('HGET', h, 'cold') or 0) == 0 then call('HDEL', h, 'top') end
  for _, member in ipairs(dead and call('HKEYS', p .. 'e:' .. host) or {}) do
    if not origin or origin_of(member) == origin then call('HDEL', p .. 'e:' .. host, member) end
  end
  end_some()
end

-- A URL that failed too often is a dead letter; a host's origin whose robots.txt did, with all that it has queued; an
-- errand never: whoever asks for it asks again.
local function fail(lease, reason, limit, promise)
  count('failed:' .. reason)
  if lease.kind == 'errand' then return end
  local host, url = lease.host, url_of(lease.host, lease.kind == 'page' and lease.member or lease.origin .. '/robots.txt')
  local attempts = call('HINCRBY', p .. 'attempts', url, 1)
  if attempts < limit then
    requeue(lease, promise)
  elseif lease.kind == 'page' then
    call('HDEL', p .. 'attempts', url)
    bury(host, lease.member, reason, 'dead')
  else
    end_queue(host, reason, true, lease.origin)
  end
end
