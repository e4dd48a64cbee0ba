#!lua flags=allow-oom
-- Pages were fetched: of each the lease goes and it is in the stream, or neither. Their bytes lie beside the stream,
-- together in one string of which each entry names its part: passed through Lua they would be copied four times.
-- They were put there a moment ago, to expire, and stay if one of the pages does.
-- One that is to be fetched again is due sooner if it had changed and later if it had not (Nutch's
-- AdaptiveFetchSchedule, by the same factors).
-- ARGV: name of the pages' bytes, and they themselves ('': they were put there);
--       what a lease told the worker as the time, how many ms ago by the worker's own clock, and after how many;
--       then for each page: token, latency ms, bytes fetched, its part of the bytes as 'first length' ('': no page),
--       digest of its text ('': as it was), ETag, Last-Modified
-- Returns for each 1, or 0 if the lease was lost; nothing if the bytes are not there: then nothing has changed.
local LATER, SOONER, WIDEST = 1.4, 0.8, 64
local days, delay, factor, longest, delay_of = rules('recrawl_days', 'delay', 'latency_factor', 'longest_delay', 'delay_of')
local first, rest = math.floor(DAY_MS * days), resting(delay, factor, longest, delay_of)
local bytes_at, FIRST, FIELDS = p .. 'b:' .. ARGV[1], 6, 7

local tokens, kept = {}, false
for i = FIRST, #ARGV, FIELDS do tokens[#tokens + 1] = ARGV[i] end
local leases = call('HMGET', p .. 'leases', unpack(tokens))
for i = 1, #tokens do kept = kept or leases[i] and ARGV[FIRST + FIELDS * (i - 1) + 3] ~= '' end
if kept and ARGV[2] ~= '' then
  call('SET', bytes_at, ARGV[2])
elseif kept and call('PERSIST', bytes_at) == 0 and call('EXISTS', bytes_at) == 0 then
  return {}
end
check_clock(ARGV[3], ARGV[4], ARGV[5])
local now = now_ms()

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

local cooling = {}
local function finish(host, latency, domain)
  local h = p .. 'h:' .. host
  local known = call('HMGET', h, 'fetched', 'crawl_delay', 'blocked', 'paused', 'strikes')
  local at = whole(math.max(now + rest(host, latency, known[2]), tonumber(known[3] or 0)))
  call('HSET', h, 'next', at, 'fetched', whole((known[1] or 0) + 1), 'inflight', '')
  if known[5] then call('HDEL', h, 'strikes', 'unreached', 'given_up') end
  if domain then
    call('HINCRBY', p .. 'd:' .. domain, 'fetched', 1)
    leave(domain)
  end
  if not known[4] and call('EXISTS', p .. 'q:' .. host) == 1 then
    cooling[#cooling + 1] = at
    cooling[#cooling + 1] = host
  else
    place(host, tonumber(at))
  end
end

local results, ended, bytes, elsewhere, met = {}, {}, 0, 0, {}
for n, token in ipairs(tokens) do
  local i, lease = FIRST + FIELDS * (n - 1), not met[token] and leases[n]
  if lease then
    lease = cjson.decode(lease)
    met[token] = true
    ended[#ended + 1] = token
    if lease.attempt > 1 then call('HDEL', p .. 'attempts', url_of(lease.host, lease.member)) end
    if ARGV[i + 3] ~= '' then call('XADD', p .. 'pages', '*', 'at', ARGV[1] .. ' ' .. ARGV[i + 3]) end
    if first > 0 then again(lease, ARGV[i + 4], ARGV[i + 5], ARGV[i + 6]) end
    finish(lease.host, ARGV[i + 1], lease.domain)
    bytes = bytes + ARGV[i + 2]
    elsewhere = elsewhere + (lease.found and 1 or 0)
  end
  results[n] = lease and 1 or 0
end
if #ended > 0 then
  call('ZREM', p .. 'deadlines', unpack(ended))
  call('HDEL', p .. 'leases', unpack(ended))
  if #cooling > 0 then call('ZADD', p .. 'cooling', unpack(cooling)) end
  count('fetched', #ended)
  count('fetched_elsewhere', elsewhere)
  count('bytes', bytes)
  count('pages', #ended)
end
return results
