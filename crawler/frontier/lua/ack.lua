#!lua flags=allow-oom
-- A page was fetched: the lease goes and the page is in the stream, or neither. If it is to be fetched again, then
-- sooner if it had changed and later if it had not (Nutch's AdaptiveFetchSchedule, by the same factors).
-- ARGV: token, rest ms, bytes fetched, page ('': none), ms until the next fetch (0: never), digest of its text ('': as it
--       was), ETag, Last-Modified
-- Returns 0 if the lease was lost.
local LATER, SOONER, WIDEST = 1.4, 0.8, 64
local lease = take(ARGV[1])
if not lease then return 0 end
local url, now = url_of(lease.host, lease.member), now_ms()
call('HDEL', p .. 'h:' .. lease.host, 'inflight', 'strikes')
if lease.attempt > 1 then call('HDEL', p .. 'attempts', url) end
count_request(lease.host, ARGV[3])
if ARGV[4] ~= '' then call('XADD', p .. 'pages', '*', 'page', ARGV[4]) end
count('pages')

local first = tonumber(ARGV[5])
if first > 0 then
  local before = call('HGET', p .. 'revisit', url)
  local every, digest = first, ARGV[6]
  if before then
    before = cjson.decode(before)
    local same = digest == '' or digest == before.digest
    every = before.every * (same and LATER or SOONER)
    every = math.max(first / WIDEST, math.min(first * WIDEST, every))
    if digest == '' then digest = before.digest end
  end
  call('HSET', p .. 'revisit', url, cjson.encode({
    fetch_no = lease.fetch_no or 1, every = every, digest = digest, promise = tonumber(lease.promise),
    etag = ARGV[7], last_modified = ARGV[8],
  }))
  call('ZADD', p .. 'due', now + every, url)
end
place(lease.host, now + rest(lease.host, ARGV[2]))
return 1
