#!lua flags=allow-oom
-- One connection to an address, which many hosts may share: the host's lease says nothing about the others.
-- KEYS[1] is the prefix of the address, 'tinylm:{CRAWL/ip:ADDRESS}:'; both keys vanish with their use.
--   held   zset  holder -> when it is over at the latest, should its worker die
--   times  hash  next: when the next connection may begin; line: when whoever comes now has its turn
-- ARGV: holder, most at once (0: any number), gap ms, longest hold ms
-- Returns 0 if it is held now, otherwise in how many ms it is the holder's turn to ask again. Everyone refused is
-- told a turn of its own, so that of a thousand hosts on one server not all come back at once.
local FULL_MS, LONGEST_LINE_MS = 250, 60000
local now, gap = now_ms(), tonumber(ARGV[3])
local held, times = p .. 'held', p .. 'times'
call('ZREMRANGEBYSCORE', held, '-inf', now)
call('ZREMRANGEBYSCORE', held, now + 2 * ARGV[4], '+inf')
local known = call('HMGET', times, 'next', 'line')
-- No later than they can have been set to, nor is a hold above: if the server's clock was put back they would be.
local next = math.min(tonumber(known[1] or 0), now + gap)
local line = math.min(tonumber(known[2] or 0), now + LONGEST_LINE_MS)
local most = tonumber(ARGV[2])
local full = most > 0 and call('ZCARD', held) >= most
if full or next > now then
  local step = full and math.max(gap, FULL_MS / most) or gap
  line = math.min(math.max(line, next, now) + step, now + LONGEST_LINE_MS)
  call('HSET', times, 'line', line)
  call('PEXPIRE', times, LONGEST_LINE_MS)
  return math.ceil(line - step) - now + 1
end
call('ZADD', held, now + ARGV[4], ARGV[1])
call('PEXPIRE', held, ARGV[4])
if gap > 0 then
  call('HSET', times, 'next', now + gap)
  call('PEXPIRE', times, math.max(gap, line - now) + 1000)
end
return 0
