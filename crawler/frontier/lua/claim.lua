#!lua flags=allow-oom
-- The right to be the one walker of a crawl. It ends when it was not renewed in time; whoever has a lock that only one
-- process can have, and claimed with it before, is known to be alone, and need not wait for that.
-- ARGV, by name: number (of the claim that is renewed; 0 for a new one); lock; at (where the walker writes, in words);
--                hold (ms until it has to be renewed; 0 gives it up)
-- Returns the number, rising from claim to claim, or 0 and where the walker is that has it.
local arg, now, meta = named(), now_ms(), p .. 'meta'
local held = call('HMGET', meta, 'walker', 'walker_until', 'walker_lock', 'walker_at')
local number, left = tonumber(arg.number), tonumber(held[2] or 0) - now
if number == 0 then
  -- More than any claim lasts: the clock was set back since.
  if left > 0 and left <= tonumber(arg.hold) and held[3] ~= arg.lock then return {0, held[4]} end
  -- Not one more only: a server that lost its last second must not give a number twice.
  number = math.max(now, tonumber(held[1] or 0) + 1)
end
call('HSET', meta, 'walker', whole(number), 'walker_until', whole(now + arg.hold))
call('HSET', meta, 'walker_lock', arg.lock, 'walker_at', arg.at)
return {number}
