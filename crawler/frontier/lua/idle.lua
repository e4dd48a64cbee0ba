#!lua flags=no-writes,allow-oom
-- Returns how many hosts are ready, cooling, blocked, in flight, over budget, paused, waiting for the disk, without
-- robots.txt; and in how many ms the next one wakes (-1: none does).
local now = now_ms()
local first = call('ZRANGE', p .. 'cooling', 0, 0, 'WITHSCORES')
local due = call('ZRANGE', p .. 'due', 0, 0, 'WITHSCORES')
local rests = tonumber(call('HGET', p .. 'meta', 'restarted') or 0)
local ready, wakes = call('ZCARD', p .. 'ready'), -1
if ready > 0 then
  wakes = math.max(0, rests - now)
elseif first[2] or due[2] then
  wakes = math.max(0, math.min(tonumber(first[2] or math.huge), tonumber(due[2] or math.huge)) - now, rests - now)
end
return {
  ready, call('ZCARD', p .. 'cooling'), call('ZCOUNT', p .. 'blocked', now, '+inf'), call('ZCARD', p .. 'deadlines'),
  call('SCARD', p .. 'spent'), call('SCARD', p .. 'paused'), call('SCARD', p .. 'thirst'), call('SCARD', p .. 'norobots'),
  wakes,
}
