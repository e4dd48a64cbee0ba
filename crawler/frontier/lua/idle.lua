#!lua flags=no-writes,allow-oom
-- Returns how many hosts are ready, cooling, blocked, in flight, over budget, paused, waiting for the disk, without
-- robots.txt; how many domains have hosts that wait for their turn; and in how many ms the next one wakes (-1: none
-- does).
local now = now_ms()
local function first(queue)
  return tonumber(call('ZRANGE', p .. queue, 0, 0, 'WITHSCORES')[2] or math.huge)
end
local rests = tonumber(call('HGET', p .. 'meta', 'restarted') or 0)
local ready, wakes = call('ZCARD', p .. 'ready'), -1
local earliest = math.min(first('cooling'), first('due'), first('domains'))
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
  call('ZCARD', p .. 'domains'), wakes,
}
