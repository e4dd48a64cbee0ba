#!lua flags=allow-oom
-- The way back from disk. A batch that came before changes nothing: it is given again after a crash.
-- ARGV: host, number of the batch, tenth of the best that is left on disk (-1: nothing is); then for each URL:
--       member, promise
-- Returns 1 if it was new.
local host, h = ARGV[1], p .. 'h:' .. ARGV[1]
local known = call('HMGET', h, 'refill', 'gone', 'cold', 'given_up')
if tonumber(known[1] or 0) >= tonumber(ARGV[2]) then return 0 end
local came = (#ARGV - 3) / 2
local cold = math.max(0, tonumber(known[3] or 0) - came)
if ARGV[3] == '-1' then cold = 0 end
call('HSET', h, 'refill', ARGV[2], 'cold', cold, 'top', ARGV[3])
call('SREM', p .. 'thirst', host)
if known[2] then
  count('queued', -came)
  count('skipped:taken_down', came)
elseif known[4] then
  for i = 4, #ARGV, 2 do bury(host, ARGV[i], known[4], 'dead') end
  count('queued', -came)
  forget(host)
else
  for i = 4, #ARGV, 2 do call('ZADD', p .. 'q:' .. host, 'NX', ARGV[i + 1], ARGV[i]) end
  if came > 0 then wake(host) end
end
-- No lease will ask for the rest.
if (known[2] or known[4]) and cold > 0 then call('SADD', p .. 'thirst', host) end
return 1
