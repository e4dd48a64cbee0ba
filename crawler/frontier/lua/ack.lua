#!lua flags=allow-oom
-- Pages were fetched: of each the lease goes and it is in the stream, or neither. One that is to be fetched again is
-- due sooner if it had changed and later if it had not (Nutch's AdaptiveFetchSchedule, by the same factors).
-- ARGV: ms until the next fetch (0: never); then for each page: token, rest ms, bytes fetched, the page ('': none),
--       digest of its text ('': as it was), ETag, Last-Modified
-- Returns for each 1, or 0 if the lease was lost.
local LATER, SOONER, WIDEST = 1.4, 0.8, 64
local first, now = tonumber(ARGV[1]), now_ms()

local function again(lease, digest, etag, last_modified)
  local url, every = url_of(lease.host, lease.member), first
  local before = call('HGET', p .. 'revisit', url)
  if before then
    before = cjson.decode(before)
    local same = digest == '' or digest == before.digest
    every = before.every * (same and LATER or SOONER)
    every = math.max(first / WIDEST, math.min(first * WIDEST, every))
    if digest == '' then digest = before.digest end
  end
  call('HSET', p .. 'revisit', url, cjson.encode({
    fetch_no = lease.fetch_no or 1, every = every, digest = digest, promise = tonumber(lease.promise),
    etag = etag, last_modified = last_modified,
  }))
  call('ZADD', p .. 'due', now + every, url)
end

local tokens, cooling = {}, {}
local function finish(host, rests)
  local h = p .. 'h:' .. host
  local known = call('HMGET', h, 'fetched', 'crawl_delay', 'blocked', 'paused', 'cold', 'strikes')
  local at = now + math.max(tonumber(known[2] or 0), tonumber(rests))
  at = math.max(at, tonumber(known[3] or 0))
  call('HSET', h, 'next', at, 'fetched', (known[1] or 0) + 1)
  if known[6] then call('HDEL', h, 'inflight', 'strikes') else call('HDEL', h, 'inflight') end
  if not known[4] and call('EXISTS', p .. 'q:' .. host) == 1 then
    cooling[#cooling + 1] = at
    cooling[#cooling + 1] = host
  else
    place(host, at)
  end
end

local results, bytes, met = {}, 0, {}
for i = 2, #ARGV, 7 do
  local token = ARGV[i]
  local lease = not met[token] and call('HGET', p .. 'leases', token)
  if lease then
    lease = cjson.decode(lease)
    met[token] = true
    tokens[#tokens + 1] = token
    if lease.attempt > 1 then call('HDEL', p .. 'attempts', url_of(lease.host, lease.member)) end
    if ARGV[i + 3] ~= '' then call('XADD', p .. 'pages', '*', 'page', ARGV[i + 3]) end
    if first > 0 then again(lease, ARGV[i + 4], ARGV[i + 5], ARGV[i + 6]) end
    finish(lease.host, ARGV[i + 1])
    bytes = bytes + ARGV[i + 2]
  end
  results[#results + 1] = lease and 1 or 0
end
if #tokens > 0 then
  call('ZREM', p .. 'deadlines', unpack(tokens))
  call('HDEL', p .. 'leases', unpack(tokens))
  if #cooling > 0 then call('ZADD', p .. 'cooling', unpack(cooling)) end
  count('fetched', #tokens)
  count('bytes', bytes)
  count('pages', #tokens)
end
return results
