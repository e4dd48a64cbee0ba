#!lua flags=no-writes,allow-oom
-- Returns how many hosts are ready, cooling, blocked, in flight, over budget, paused, waiting for the disk, without
-- robots.txt; how many domains have hosts that wait for their turn; in how many ms the next one wakes (-1: none
-- does), and which that is: a host, a domain, or the host and member of a page that is fetched again ('': not one).
local now = now_ms()
local earliest, which = math.huge, ''
for _, queue in ipairs({'cooling', 'due', 'domains'}) do
  local first = call('ZRANGE', p .. queue, 0, 0, 'WITHSCORES')
  if first[2] and tonumber(first[2]) < earliest then earliest, which = tonumber(first[2]), first[1] end
end
local rests = tonumber(call('HGET', p .. 'meta', 'restarted') or 0)
local ready, wakes = call('ZCARD', p .. 'ready'), -1
if call('EXISTS', p .. 'endings') == 1 then
  wakes = 0  -- some of what is being ended may be queued again by the next reap
elseif ready > 0 then
  wakes = math.max(0, rests - now)
elseif earliest < math.huge then
  wakes = math.max(0, earliest - now, rests - now)
end
return {
  ready, call('ZCARD', p .. 'cooling'), call('ZCOUNT', p .. 'blocked', now, '+inf'), call('ZCARD', p .. 'deadlines'),
  call('SCARD', p .. 'spent'), call('SCARD', p .. 'paused'), call('SCARD', p .. 'thirst'), call('SCARD', p .. 'norobots'),
  call('ZCARD', p .. 'domains'), wakes, wakes > 0 and ready == 0 and which or '',
}
