#!lua flags=allow-oom
-- Fetched: the lease goes and the page is in the stream, or neither.
-- ARGV: token, cooldown ms, bytes fetched, page ('' for a robots.txt that names no sitemap), then for robots.txt:
--       rules, valid ms, Crawl-delay ms
-- Returns 0 if the lease was lost.
local lease = take(ARGV[1])
if not lease then return 0 end
local host = p .. 'h:' .. lease.host
local now = now_ms()
redis.call('HDEL', host, 'inflight', 'strikes')
redis.call('HDEL', p .. 'attempts', lease.host .. ' ' .. lease.member)
redis.call('HINCRBY', host, 'fetched', 1)
count('fetched')
count('bytes', ARGV[3])
if lease.kind == 'robots' then
  redis.call('HSET', host, 'robots', ARGV[5], 'robots_until', now + ARGV[6], 'crawl_delay', ARGV[7])
  count('robots')
end
if ARGV[4] ~= '' then
  redis.call('XADD', p .. 'pages', '*', 'page', ARGV[4])
  count('pages')
end
release(lease.host, now + cooldown(lease.host, ARGV[2]))
return 1
