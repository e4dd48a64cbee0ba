#!lua flags=allow-oom
-- What a person says of a URL.
-- ARGV: host, its registrable domain, member, seen shard, low 32 bits of its fingerprint; 'take_down', or of a letter
--       'drop', or the promise to queue it with again
-- Returns 1 if it was queued, in flight, or a dead letter; 0 also for one whose host was taken down.
local host, domain, member = ARGV[1], ARGV[2], ARGV[3]
local url, h = url_of(host, member), p .. 'h:' .. host
local function take_letter()
  for _, as in ipairs({'dead', 'refused'}) do
    local found = call('HGET', p .. as, url)
    if found then
      local letter = cjson.decode(found)
      call('HDEL', p .. as, url)
      count(as, -1)
      if as == 'refused' then count('skipped:' .. letter.reason, -1) end
      return letter
    end
  end
end
local letter = take_letter()
if ARGV[6] ~= 'take_down' then
  if not letter then return 0 end
  if ARGV[6] == 'drop' then
    count('skipped:dropped')
  elseif call('HEXISTS', h, 'gone') == 1 then
    count('skipped:taken_down')
    return 0
  else
    if call('HEXISTS', h, 'next') == 0 then meet(host, domain) end
    call('ZREM', p .. 'forgotten', host)
    if letter.chosen then
      call('HSET', h, 'chosen', 1)
      call('HSET', p .. 'd:' .. domain, 'chosen', 1)
    end
    call('ZADD', p .. 'q:' .. host, ARGV[6], member)
    count('queued')
    wake(host)
  end
  return 1
end
call('SADD', p .. 'seen:' .. ARGV[4], ARGV[5])
call('SADD', p .. 'gone', url)
call('ZREM', p .. 'due', url)
call('HDEL', p .. 'revisit', url)
local was = letter and 1 or 0
if call('ZREM', p .. 'q:' .. host, member) == 1 then
  was = 1
  count('queued', -1)
  -- A host is leased of its queue: what waits in lists comes into it, as no lease will fetch it.
  if call('EXISTS', p .. 'q:' .. host) == 0 and tonumber(call('HGET', h, 'tail') or 0) > 0 then
    pull(host, rules('hot_per_host'))
  end
end
local token = call('HGET', h, 'inflight') or ''
if token ~= '' and cjson.decode(call('HGET', p .. 'leases', token)).member == member then
  was = 1
  take(token)
  place(host, tonumber(call('HGET', h, 'next')))
end
if was == 1 then count('skipped:taken_down') end
return was
