#!lua flags=allow-oom
-- What a person says of a host.
-- ARGV: host, its registrable domain; 'pause', 'resume', 'block' with ms from now, 'unblock', or 'take_down'
-- Returns 0 if the host was never met (it is remembered all the same).
local host, h, now = ARGV[1], p .. 'h:' .. ARGV[1], now_ms()
local known = call('HMGET', h, 'next', 'inflight')
call('ZREM', p .. 'forgotten', host)
call('SREM', p .. 'spent', host)
if known[2] == '' then known[2] = false end
if not known[1] then meet(host, ARGV[2]) end
if ARGV[3] == 'pause' then
  call('HSET', h, 'paused', 1)
elseif ARGV[3] == 'resume' then
  call('HDEL', h, 'paused')
  call('SREM', p .. 'paused', host)
elseif ARGV[3] == 'block' then
  block(host, now + ARGV[4])
elseif ARGV[3] == 'unblock' then
  call('HDEL', h, 'blocked', 'strikes')
  call('ZREM', p .. 'blocked', host)
  known[1] = math.min(known[1] or now, now + rest(host, 0))  -- what is left of its own delay it rests all the same
else
  call('HSET', h, 'gone', 1)
  if known[2] then
    if take(known[2]).kind == 'page' then count('skipped:taken_down') end
    known[2] = false
  end
  call('DEL', p .. 'e:' .. host)
  end_queue(host, 'taken_down', false)
end
if not known[2] then place(host, tonumber(known[1] or now)) end
return known[1] and 1 or 0
